"""How long to delay jobs that a run must still meet as delayed, on a machine of any speed."""

from __future__ import annotations

import math
import time

from tests.integration.conftest import Run


def delay_seconds(run: Run) -> int:
    """Three times as long as a first run of nothing takes, and a second."""
    begun = time.monotonic()
    run()
    return 1 + math.ceil(3 * (time.monotonic() - begun))
