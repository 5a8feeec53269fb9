"""Every key that Resque has, and every key of our own beside them. Pure.

All implementations of Resque agree on its keys. Ours stand under `<namespace>:qudo_migrate:`, so that
a namespace in braces keeps all of them on one slot of a Redis Cluster.
"""

from __future__ import annotations

OURS = "qudo_migrate"


class Keys:
    """The keys of one namespace, as bytes."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._prefix = f"{namespace}:".encode()
        self.queues = self._of("queues")  #: set of queue names
        self.failed = self._of("failed")  #: list of failures
        self.workers = self._of("workers")  #: set of worker ids
        self.heartbeats = self._of("workers:heartbeat")  #: hash: worker id -> time
        self.schedule = self._of("delayed_queue_schedule")  #: zset of seconds
        self.target_id = self._of(f"{OURS}:target")  #: string: random id of this Redis as a target
        self.beat = self._of(f"{OURS}:beat")  #: string: newest second of Redis's clock that sources were told of
        self.sources = self._of(f"{OURS}:sources")  #: hash: source name -> source id
        self.batches = self._of(f"{OURS}:batches")  #: hash: batch -> source name
        self.paused = self._of(f"{OURS}:paused")  #: hash: func glob -> note
        self.pause_version = self._of(f"{OURS}:paused:version")  #: string: counts the changes of `paused`
        self.steps = self._of(f"{OURS}:steps")  #: hash: func -> note (JSON)
        self.step_version = self._of(f"{OURS}:steps:version")  #: string: counts the changes of `steps`
        self.processes = self._of(f"{OURS}:processes")  #: hash: process that enqueues -> what it reported (JSON)
        self.mirror = self._of(f"{OURS}:mirror")  #: hash: "<source>:<job id>" -> payload of a job that Qudo runs
        self.mirror_order = self._of(f"{OURS}:mirror:order")  #: list of its fields, the oldest first
        self.mirror_counts = self._of(f"{OURS}:mirror:counts")  #: hash: "<func>:copied", "<func>:missed" -> jobs
        self.history = self._of(f"{OURS}:history")  #: list: records of commands, the newest first
        self.scheduler = self._of(f"{OURS}:scheduler")  #: string with expiry: which scheduler process leads
        self.our_workers = self._of(f"{OURS}:workers")  #: hash: worker id of a `qudo-migrate work` -> its process
        self.retrying = self._of(f"{OURS}:retrying")  #: hash: content -> keys that delayed texts left behind, in lines
        self.unscheduled = self._of(f"{OURS}:unscheduled")  #: list: delayed texts that name no usable queue
        self.returned = self._of(f"{OURS}:returned")  #: hash: source name -> jobs that rollbacks have returned
        self.returned_natives = self._of(f"{OURS}:returned:native")  #: the same of jobs born in Resque
        self.fence = self._of(f"{OURS}:fence")  #: string: written before a proof of durability

    def _of(self, name: str) -> bytes:
        # Names read back from Redis may be no UTF-8: surrogates stand for such bytes.
        return self._prefix + name.encode("utf-8", "surrogateescape")

    def queue(self, name: str) -> bytes:
        """The list of a queue's jobs; pushed at the tail, popped at the head."""
        return self._of(f"queue:{name}")

    def delayed(self, second: int) -> bytes:
        """The list of the jobs due in this Unix second."""
        return self._of(f"delayed:{second}")

    def timestamps(self, text: bytes) -> bytes:
        """The set of `delayed:<second>` in which this very text stands."""
        return self._prefix + b"timestamps:" + text

    def worker(self, worker_id: str) -> bytes:
        """The job that a worker is at: `{queue, run_at, payload}`."""
        return self._of(f"worker:{worker_id}")

    def worker_started(self, worker_id: str) -> bytes:
        """When a worker has begun, as text."""
        return self._of(f"worker:{worker_id}:started")

    def worker_ping(self, worker_id: str) -> bytes:
        """node-resque's heartbeat of a worker, JSON."""
        return self._of(f"worker:ping:{worker_id}")

    def stat(self, name: str) -> bytes:
        """A counter: `processed`, `failed`, or either of one worker, `processed:<id>`."""
        return self._of(f"stat:{name}")

    def failures_seen(self, source: str) -> bytes:
        """What imports have seen of a source's `exception_log`, by the funcs that they were for."""
        return self._of(f"{OURS}:failures_seen:{source}")

    def failure_ledger(self, source: str, bucket: int) -> bytes:
        """The hash of the imported rows of one bucket: row within the bucket -> fingerprint."""
        return self._of(f"{OURS}:failures:{source}:{bucket}")

    def ledger(self, batch: int) -> bytes:
        """The bitmap of a batch: bit `seq` set means handed off."""
        return self._of(f"{OURS}:ledger:{batch:016x}")

    def unique(self, func: str) -> bytes:
        """The hash of a func's uniqkeys in Redis: spelled key -> the holder's identity, a space, its content."""
        return self._of(f"{OURS}:unique:{func}")

    def taken(self, batch: int) -> bytes:
        """The bitmap of a batch: bit `seq` set means that a rollback has taken this job, and has not put it back."""
        return self._of(f"{OURS}:taken:{batch:016x}")

    def returning(self, source: str) -> bytes:
        """The hash of jobs on their way back to Qudo: identity -> `<length>:<place><text>`, "" if never in Resque."""
        return self._of(f"{OURS}:returning:{source}")

    def returning_natives(self, source: str) -> bytes:
        """The same of jobs born in Resque. A source's name has no colon."""
        return self._of(f"{OURS}:returning:native:{source}")
