"""The throughput as a picture: what its SVG draws, in its own units. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from migrate.verify.throughput import Span

#: Around the columns: for the numbers of the axis on the left, the title above, the times below.
_LEFT, _TOP, _BOTTOM = 58, 34, 24
#: Where an axis may end, times a power of ten.
_ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)


class Column(NamedTuple):
    """One span."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Line(NamedTuple):
    """A line of the axis, and its number."""

    y: float
    label: str


class Plot(NamedTuple):
    """A picture of a width and a height."""

    width: int
    height: int
    columns: list[Column]
    lines: list[Line]
    left: int
    bottom: int
    begin: str  #: time of the first span's beginning
    end: str  #: time of the last span's end
    per: str  #: what a column is


def plot(spans: Sequence[Span], width: int, height: int) -> Plot | None:
    """Jobs a second over time; None where nothing has moved."""
    if not spans:
        return None
    seconds = spans[0].seconds
    highest = max(each.moved for each in spans) / seconds
    top = _round_up(highest)
    room, bottom = width - _LEFT - 2, height - _BOTTOM
    step = room / len(spans)
    scale = (bottom - _TOP) / top
    columns = []
    for number, each in enumerate(spans):
        tall = each.moved / seconds * scale
        tall = max(tall, 1.0) if each.moved else 0.0
        title = f"{_clock(each.at)}: {each.moved:,} jobs, {each.moved / seconds:,.1f} jobs/s"
        thin = step - min(1.0, step / 4)
        columns.append(Column(round(_LEFT + number * step, 2), round(bottom - tall, 2), round(thin, 2), tall, title))
    lines = [Line(round(bottom - top * part * scale, 2), _number(top * part)) for part in (0.5, 1)]
    return Plot(
        width,
        height,
        columns,
        lines,
        _LEFT,
        bottom,
        _clock(spans[0].at),
        _clock(spans[-1].at + seconds),
        _duration(seconds),
    )


def _round_up(value: float) -> float:
    """The next round number."""
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.01
    while True:
        for factor in _ROUND:
            if factor * power >= value:
                return factor * power
        power *= 10


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _clock(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))


def _duration(seconds: int) -> str:
    for unit, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            count = seconds // unit
            return name if count == 1 else f"{count} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"
