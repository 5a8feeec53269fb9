"""What these tests are given: the real command and servers, and other implementations of Resque."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.integration.conftest import empty_redis, redis_server, resque, run
from tests.interop.peers import NODE, PYRES, PYRES_PACKAGES, Peer, install_node_packages, install_pyres
from tests.servers import RedisServer
from tests.servers.binaries import need_program

__all__ = ["empty_redis", "redis_server", "resque", "run"]


class Starts(Protocol):
    """Starts a peer on the session's Redis; a context manager."""

    def __call__(self, **asked: object) -> Peer: ...


@pytest.fixture(scope="session")
def node_packages() -> None:
    """node-resque and coffee-resque are there."""
    install_node_packages()


@pytest.fixture(scope="session")
def pyres_packages() -> None:
    """pyres is there."""
    install_pyres()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    """A new file for each peer."""
    return (tmp_path / f"peer.{number}" for number in itertools.count(1))


@pytest.fixture
def node_resque(node_packages: None, redis_server: RedisServer, logs: Iterator[Path]) -> Starts:
    """`node_resque(work=True, classes=["Worker::Mail"])`: see node/node_resque.js."""
    return _starter([need_program("node"), str(NODE / "node_resque.js")], redis_server, logs)


@pytest.fixture
def coffee_resque(node_packages: None, redis_server: RedisServer, logs: Iterator[Path]) -> Starts:
    """`coffee_resque(queues=["mail"], classes=["Worker::Mail"])`: see node/coffee_resque.js."""
    return _starter([need_program("node"), str(NODE / "coffee_resque.js")], redis_server, logs)


@pytest.fixture
def pyres(pyres_packages: None, redis_server: RedisServer, logs: Iterator[Path]) -> Starts:
    """`pyres(queues=["mail"], fail=True)`: see pyres/peer.py."""
    command = [sys.executable, str(PYRES / "peer.py")]
    return _starter(command, redis_server, logs, PYTHONPATH=str(PYRES_PACKAGES))


def _starter(command: list[str], server: RedisServer, logs: Iterator[Path], **env: str) -> Starts:
    def start(**asked: object) -> Peer:
        peer = Peer(command, {"port": server.port, "namespace": "resque", **asked}, next(logs), **env)
        peer.answer("ready")
        return peer

    return start
