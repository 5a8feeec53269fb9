"""Everything that can go wrong, as one tree; the command line turns each into one line and an exit status.

    MigrateError                    exit status
    ├── UsageError                  2  wrong usage or configuration, names the key
    ├── SchemaError                 2  not a Qudo schema, a missing table
    ├── RightsError                 2  the account may not do what the migration needs
    ├── TargetMismatch              2  source and Redis don't belong together, or Redis is older than the source knows
    ├── Interrupted               130  a signal cut it short; the batch in hand was finished
    ├── Refused                     1  a person must decide first
    │   ├── OpenTransactions        1  the last look met rows that other transactions hold
    │   └── DuplicateJob            1  an enqueue was refused: a job with this uniqkey is pending
    ├── ServerError                 3  a server can't be reached or used
    │   ├── AccessDenied            3  wrong password or user: waiting can't help
    │   └── Unavailable             3  down, full, read-only: waiting may help
    │       ├── Loading             3  a Redis that reads its data from disk: waiting will help
    │       └── Contention          3  deadlock or lock wait: the transaction is simply tried again
    ├── PausesChanged               -  caught inside: what is paused is read anew
    └── Untranslatable              -  one job that can't be expressed in Resque; it stays in Qudo, the run goes on

Driver errors are translated at the edge (``qudo/faults.py``, ``resque/faults.py``) and kept as ``__cause__``.
"""

from __future__ import annotations


class MigrateError(Exception):
    """Base of all errors that the project raises on purpose.

    ``message`` is one line that says what happened and to which source or key; ``advice`` says what to do next.
    """

    exit_status = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class UsageError(MigrateError):
    """Wrong usage or configuration."""

    exit_status = 2


class SchemaError(MigrateError):
    """The database isn't a Qudo database, or lacks a table or column."""

    exit_status = 2


class RightsError(MigrateError):
    """The account lacks a right."""

    exit_status = 2


class TargetMismatch(MigrateError):
    """Source and Redis don't belong together, or Redis is older than what the source remembers of it."""

    exit_status = 2


class Interrupted(MigrateError):
    """A signal asked to stop; work in hand was finished."""

    exit_status = 130


class Refused(MigrateError):
    """Nothing was done, because a person must decide first."""

    exit_status = 1


class OpenTransactions(Refused):
    """The last look at a source met rows that other transactions still hold."""


class DuplicateJob(Refused):
    """An enqueue was refused: another job of this func with the same uniqkey is pending."""


class PausesChanged(MigrateError):
    """What is paused has changed since it was read; nothing was handed off. Caught inside, never shown."""


class ServerError(MigrateError):
    """A server can't be reached or used."""

    exit_status = 3


class AccessDenied(ServerError):
    """Wrong user or password; trying again is useless."""


class Unavailable(ServerError):
    """Down, full, read-only, failing over: waiting may help."""


class Loading(Unavailable):
    """A Redis that is up and still reads its data from disk."""


class Contention(Unavailable):
    """A deadlock or lock wait time-out: nothing was changed, the transaction can be tried again at once."""


class Untranslatable(MigrateError):
    """A job that can't be expressed in Resque. ``message`` is the reason, without the job's data."""
