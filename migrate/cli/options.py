"""Options that several commands share; each may stand before or behind the command's name."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from migrate.config import DEFAULT_PATH, Config, load
from migrate.engine.bars import BarReporter
from migrate.engine.reporters import LineReporter, Reporter


class LogFormat(StrEnum):
    """How messages on stderr look."""

    TEXT = "text"
    JSON = "json"


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help=f"Configuration file ({DEFAULT_PATH}).", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no messages, only the result.")]
LogFormatOption = Annotated[
    LogFormat | None, typer.Option("--log-format", help="Messages on stderr as text or JSON lines.", show_default=False)
]
FuncOption = Annotated[str | None, typer.Option("--func", help="Only funcs that match this glob, e.g. 'Worker::*'.")]
SourceOption = Annotated[
    list[str] | None, typer.Option("--source", help="Only this source; can be given several times.")
]


class CommonOptions(NamedTuple):
    """What the operator said about configuration and output."""

    config: Path | None
    json: bool
    quiet: bool
    log_format: LogFormat

    def load(self) -> Config:
        """Read the configuration. Raises UsageError."""
        return load(self.config or DEFAULT_PATH)

    def reporter(self) -> Reporter:
        """Bars on a terminal, lines elsewhere, silence with --quiet."""
        if not self.quiet and sys.stderr.isatty() and self.log_format is LogFormat.TEXT:
            return BarReporter()
        return self.line_reporter()

    def line_reporter(self) -> Reporter:
        """Lines, for processes that stay; silence with --quiet."""
        return Reporter() if self.quiet else LineReporter(as_json=self.log_format is LogFormat.JSON)


def common(
    context: typer.Context,
    config: Path | None = None,
    json: bool = False,
    quiet: bool = False,
    log_format: LogFormat | None = None,
) -> CommonOptions:
    """The common options of a command, wherever they stood."""
    before = (
        context.obj if isinstance(context.obj, CommonOptions) else CommonOptions(None, False, False, LogFormat.TEXT)
    )
    return CommonOptions(
        config or before.config, json or before.json, quiet or before.quiet, log_format or before.log_format
    )
