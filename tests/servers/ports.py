"""Free loopback ports."""

from __future__ import annotations

import os
import random
import socket

#: Below the range that systems give to outgoing connections: otherwise another client could take the port while its
#: server is down, and a client that retries there could even connect to itself.
_LOWEST, _HIGHEST = 20000, 32000

#: The tests' own: seeding `random` in a test must not make two servers choose alike.
_random = random.SystemRandom()


#: Processes of pytest-xdist that may run side by side: each has ports of its own, so that none takes the port of
#: another's server that is down just now.
_PROCESSES = 16


def free_port() -> int:
    """A port that nobody listens on just now."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
    while True:
        port = _random.randrange(_LOWEST + number, _HIGHEST, _PROCESSES)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
