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

    def given(self) -> dict[str, str | int | bool | None]:
        """What was asked for, each as an operator types it; for the record of a command."""
        rate = None if self.rate is None else f"{number(self.rate)}/s"
        max_load = ",".join(f"{name}={number(most)}" for name, most in self.max_load.items())
        return {
            "func": self.func_glob,
            "limit": self.limit,
            "batch_size": self.batch_size,
            "rate": rate,
            "max_queue_length": self.max_queue_length,
            "max_load": max_load or None,
            "max_lag": None if self.max_lag == DrainOptions().max_lag else number(self.max_lag),
            "purge": self.purge,
        }


def number(value: float) -> str:
    """A number as it is typed: 20000, not 20000.0."""
    return str(int(value)) if value == int(value) else str(value)
