"""What a worker tells its pool, over a pipe: that it is ready, and what it has done. Nothing waits for it."""

from __future__ import annotations

import contextlib
import os
import time

#: Seconds between two lines.
TELL_SECONDS = 1.0


class Telling:
    """The worker's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        self._done = self._failed = 0
        self._told_at = float("-inf")

    def ready(self) -> None:
        """The worker takes jobs."""
        self.tell()

    def ended(self, *, failed: bool) -> None:
        """An attempt has ended."""
        if failed:
            self._failed += 1
        else:
            self._done += 1
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Write a line now."""
        self._told_at = time.monotonic()
        with contextlib.suppress(OSError):  # a pool that is gone, or slow: nothing depends on it
            os.write(self._fd, b"%d %d\n" % (self._done, self._failed))

    def close(self) -> None:
        """Tell no more: for processes that aren't the pool's own."""
        os.close(self._fd)


class Heard:
    """The pool's end: what the newest line says."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self.ready = False
        self.done = self.failed = 0  #: attempts

    def read(self) -> bool:
        """Read what is there; False when the worker has closed its end."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for line in data.split(b"\n"):
            done, _, failed = line.partition(b" ")
            if done.isdigit() and failed.isdigit():
                self.ready, self.done, self.failed = True, int(done), int(failed)
        return bool(data)

    def close(self) -> None:
        """Hear no more."""
        with contextlib.suppress(OSError):
            os.close(self.fd)
