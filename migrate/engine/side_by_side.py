"""Work on several sources at once, each in a thread: one that fails doesn't stop the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from migrate.config import SourceConfig
from migrate.engine.reporters import Reporter
from migrate.engine.results import ErrorLine, Tally
from migrate.engine.stopping import SIGNALLED
from migrate.errors import MigrateError
from migrate.qudo.source import Source

#: Seconds after which a signal is heard at the latest: the kernel may give it to any thread, and then Python's handler
#: runs once the main thread does something (seen: a Ctrl-C right after `fg` was never heard).
SIGNAL_SECONDS = 0.2

#: How the exit statuses of several sources become one: the first of these that any of them has.
PRECEDENCE = (2, SIGNALLED, 3, 1)


class SourceWork(NamedTuple):
    """One source and what has been counted of it."""

    source: SourceConfig
    tally: Tally


def side_by_side(
    sources: Sequence[SourceConfig], work: Callable[[Source, Tally], None], reporter: Reporter
) -> list[SourceWork]:
    """Do `work` for each source and wait for all. Errors of ours end up in the tallies, bugs are raised."""
    works = [SourceWork(source, Tally()) for source in sources]
    threads = [threading.Thread(target=_guarded, args=(work, each, reporter), name=each.source.name) for each in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(SIGNAL_SECONDS)
    for each in works:
        if each.tally.crash is not None:
            raise each.tally.crash
    return works


def _guarded(work: Callable[[Source, Tally], None], each: SourceWork, reporter: Reporter) -> None:
    started = time.monotonic()
    try:
        source = Source(each.source.name, each.source.url)
        try:
            work(source, each.tally)
        finally:
            source.close()
    except MigrateError as error:
        each.tally.error = error
    except Exception as error:  # noqa: BLE001  a bug must reach the operator, not vanish with its thread
        each.tally.crash = error
    finally:
        each.tally.seconds = time.monotonic() - started
        reporter.source_ended(each.source.name)


def exit_status(statuses: Iterable[int]) -> int:
    """One exit status for several."""
    found = set(statuses)
    return next((status for status in PRECEDENCE if status in found), 0)


def error_statuses(works: Sequence[SourceWork], *, stopped: bool = False) -> set[int]:
    """The exit statuses of the sources that failed; `stopped`: and that of a signal."""
    failed = {each.tally.error.exit_status for each in works if each.tally.error is not None}
    return failed | {SIGNALLED} if stopped else failed


def error_lines(works: Sequence[SourceWork]) -> list[ErrorLine]:
    """Why sources failed, for results."""
    return [
        ErrorLine(each.source.name, each.tally.error.message, each.tally.error.advice)
        for each in works
        if each.tally.error is not None
    ]
