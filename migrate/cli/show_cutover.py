"""What `cutover` prints on a terminal."""

from __future__ import annotations

from rich.markup import escape

from migrate.cli.printing import moment, output_console, print_errors, print_next, table
from migrate.engine.cutover import CutoverResult, FuncStep


def show_cutover(result: CutoverResult) -> None:
    """Steps, processes, what stands in the way."""
    console = output_console()
    if result.funcs:
        rows = [
            (
                each.func,
                _step(each),
                "kept" if each.kept else "moves",
                _by(each),
                moment(each.at),
            )
            for each in result.funcs
        ]
        console.print(table("Steps", ("func", "step", "rows in Qudo", "by", "since (UTC)"), rows))
    else:
        console.print("No func has a step yet.")
    if result.processes:
        listed = [
            (f"{each.host}:{each.pid}", each.program, "yes" if each.followed else f"no, goes by version {each.version}",
             f"{each.silent_for} s ago")
            for each in result.processes
        ]  # fmt: skip
        title = f"Apps (steps: version {result.version})"
        console.print(table(title, ("process", "program", "has followed", "reported"), listed))
    for blocked in result.blocked:
        console.print(f"[bold red]{escape(blocked.func)}: {escape(blocked.reason)}[/]", soft_wrap=True)
    for ignored in result.ignored:
        console.print(f"ignored: {escape(ignored)}", soft_wrap=True)
    if result.changed:
        console.print(f"Moved: {escape(', '.join(result.changed))}", soft_wrap=True)
    if result.changed and result.not_followed:
        console.print(f"Have not followed yet: {escape(', '.join(result.not_followed))}", soft_wrap=True)
    print_errors(console, result.errors)
    print_next(console, result.next)


def _by(each: FuncStep) -> str:
    return f"{each.user}@{each.host}" if each.at else ""


def _step(each: FuncStep) -> str:
    if each.step is None:
        return "none: simply migrated"
    ramp = f" {each.percent} %" if each.step == "switched" and each.percent < 100 else ""
    return f"{each.step}{ramp}"
