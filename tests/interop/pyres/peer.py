"""pyres' own Worker, Scheduler and failures on a given Redis, each job a line of JSON on stdout: {"class", "args"}.

    PYTHONPATH=<where pyres is> python peer.py '{"port": 6379, "queues": ["mail"], "fail": false, "requeue": true}'

Classes are `peer.Mail` and the like. With `fail` each job fails the first time; with `requeue` all failures go back
to their queues: {"requeued": n}.
`enqueue` is a list of [queue, class, args] to put in. {"ready": true} once it runs. Ends well on SIGTERM.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from typing import Any

import pyres  # type: ignore[import-not-found]
import pyres.failure  # type: ignore[import-not-found]
import pyres.scheduler  # type: ignore[import-not-found]
import pyres.worker  # type: ignore[import-not-found]


def say(line: dict[str, Any]) -> None:
    """Print it at once."""
    print(json.dumps(line), flush=True)


class Mail:
    """What jobs of this class do."""

    failed: set[str] | None = None  #: None: no job fails

    @classmethod
    def perform(cls, *args: object) -> None:
        """Tell of it, or fail."""
        key = json.dumps(args)
        if cls.failed is not None and key not in cls.failed:
            cls.failed.add(key)
            raise ValueError("the first time")
        say({"class": "peer.Mail", "args": args})


def main() -> None:
    """Work until a signal comes."""
    sys.modules["peer"] = sys.modules["__main__"]  # the class that jobs name
    asked = json.loads(sys.argv[1])
    logging.getLogger("pyres").addHandler(logging.NullHandler())
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    resq = pyres.ResQ(f"127.0.0.1:{asked['port']}/0")
    if asked.get("requeue"):
        # As pyres.failure.retry does, whose LREM names an argument that redis-py has renamed since.
        failures = pyres.failure.all(resq, 0, -1)
        for failure in failures:
            resq.push(failure["queue"], failure["payload"])
        pyres.failure.clear(resq)
        say({"requeued": len(failures)})
    for queue, name, args in asked.get("enqueue", []):
        resq.enqueue_from_string(name, queue, *args)
    Mail.failed = set() if asked.get("fail") else None
    worker = pyres.worker.Worker(asked["queues"], resq)
    scheduler = pyres.scheduler.Scheduler(resq)
    worker.register_worker()
    say({"ready": True})
    while not stopped:
        scheduler.handle_delayed_items()
        job = worker.reserve(timeout=1)
        if job:
            worker.process(job)  # as its child process does
    worker.unregister_worker()


if __name__ == "__main__":
    main()
