"""What `follow` does now and then beside its loop, in a thread for each source: fences, and the import of failures.

Drops records of delivered chunks behind a durable fence; imports failures as `run` does, at the start and every minute.
"""

from __future__ import annotations

import threading
import time

from migrate.config import FailureImport
from migrate.engine.delivery import Delivery
from migrate.engine.failures import FailuresImport
from migrate.engine.follow_state import FollowState
from migrate.engine.intervals import Interval
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, MigrateError, Refused, Unavailable
from migrate.qudo import exceptions
from migrate.qudo.source import Source
from migrate.resque import durability
from migrate.resque.target import Target

#: Seconds between two fences, and between two imports.
FENCE_SECONDS = 10.0
FAILURES_SECONDS = 60.0
#: The share of the time that imports may take: `exception_log` has no index for what is asked.
SHARE = 0.05
#: Seconds between two looks whether something is due.
LOOK_SECONDS = 0.25


class Housekeeper:
    """One source's house. A context manager: kept until the end of the block."""

    def __init__(
        self,
        source: Source,
        target: Target,
        routing: Routing,
        delivery: Delivery,
        state: FollowState,
        mode: FailureImport,
    ) -> None:
        """`routing`: of its own, since it reads the funcs anew. `mode`: which failures are imported."""
        self._source = source
        self._target = target
        self._routing = routing
        self._delivery = delivery
        self._state = state
        self._mode = mode
        self._stop = Stop()
        self._import = FailuresImport(source, target, routing, state.failures, self._stop)
        self._fences = Interval(FENCE_SECONDS)
        self._imports = Interval(FAILURES_SECONDS, SHARE)
        self.looked = mode is FailureImport.NONE  #: whether the first import is over
        self.error: Exception | None = None  #: why it has ended, if it has
        self._thread = threading.Thread(target=self._run, name=f"house {source.name}", daemon=True)

    def __enter__(self) -> Housekeeper:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.request()
        self._thread.join(timeout=durability.FENCE_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self._turn()
            except Unavailable:
                continue  # the loop meets the same fault, and says it
            except Interrupted:
                return
            except MigrateError as error:
                self.error = error
                return
            except Exception as error:  # noqa: BLE001  a bug: raised again by the loop
                self.error = error
                return

    def _turn(self) -> None:
        if self._mode is not FailureImport.NONE and self._imports.is_due:
            began = time.monotonic()
            self._import_failures()
            self._imports.did(began)
            self.looked = True
        if self._fences.is_due and self._delivery.forgettable:
            began = time.monotonic()
            self._delivery.forget_delivered()
            self._fences.did(began)

    def _import_failures(self) -> None:
        """Import, and set Qudo's mark behind a fence where this Redis gives that proof."""
        before = self._state.failures.imported
        self._routing.refresh()
        self._import.run(self._mode)
        new = self._state.failures.imported > before
        if new:
            self._state.busy()
        if not self._import.unmarked:
            return
        try:
            # A snapshot forks the server: only for failures that came just now, not for those that it refused before.
            entered = durability.fence(self._target, self._import.look_for_entered, may_save=new)
        except Refused:
            return
        exceptions.mark_retried(self._source, entered)
