"""What systemd is told, over a socket of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What NOTIFY_SOCKET says, and the service manager's end."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@qudo-migrate-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name[1:] if name.startswith("@") else name)
        server.settimeout(5)
        yield name, server


def test_each_message_arrives(manager: tuple[str, socket.socket]) -> None:
    name, server = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    assert notifier.listens
    said: list[tuple[Callable[[], None], bytes]] = [
        (notifier.ready, b"READY=1"),
        (notifier.stopping, b"STOPPING=1"),
        (notifier.watchdog, b"WATCHDOG=1"),
        (lambda: notifier.status("two\nlines 鮎"), "STATUS=two lines 鮎".encode()),
    ]
    for say, expected in said:
        say()
        assert server.recv(1000) == expected
    notifier.reloading()
    state, _, clock = server.recv(1000).decode().partition("\nMONOTONIC_USEC=")
    assert (state, clock.isdigit()) == ("RELOADING=1", True)


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    notifier = Notifier.from_environment({})
    assert not notifier.listens
    notifier.ready()
    Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1"}).ready()
    Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_the_watchdog_is_for_the_process_that_it_names() -> None:
    def seconds(**more: str) -> float | None:
        return Notifier.from_environment({"NOTIFY_SOCKET": "/x", **more}).watchdog_seconds

    assert seconds(WATCHDOG_USEC="30000000") == 30.0
    assert seconds(WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())) == 30.0
    assert seconds(WATCHDOG_USEC="30000000", WATCHDOG_PID="1") is None
    assert seconds(WATCHDOG_USEC="0") is None
    assert seconds() is None
