"""The process that a pool begins as: `python -m migrate.worker.main <options as JSON>`.

What a fork costs grows with the memory of the process: the command line's and the migration's libraries would double
it. So the command `work` becomes this program, which loads what workers need and nothing else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from migrate.config import load
from migrate.engine.reporters import LineReporter, Reporter
from migrate.errors import MigrateError
from migrate.worker.options import WorkOptions
from migrate.worker.work import work


class Invocation(msgspec.Struct, frozen=True):
    """All that the command line said."""

    wanted: WorkOptions
    config: str
    json: bool
    quiet: bool
    json_lines: bool  #: messages on stderr as JSON


def become(invocation: Invocation) -> NoReturn:
    """Replace this process; the pid stays."""
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", __name__, msgspec.json.encode(invocation).decode()]
    os.execv(command[0], command)  # noqa: S606  ourselves


def main() -> int:
    """Returns the exit status."""
    invocation = msgspec.json.decode(sys.argv[1], type=Invocation)
    reporter = Reporter() if invocation.quiet else LineReporter(as_json=invocation.json_lines)
    try:
        result = work(load(Path(invocation.config)), invocation.wanted, reporter)
    except MigrateError as error:
        if invocation.json:
            document = {"error": error.message, "advice": error.advice, "exit_status": error.exit_status}
            sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        else:
            advice = f"\n  → {error.advice}" if error.advice else ""
            print(f"qudo-migrate: {error.message}{advice}", file=sys.stderr)
        return error.exit_status
    if invocation.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
