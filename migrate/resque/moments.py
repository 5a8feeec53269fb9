"""Times as each implementation of Resque writes them into its keys. Pure."""

from __future__ import annotations

import time

from migrate.resque.dialects import Dialect

_NODE = "%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)"

_RUN_AT = {Dialect.PERL: "%Y/%m/%d %H:%M:%S UTC", Dialect.RUBY: "%Y-%m-%dT%H:%M:%SZ", Dialect.NODE: _NODE}
_STARTED = {Dialect.PERL: "%Y-%m-%d %H:%M:%S UTC", Dialect.RUBY: "%Y-%m-%d %H:%M:%S +0000", Dialect.NODE: _NODE}
_FAILED_AT = {Dialect.PERL: "%Y/%m/%d %H:%M:%S UTC", Dialect.RUBY: "%Y/%m/%d %H:%M:%S UTC", Dialect.NODE: _NODE}


def run_at(dialect: Dialect, second: float) -> str:
    """When a job was taken, in a worker's note. `second`: Unix time."""
    return time.strftime(_RUN_AT[dialect], time.gmtime(second))


def started(dialect: Dialect, second: float) -> str:
    """When a worker has begun."""
    return time.strftime(_STARTED[dialect], time.gmtime(second))


def failed_at(dialect: Dialect, second: float) -> str:
    """When a job has failed."""
    return time.strftime(_FAILED_AT[dialect], time.gmtime(second))


def heartbeat(second: float) -> str:
    """When a worker was last known to live: all read this with their language's parser."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
