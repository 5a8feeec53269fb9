"""A `qudo-migrate follow` that a test talks to."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from typing import Any

from tests.schemas import check
from tests.servers.command import Cli, RunningCommand

_METRICS = re.compile(r"metrics: (http://[^\s\"]+)")
_SAMPLE = re.compile(r"(\w+)(\{.*\})? (\S+)")


class Following:
    """Started and ready; `end` stops it."""

    def __init__(self, cli: Cli, *arguments: str, metrics: bool = False) -> None:
        more = ("--metrics", "127.0.0.1:0") if metrics else ()
        self.command: RunningCommand = cli.start("follow", "--json", *more, *arguments)
        self.command.wait_for("follows ")

    def metrics(self) -> dict[str, float]:
        """All samples, by name and labels as they are printed."""
        found = _METRICS.search(self.command.stderr)
        assert found, self.command.stderr
        with urllib.request.urlopen(found[1], timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        samples = [_SAMPLE.fullmatch(line) for line in lines]
        assert all(samples), text
        return {f"{each[1]}{each[2] or ''}": float(each[3]) for each in samples if each}

    def end(self, number: signal.Signals = signal.SIGTERM, status: int = 0) -> dict[str, Any]:
        """Stop it; what it printed, checked by its schema."""
        self.command.send(number)
        return self.wait(status)

    def wait(self, status: int = 0, timeout: float = 60.0) -> dict[str, Any]:
        """Its end; what it printed, checked by its schema."""
        result = self.command.wait(timeout)
        assert result.status == status, result.stdout + result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        check(document, "follow")
        return document
