"""The reckoning of docs/scale.md: it foretells of a small migration what was measured, and names what ends first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate.py"


def simulated(*options: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), "--json", *options], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_it_foretells_of_ten_million_jobs_is_what_was_measured() -> None:
    """docs/performance.md: 353.5 bytes a job in Redis, 0.158 of ledger, 335 of outbox, `plan` in 6.3 s."""
    found = simulated("--jobs", "10000000", "--sources", "1")
    assert abs(found["redis_peak"] * 100 - 353.5) < 10
    assert abs(found["redis_ledgers"] * 100 - 0.158) < 0.1
    assert abs(found["mysql_extra"] * 100 - 335) < 15
    assert abs(found["plan_seconds"] - 6.3) < 1


def test_the_narrowest_place_is_named() -> None:
    assert simulated("--sources", "2")["limited_by"] == "the sources"
    assert simulated("--sources", "100")["limited_by"] == "Redis's one thread"
    full = simulated("--redis-gigabytes", "16", "--workers-per-second", "5000")
    assert full["limited_by"] == "the workers (Redis is full)"
    assert "full after" in full["breaks_first"]
    assert 45 < full["hours"] < 56  # a billion at 5,000 a second
