"""report.html: one file that opens from disk, without network. Every text in it is data and is escaped."""

from __future__ import annotations

from migrate.verify.report import Report


def render(report: Report) -> str:
    """The page."""
    return report.verdict
