"""Giving way to the server's other clients, who shall hardly notice a migration: work a while, rest a while, compare.

Others' statements a second are counted while this source's moves go and while they rest. What others lose meanwhile
decides how much of the time may be spent at work. A server that nobody else uses is used to the full.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from migrate.engine.choosing import Prepared
from migrate.engine.throttling import Wait

#: Share of their statements that others may lose.
ALLOWED_LOSS = 0.04
#: Turns of work and rest that are compared, and after how many a share is believed.
TURNS, FEWEST_TURNS = 12, 3
#: Share of the time spent at work until then, and at least.
FIRST_SHARE, LEAST_SHARE = 0.2, 0.03
#: Seconds of work in a turn at least and at most, of rest at least, and until a rest counts: its push must end.
WORK_SECONDS, LONGEST_WORK_SECONDS, REST_SECONDS, SETTLE_SECONDS = 0.1, 2.0, 0.2, 0.05
#: Seconds between two chunks from which on the time was no work: something else held it back.
GAP_SECONDS = 0.5
#: Standard deviations by which a loss must exceed chance: few statements prove nothing.
CERTAIN = 2.0


class Span(NamedTuple):
    """A time, and what others did in it."""

    seconds: float
    statements: int


class Share:
    """How much of the time may be spent at work: pure reckoning."""

    def __init__(self) -> None:
        self._turns: deque[tuple[Span, Span]] = deque(maxlen=TURNS)

    def took(self, work: Span, rest: Span) -> None:
        """Learn from a turn; not from one in which the server has begun its count anew."""
        if work.statements >= 0 and rest.statements >= 0:
            self._turns.append((work, rest))

    @property
    def loss(self) -> float:
        """Share of their statements that others lose while work goes, as far as it is certain; 0: none."""
        works, rests = [work for work, _ in self._turns], [rest for _, rest in self._turns]
        work_seconds, rest_seconds = (math.fsum(each.seconds for each in spans) for spans in (works, rests))
        worked, rested = (sum(each.statements for each in spans) for spans in (works, rests))
        if not rested or not work_seconds:
            return 0.0
        kept = (worked / work_seconds) / (rested / rest_seconds)
        chance = CERTAIN * math.sqrt(1 / max(worked, 1) + 1 / rested) * max(kept, 0.1)
        return max(0.0, 1 - kept - chance)

    @property
    def at_work(self) -> float:
        """Share of the time, up to 1."""
        if len(self._turns) < FEWEST_TURNS:
            return FIRST_SHARE
        loss = self.loss
        return 1.0 if loss <= ALLOWED_LOSS else max(LEAST_SHARE, ALLOWED_LOSS / loss)


class GiveWay:
    """`--max-load`, beside its limits. Judges one source's chunks; the last of its limits. For one thread."""

    needs_settled = False

    def __init__(self, others: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """`others`: counts the statements of the server's other clients, ever rising."""
        self._others = others
        self._clock = clock
        self._share = Share()
        self._count = others()
        self._since = self._judged_at = clock()
        self._work: Span | None = None  # of this turn, while it rests
        self._rest_until: float | None = None  # None: its rest hasn't begun to count

    def judge(self, chunk: Sequence[Prepared]) -> Wait | None:  # noqa: ARG002  all chunks weigh alike
        """Waits while it is others' turn. Raises the source's errors."""
        now = self._clock()
        wait = self._at_work(now) if self._work is None else self._at_rest(now, self._work)
        self._judged_at = now
        return None if wait is None else Wait("gives way to other clients (--max-load)", wait)

    def _at_work(self, now: float) -> float | None:
        if now - self._judged_at > GAP_SECONDS:
            self._begin(now)
            return None
        if now - self._since < self._work_seconds():
            return None
        self._work = Span(now - self._since, self._others() - self._count)
        self._rest_until = None
        return SETTLE_SECONDS

    def _at_rest(self, now: float, work: Span) -> float | None:
        if self._rest_until is None:
            self._begin(now)
            share = self._share.at_work
            self._rest_until = now + max(REST_SECONDS, work.seconds * (1 / share - 1) - SETTLE_SECONDS)
        if now < self._rest_until:
            return self._rest_until - now
        self._share.took(work, Span(now - self._since, self._others() - self._count))
        self._work = None
        self._begin(now)
        return None

    def _work_seconds(self) -> float:
        """As long as keeps the shortest rest in proportion."""
        share = self._share.at_work
        if share >= 1:
            return LONGEST_WORK_SECONDS
        return min(LONGEST_WORK_SECONDS, max(WORK_SECONDS, REST_SECONDS * share / (1 - share)))

    def _begin(self, now: float) -> None:
        self._since, self._count = now, self._others()
