"""The demo's story, chapter by chapter: each shows one command, or what is in a database before and after."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from rich.markup import escape

from migrate.demo.accounting import (
    Account,
    Midway,
    account,
    count_in_resque,
    count_moved,
    midway,
    queue_lengths,
    resque_jobs,
)
from migrate.demo.commands import Commands
from migrate.demo.filling import fill
from migrate.demo.interrupting import raising_on_signals
from migrate.demo.narrator import Narrator, shown_bytes
from migrate.demo.result import DemoResult, Kill
from migrate.demo.server import EmbeddedServer, find_server
from migrate.demo.shop import CUT_OFF_JOB, EUC_JP_JOB, Shop, ShopJob, open_shop

#: The name of the database's file, and of the source.
DATABASE, SOURCE = "qudo.db", "main"
#: The run that is killed moves this share of the jobs in one batch.
BATCH_SHARE = 1 / 100
#: It dies once Resque has this share of the jobs, at a moment when others have left Qudo and are not in Resque yet; if
#: none is seen until the second share, then there.
KILL_SHARE, LATEST_KILL_SHARE = 1 / 3, 2 / 3


def tell(jobs: int, *, keep: bool, narrator: Narrator, visible: bool, options: Sequence[str] = ()) -> DemoResult:
    """Tell the whole story with so many jobs. `visible`: the commands' own output is shown too, `options` are theirs.

    Raises UsageError when there is no Redis to start, Interrupted on INT and TERM, and what a command failed with.
    Nothing that it started outlives it; its folder stays with `keep` only.
    """
    started = time.monotonic()
    program = find_server()
    with raising_on_signals():
        folder = Path(tempfile.mkdtemp(prefix="qudo-migrate-demo-"))
        try:
            with EmbeddedServer(program, folder) as server:
                story = _Story(jobs, folder, server, narrator, Commands(folder, visible=visible, options=options))
                kill, reckoned = story.tell()
                server_name = server.name()
            story.says_what_next(reckoned, kept=keep)
        finally:
            if keep:
                narrator.says(f"\nKept: [bold]{escape(str(folder))}[/]")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    return DemoResult(
        command="demo",
        verdict=reckoned.verdict,
        exit_status=0 if reckoned.is_right else 1,
        summary=f"{reckoned.verdict}: {reckoned.summary}",
        server=server_name,
        handed_off=reckoned.handed_off,
        **reckoned._asdict(),
        kill=kill,
        seconds=round(time.monotonic() - started, 3),
        folder=str(folder) if keep else None,
    )


class _Story:
    """One telling. The methods are the chapters, in order."""

    def __init__(self, jobs: int, folder: Path, server: EmbeddedServer, narrator: Narrator, commands: Commands) -> None:
        self._folder = folder
        self._database = folder / DATABASE
        self._server = server
        self._narrator = narrator
        self._commands = commands
        self._now = int(time.time())
        self._shop: Shop = open_shop(jobs, self._now)
        self._example, self._example_job = _most_telling(self._shop)

    def tell(self) -> tuple[Kill, Account]:
        """All chapters up to the verdict."""
        self._opens()
        self._init()
        self._plan()
        self._rehearse()
        kill = self._run_and_kill()
        self._run_again()
        self._shows_resque()
        self._asks_where()
        return kill, self._judges()

    def _opens(self) -> None:
        fill(self._database, self._shop)
        self._narrator.says(
            "[bold]qudo-migrate demo[/]: a small shop moves its job queue from Qudo to Resque. Everything is real: the"
            f" database, the {escape(self._server.name())} server, the commands, the kill. All of it lives in"
            " a temporary folder."
        )
        self._narrator.chapter("A shop, and what waits in its Qudo")
        self._narrator.says(
            f"[bold]{len(self._shop.jobs):,}[/] jobs wait in Qudo's table [bold]job[/]. Different teams enqueued them"
            " over the years, each with a serializer of its own; nothing in a row says which."
        )
        self._narrator.table(
            ("worker class", "serializer", "jobs", "priority", "later", "retried", "in flight"),
            _by_func(self._shop, self._now),
        )
        self._narrator.says("One of them, as Qudo holds it:\n")
        job = self._example_job
        self._narrator.fields(
            {
                "id": self._example,
                "func": job.func,
                "uniqkey": job.uniqkey,
                "priority": job.priority,
                "arg": shown_bytes(job.arg),
            }
        )
        self._narrator.says(
            f"\nAnd two that will make trouble: {EUC_JP_JOB} is text in EUC-JP, {CUT_OFF_JOB} was cut off by a column"
            " that was too short."
        )

    def _init(self) -> None:
        self._narrator.chapter("Look, and write a configuration")
        self._narrator.says("init looks at the jobs and writes a commented file with a route for each worker class.")
        self._run("init", "--source", f"{SOURCE}=sqlite:///{DATABASE}", "--target", self._server.url)

    def _plan(self) -> None:
        self._narrator.chapter("Plan: what would move, and what stands in the way")
        self._narrator.says("plan writes nothing. It tells how sure it is of each serializer, and names what it fears.")
        self._run("plan")

    def _rehearse(self) -> None:
        self._narrator.chapter("Rehearse: the whole migration, without moving anything")
        self._narrator.says(
            "Each job is read, translated, pushed into a scratch namespace of Redis, read back and compared with what"
            " Qudo's own worker would have got."
        )
        self._run("rehearse")

    def _run_and_kill(self) -> Kill:
        self._narrator.chapter("Run, and die in the middle of it")
        self._narrator.says(
            "Machines crash, and somebody always kills the wrong process. So this run gets a"
            " [bold red]kill -9[/] after about a third of its work: no warning, no clean-up."
        )
        batch = max(1, int(len(self._shop.jobs) * BATCH_SHARE))
        arguments = ("run", "--batch-size", str(batch))
        self._narrator.command(arguments)
        with self._server.client() as redis:
            killed = self._commands.kill_when(lambda: self._is_worst_moment(redis), *arguments)
            found = midway(self._database, redis)
        self._shows_midway(found, killed=killed)
        return Kill(killed, **found._asdict())

    def _is_worst_moment(self, redis: Redis) -> bool:
        share = count_in_resque(redis) / len(self._shop.jobs)
        if KILL_SHARE <= share < LATEST_KILL_SHARE:
            # Only here: a look into an SQLite file makes its writer wait.
            return count_moved(self._database) > count_in_resque(redis)
        return share >= LATEST_KILL_SHARE

    def _shows_midway(self, found: Midway, *, killed: bool) -> None:
        if killed:
            self._narrator.says("\n[bold red]Killed.[/] At this moment the jobs are:")
        else:
            self._narrator.says("\nThis run was quicker than the kill. The jobs are:")
        self._narrator.table(
            ("where", "jobs"),
            (
                ("in Qudo's table job, for Qudo's workers", found.in_qudo),
                ("in the outbox: out of Qudo, not yet handed off", found.in_outbox),
                ("in Resque, for Resque's workers", found.in_resque),
                ("together", found.in_qudo + found.in_outbox + found.in_resque),
            ),
        )
        self._narrator.says(f"Jobs that both sides could run: [bold]{found.in_both}[/].")

    def _run_again(self) -> None:
        self._narrator.chapter("Run again: it goes on where the other one died")
        self._narrator.says(
            "First it hands off what the dead run left in the outbox, if anything, then it moves the rest."
        )
        self._run("run")

    def _shows_resque(self) -> None:
        self._narrator.chapter("What Resque holds now")
        with self._server.client() as redis:
            lengths = queue_lengths(redis)
            failed = int(redis.llen("resque:failed"))
            seen = list(resque_jobs(redis))
        later = sum(each.due != 0 for each in seen)
        beside = (("(delayed, for a scheduler)", later), ("(failed, from exception_log)", failed))
        self._narrator.table(("queue", "jobs"), [*lengths.items(), *beside])
        payload = next(each.payload for each in seen if each.id == self._example)
        self._narrator.says("The job from the beginning, as a Resque worker will get it:\n")
        self._narrator.json(payload)
        self._narrator.says("\nIts numbers are numbers, its strings are strings, with their zeros in front.")

    def _asks_where(self) -> None:
        self._narrator.chapter("Where is my job?")
        self._narrator.says("Any job can be asked for by its old id. First the one from above, then one that stays.")
        self._run("where", f"{SOURCE}:{self._example}")
        self._run("where", f"{SOURCE}:{EUC_JP_JOB}")

    def _judges(self) -> Account:
        self._narrator.chapter("The verdict")
        with self._server.client() as redis:
            reckoned = account(self._shop, self._database, redis, int(time.time()))
        self._narrator.says(
            "The demo kept what the shop's apps enqueued. Now it looks for each job on both sides, without the"
            " migrator's help, and compares the values one by one."
        )
        self._narrator.table(
            ("", "jobs"),
            (
                ("in Resque's queues", reckoned.queued),
                ("delayed in Resque", reckoned.delayed),
                ("in the hands of Qudo's workers", reckoned.in_flight),
                ("can't be translated, stay in Qudo", reckoned.untranslatable),
                ("together", reckoned.handed_off + reckoned.in_flight + reckoned.untranslatable),
            ),
        )
        colour = "green" if reckoned.is_right else "red"
        self._narrator.says(f"[bold {colour}]{reckoned.verdict}[/]: {reckoned.summary}.")
        return reckoned

    def says_what_next(self, reckoned: Account, *, kept: bool) -> None:
        """How to go on; told when the servers are gone, so that what was kept is complete."""
        if kept:
            self._narrator.says("\n[bold]To go on playing:[/] the Redis is stopped, its data is kept.")
            self._narrator.lines(
                f"  {escape(self._server.shell_command)} &",
                f"  cd {escape(str(self._folder))}",
                f"  {escape(_typed_name())} where {SOURCE}:{EUC_JP_JOB}",
            )
        if reckoned.is_right:
            self._narrator.says("\n[bold]Your own shop:[/] nothing moves before the last of these.")
            self._narrator.lines(
                "  qudo-migrate init --source main=mysql+pymysql://qudo:'${QUDO_PASSWORD}'@db1/qudo"
                " --target redis://127.0.0.1:6379/0",
                "  qudo-migrate plan",
                "  qudo-migrate rehearse",
                "  qudo-migrate run --dry-run",
                "  qudo-migrate run",
            )

    def _run(self, *arguments: str) -> None:
        self._narrator.command(arguments)
        self._narrator.status(self._commands.run(*arguments))


def _typed_name() -> str:
    """What to type for qudo-migrate, where it may not be on PATH."""
    return "qudo-migrate" if shutil.which("qudo-migrate") else shlex.join((sys.executable, "-m", "migrate"))


def _most_telling(shop: Shop) -> tuple[int, ShopJob]:
    """The first invoice that is free: it has text, numbers, strings that look like numbers, and a null."""
    for number, job in enumerate(shop.jobs, 1):
        if job.func == "Worker::Invoice" and job.translatable and not job.grabbed_until:
            return number, job
    return 1, shop.jobs[0]


def _by_func(shop: Shop, now: int) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for func in sorted({job.func for job in shop.jobs}):
        jobs = [job for job in shop.jobs if job.func == func]
        rows.append(
            (
                func,
                jobs[0].serializer,
                len(jobs),
                max(job.priority for job in jobs),
                sum(job.run_after > now for job in jobs),
                sum(job.retry_cnt > 0 for job in jobs),
                sum(job.grabbed_until > now for job in jobs),
            )
        )
    return rows
