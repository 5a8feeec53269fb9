"""How each Resque implementation writes retries, delays and key order. Pure: no I/O.

Sources: `Resque::Plugin::Retry` and `Resque::Plugin::Delay` (Perl), resque-scheduler (Ruby), node-resque (Node).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Dialect(StrEnum):
    """The implementation whose workers and schedulers will run the jobs."""

    PERL = "perl"
    RUBY = "ruby"
    NODE = "node"


class DialectFacts(NamedTuple):
    """What differs between the implementations, as far as a payload shows it."""

    max_depth: int  #: deepest nesting that its JSON parser and writer accept, whatever stands around the arg included
    retry_keys: bool  #: reads top-level `max_retry` and `retry_count`
    start_time_key: bool  #: reads top-level `start_time` (Unix seconds)
    delayed_extras: bool  #: extra top-level keys survive its scheduler
    delayed_order: tuple[str, str, str]  #: key order of a text in the delayed layout
    exact_integers: bool  #: integers over 2**53 keep their digits
    removes_by_stringify: bool  #: finds a failure in the list by what JSON.stringify makes of it


FACTS: dict[Dialect, DialectFacts] = {
    Dialect.PERL: DialectFacts(
        max_depth=512,
        retry_keys=True,
        start_time_key=True,
        delayed_extras=True,
        delayed_order=("class", "args", "queue"),
        exact_integers=True,
        removes_by_stringify=False,
    ),
    Dialect.RUBY: DialectFacts(
        max_depth=100,
        retry_keys=False,
        start_time_key=False,
        delayed_extras=False,
        delayed_order=("class", "args", "queue"),
        exact_integers=True,
        removes_by_stringify=False,
    ),
    Dialect.NODE: DialectFacts(
        max_depth=1000,
        retry_keys=False,
        start_time_key=False,
        delayed_extras=False,
        delayed_order=("class", "queue", "args"),
        exact_integers=False,
        removes_by_stringify=True,
    ),
}
