"""The command line: parse, call one function, print, map errors to exit statuses. No rules live here."""

from __future__ import annotations

import logging
import sys

import msgspec
import typer

from migrate import __version__
from migrate.cli import commands, cutover, follow, work
from migrate.cli.options import CommonOptions, ConfigOption, JsonOption, LogFormat, LogFormatOption, QuietOption
from migrate.cli.printing import error_console
from migrate.errors import MigrateError

app = typer.Typer(
    name="qudo-migrate",
    help="Moves a live shop from Qudo (MySQL) to Resque (Redis) without losing, doubling or changing one job.",
    epilog="Start with:  qudo-migrate demo,  or  qudo-migrate init --source NAME=URL --target URL",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks would show local variables: passwords and job arguments
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qudo-migrate {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
    _show_version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    context.obj = CommonOptions(config, json, quiet, log_format or LogFormat.TEXT)


commands.register(app)
cutover.register(app)
follow.register(app)
work.register(app)


def main() -> None:
    """The console script. Ends the process with the exit status that docs/exit-statuses.md lists."""
    # Its pool logs the tracebacks of connections that died; ours to say, in one line.
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())
    try:
        app()
    except MigrateError as error:
        _print_error(error)
        sys.exit(error.exit_status)


def _print_error(error: MigrateError) -> None:
    """One clear line, what to do next below it; with --json one object on stdout."""
    if "--json" in sys.argv:
        document = {"error": error.message, "advice": error.advice, "exit_status": error.exit_status}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    console = error_console()
    console.print(f"qudo-migrate: {error.message}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if error.advice:
        console.print(f"  → {error.advice}", markup=False, highlight=False, soft_wrap=True)
