"""How the story looks on a terminal, and without one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Bytes of an arg that a sample shows.
SHOWN_BYTES = 72


class Narrator:
    """Speaks on stdout, or, when `silent`, not at all. Texts are markup of rich's; cells and values are data."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(highlight=False, emoji=False, quiet=silent)
        self._chapters = 0

    def chapter(self, title: str) -> None:
        """A new chapter begins."""
        self._chapters += 1
        self._console.print()
        self._console.rule(f"[bold cyan]{self._chapters}. {title}[/]", align="left", style="cyan")
        self._console.print()

    def says(self, text: str) -> None:
        """A paragraph, wrapped."""
        self._console.print(text)

    def command(self, arguments: Sequence[str]) -> None:
        """What the operator would type now."""
        typed = shlex.join(("qudo-migrate", *arguments))
        self._console.print(f"\n[dim]$[/] [bold]{escape(typed)}[/]", soft_wrap=True)

    def status(self, status: int) -> None:
        """What a shell would see of the command, where that is a message."""
        if status:
            self._console.print(f"[dim](exit status {status}: something needs a person)[/]")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Integers are right-aligned, with separators."""
        listed = [list(row) for row in rows]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for place, name in enumerate(columns):
            numeric = bool(listed) and isinstance(listed[0][place], int)
            table.add_column(name, justify="right" if numeric else "left", no_wrap=not place)
        for row in listed:
            table.add_row(*(_cell(value) for value in row))
        self._console.print(table)

    def fields(self, fields: dict[str, object]) -> None:
        """One record, a field a line."""
        width = max(map(len, fields))
        for name, value in fields.items():
            self._console.print(f"  [cyan]{name:<{width}}[/]  {escape(str(value))}", soft_wrap=True)

    def json(self, value: object) -> None:
        """One value, as it is, in a form that people can read."""
        self._console.print(escape(json.dumps(value, indent=2, ensure_ascii=False)), soft_wrap=True)

    def lines(self, *lines: str) -> None:
        """Lines that must not be wrapped: commands."""
        for line in lines:
            self._console.print(line, soft_wrap=True)


def shown_bytes(arg: bytes) -> str:
    """The beginning of an arg, what isn't ASCII escaped."""
    text = repr(arg[:SHOWN_BYTES])[2:-1]
    return f"{text}… ({len(arg)} bytes)" if len(arg) > SHOWN_BYTES else text


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
