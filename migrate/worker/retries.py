"""How often, when and for how long a job is tried: the rules, with Qudo's meaning. Pure.

What the decorator says comes first, like the methods of a worker class in Qudo; then what the payload carries; then the
route of qudo-migrate.toml.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import NamedTuple

from migrate.config import DEFAULT_ROUTE, Config, Route
from migrate.worker.functions import Delay, JobFunction
from migrate.worker.payloads import Payload
from migrate.worker.running import RunningJob


class Policy(NamedTuple):
    """What holds for one job."""

    max_retries: int  #: tries after the first
    retry_delay: Delay
    timeout: float  #: seconds; 0: no limit

    def allows_retry(self, retries: int) -> bool:
        """Whether a job that failed after so many retries may be tried once more."""
        return retries < self.max_retries


def policy(function: JobFunction | None, payload: Payload, route: Route) -> Policy:
    """The rules for one job. A payload's `max_retry` of 0 says nothing: Perl's plugin writes it into every job."""
    max_retries, delay, timeout = payload.max_retry or route.max_retry, float(route.retry_delay), float(route.timeout)
    if function is None:
        return Policy(max_retries, delay, timeout)
    return Policy(
        max_retries if function.max_retries is None else function.max_retries,
        delay if function.retry_delay is None else function.retry_delay,
        timeout if function.timeout is None else function.timeout,
    )


def route_of(config: Config, class_name: str) -> Route:
    """The first route whose jobs have this class in Resque; the defaults when none has."""
    for route in config.route:
        func = _func_of(route.class_, class_name)
        if func is not None and fnmatch.fnmatchcase(func, route.func):
            return route
        if func is None and route.class_ == class_name:
            return route
    return DEFAULT_ROUTE


def _func_of(template: str, class_name: str) -> str | None:
    """The func that the template of a route makes this class of; None where it makes the same of all."""
    if "{func}" not in template:
        return None
    pattern = "(.+)".join(re.escape(part) for part in template.split("{func}", 1))
    match = re.fullmatch(pattern, class_name)
    return match[1] if match else None


def delay_seconds(delay: Delay, running: RunningJob) -> float:
    """The seconds until the next try. Raises whatever the app's function raises."""
    return max(0.0, float(delay(running) if callable(delay) else delay))


def backoff(
    first: float = 10.0, *, factor: float = 2.0, longest: float = 3600.0, jitter: float = 0.5
) -> Callable[[RunningJob], float]:
    """Growing pauses for `retry_delay`: `first` seconds, then `factor` times the last, at most `longest`.

    A random part of up to `jitter` (0 to 1) of each is left out, so that jobs that failed together don't come together.
    """
    if first < 0 or factor < 1 or longest < 0 or not 0 <= jitter <= 1:
        raise ValueError("backoff: first and longest must not be negative, factor not below 1, jitter from 0 to 1")

    def delay(running: RunningJob) -> float:
        import random  # each child of a process that has it loaded seeds it anew, a twentieth of what a job costs

        pause = first
        for _ in range(running.attempt - 1):
            pause = min(longest, pause * factor)
            if pause >= longest:
                break
        return min(longest, pause) * (1 - random.uniform(0, jitter))  # noqa: S311

    return delay
