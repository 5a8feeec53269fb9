"""Telling systemd how a process that stays is doing: sd_notify(3), over the socket that NOTIFY_SOCKET names.

Without that variable every call does nothing, so callers needn't ask. A message never raises and never blocks for
longer than a second: what watches must not stop what works.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

#: Seconds that one message may wait for a service manager that doesn't read.
SEND_SECONDS = 1.0


class Notifier:
    """The service manager of this process, or nobody. Usable from several threads."""

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        """`address`: of a datagram socket, a path or an abstract name written with `@` in front; None: nobody."""
        self._address = address
        #: Seconds within which `watchdog` must be called again; None: nobody watches. Call it at half of that.
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Notifier:
        """What the service manager has left in NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; changes none of them."""
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):  # other families are for virtual machines
            return cls()
        return cls(address, _watchdog_seconds(environ))

    @property
    def listens(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    def ready(self) -> None:
        """Start-up is over, or a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is read anew; `ready` ends it."""
        # What Type=notify-reload asks for: the clock of CLOCK_MONOTONIC in microseconds.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def watchdog(self) -> None:
        """There was progress: call it only where that is true."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(SEND_SECONDS)
            client.sendto(message.encode("utf-8", "replace"), address)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Set for this very process only: a child inherits the variables, and isn't watched."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or int(microseconds) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
