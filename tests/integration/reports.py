"""What `run --json` printed, checked and easy to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.schemas import check
from tests.servers.command import CommandResult

COUNTS = ("moved", "handed_off", "imported", "untranslatable", "in_flight", "waiting", "kept", "not_moved")


class Report:
    """One report. Counts of zero are left out, so a test that names all others has named all."""

    def __init__(self, result: CommandResult) -> None:
        assert result.stdout.count("\n") == 1, f"more than one JSON object on stdout:\n{result.stdout}{result.stderr}"
        document: dict[str, Any] = json.loads(result.stdout)
        check(document, "run")
        assert document["exit_status"] == result.status
        self.status = result.status
        self.stderr = result.stderr
        self.document = document

    @property
    def counts(self) -> dict[str, int]:
        """What was counted over all sources."""
        return _counts(self.document["totals"])

    def counts_of(self, source: str) -> dict[str, int]:
        """What was counted of one source."""
        return _counts(self.source(source))

    def source(self, name: str) -> dict[str, Any]:
        """One source's part."""
        return next(dict(each) for each in self.document["sources"] if each["name"] == name)

    @property
    def funcs(self) -> list[tuple[str, str, str, int]]:
        """Source, func, queue and number of what moved."""
        return [
            (source["name"], each["func"], each["queue"], each["moved"])
            for source in self.document["sources"]
            for each in source["funcs"]
        ]

    @property
    def untranslatable(self) -> dict[tuple[str, int], str]:
        """The reasons, by source and id."""
        return {(job["source"], job["id"]): job["reason"] for job in self.document["untranslatable_jobs"]}

    @property
    def errors(self) -> dict[str, str]:
        """Why work on sources ended early."""
        return {each["source"]: each["error"] for each in self.document["errors"]}

    @property
    def complete(self) -> bool:
        """Whether nothing is left that this run could have moved."""
        return bool(self.document["complete"])


def _counts(document: Mapping[str, Any]) -> dict[str, int]:
    return {word: document[word] for word in COUNTS if document[word]}
