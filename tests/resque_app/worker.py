"""A Resque worker by hand: takes a job, registers it, ends it, one command at a time as Perl's and Ruby's do."""

from __future__ import annotations

import json
from typing import cast

from tests.resque_app.reading import Resque, ResqueJob


class ResqueWorker:
    """One worker of one namespace."""

    def __init__(self, resque: Resque, worker_id: str = "host:1:*") -> None:
        self._resque = resque
        self._id = worker_id

    def pop(self, queue: str) -> ResqueJob:
        """Take the next job: for an instant it is nowhere."""
        text = cast("bytes | None", self._resque.client.lpop(self._resque.key(f"queue:{queue}")))
        assert text is not None, f"queue {queue} is empty"
        return ResqueJob(queue, text, json.loads(text))

    def register(self, job: ResqueJob) -> None:
        """Say that the job is being worked on."""
        note = {"queue": job.queue, "run_at": "2026/01/01 00:00:00 UTC", "payload": job.payload}
        self._resque.client.sadd(self._resque.key("workers"), self._id)
        self._resque.client.set(self._resque.key(f"worker:{self._id}"), json.dumps(note))

    def take(self, queue: str) -> ResqueJob:
        """Pop and register."""
        job = self.pop(queue)
        self.register(job)
        return job

    def finish(self) -> None:
        """The job in hand is done."""
        self._resque.client.delete(self._resque.key(f"worker:{self._id}"))

    def fail(self, job: ResqueJob) -> None:
        """The job in hand failed for good."""
        failure = {
            "failed_at": "2026/01/01 00:00:01 UTC",
            "payload": job.payload,
            "exception": "Resque::Failure",
            "error": "died",
            "backtrace": None,
            "worker": self._id,
            "queue": job.queue,
        }
        self._resque.client.rpush(self._resque.key("failed"), json.dumps(failure))
        self.finish()
