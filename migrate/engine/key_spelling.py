"""How uniqkeys are spelled in Redis, by what the sources' databases take for equal. Reads only."""

from __future__ import annotations

from collections.abc import Iterable

from migrate.qudo import ddl
from migrate.qudo.source import Source
from migrate.resque.unique_keys import Spelling, coarsest


def of_sources(sources: Iterable[Source]) -> Spelling:
    """The one that is safe for all of them: a func's keys are one set in Redis, whichever source a job names.

    Raises the servers' errors.
    """
    return coarsest(of_collation(ddl.key_collation(source)[1]) for source in sources)


def of_collation(collation: str | None) -> Spelling:
    """By the name of a collation; None: the column compares byte by byte (SQLite, VARBINARY)."""
    if collation is None or collation == "binary":
        return Spelling.BYTES
    if not collation.endswith("_bin"):
        return Spelling.FOLDED
    # MySQL 8 has one without padding, MariaDB one for each character set.
    no_pad = collation == "utf8mb4_0900_bin" or collation.endswith("_nopad_bin")
    return Spelling.BYTES if no_pad else Spelling.PADDED
