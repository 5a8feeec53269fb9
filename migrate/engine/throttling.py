"""What holds a migration back so that a live site survives it: limits that are asked before each move.

Each limit judges what it can read and gives a reason for people, or None. While one gives a reason, nothing is moved:
jobs wait in Qudo, where its workers can still run them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from migrate.engine.choosing import Prepared
from migrate.engine.stopping import Stop
from migrate.errors import ServerError, UsageError
from migrate.qudo import load
from migrate.qudo.source import Source
from migrate.resque import queues
from migrate.resque.target import Target

#: Seconds between two questions while a limit holds a migration back, and for which an answer of a server counts.
ASK_AGAIN_SECONDS = 0.25
FRESH_SECONDS = 0.5


class Wait(NamedTuple):
    """Why to wait, for people, and when to ask again."""

    reason: str
    seconds: float = ASK_AGAIN_SECONDS


class Limit(Protocol):
    """One reason to wait."""

    #: Whether earlier moves must have been handed off before it can judge.
    needs_settled: bool

    def judge(self, chunk: Sequence[Prepared]) -> Wait | None:
        """Why this chunk must wait now; None: it need not. Raises the servers' errors."""


class Throttle:
    """All limits of one drain."""

    def __init__(
        self, limits: Sequence[Limit], stop: Stop, say: Callable[[str], None], hold_seconds: float | None = None
    ) -> None:
        """`hold_seconds`: how long one chunk is held back before it is given up; None: as long as it takes."""
        self._limits = limits
        self._stop = stop
        self._say = say
        self._hold_seconds = hold_seconds
        self._said = False
        self.needs_settled = any(limit.needs_settled for limit in limits)

    def wait(self, chunk: Sequence[Prepared]) -> bool:
        """Wait until no limit objects; False when it lasts or a stop is requested: the chunk stays in Qudo."""
        began = time.monotonic()
        while not self._stop.requested:
            wait = next((wait for limit in self._limits if (wait := limit.judge(chunk))), None)
            if wait is None:
                if self._said:
                    self._say("")
                self._said = False
                return True
            self._say(wait.reason)
            self._said = True
            if self._hold_seconds is not None and time.monotonic() + wait.seconds - began > self._hold_seconds:
                return False
            self._stop.wait(wait.seconds)
        return False


class Rate:
    """`--rate`: jobs a second, over all sources of this process."""

    needs_settled = False

    def __init__(self, jobs_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = jobs_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def judge(self, chunk: Sequence[Prepared]) -> Wait | None:
        """Waits until the jobs let through before have had their time."""
        with self._lock:
            now = self._clock()
            if now < self._free_at:
                return Wait(f"--rate {self._rate:g}/s", self._free_at - now)
            # A pause earns nothing: after it the rate holds again, no burst.
            self._free_at = max(self._free_at, now - ASK_AGAIN_SECONDS) + len(chunk) / self._rate
            return None


class QueueRoom:
    """`--max-queue-length`: feed a queue only as fast as workers drain it. Delayed jobs don't count."""

    needs_settled = True

    def __init__(self, target: Target, jobs: int) -> None:
        self._target = target
        self._most = jobs

    def judge(self, chunk: Sequence[Prepared]) -> Wait | None:
        """Waits while a queue of this chunk would become longer than the limit."""
        coming = Counter(each.job.queue for each in chunk if each.job.delayed is None)
        for queue, length in queues.lengths(self._target, list(coming)).items():
            if length + coming[queue] > self._most:
                return Wait(f"queue {queue} holds {length:,} jobs (--max-queue-length {self._most:,})")
        return None


class MaxLoad:
    """`--max-load`: status variables of the source's server, each with its highest value."""

    needs_settled = False

    def __init__(self, source: Source, most: Mapping[str, float]) -> None:
        self._source = source
        self._most = most
        self._asked_at = -FRESH_SECONDS
        self._reason: str | None = None

    def judge(self, chunk: Sequence[Prepared]) -> Wait | None:  # noqa: ARG002  the load is the same for all chunks
        """Waits while a variable is over its limit. Raises UsageError for one that the server doesn't have."""
        if time.monotonic() - self._asked_at >= FRESH_SECONDS:
            self._reason = self._ask()
            self._asked_at = time.monotonic()
        return None if self._reason is None else Wait(self._reason)

    def _ask(self) -> str | None:
        values = load.status_values(self._source, self._most)
        for name, most in self._most.items():
            if name not in values:
                raise UsageError(f"--max-load {name}: source {self._source.name} has no such status variable")
            if values[name] > most:
                return f"{name} is {values[name]:g} (--max-load {name}={most:g})"
        return None


class ReplicaLag:
    """`--max-lag`: seconds that a replica of the source may be behind."""

    needs_settled = False

    def __init__(self, replicas: Sequence[Source], seconds: float) -> None:
        self._replicas = replicas
        self._most = seconds
        self._asked_at = -FRESH_SECONDS
        self._reason: str | None = None

    def judge(self, chunk: Sequence[Prepared]) -> Wait | None:  # noqa: ARG002  the lag is the same for all chunks
        """Waits while a replica lags, doesn't replicate or can't be asked."""
        if time.monotonic() - self._asked_at >= FRESH_SECONDS:
            self._reason = next((reason for each in self._replicas if (reason := self._ask(each))), None)
            self._asked_at = time.monotonic()
        return None if self._reason is None else Wait(self._reason)

    def _ask(self, replica: Source) -> str | None:
        try:
            lag = load.replica_lag(replica)
        except ServerError as error:
            return error.message
        if lag is None:
            return f"{replica.name}: replication is stopped"
        return f"{replica.name} is {lag:g} s behind (--max-lag {self._most:g})" if lag > self._most else None


def parse_rate(text: str) -> float:
    """`500` or `500/s`. Raises UsageError."""
    number = text.removesuffix("/s")
    if not number.isascii() or not number.isdigit() or int(number) == 0:
        raise UsageError(f"--rate {text}: write jobs a second, e.g. 500/s")
    return float(number)


def parse_max_load(texts: Sequence[str]) -> dict[str, float]:
    """`Threads_running=25`, several separated by commas or given one by one. Raises UsageError."""
    most: dict[str, float] = {}
    for item in (part.strip() for text in texts for part in text.split(",")):
        name, equals, value = item.partition("=")
        try:
            most[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UsageError(f"--max-load {item}: write NAME=NUMBER, e.g. Threads_running=25")
    return most
