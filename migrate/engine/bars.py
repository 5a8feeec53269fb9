"""Progress as bars, for terminals. Apart from the other reporters, since processes that fork must stay small."""

from __future__ import annotations

import sys
import threading
from typing import Any, TextIO

from tqdm import tqdm

from migrate.engine.reporters import Reporter


class BarReporter(Reporter):
    """A tqdm bar for each source: jobs, jobs/s, time left, and why it waits if it does. For terminals."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bars: dict[str, tqdm[Any]] = {}
        self._lock = threading.Lock()

    def source_started(self, source: str, expected: int) -> None:
        """Open the source's bar."""
        with self._lock:
            if source not in self._bars:
                self._bars[source] = tqdm(
                    total=expected or None,
                    desc=source,
                    unit=" jobs",
                    file=self._stream,
                    position=len(self._bars),
                    dynamic_ncols=True,
                    mininterval=0.2,
                )

    def advanced(self, source: str, jobs: int) -> None:
        """Move the bar."""
        bar = self._bars.get(source)
        if bar is not None:
            if bar.total is not None and bar.n + jobs > bar.total:
                bar.total = bar.n + jobs  # apps go on enqueuing
            bar.update(jobs)

    def waits(self, source: str, reason: str) -> None:
        """Show the reason behind the bar."""
        bar = self._bars.get(source)
        if bar is not None:
            bar.set_postfix_str(reason, refresh=True)
        elif reason:
            self.says(f"{source}: {reason}")

    def says(self, message: str, **_fields: object) -> None:
        """Print above the bars."""
        tqdm.write(message, file=self._stream)

    def source_ended(self, source: str) -> None:
        """Draw the bar a last time."""
        bar = self._bars.get(source)
        if bar is not None:
            bar.set_postfix_str("", refresh=True)

    def close(self) -> None:
        """Leave the bars as they are and go below them."""
        for bar in self._bars.values():
            bar.close()
