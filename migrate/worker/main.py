"""The process that a pool begins as: `python -m migrate.worker.main <options as JSON>`.

What a fork costs grows with the memory of the process. So the command `work` becomes this program, which loads what a
job needs (not even Redis), forks the template of fork servers, and then loads what a pool and workers need.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from migrate.config import Config, load
from migrate.engine.reporters import LineReporter, Reporter
from migrate.errors import MigrateError, UsageError
from migrate.worker import application
from migrate.worker.fork_server import Template
from migrate.worker.options import WorkOptions
from migrate.worker.successor import TRIAL


class Invocation(msgspec.Struct, frozen=True):
    """All that the command line said."""

    wanted: WorkOptions
    folder: str  #: where the app is; a symbolic link is followed anew at each start, so at HUP too
    config: str  #: an absolute path
    json: bool
    quiet: bool
    json_lines: bool  #: messages on stderr as JSON


def become(invocation: Invocation) -> NoReturn:
    """Replace this process; the pid stays."""
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a file of the app's folder must not stand in for a library of ours.
    command = [sys.executable, "-P", "-m", __name__, msgspec.json.encode(invocation).decode()]
    os.execv(command[0], command)  # noqa: S606  ourselves


def main() -> int:
    """Returns the exit status."""
    invocation = msgspec.json.decode(sys.argv[1], type=Invocation)
    reporter = Reporter() if invocation.quiet else LineReporter(as_json=invocation.json_lines)
    try:
        _enter(invocation.folder)
        result = _work(load(Path(invocation.config)), invocation.wanted, reporter)
    except MigrateError as error:
        if invocation.json and not os.environ.get(TRIAL):  # of a trial only stderr is seen
            document = {"error": error.message, "advice": error.advice, "exit_status": error.exit_status}
            sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        else:
            advice = f"\n  → {error.advice}" if error.advice else ""
            print(f"qudo-migrate: {error.message}{advice}", file=sys.stderr)
        return error.exit_status
    if invocation.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


def _work(config: Config, wanted: WorkOptions, reporter: Reporter) -> msgspec.Struct:
    registry = application.load(wanted.apps)
    gc.collect()
    gc.freeze()  # or the first collection in each child would copy all pages
    template = None
    if wanted.jobs_per_fork and not os.environ.get(TRIAL):
        template = Template(registry, wanted.jobs_per_fork)
        template.start()
    from migrate.worker.work import work  # it knows Redis

    return work(config, wanted, registry, template, reporter)


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(f"--chdir {folder}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
