"""The command `work`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.options import ConfigOption, JsonOption, LogFormat, LogFormatOption, QuietOption, common
from migrate.config import DEFAULT_PATH
from migrate.errors import UsageError
from migrate.worker.main import Invocation, become
from migrate.worker.options import WorkOptions, parse_queues


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(work)


def work(
    context: typer.Context,
    queues: Annotated[
        list[str],
        typer.Option(
            "--queues", metavar="A,B,*", help="Queues in the order in which they are looked at; globs, !name."
        ),
    ],
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with one job at a time.")] = 1,
    app: Annotated[
        list[str] | None, typer.Option("--app", metavar="MODULE", help="Where the job functions are; several times.")
    ] = None,
    chdir: Annotated[
        Path, typer.Option(help="The app's folder; a symbolic link is followed anew at each HUP.", show_default=False)
    ] = Path(),
    no_fork: Annotated[bool, typer.Option("--no-fork", help="Run jobs in the worker itself: fast, no wall.")] = False,
    jobs_per_fork: Annotated[int, typer.Option(min=1, help="Jobs that one child runs before the next is forked.")] = 1,
    scheduler: Annotated[bool, typer.Option(help="Move due jobs to their queues as well, as `schedule` does.")] = True,
    grace: Annotated[float, typer.Option(min=0, help="Seconds between TERM and KILL for a job that is late.")] = 5.0,
    dead_after: Annotated[
        float, typer.Option(min=1, help="Seconds without a heartbeat after which a worker elsewhere is taken for dead.")
    ] = 300.0,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Run Resque jobs in Python: a pool of workers with retries and time limits, until stopped.

    QUIT finishes the jobs in hand, TERM kills them, a second TERM stops at once; HUP restarts gracefully with new code.
    """
    options = common(context, config, json, quiet, log_format)
    if no_fork and jobs_per_fork != 1:
        raise UsageError("--no-fork and --jobs-per-fork exclude each other")
    wanted = WorkOptions(
        queues=parse_queues(queues),
        apps=tuple(app or ()),
        workers=workers,
        jobs_per_fork=0 if no_fork else jobs_per_fork,
        scheduler=scheduler,
        grace=grace,
        dead_after=dead_after,
    )
    path = (options.config or Path(DEFAULT_PATH)).absolute()
    log_as_json = options.log_format is LogFormat.JSON
    become(Invocation(wanted, str(chdir.absolute()), str(path), options.json, options.quiet, log_as_json))
