"""The commands. Each parses its options, calls one function of the engine, prints what it returns, exits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli import printing, show, show_plan, show_rollback, show_status, show_verify
from migrate.cli.options import (
    CommonOptions,
    ConfigOption,
    FuncOption,
    JsonOption,
    LogFormatOption,
    QuietOption,
    SourceOption,
    common,
)
from migrate.config import DEFAULT_PATH
from migrate.demo import tell
from migrate.demo.narrator import Narrator
from migrate.demo.shop import FEWEST_JOBS
from migrate.engine import init as init_engine
from migrate.engine import pause as engine_pause
from migrate.engine import status as engine_status
from migrate.engine.options import DrainOptions
from migrate.engine.pause import PauseResult
from migrate.engine.plan import plan as engine_plan
from migrate.engine.purge import PurgeOptions, parse_age
from migrate.engine.purge import purge as engine_purge
from migrate.engine.recover import RecoverResult, RedisLost
from migrate.engine.recover import recover as engine_recover
from migrate.engine.rehearse import rehearse as engine_rehearse
from migrate.engine.rollback import rollback as engine_rollback
from migrate.engine.rollback_result import RollbackOptions
from migrate.engine.run import run as engine_run
from migrate.engine.stopping import stop_on_signals
from migrate.engine.throttling import parse_max_load, parse_rate
from migrate.engine.verify import VerifyOptions
from migrate.engine.verify import verify as engine_verify
from migrate.engine.where import where as engine_where
from migrate.errors import Refused, UsageError
from migrate.resque.dialects import Dialect
from migrate.verify import writing
from migrate.worker.scheduler import ScheduleResult
from migrate.worker.scheduler import schedule as worker_schedule

PausedFuncOption = Annotated[str, typer.Option("--func", metavar="GLOB", help="Which funcs; all unless given.")]


def register(app: typer.Typer) -> None:
    """Add all commands to the application, in the order in which an operator meets them."""
    for command in (
        init,
        plan,
        rehearse,
        run,
        status,
        pause,
        resume,
        verify,
        where,
        rollback,
        purge,
        recover,
        schedule,
        demo,
    ):
        app.command()(command)


def init(
    context: typer.Context,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME=URL", help="A Qudo database; can be given several times."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="URL", help="The Redis for Resque.")] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Resque's namespace; without it: resque, on a Redis Cluster {resque}.")
    ] = None,
    dialect: Annotated[Dialect, typer.Option(help="Whose workers will run the jobs.")] = Dialect.PERL,
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it is there.")] = False,
    create_tables: Annotated[bool, typer.Option(help="Create our tables where they lack.")] = True,
    print_ddl: Annotated[bool, typer.Option("--print-ddl", help="Only print DDL and grants for a DBA.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Look at the sources and write a commented qudo-migrate.toml, with a route for each func."""
    options = common(context, config, json, quiet, log_format)
    path = options.config or Path(DEFAULT_PATH)
    if print_ddl:
        configured = options.load().source if not source and path.exists() else ()
        typer.echo(init_engine.printed_ddl(init_engine.given_sources(source) if source else configured))
        return
    if not source or not target:
        raise UsageError(
            "init needs --source NAME=URL (one or more) and --target URL",
            advice="e.g. qudo-migrate init --source main=mysql+pymysql://qudo:'${QUDO_PASSWORD}'@db1/qudo"
            " --target redis://127.0.0.1:6379/0",
        )
    result = init_engine.init(
        source, target, path, namespace=namespace, dialect=dialect, force=force, create=create_tables
    )
    if options.json:
        printing.print_json(result)
    else:
        show_plan.show_init(result)
    raise typer.Exit(result.exit_status)


def plan(
    context: typer.Context,
    func: FuncOption = None,
    source: SourceOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Say what would move and how, and what stands in the way. Writes nothing."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    result = engine_plan(configuration, configuration.only_sources(source or ()), func, options.reporter())
    if options.json:
        printing.print_json(result)
    else:
        show_plan.show_plan(result)
    raise typer.Exit(result.exit_status)


def rehearse(
    context: typer.Context,
    func: FuncOption = None,
    source: SourceOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Do the whole migration into a scratch namespace, compare it with Qudo, and remove it. Moves nothing."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    reporter = options.reporter()
    with stop_on_signals(lambda: reporter.says("stopping after the batch in hand")) as stop:
        result = engine_rehearse(configuration, configuration.only_sources(source or ()), func, stop, reporter)
    if options.json:
        printing.print_json(result)
    else:
        show.show_rehearsal(result)
    raise typer.Exit(result.exit_status)


def run(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; write nothing anywhere.")] = False,
    func: FuncOption = None,
    source: SourceOption = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Move at most so many jobs of each source.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="At most so many jobs in one move.")] = None,
    in_flight_wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for jobs that workers hold.")] = 0.0,
    retry_for: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that goes away.")] = 300.0,
    rate: Annotated[str | None, typer.Option(metavar="N/s", help="Move at most so many jobs a second.")] = None,
    max_queue_length: Annotated[
        int | None, typer.Option(min=1, help="Feed a queue only up to so many jobs: as fast as workers drain it.")
    ] = None,
    max_load: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="Wait while a MySQL status variable is higher, e.g. Threads_running=25; give way to others.",
        ),
    ] = None,
    max_lag: Annotated[float, typer.Option(min=0, help="Wait while a replica is so many seconds behind.")] = 10.0,
    purge: Annotated[bool, typer.Option("--purge", help="Then delete the outbox rows: no way back.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Move every waiting job of all sources into Resque, once. Safe to stop and to run again at any time."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    wanted = DrainOptions(
        func_glob=func,
        limit=limit,
        batch_size=batch_size,
        in_flight_wait=in_flight_wait,
        retry_for=retry_for,
        rate=parse_rate(rate) if rate else None,
        max_queue_length=max_queue_length,
        max_load=parse_max_load(max_load or ()),
        max_lag=max_lag,
        purge=purge,
    )
    reporter = options.reporter()
    with stop_on_signals(lambda: reporter.says("stopping: the batch in hand is finished first")) as stop:
        result = engine_run(
            configuration, configuration.only_sources(source or ()), wanted, stop, reporter, dry_run=dry_run
        )
    if options.json:
        printing.print_json(result)
    else:
        show.show_run(result)
    raise typer.Exit(result.exit_status)


def pause(
    context: typer.Context,
    func: PausedFuncOption = "*",
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Stop all migrators of a func, on all hosts, until it is resumed. Jobs stay where they are."""
    options = common(context, config, json, quiet, log_format)
    _show_pause(options, engine_pause.pause(options.load(), func))


def resume(
    context: typer.Context,
    func: PausedFuncOption = "*",
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Let migrators go on that were paused by the same glob."""
    options = common(context, config, json, quiet, log_format)
    _show_pause(options, engine_pause.resume(options.load(), func))


def _show_pause(options: CommonOptions, result: PauseResult) -> None:
    if options.json:
        printing.print_json(result)
    else:
        show.show_pause(result)


def verify(
    context: typer.Context,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write report.json and report.html there.")
    ] = None,
    expect_idle: Annotated[
        bool, typer.Option("--expect-idle", help="No worker has run: every job that was handed off must be found.")
    ] = False,
    show_args: Annotated[
        bool, typer.Option("--show-args", help="Findings show the args of jobs that differ: they may be secret.")
    ] = False,
    retry_for: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a server that goes away; then all is compared anew.")
    ] = 300.0,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Compare both sides job by job while both live: nothing lost, doubled or changed? Writes nothing there."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    if report is not None:
        writing.prepare(report)
    reporter = options.reporter()
    with stop_on_signals(lambda: reporter.says("stopping")) as stop:
        result = engine_verify(configuration, VerifyOptions(expect_idle, show_args, retry_for), stop, reporter)
    if report is not None:
        writing.write(result, report)
    if options.json:
        printing.print_json(result)
    else:
        show_verify.show_verification(result, report)
    raise typer.Exit(result.exit_status)


def where(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="SOURCE:ID", help="A Qudo job, e.g. main:123.")],
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Tell the story of one job: its row, its crossing, and where Resque has it. Writes nothing."""
    options = common(context, config, json, quiet, log_format)
    story = engine_where(options.load(), job)
    if options.json:
        printing.print_json(story)
    else:
        show.show_story(story)
    raise typer.Exit(0 if story.state != "unknown" else 1)


def demo(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(min=FEWEST_JOBS, help="Jobs that wait in the shop's Qudo.")] = 5000,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder, and say how to go on playing.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Tell the whole story on a small shop and an embedded Redis: no set-up, nothing left behind."""
    options = common(context, config, json, quiet, log_format)
    silent = options.json or options.quiet
    result = tell(
        jobs,
        keep=keep,
        narrator=Narrator(silent=silent),
        visible=not silent,
        options=("--log-format", options.log_format),
    )
    if options.json:
        printing.print_json(result)
    elif options.quiet:
        typer.echo(result.summary)
    raise typer.Exit(result.exit_status)


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until stopped.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    source: SourceOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Show what stands where: Qudo, the outbox, Resque, pauses, and what was done last. Writes nothing."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    sources = configuration.only_sources(source or ())
    if not watch:
        result = engine_status.status(configuration, sources)
        (printing.print_json if options.json else show_status.show_status)(result)
        raise typer.Exit(result.exit_status)
    with stop_on_signals() as stop:
        looks = engine_status.watch(configuration, sources, stop, interval)
        if options.json:
            for result in looks:
                printing.print_json(result)
        else:
            show_status.watch_status(looks)
    raise typer.Exit(0)


def rollback(
    context: typer.Context,
    func: FuncOption = None,
    source: SourceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    include_native: Annotated[
        bool, typer.Option("--include-native", help="Jobs that were born in Resque (step resque) go into Qudo as well.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Without proof that Redis has its side on disk.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Take jobs that Resque has not started back into Qudo. Its funcs stay paused until they are resumed."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    wanted = RollbackOptions(func_glob=func, dry_run=dry_run, include_native=include_native, force=force)
    reporter = options.reporter()
    with stop_on_signals(lambda: reporter.says("stopping after the chunk in hand")) as stop:
        result = engine_rollback(configuration, configuration.only_sources(source or ()), wanted, stop, reporter)
    if options.json:
        printing.print_json(result)
    else:
        show_rollback.show_rollback(result)
    raise typer.Exit(result.exit_status)


def purge(
    context: typer.Context,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only rows that moved longer ago: 24h, 30m, 7d, 0.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Without proof that Redis has the jobs on disk.")] = False,
    source: SourceOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Delete delivered outbox rows once Redis is known to have their jobs on disk. After that, no way back."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    wanted = PurgeOptions(parse_age(older_than), dry_run, force)
    reporter = options.reporter()
    with stop_on_signals(lambda: reporter.says("stopping after the chunk in hand")) as stop:
        result = engine_purge(configuration, configuration.only_sources(source or ()), wanted, stop, reporter)
    if options.json:
        printing.print_json(result)
    else:
        show.show_purge(result)
    raise typer.Exit(result.exit_status)


def recover(
    context: typer.Context,
    redis_lost: Annotated[RedisLost, typer.Option(help="What becomes of the jobs that the lost Redis had.")],
    old_target: Annotated[
        str | None, typer.Option(metavar="URL", help="The Redis that was replaced: it is made invalid, if reached.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Act without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """After Redis was lost, emptied, restored from an old copy or replaced: say the consequences, then act."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()

    def act(*, dry: bool) -> RecoverResult:
        return engine_recover(configuration, configuration.source, redis_lost, old_target=old_target, dry_run=dry)

    result = act(dry=True)
    if not dry_run and result.exit_status == 0 and not yes:
        show.show_recover(result, to_stderr=True)
        yes = sys.stdin.isatty() and typer.confirm("Act?", err=True)
        if not yes:
            raise Refused("nothing was done", advice="add --yes to act")
    if not dry_run and result.exit_status == 0:
        result = act(dry=False)
    if options.json:
        printing.print_json(result)
    else:
        show.show_recover(result)
    raise typer.Exit(result.exit_status)


def schedule(
    context: typer.Context,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_format: LogFormatOption = None,
) -> None:
    """Move delayed jobs to their queues when they fall due, until stopped. Any number may run: one leads."""
    options = common(context, config, json, quiet, log_format)
    configuration = options.load()
    reporter = options.line_reporter()
    with stop_on_signals() as stop:
        moved = worker_schedule(configuration.target, stop, reporter)
    if options.json:
        printing.print_json(ScheduleResult("schedule", moved))
    raise typer.Exit(0)
