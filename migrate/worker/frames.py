"""Messages between a worker and its children, over the descriptor of a socket: their length, then their bytes.

Plain calls of the system, no objects around them: each Python function that a child calls copies some pages.
"""

from __future__ import annotations

import os
import struct

_LENGTH = struct.Struct("!I")
#: Bytes that are asked for at once: a larger buffer is memory that a child would have to map first.
_FIRST, _MOST = 8192, 1 << 20


def send(fd: int, frame: bytes) -> None:
    """A receiver that has died is no error: its end is read next."""
    data = _LENGTH.pack(len(frame)) + frame
    try:
        while (sent := os.write(fd, data)) < len(data):
            data = data[sent:]
    except OSError:
        pass


def _size(data: bytes | bytearray) -> int:
    return _LENGTH.size if len(data) < _LENGTH.size else _LENGTH.size + _LENGTH.unpack_from(data)[0]


def receive(fd: int) -> bytes | None:
    """One frame; None when the other side has ended. There is never more than one under way."""
    try:
        data = os.read(fd, _FIRST)
        if _size(data) == len(data):
            return data[_LENGTH.size :]
        parts = bytearray(data)
        while (size := _size(parts)) != len(parts):
            part = os.read(fd, min(size - len(parts), _MOST))
            if not part:
                return None
            parts += part
    except OSError:
        return None
    return bytes(parts[_LENGTH.size :])
