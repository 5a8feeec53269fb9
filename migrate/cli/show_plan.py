"""How the results of init and plan look on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from migrate.cli.printing import (
    counted,
    not_read,
    noun,
    output_console,
    print_errors,
    print_findings,
    print_next,
    print_untranslatable,
    table,
)
from migrate.engine.init import InitResult
from migrate.engine.plan_checks import size
from migrate.engine.plan_result import Level, PlannedSource, PlanResult

_MARKS = {
    Level.OK: "[green]✓[/]",
    Level.NOTE: "[cyan]·[/]",
    Level.WARNING: "[yellow]![/]",
    Level.PROBLEM: "[bold red]✗[/]",
}


def show_plan(result: PlanResult) -> None:
    """What would move, what was checked, what the workers need, what it costs."""
    console = output_console()
    for source in result.sources:
        _show_source(console, source)
    print_untranslatable(console, result.untranslatable_jobs, len(result.untranslatable_jobs))
    print_findings(console, result.findings)
    for check in result.checks:
        console.print(f"{_MARKS[check.level]} {escape(check.about)}: {escape(check.message)}", soft_wrap=True)
        if check.advice:
            console.print(f"    → {escape(check.advice)}", soft_wrap=True)
    if result.workers_need:
        console.print("\n[bold]The workers will need[/]")
        for need in result.workers_need:
            console.print(f"  · {escape(need)}", soft_wrap=True)
    estimate = result.estimate
    console.print(
        f"\nAbout [bold]{estimate.jobs:,}[/] {noun(estimate.jobs, 'jobs')}: {size(estimate.redis_bytes)} more in Redis,"
        f" {size(estimate.mysql_bytes)} more on the sources' disks until the purge, roughly {_time(estimate.seconds)}"
        f" (rehearse measures){not_read(result.errors)}",
        soft_wrap=True,
    )
    print_errors(console, result.errors)
    verdict = "[bold green]ready[/]" if result.ready else "[bold red]a person is needed[/]"
    console.print(f"Verdict: {verdict}")
    print_next(console, result.next)


def _show_source(console: Console, source: PlannedSource) -> None:
    rows = [
        (
            func.func,
            ", ".join(func.queues) if func.moves else "(kept)",
            f"{func.serializer} {func.sure:.0%}",
            func.ready,
            func.delayed,
            func.in_flight,
            func.retried,
            func.with_uniqkey,
        )
        for func in source.funcs
    ]
    title = f"{source.name}: {counted(source.jobs, 'jobs')} in {source.server}, {source.engine}"
    columns = ("func", "queue", "serializer", "ready", "later", "in flight", "retried", "uniqkeys")
    console.print(table(title, columns, rows))
    if source.not_handed_off:
        console.print(
            f"  {counted(source.not_handed_off, 'jobs')} of an earlier run in the outbox: run hands off such jobs first"
        )
    if source.exceptions:
        rows_logged = counted(source.exceptions, "rows")
        console.print(f"  {rows_logged} in exception_log, {source.exceptions_not_retried:,} of them not retried")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def show_init(result: InitResult) -> None:
    """What was found, what was written, what to set."""
    console = output_console()
    rows = [
        (each.name, each.server, each.engine, each.funcs, ", ".join(each.tables_created) or "-")
        for each in result.sources
    ]
    console.print(table("", ("source", "server", "engine", "funcs", "tables created"), rows))
    console.print(f"Wrote [bold]{escape(result.file)}[/]: read it, each func has a route there", soft_wrap=True)
    for variable in result.variables:
        console.print(f"It expects the environment variable [bold]{escape(variable)}[/]: export {escape(variable)}=…")
    if result.ddl:
        console.print(f"\n{escape(result.ddl)}\n", soft_wrap=True)
    print_errors(console, result.errors)
    print_next(console, result.next)
