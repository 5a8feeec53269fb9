"""A place of a pool: who dies young is replaced after growing pauses."""

from __future__ import annotations

import os
import signal
import time

import pytest

from migrate.worker import slots
from migrate.worker.slots import Slot
from migrate.worker.telling import Telling
from tests.servers.waiting import wait_until


def ended(slot: Slot) -> str:
    """Let its process run to its end; how it ended."""
    slot.start()
    return wait_until(slot.reap, 10, "its process ends")  # type: ignore[return-value]


def test_who_dies_young_again_and_again_is_replaced_later_and_later() -> None:
    slot = Slot("worker 1", lambda _telling: 7)
    pauses = []
    for _ in range(9):
        assert ended(slot) == "ended with status 7"
        pauses.append(round(slot.next_start - time.monotonic(), 1))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_who_has_lived_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot("worker 1", lambda _telling: 7)
    ended(slot)
    monkeypatch.setattr(slots, "SHORT_LIFE_SECONDS", 0.0)
    ended(slot)
    assert slot.next_start <= time.monotonic()


def test_it_counts_what_its_processes_have_told() -> None:
    def body(telling: Telling) -> int:
        telling.ready()
        telling.ended(failed=False)
        telling.ended(failed=True)
        telling.tell()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    slot = Slot("worker 1", body)
    assert ended(slot) == "was killed by SIGKILL"
    assert ended(slot) == "was killed by SIGKILL"
    assert slot.counts() == (2, 2)
    assert not slot.ready
