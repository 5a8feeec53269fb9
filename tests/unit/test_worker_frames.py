"""Messages between a worker and its children."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from migrate.worker import frames


@pytest.mark.parametrize("size", [0, 1, 8188, 8189, 3_000_000])
def test_a_frame_arrives_whole_whatever_its_size(size: int) -> None:
    frame = os.urandom(size)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=frames.send, args=(ours.fileno(), frame))
        sender.start()
        assert frames.receive(theirs.fileno()) == frame
        sender.join()


def test_one_that_is_cut_short_is_the_senders_end() -> None:
    for sent in (b"", b"\0\0", b"\0\0\0\x05abc", b"\0\1\0\0" + b"x" * 9000):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(sent)
            ours.close()
            assert frames.receive(theirs.fileno()) is None


def test_to_one_that_has_ended_nothing_is_sent() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        frames.send(ours.fileno(), b"job")
        assert frames.receive(ours.fileno()) is None
