"""The command `follow`."""

from __future__ import annotations

import math
import signal
from types import FrameType
from typing import Annotated

import typer

from migrate.cli import printing
from migrate.cli.options import (
    ConfigOption,
    FuncOption,
    JsonOption,
    LogFormatOption,
    QuietOption,
    SourceOption,
    common,
)
from migrate.engine.follow import Control, FollowOptions
from migrate.engine.follow import follow as engine_follow
from migrate.engine.follow_result import FollowResult
from migrate.engine.options import DrainOptions
from migrate.engine.stopping import stop_on_signals
from migrate.engine.throttling import parse_max_load, parse_rate
from migrate.metrics import parse_address
from migrate.notify import Notifier


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(follow)


def follow(
    context: typer.Context,
    func: FuncOption = None,
    source: SourceOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="At most so many jobs in one move.")] = None,
    retry_for: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds to wait for a server that goes away, then end with 3. Default: for ever."),
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="N/s", help="Move at most so many jobs a second.")] = None,
    max_queue_length: Annotated[
        int | None, typer.Option(min=1, help="Feed a queue only up to so many jobs: as fast as workers drain it.")
    ] = None,
    max_load: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="Wait while a MySQL status variable is higher, e.g. Threads_running=25."),
    ] = None,
    max_lag: Annotated[float, typer.Option(min=0, help="Wait while a replica is so many seconds behind.")] = 10.0,
    metrics: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Serve Prometheus metrics there, e.g. 127.0.0.1:9108.")
    ] = None,
    until_idle: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="End once there was nothing to do for so many seconds.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Move what unchanged apps enqueue in Qudo into Resque as it comes, until stopped. Any number may run."""
    options = common(context, config, json, quiet, log_format)
    if metrics is not None:
        parse_address(metrics)
    wanted = FollowOptions(
        DrainOptions(
            func_glob=func,
            batch_size=batch_size,
            retry_for=math.inf if retry_for is None else retry_for,
            rate=parse_rate(rate) if rate else None,
            max_queue_length=max_queue_length,
            max_load=parse_max_load(max_load or ()),
            max_lag=max_lag,
        ),
        until_idle,
        metrics,
    )
    reporter = options.line_reporter()
    with stop_on_signals(lambda: reporter.says("stopping: the batch in hand is finished first")) as stop:
        control = Control(stop)

        def reload(_number: int, _frame: FrameType | None) -> None:
            control.reload()

        old = signal.signal(signal.SIGHUP, reload)
        try:
            result = engine_follow(options.load, source or (), wanted, control, reporter, Notifier.from_environment())
        finally:
            signal.signal(signal.SIGHUP, old)
    if options.json:
        printing.print_json(result)
    else:
        show_follow(result)
    raise typer.Exit(result.exit_status)


def show_follow(result: FollowResult) -> None:
    """What crossed while it ran, what stays, and why it ended."""
    console = printing.output_console()
    rows = [(source.name, each.func, each.queue, each.moved) for source in result.sources for each in source.funcs]
    if rows:
        console.print(printing.table("", ("source", "func", "queue", "moved"), rows))
    untranslatable = sum(source.untranslatable for source in result.sources)
    printing.print_untranslatable(console, result.untranslatable_jobs, untranslatable)
    jobs = printing.noun(result.moved, "jobs")
    imported = f"; {printing.counted(result.imported, 'failures')} imported" if result.imported else ""
    console.print(
        f"[bold]{result.moved:,}[/] {jobs} moved, [bold]{result.handed_off:,}[/] handed off"
        f" in {result.seconds:,.1f} s, ended by {result.ended_by}{imported}",
        soft_wrap=True,
    )
    printing.print_errors(console, result.errors)
    printing.print_next(console, result.next)
