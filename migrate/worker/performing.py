"""Performing one job in this process: the function, its hooks, and how it ended."""

from __future__ import annotations

import contextlib
import inspect
import sys
import traceback
from types import TracebackType
from typing import NamedTuple

import msgspec

from migrate.worker.functions import Delay, JobFunction
from migrate.worker.payloads import Payload
from migrate.worker.retries import Policy, delay_seconds
from migrate.worker.running import Abort, RunningJob, enter

#: Frames of a backtrace that a failure keeps, the innermost ones.
MOST_FRAMES = 100
_OURS = __file__.removesuffix("performing.py")


class Terminated(BaseException):
    """Raised inside a job that must end now: its time is over, or its worker was told to. Let it pass."""


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How one attempt ended."""

    done: bool
    retriable: bool = False  #: false for a job that aborted, or whose class nobody knows
    exception: str = ""
    error: str = ""
    backtrace: list[str] | None = None
    retry_delay: float | None = None  #: seconds that the app's rule gives; None: it was not asked


DONE = Outcome(True)


class Attempt(NamedTuple):
    """What is to be performed."""

    function: JobFunction
    running: RunningJob
    retry_delay: Delay


def attempt_at(function: JobFunction, payload: Payload, policy: Policy, queue: str) -> Attempt:
    """One attempt at a job that was taken from this queue."""
    running = RunningJob(
        payload.class_name,
        payload.args,
        queue=queue,
        payload=payload.value,
        attempt=payload.retries + 1,
        max_retries=policy.max_retries,
        timeout=policy.timeout,
    )
    return Attempt(function, running, policy.retry_delay)


def perform(attempt: Attempt) -> Outcome:
    """Run the job's function and hooks; whatever they raise becomes the outcome."""
    function, running = attempt.function, attempt.running
    try:
        enter(running)
        for before in function.hooks.before:
            _to_its_end(before(running))
        _call(function, running)
        for after in function.hooks.after:
            _to_its_end(after(running))
    except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt fail a job as well
        return _failed(attempt, error)
    return DONE


def _call(function: JobFunction, running: RunningJob) -> None:
    more = {function.job_parameter: running} if function.job_parameter else {}
    _to_its_end(function.function(*running.args, **more))


def _to_its_end(result: object) -> None:
    """What an async function returns has not run yet; also one behind a decorator that knows nothing of async."""
    if result is None or not inspect.isawaitable(result):
        return
    import asyncio  # two megabytes that most apps don't need

    async def wait() -> None:
        await result

    asyncio.run(wait())


def _failed(attempt: Attempt, error: BaseException) -> Outcome:
    hooks = attempt.function.hooks.failed
    for hook in hooks:
        try:
            _to_its_end(hook(attempt.running, error))
        except Exception as other:  # noqa: BLE001  the job's own failure is what counts
            print(f"failed hook of {attempt.running.class_name}: {type(other).__name__}", file=sys.stderr)
    aborted = isinstance(error, Abort)
    delay = None
    if not aborted:
        with contextlib.suppress(Exception):
            delay = delay_seconds(attempt.retry_delay, attempt.running)
    return Outcome(False, not aborted, name_of(error), _words_of(error), backtrace_of(error.__traceback__), delay)


def _words_of(error: BaseException) -> str:
    try:
        return plain(str(error))
    except Exception:  # noqa: BLE001  the app's own __str__
        return ""


def plain(text: str) -> str:
    """Without surrogates, which no UTF-8 has."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def name_of(error: BaseException) -> str:
    """The class of an exception, with its module where that isn't Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def backtrace_of(trace: TracebackType | None, *, with_ours: bool = False) -> list[str]:
    """The lines that a failure shows, the innermost first as in Ruby; no values, and no frames of the worker's own."""
    frames = [frame for frame in traceback.extract_tb(trace) if with_ours or not frame.filename.startswith(_OURS)]
    return [plain(f"{frame.filename}:{frame.lineno}:in `{frame.name}'") for frame in reversed(frames[-MOST_FRAMES:])]
