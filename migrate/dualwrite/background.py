"""What an enqueue leaves to a thread: the hand-off after the caller's commit, and shadow copies. Bounded, never raises.

SQLAlchemy tells of a commit before it happens, and a session also of the inner one of two. So the thread reads the row
over a connection of its own, and hands off what it sees there. What it doesn't see within some seconds, it leaves to
`follow`: the row is found by its `due` whenever it appears.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from migrate.dualwrite.handing import Handing
from migrate.dualwrite.planning import Planned
from migrate.dualwrite.source_side import Crossing, SourceSide
from migrate.dualwrite.watch import Watch
from migrate.errors import MigrateError, Untranslatable
from migrate.qudo import outbox
from migrate.resque import mirror
from migrate.resque.mirror import Shadow
from migrate.resque.target import Target

#: Things that may wait: further hand-offs are left to `follow`, further shadows are missed, and counted.
MOST_WAITING = 5000
#: Seconds after a commit was announced at which the row is looked for.
LOOKS_SECONDS = (0.0, 0.005, 0.02, 0.1, 0.5, 2.0)
#: Shadows that one call carries, and the seconds that the first of them waits for others.
SHADOWS_PER_CALL, SHADOW_SECONDS = 200, 0.05

log = logging.getLogger("migrate.dualwrite")


class Committed(NamedTuple):
    """A row of the outbox whose transaction is about to be committed."""

    side: SourceSide
    crossing: Crossing


class _Look(NamedTuple):
    at: float
    look: int
    rows: Sequence[Committed]  #: of one transaction, in their order: none overtakes another


class _ShadowTask(NamedTuple):
    func: str
    shadow: Shadow


class _End:
    """Asks the thread to end."""


class Background:
    """One thread of one process, started when there is something to do."""

    def __init__(self, target: Target, watch: Watch, handing: Handing) -> None:
        self._target = target
        self._watch = watch
        self._handing = handing
        self.forget_inherited()

    def forget_inherited(self) -> None:
        """In a forked child: what waits is the parent's affair."""
        self._queue: queue.SimpleQueue[Sequence[Committed] | _ShadowTask | _End] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._busy = 0
        self._done = threading.Condition()
        self._missed: Counter[str] = Counter()

    def committing(self, rows: Sequence[Committed]) -> None:
        """The transaction of these rows is about to be committed."""
        if rows and self._busy < MOST_WAITING:
            self._put(rows, len(rows))

    def shadow(self, planned: Planned, job_id: int) -> None:
        """Keep a shadow copy of a row of `job`. Costs the caller the translation, and a wait of nobody."""
        func, side = planned.asked.func, planned.side
        if self._busy >= MOST_WAITING:
            self._missed[func] += 1
            return
        try:
            payload = side.shadow(func, planned.new, job_id, planned.serializer)
        except Untranslatable:
            self._missed[func] += 1
            return
        self._put(_ShadowTask(func, Shadow(side.source.name, job_id, func, payload, planned.new.arg)))

    def _put(self, task: Sequence[Committed] | _ShadowTask, count: int = 1) -> None:
        with self._done:
            self._busy += count
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="qudo-migrate hand-off", daemon=True)
                    self._thread.start()
        self._queue.put(task)

    # --- the thread ---

    def _run(self) -> None:
        looks: list[_Look] = []
        shadows: list[_ShadowTask] = []
        send_at = 0.0
        while True:
            task = self._next(looks, send_at if shadows else None)
            if isinstance(task, _End):
                return
            if isinstance(task, _ShadowTask):
                if not shadows:
                    send_at = time.monotonic() + SHADOW_SECONDS
                shadows.append(task)
            elif task is not None:
                looks.append(_Look(time.monotonic(), 0, task))
            with contextlib.suppress(Exception):  # whatever it is, the next task must not suffer
                looks = self._look(looks)
            if shadows and (len(shadows) >= SHADOWS_PER_CALL or time.monotonic() >= send_at):
                sent, shadows = shadows, []
                try:
                    self._send(sent)
                finally:
                    self._ended(len(sent))

    def _next(self, looks: Sequence[_Look], send_at: float | None) -> Sequence[Committed] | _ShadowTask | _End | None:
        times = [look.at for look in looks]
        if send_at is not None:
            times.append(send_at)
        try:
            wait = max(0.0, min(times) - time.monotonic()) if times else None
            return self._queue.get(timeout=wait) if wait != 0.0 else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _look(self, looks: list[_Look]) -> list[_Look]:
        """Hand off what is there; returns what is to be looked for again."""
        now = time.monotonic()
        later = [look for look in looks if look.at > now]
        for look in looks:
            if look.at > now:
                continue
            rows = list(look.rows)
            while rows and self._settles(rows[0]):
                del rows[0]
                self._ended(1)
            number = look.look + 1
            if rows and number < len(LOOKS_SECONDS):
                later.append(_Look(now + LOOKS_SECONDS[number], number, rows))
            else:
                self._ended(len(rows))
        return later

    def _settles(self, committed: Committed) -> bool:
        """Hand a row off once it is there. False: it is to be looked for again."""
        if not self._is_there(committed):
            return False
        if not committed.crossing.due:
            try:
                bound = committed.side.binding()
            except MigrateError:
                return False
            self._handing.hand_off(committed.side, committed.crossing.job, bound)
        return True

    @staticmethod
    def _is_there(committed: Committed) -> bool:
        side, identity = committed.side, committed.crossing.job.identity
        try:
            with side.source.reading() as connection:
                return outbox.is_there(connection, identity)
        except MigrateError as error:
            log.warning("a committed job can't be read back, `follow` hands it off: %s", error.message)
            return False

    def _send(self, tasks: Sequence[_ShadowTask]) -> None:
        by_func: dict[str, list[Shadow]] = {}
        for task in tasks:
            by_func.setdefault(task.func, []).append(task.shadow)
        missed, self._missed = self._missed, Counter()
        for func in by_func.keys() | missed.keys():
            shadows = by_func.get(func, [])
            try:
                if not self._watch.breaker.closed:
                    raise ConnectionError
                mirror.keep(self._target, func, shadows, missed[func])
            except (MigrateError, ConnectionError) as error:
                if isinstance(error, MigrateError):
                    self._watch.breaker.failed()
                self._missed[func] += len(shadows) + missed[func]

    def _ended(self, tasks: int) -> None:
        with self._done:
            self._busy -= tasks
            self._done.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits any more."""
        with self._done:
            return self._done.wait_for(lambda: self._busy == 0, timeout)

    def close(self) -> None:
        """Do what waits, and end the thread."""
        self.flush(1.0)
        if self._thread is not None:
            self._queue.put(_End())
            self._thread.join(timeout=1.0)
            self._thread = None
