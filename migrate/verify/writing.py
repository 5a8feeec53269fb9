"""The two files of a report, each written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from migrate.errors import UsageError
from migrate.verify import html
from migrate.verify.report import Report


def prepare(folder: Path) -> None:
    """Make the folder. Raises UsageError: better before the work than after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} can't be written to")
    except OSError as error:
        raise UsageError(f"--report {folder}: {error.strerror or error}", advice="give a folder of your own") from None


def write(report: Report, folder: Path) -> None:
    """Write report.json and report.html. Raises UsageError when the folder refuses them."""
    document = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    try:
        _replace(folder / "report.json", document)
        _replace(folder / "report.html", html.render(report).encode())
    except OSError as error:
        raise UsageError(f"--report {folder}: {error.strerror or error}", advice="give a folder of your own") from None


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(path)
