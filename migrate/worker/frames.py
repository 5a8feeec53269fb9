"""Messages between a worker and its children, over a socket: their length, then their bytes."""

from __future__ import annotations

import contextlib
import socket
import struct

_LENGTH = struct.Struct("!I")
#: Bytes that are asked for at once: a larger buffer is memory that a child would have to map first.
_FIRST, _MOST = 8192, 1 << 20


def send(to: socket.socket, frame: bytes) -> None:
    """A receiver that has died is no error: its end is read next."""
    with contextlib.suppress(OSError):
        to.sendall(_LENGTH.pack(len(frame)) + frame)


def receive(source: socket.socket) -> bytes | None:
    """One frame; None when the other side has ended. There is never more than one under way."""
    try:
        data = source.recv(_FIRST)
        while data and len(data) < _LENGTH.size:
            data += source.recv(_FIRST)
        if not data:
            return None
        size = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        if len(data) == size:
            return data[_LENGTH.size :]
        parts = bytearray(data)
        while len(parts) < size:
            part = source.recv(min(size - len(parts), _MOST))
            if not part:
                return None
            parts += part
    except OSError:
        return None
    return bytes(parts[_LENGTH.size :])
