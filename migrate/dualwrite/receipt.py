"""What an enqueue gives back, and what it was asked for. Pure."""

from __future__ import annotations

import msgspec

from migrate.errors import UsageError
from migrate.resque.steps import Step

#: Letters of Qudo's `func.name` and `job.uniqkey`.
MOST_LETTERS = 255
#: The highest value of Qudo's INT UNSIGNED columns.
MOST = 2**32 - 1


class Receipt(msgspec.Struct, frozen=True):
    """Where a job was written."""

    source: str  #: the name of the Qudo database; of a job born in Resque: the one that it would go back to
    step: Step  #: by which it was written: `qudo` too for a func without a step, and for what a ramp leaves in Qudo
    job_id: int | None = None  #: of its row in `job`
    outbox: str | None = None  #: its identity in the outbox
    native: str | None = None  #: its identity when it was born in Resque
    handed_off: bool = False  #: Resque has it already; else it gets it after the commit, or by `follow`


class Request(msgspec.Struct, frozen=True):
    """An enqueue that was asked for, its values checked."""

    func: str
    uniqkey: str | None
    priority: int
    run_after: int  #: seconds from now

    @property
    def key(self) -> bytes | None:
        """The uniqkey as it is stored."""
        return None if self.uniqkey is None else self.uniqkey.encode()


def request(func: str, uniqkey: str | None, priority: int, run_after: int, now: int) -> Request:
    """Check the values of an enqueue. Raises UsageError for what Qudo's columns can't hold."""
    if not isinstance(func, str) or not 0 < len(func) <= MOST_LETTERS:
        raise UsageError(f"enqueue: func must be a text of 1 to {MOST_LETTERS} letters")
    if uniqkey is not None and (not isinstance(uniqkey, str) or len(uniqkey) > MOST_LETTERS):
        raise UsageError(f"enqueue {func}: uniqkey must be a text of at most {MOST_LETTERS} letters")
    if type(priority) is not int or not 0 <= priority <= MOST:
        raise UsageError(f"enqueue {func}: priority must be an integer from 0 to {MOST}")
    if type(run_after) is not int or run_after < 0 or now + run_after > MOST:
        raise UsageError(f"enqueue {func}: run_after must be a number of seconds from now, not negative")
    for text in (func, uniqkey or ""):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UsageError(f"enqueue {func!a}: text with half a surrogate pair") from None
    return Request(func, uniqkey, priority, run_after)
