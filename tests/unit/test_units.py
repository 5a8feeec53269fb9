"""The units of systemd, judged by systemd where it is installed, and by what our commands have."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from migrate.cli import app

ROOT = Path(__file__).parents[2]
UNITS = sorted(ROOT.glob("**/systemd/*.service"))
PROGRAM = "/opt/qudo-migrate/bin/qudo-migrate"
PERL_PROGRAM = "/opt/qudo-migrate/scripts/perl/resque-prefork"


def command_line(unit: Path) -> list[str]:
    found = re.search(r"^ExecStart=(.+)$", unit.read_text(), re.MULTILINE)
    assert found
    return found[1].split()


def test_they_are_found() -> None:
    assert {unit.name for unit in UNITS} >= {"qudo-migrate-follow.service", "qudo-migrate-work@.service"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_no_fault(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    copy = tmp_path / unit.name.replace("@", "@pool")
    copy.write_text(
        unit.read_text().replace(command_line(unit)[0], "/bin/true").replace("file:/opt/qudo-migrate/docs", "file:/")
    )
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    ours = [line for line in result.stderr.splitlines() if copy.name in line or str(copy) in line]
    assert ours == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_its_command_has_these_options(unit: Path) -> None:
    program, *words = command_line(unit)
    options = {word for word in words if word.startswith("--")}
    if program == PERL_PROGRAM:
        usage = (ROOT / "scripts/perl/resque-prefork").read_text()
        assert all(f"{option} " in usage for option in options)
        return
    assert program == PROGRAM
    name = next(word for word in words if word in {"follow", "work"})
    root = get_command(app)
    known = {option for each in (root, root.commands[name]) for parameter in each.params for option in parameter.opts}  # type: ignore[attr-defined]
    assert options <= known
