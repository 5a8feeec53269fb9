"""How the result of a rollback looks on a terminal."""

from __future__ import annotations

from rich.markup import escape

from migrate.cli.printing import counted, output_console, print_errors, print_next, table
from migrate.engine.rollback_result import RollbackResult


def show_rollback(result: RollbackResult) -> None:
    """What is in Qudo again, what stays in Resque and why, what is paused."""
    console = output_console()
    verb = "would return" if result.dry_run else "returned"
    columns = (
        "source",
        verb,
        "started",
        "done or gone",
        "uniqkey taken",
        "born in Resque",
        "purged",
        "collided",
        "on their way",
    )
    rows = [
        (
            each.name,
            each.returned,
            each.started,
            each.gone,
            each.held,
            each.native,
            each.purged,
            each.collided,
            each.returning,
        )
        for each in result.sources
        if each.error is None or each.returned
    ]
    if rows:
        console.print(table("Jobs", columns, rows))
    if native := sum(each.returned_native for each in result.sources):
        console.print(f"{native:,} of them were born in Resque.", soft_wrap=True)
    elif left := sum(each.native for each in result.sources):
        console.print(
            f"{counted(left, 'jobs')} born in Resque left there; --include-native takes such jobs, too.", soft_wrap=True
        )
    if not result.dry_run:
        console.print(f"[bold]{escape(result.paused)}[/] stays paused until it is resumed.", soft_wrap=True)
    for reason in result.ignored:
        console.print(f"[yellow]--force ignored:[/] {escape(reason)}", soft_wrap=True)
    print_errors(console, result.errors)
    print_next(console, result.next)
