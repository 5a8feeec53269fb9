"""The means by which results reach a terminal: consoles, tables, JSON, and the lines that all results share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from migrate.engine.results import ErrorLine, FindingCount, UntranslatableJob

#: Jobs that a terminal lists; `--json` lists more.
SHOWN_JOBS = 20


#: Columns of what goes into a file or a pipe; a terminal has its own.
PIPED_COLUMNS = 140


def output_console() -> Console:
    """Results go to stdout."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, emoji=False, width=PIPED_COLUMNS if piped else None)


def error_console() -> Console:
    """Errors and messages go to stderr. No emoji codes here either: `main:x:` is data."""
    return Console(stderr=True, highlight=False, emoji=False)


def noun(count: int, plural: str) -> str:
    """`job` for one, `jobs` for others."""
    return plural.removesuffix("s") if count == 1 else plural


def counted(count: int, plural: str) -> str:
    """A number and what it counts."""
    return f"{count:,} {noun(count, plural)}"


def moment(at: str) -> str:
    """An ISO 8601 time in UTC as tables show it."""
    return at.removesuffix("+00:00").replace("T", " ")


def not_read(errors: Sequence[ErrorLine]) -> str:
    """The sources that could not be read, for the end of a line of sums; empty where all were."""
    names = ", ".join(dict.fromkeys(error.source for error in errors))
    return f"; without what couldn't be read: {escape(names)}" if names else ""


def print_json(document: msgspec.Struct) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; integers are right-aligned with separators. All cells are data, never markup."""
    heading = escape(title) if title else None
    result = Table(title=heading, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    listed = [list(row) for row in rows]
    for place, name in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[place], int) for row in listed)
        result.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        result.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in row))
    return result


def print_untranslatable(console: Console, jobs: Sequence[UntranslatableJob], total: int) -> None:
    """The jobs that can't be translated, the first of them by name."""
    if not total:
        return
    rows = [(f"{job.source}:{job.id}", job.func, job.reason) for job in jobs[:SHOWN_JOBS]]
    more = f" (the first {len(rows)})" if total > len(rows) else ""
    title = f"Can't be translated, stay in Qudo: {counted(total, 'jobs')}{more}"
    console.print(table(title, ("job", "func", "reason"), rows))


def print_findings(console: Console, findings: Sequence[FindingCount]) -> None:
    """What a lead should know of the jobs."""
    if findings:
        rows = [(each.source, each.func, each.finding, each.jobs) for each in findings]
        console.print(table("Worth knowing", ("source", "func", "finding", "jobs"), rows))


def print_errors(console: Console, errors: Sequence[ErrorLine]) -> None:
    """Why work on sources ended early, and what to do."""
    for error in errors:
        console.print(f"[bold red]{escape(error.error)}[/]", soft_wrap=True)
        if error.advice:
            console.print(f"  → {escape(error.advice)}", soft_wrap=True)


def print_next(console: Console, command: str) -> None:
    """The next sensible command."""
    console.print(f"Next: [bold]{escape(command)}[/]", soft_wrap=True)
