"""What an operator may ask of the engines that move jobs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class DrainOptions(msgspec.Struct, frozen=True):
    """What the operator asked for. Times are seconds; None: no limit."""

    func_glob: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    in_flight_wait: float = 0.0
    retry_for: float = 300.0
    rate: float | None = None  #: jobs a second
    max_queue_length: int | None = None  #: jobs
    max_load: Mapping[str, float] = {}  #: highest value by status variable
    max_lag: float = 10.0  #: of replicas that the configuration names
    purge: bool = False  #: delete delivered outbox rows at the end, whatever their age
