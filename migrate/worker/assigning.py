"""From what Resque has of a job to what is performed, and from how that ended to what Resque gets. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from migrate.config import Config, Route
from migrate.resque.dialects import FACTS
from migrate.resque.unique_keys import spellings
from migrate.resque.workers import HeldKey, Settlement, Taken
from migrate.worker import retries
from migrate.worker.functions import JobFunction, Registry
from migrate.worker.payloads import NotAJob, Payload, content, decode, with_keys
from migrate.worker.performing import Attempt, Outcome, attempt_at
from migrate.worker.retries import Policy, delay_seconds
from migrate.worker.settling import settle

#: What holds for a text that is no job.
_NO_POLICY = Policy(0, 0.0, 0.0)

_UNKNOWN = Outcome(False)


class Assignment(NamedTuple):
    """A job that a worker has, and what it knows of it."""

    taken: Taken
    payload: Payload | None
    policy: Policy
    attempt: Attempt | None  #: None: it can't be performed, for the reason in `refusal`
    refusal: Outcome = _UNKNOWN


class Assigner:
    """Knows the app's functions and the routes."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self.dialect = config.target.dialect
        self._routes: dict[str, Route] = {}  # of classes that have a function: others could be without number

    def assign(self, taken: Taken, recall: Callable[[Taken, str], bytes]) -> Assignment:
        """Prepare a job. `recall` finds the keys that a delayed job has left behind."""
        try:
            payload = decode(taken.text)
        except NotAJob as error:
            return Assignment(taken, None, _NO_POLICY, None, Outcome(False, exception="NotAJob", error=str(error)))
        if self._has_left_keys(taken, payload) and (keys := recall(taken, content(payload, taken.queue))):
            taken = taken._replace(text=with_keys(taken.text, keys), some_left_keys=False)
            payload = decode(taken.text)
        function, policy = self._rules(payload)
        if function is None:
            return Assignment(taken, payload, policy, None, self._nobody_knows(payload.class_name))
        return Assignment(taken, payload, policy, attempt_at(function, payload, policy, taken.queue))

    def settle(self, assignment: Assignment, outcome: Outcome, worker_id: str, now: float) -> Settlement:
        """What becomes of the job. `worker_id`: whose failure it is."""
        if not outcome.done and outcome.retry_delay is None:
            outcome = _with_delay(assignment, outcome)
        payload = assignment.payload
        settlement = settle(assignment.taken, payload, outcome, assignment.policy, self.dialect, worker_id, now)
        if payload is None or settlement.action not in ("done", "failed"):
            return settlement
        return settlement._replace(frees=_held_key(payload))

    def story(self, assignment: Assignment, outcome: Outcome, settlement: Settlement) -> str:
        """One line on a failure: names, never values."""
        payload = assignment.payload
        name = payload.class_name if payload else "a text that is no job"
        what = f"{name} in queue {assignment.taken.queue} failed: {outcome.exception}"
        if payload is None or settlement.action == "failed":
            return f"{what}; final"
        later = f"in {settlement.delay_seconds:.0f} s" if settlement.action == "delay" else "at once"
        return f"{what}; retry {payload.retries + 1} of {assignment.policy.max_retries} {later}"

    def _rules(self, payload: Payload) -> tuple[JobFunction | None, Policy]:
        function = self._registry.find(payload.class_name)
        name = payload.class_name
        route = self._routes.get(name)
        if route is None:
            route = retries.route_of(self._config, name)
            if function is not None:
                self._routes[name] = route
        return function, retries.policy(function, payload, route)

    def _has_left_keys(self, taken: Taken, payload: Payload) -> bool:
        lost = "qudo" not in payload.value and "retry_count" not in payload.value
        return taken.some_left_keys and lost and not FACTS[self.dialect].delayed_extras

    def _nobody_knows(self, class_name: str) -> Outcome:
        known = ", ".join(self._registry.classes()) or "none"
        return Outcome(False, exception="UnknownClass", error=f"no function for class {class_name}; known: {known}")


def _held_key(payload: Payload) -> HeldKey | None:
    """The uniqkey that Redis holds for a job born there; one that a source holds is freed when it is asked for."""
    ours = payload.value.get("qudo")
    if not isinstance(ours, dict):
        return None
    func, key, identity = ours.get("func"), ours.get("uniqkey"), ours.get("native")
    if not isinstance(func, str) or not isinstance(key, str) or not isinstance(identity, str):
        return None
    return HeldKey(func, spellings(key), identity)


def _with_delay(assignment: Assignment, outcome: Outcome) -> Outcome:
    """The pause for a job whose own process could not tell: it was killed."""
    if assignment.attempt is None or not callable(assignment.policy.retry_delay):
        return outcome
    try:
        delay = delay_seconds(assignment.policy.retry_delay, assignment.attempt.running)
    except Exception:  # noqa: BLE001  the app's rule
        return outcome
    return Outcome(False, outcome.retriable, outcome.exception, outcome.error, outcome.backtrace, delay)
