"""The commands `cutover show`, `advance`, `back` and `set`."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate.cli import printing, show_cutover
from migrate.cli.options import (
    CommonOptions,
    ConfigOption,
    JsonOption,
    LogFormatOption,
    QuietOption,
    common,
)
from migrate.engine.cutover import Action, CutoverOptions
from migrate.engine.cutover import cutover as engine_cutover
from migrate.engine.stopping import stop_on_signals
from migrate.resque.steps import Step

_app = typer.Typer(
    name="cutover",
    help="Show and move the step of each func between Qudo and Resque: qudo, mirror, switched, resque.",
    no_args_is_help=True,
    add_completion=False,
)

FuncGlob = Annotated[str, typer.Option("--func", metavar="GLOB", help="Which funcs; a plain name is taken as it is.")]
Percent = Annotated[
    int | None, typer.Option("--percent", min=0, max=100, help="Of the jobs that are switched, on step switched.")
]
Force = Annotated[bool, typer.Option("--force", help="Whatever the preconditions say; names what it ignored.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (show, advance, back, set_):
        _app.command("set" if command is set_ else None)(command)
    app.add_typer(_app)


def show(
    context: typer.Context,
    func: FuncGlob = "*",
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Show where each func stands, and which processes have followed."""
    _do(common(context, config, json, quiet, log_format), CutoverOptions(Action.SHOW, func))


def advance(
    context: typer.Context,
    func: FuncGlob,
    percent: Percent = None,
    force: Force = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Take the next step: qudo, mirror, switched, resque."""
    options = CutoverOptions(Action.ADVANCE, func, percent=percent, force=force)
    _do(common(context, config, json, quiet, log_format), options)


def back(
    context: typer.Context,
    func: FuncGlob,
    percent: Percent = None,
    force: Force = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Go one step back."""
    options = CutoverOptions(Action.BACK, func, percent=percent, force=force)
    _do(common(context, config, json, quiet, log_format), options)


def set_(
    context: typer.Context,
    step: Annotated[Step, typer.Argument(help="Where the funcs shall stand.")],
    func: FuncGlob,
    percent: Percent = None,
    force: Force = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Take a step by name; on switched, also change the percentage."""
    options = CutoverOptions(Action.SET, func, step=step, percent=percent, force=force)
    _do(common(context, config, json, quiet, log_format), options)


def _do(options: CommonOptions, wanted: CutoverOptions) -> None:
    configuration = options.load()
    with stop_on_signals() as stop:
        result = engine_cutover(configuration, wanted, stop)
    if options.json:
        printing.print_json(result)
    else:
        show_cutover.show_cutover(result)
    raise typer.Exit(result.exit_status)
