"""How the results of run, rehearse and where look on a terminal."""

from __future__ import annotations

from rich.markup import escape

from migrate.cli.printing import (
    SHOWN_JOBS,
    counted,
    error_console,
    moment,
    noun,
    output_console,
    print_errors,
    print_findings,
    print_next,
    print_untranslatable,
    table,
)
from migrate.engine.pause import PauseResult
from migrate.engine.purge import PurgeResult
from migrate.engine.recover import RecoverResult
from migrate.engine.results import RehearsalResult, RunResult
from migrate.engine.where import Story


def _stays(**counts: int) -> str:
    return ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in counts.items() if count) or "nothing"


def show_run(result: RunResult) -> None:
    """The closing summary of a run: what moved by func and queue, what stays and why, the next command."""
    console = output_console()
    verb = "would move" if result.dry_run else "moved"
    rows = [(source.name, each.func, each.queue, each.moved) for source in result.sources for each in source.funcs]
    if rows:
        console.print(table("", ("source", "func", "queue", verb), rows))
    totals = result.totals
    print_untranslatable(console, result.untranslatable_jobs, totals.untranslatable)
    print_findings(console, result.findings)
    rate = ""
    if not result.dry_run and totals.seconds > 0 and totals.moved:
        rate = f", {totals.moved / totals.seconds:,.0f} jobs/s"
    imported = f"; {counted(totals.imported, 'failures')} imported" if totals.imported else ""
    if purged := sum(source.purged for source in result.sources):
        imported += f"; {counted(purged, 'outbox rows')} purged"
    uncounted = [source.name for source in result.sources if not source.counted]
    stays = _stays(
        untranslatable=totals.untranslatable,
        in_flight=totals.in_flight,
        waiting=totals.waiting,
        kept=totals.kept,
        not_moved=totals.not_moved,
    )
    if uncounted:
        stays = f"not counted in {escape(', '.join(uncounted))}"
    console.print(
        f"[bold]{totals.moved:,}[/] {noun(totals.moved, 'jobs')} {verb}, [bold]{totals.handed_off:,}[/]"
        f" {'would be ' if result.dry_run else ''}handed off in {totals.seconds:,.1f} s{rate};"
        f" left in Qudo: {stays}{imported}",
        soft_wrap=True,
    )
    print_errors(console, result.errors)
    print_next(console, result.next)


def show_rehearsal(result: RehearsalResult) -> None:
    """What a rehearsal found: the verdict, differences, speed."""
    console = output_console()
    rows = [(source.name, each.func, each.queue, each.moved) for source in result.sources for each in source.funcs]
    if rows:
        console.print(table("", ("source", "func", "queue", "rehearsed"), rows))
    total = sum(source.untranslatable for source in result.sources)
    print_untranslatable(console, result.untranslatable_jobs, total)
    print_findings(console, result.findings)
    if result.differences:
        shown = [(f"{each.source}:{each.id}", each.func, each.detail) for each in result.differences[:SHOWN_JOBS]]
        console.print(table(f"Differences: {len(result.differences):,}", ("job", "func", "detail"), shown))
    verdict = "[bold green]ok[/]" if result.verdict == "ok" else "[bold red]differences[/]"
    console.print(
        f"{verdict}: {counted(result.rehearsed, 'jobs')} read, translated, pushed into a scratch namespace, compared"
        f" and removed in {result.seconds:,.1f} s ({result.jobs_per_second:,.0f} jobs/s); nothing was moved",
        soft_wrap=True,
    )
    print_errors(console, result.errors)
    print_next(console, result.next)


def show_pause(result: PauseResult) -> None:
    """What is paused now."""
    console = output_console()
    rows = [(each.func, f"{each.user}@{each.host}", moment(each.at)) for each in result.paused]
    if rows:
        console.print(table("Paused", ("func", "by", "since (UTC)"), rows))
    else:
        console.print("Nothing is paused.")
    print_next(console, result.next)


def show_purge(result: PurgeResult) -> None:
    """What went, and what stays and why."""
    console = output_console()
    verb = "would go" if result.dry_run else "purged"
    columns = ("source", verb, "younger", "not delivered", "hold a uniqkey", "not due", "returning")
    rows = [
        (each.name, each.purged, each.young, each.not_delivered, each.holding_uniqkey, each.not_due, each.returning)
        for each in result.sources
        if each.error is None or each.purged
    ]
    if rows:
        console.print(table("Outbox rows", columns, rows))
    for reason in result.ignored:
        console.print(f"[yellow]--force ignored:[/] {escape(reason)}", soft_wrap=True)
    print_errors(console, result.errors)
    print_next(console, result.next)


def show_recover(result: RecoverResult, *, to_stderr: bool = False) -> None:
    """The consequences, and how many jobs they concern."""
    console = error_console() if to_stderr else output_console()
    verb = "would be" if result.dry_run else "are"
    what = {"hand-off": f"{verb} handed off again", "hold": f"{verb} held back"}[result.redis_lost]
    rows = [(each.name, each.jobs, each.problem or "-") for each in result.sources]
    console.print(table("", ("source", f"jobs that {what}", "what was wrong"), rows))
    for consequence in result.consequences:
        console.print(f"  · {escape(consequence)}", soft_wrap=True)
    print_errors(console, result.errors)
    print_next(console, result.next)


def show_story(story: Story) -> None:
    """One job's story, in the order in which it happened."""
    console = output_console()
    state = story.state.replace("_", " ")
    func = f", {escape(story.func)}" if story.func else ""
    console.print(f"[bold]{escape(story.source)}:{story.id}[/]{func}: [bold]{state}[/]")
    for crossing in story.crossings:
        handed = "handed off" if crossing.handed_off else "not handed off"
        console.print(
            f"  crossed as {crossing.outbox} to queue {escape(crossing.queue)}: {handed}; {escape(crossing.place)}",
            soft_wrap=True,
        )
    if story.in_job:
        console.print(f"  a row of this id is in Qudo's job table{' again' if story.crossings else ''}: {state}")
    if story.reason:
        console.print(f"  {escape(story.reason)}", soft_wrap=True)
    if story.state == "unknown":
        console.print(
            "  no trace of it: never there, or done by Qudo, or purged after it was delivered,"
            " or returned by a rollback, under a new id",
            soft_wrap=True,
        )
