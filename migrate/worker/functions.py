"""The decorator that makes a plain function the performer of a Resque class, and what is known of all of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar, get_type_hints

from migrate.errors import UsageError
from migrate.worker.running import RunningJob

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds before the next try, or a function of the job that failed which returns them.
Delay = float | Callable[[RunningJob], float]
Before = Callable[[RunningJob], object]
After = Callable[[RunningJob], object]
Failed = Callable[[RunningJob, BaseException], object]


class Hooks(NamedTuple):
    """What is called around each job; async ones are run to their end."""

    before: tuple[Before, ...] = ()  #: one that raises fails the job
    after: tuple[After, ...] = ()  #: when the function has returned; one that raises fails the job
    failed: tuple[Failed, ...] = ()  #: after each failure that the job's process survives


class JobFunction(NamedTuple):
    """A function and how its jobs are to be run. None: the decorator doesn't say; see `retries.policy`."""

    class_name: str
    function: Callable[..., Any]
    max_retries: int | None
    retry_delay: Delay | None
    timeout: float | None  #: seconds; 0: no limit
    hooks: Hooks
    job_parameter: str | None  #: the parameter that gets the RunningJob


class Registry:
    """All functions of an app: `@job("Worker::Mail", max_retries=3)` enters one, `@job.before` a hook for all jobs."""

    def __init__(self) -> None:
        self._functions: dict[str, JobFunction] = {}
        self._hooks = Hooks()
        self._whole: dict[str, JobFunction] = {}  # what `find` has found; in a child each look costs some pages

    def __call__(
        self,
        class_name: str,
        *,
        max_retries: int | None = None,
        retry_delay: Delay | None = None,
        timeout: float | None = None,
        before: Before | Iterable[Before] = (),
        after: After | Iterable[After] = (),
        failed: Failed | Iterable[Failed] = (),
    ) -> Callable[[F], F]:
        """Register the decorated function, which stays as it is, for jobs of this Resque class.

        `max_retries`, `retry_delay` (seconds, or a function of the job) and `timeout` (seconds; Qudo's `grab_for`) mean
        what they mean in Qudo. Raises UsageError for a class that has another function already.
        """
        if not isinstance(class_name, str) or not class_name:
            raise TypeError('name the Resque class: @job("Worker::Mail")')
        if (max_retries or 0) < 0 or (timeout or 0) < 0:
            raise UsageError(f"@job({class_name!r}): max_retries and timeout must not be negative")
        hooks = Hooks(_several(before), _several(after), _several(failed))

        def register(function: F) -> F:
            known = self._functions.get(class_name)
            if known is not None and _place(known.function) != _place(function):
                raise UsageError(
                    f"{class_name} has two functions: {_place(known.function)} and {_place(function)}",
                    advice="a Resque class is performed by one function",
                )
            self._whole.clear()
            self._functions[class_name] = JobFunction(
                class_name, function, max_retries, retry_delay, timeout, hooks, _job_parameter(function)
            )
            return function

        return register

    def before(self, hook: F) -> F:
        """Call this before each job of any class, with the job."""
        self._whole.clear()
        self._hooks = self._hooks._replace(before=(*self._hooks.before, hook))
        return hook

    def after(self, hook: F) -> F:
        """Call this after each job that has gone well."""
        self._whole.clear()
        self._hooks = self._hooks._replace(after=(*self._hooks.after, hook))
        return hook

    def failed(self, hook: F) -> F:
        """Call this after each failure, with the job and the exception."""
        self._whole.clear()
        self._hooks = self._hooks._replace(failed=(*self._hooks.failed, hook))
        return hook

    def find(self, class_name: str) -> JobFunction | None:
        """The function of a class, with the hooks for all jobs around its own."""
        whole = self._whole.get(class_name)
        if whole is None and (function := self._functions.get(class_name)) is not None:
            common, own = self._hooks, function.hooks
            hooks = Hooks(common.before + own.before, own.after + common.after, own.failed + common.failed)
            whole = self._whole[class_name] = function._replace(hooks=hooks)
        return whole

    def classes(self) -> list[str]:
        """All classes that have a function, sorted."""
        return sorted(self._functions)


#: The one that apps use: `from migrate import job`.
job = Registry()


def _several(hooks: Any) -> tuple[Any, ...]:
    return (hooks,) if callable(hooks) else tuple(hooks)


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _job_parameter(function: Callable[..., Any]) -> str | None:
    """The parameter with the annotation RunningJob."""
    try:
        hints = get_type_hints(function)
    except Exception:  # noqa: BLE001  names that exist for type checkers only
        hints = dict(getattr(function, "__annotations__", {}))
    for name, hint in hints.items():
        if name != "return" and (hint is RunningJob or (isinstance(hint, str) and hint.endswith("RunningJob"))):
            return name
    return None
