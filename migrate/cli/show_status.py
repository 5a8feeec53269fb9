"""How the result of status looks on a terminal, once or again and again."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from migrate.cli.printing import counted, moment, not_read, output_console, print_errors, print_next, table
from migrate.engine.status import StatusResult
from migrate.resque.history import Record


def show_status(result: StatusResult) -> None:
    """One look."""
    console = output_console()
    for part in _parts(result):
        console.print(part)
    print_errors(console, result.errors)
    print_next(console, result.next)


def watch_status(looks: Iterator[StatusResult]) -> None:
    """Each look in the place of the last; below each other where there is no terminal."""
    console = output_console()
    if not console.is_terminal:
        for result in looks:
            console.print(_summary(result))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for result in looks:
            errors = [Text(error.error, style="bold red") for error in result.errors]
            live.update(Group(*_parts(result), *errors, Text("Ctrl-C ends this")), refresh=True)


def _parts(result: StatusResult) -> list[RenderableType]:
    parts: list[RenderableType] = []
    rows = [
        (source.name, func.func if func.moves else f"{func.func} (kept)", func.ready, func.delayed, func.in_flight)
        for source in result.sources
        for func in source.funcs
    ]
    if rows:
        parts.append(table("In Qudo", ("source", "func", "ready", "later", "in flight"), rows))
    for source in result.sources:
        if source.not_handed_off:
            jobs = counted(source.not_handed_off, "jobs")
            line = f"{source.name}: {jobs} in the outbox, not handed off for {source.not_handed_off_for} s"
            parts.append(Text(line, style="yellow"))
    if result.queues:
        parts.append(table("In Resque", ("queue", "jobs"), list(result.queues.items())))
    if result.paused:
        rows_paused = [(each.func, f"{each.user}@{each.host}", moment(each.at)) for each in result.paused]
        parts.append(table("Paused", ("func", "by", "since (UTC)"), rows_paused))
    if result.history:
        columns = ("at (UTC)", "command", "by", "what", "exit")
        parts.append(table("Done last", columns, [_record(record) for record in result.history]))
    parts.append(_summary(result))
    return parts


def _record(record: Record) -> tuple[str, str, str, str, str]:
    counts = ", ".join(counted(value, key.replace("_", " ")) for key, value in record.counts.items())
    return (
        f"{record.at:%Y-%m-%d %H:%M:%S}",
        record.command_line,
        f"{record.user}@{record.host}",
        counts or "-",
        str(record.exit_status),
    )


def _summary(result: StatusResult) -> Text:
    in_qudo = sum(source.in_job for source in result.sources)
    rate = "" if result.rate is None else f", {result.rate:,.0f} jobs/s"
    at_work = "migrators at work" if result.migrators_at_work else "no migrator at work"
    return Text.from_markup(
        f"[bold]{in_qudo:,}[/] in Qudo, [bold]{result.handed_off:,}[/] handed off so far{rate};"
        f" {sum(result.queues.values()):,} queued, {result.delayed:,} delayed, {result.failed:,} failed,"
        f" {result.working:,} of {counted(result.workers, 'workers')} at work; {escape(at_work)}"
        f"{not_read(result.errors)}"
    )
