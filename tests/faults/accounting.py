"""The books: what apps enqueued, held against what is in Qudo, in the outbox, in Redis and in workers' notes.

Knows nothing of `migrate`: it reads tables and keys by their documented names. Each job carries a token in its arg,
because Qudo's ids come back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from redis import Redis

from tests.qudo_app import enqueue, fill, func_id, job_rows, log_exception
from tests.qudo_app.worker_process import RanJob
from tests.servers import Database, Session

#: A job: the name of its source, and what stands in its arg.
Token = tuple[str, str]

#: Leases with which a migrator marks rows; no worker's lease comes near.
_FIRST_MARK = 2147483646

#: Columns of the outbox that the books read.
_OUTBOX = "qudo_migrate_outbox"


class Ledger:
    """The bits of the ledger, read once."""

    def __init__(self, client: Redis, namespace: str) -> None:
        prefix = f"{namespace}:qudo_migrate:ledger:"
        self._bits = {
            int(key.decode().removeprefix(prefix), 16): cast("bytes", client.get(key))
            for key in client.scan_iter(f"{prefix}*")
            if len(key) == len(prefix) + 16
        }

    def has(self, batch: int, seq: int) -> bool:
        """Whether the job was handed off."""
        bits = self._bits.get(batch, b"")
        return seq // 8 < len(bits) and bool(bits[seq // 8] & (128 >> seq % 8))

    @property
    def jobs(self) -> int:
        """How many jobs were ever handed off: no bit is ever cleared."""
        return sum(int.from_bytes(bits).bit_count() for bits in self._bits.values())


class Standing(NamedTuple):
    """How often each job is where, at one moment."""

    job: Counter[Token]
    outbox: Counter[Token]
    undelivered: Counter[Token]
    resque: Counter[Token]
    failed: Counter[Token]
    handed_off: int  #: bits of the ledger


class Books:
    """The books of one shop: sources by name, and the Redis that their jobs go to."""

    def __init__(
        self, sources: Mapping[str, Database] | Database, client: Redis | None = None, namespace: str = "resque"
    ) -> None:
        self._sources = {"main": sources} if isinstance(sources, Database) else sources
        self._client = client
        self._namespace = namespace
        self._fills = 0
        #: Every job that an app has enqueued.
        self.enqueued: list[Token] = []
        #: Every failure that stood in exception_log.
        self.logged: list[Token] = []
        #: Whether a purge has taken delivered rows out of the outbox, some or all.
        self.purged = False
        #: Jobs that the test's own Resque workers have taken.
        self.taken: list[Token] = []

    def use(self, client: Redis) -> None:
        """From now on the jobs are in this Redis."""
        self._client = client

    # --- enqueueing -------------------------------------------------------------------------------------------------

    def fill(
        self,
        n: int,
        func: str = "Worker::Mail",
        *,
        source: str = "main",
        uniqkey: str | None = None,
        priorities: int = 1,
        run_after: int = 0,
        arg_bytes: int = 0,
    ) -> list[Token]:
        """Enqueue `n` jobs quickly, each arg at least about so large; their tokens in the order of their ids."""
        self._fills += 1
        padding = "x" * max(0, arg_bytes - 40)
        arg = f'{{"job":"{self._fills}-{{n}}","padding":"{padding}"}}'
        fill(self._sources[source], n, func, arg, uniqkey, priorities, run_after)
        tokens = [(source, f"{self._fills}-{number}") for number in range(1, n + 1)]
        self.enqueued += tokens
        return tokens

    def enqueue(
        self,
        func: str = "Worker::Mail",
        *,
        source: str = "main",
        session: Session | None = None,
        uniqkey: str | None = None,
        run_after: int = 0,
    ) -> Token:
        """Enqueue one job as Qudo does, perhaps in a session whose transaction commits later."""
        self._fills += 1
        arg = json.dumps({"job": f"{self._fills}-1"}).encode()
        enqueue(session or self._sources[source], func, arg, uniqkey, 0, run_after)
        token = source, f"{self._fills}-1"
        self.enqueued.append(token)
        return token

    def log_failures(self, n: int, func: str = "Worker::Mail", *, source: str = "main") -> None:
        """Enter jobs in exception_log that failed for good."""
        database = self._sources[source]
        func_number = func_id(database, func)
        self._fills += 1
        for number in range(1, n + 1):
            token = f"{self._fills}-{number}"
            log_exception(database, func_number, "died", json.dumps({"job": token}).encode(), None)
            self.logged.append((source, token))

    def note_taken(self, payload: Mapping[str, Any]) -> Token:
        """A Resque worker of the test has taken this job."""
        token = _token_of(payload)
        self.taken.append(token)
        return token

    # --- where everything is ----------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Count everything now."""
        assert self._client is not None
        ledger = Ledger(self._client, self._namespace)
        job = self._in_qudo()
        outbox: Counter[Token] = Counter()
        undelivered: Counter[Token] = Counter()
        for source, database in self._sources.items():
            if not _has_outbox(database):
                continue
            for batch, seq, arg in database.rows(f"SELECT batch, seq, {database.as_bytes('arg')} FROM {_OUTBOX}"):
                token = source, _token(arg)
                outbox[token] += 1
                undelivered[token] += not ledger.has(int(batch), int(seq))
        lists = [*self._texts("queue:*"), *self._texts("delayed:*")]
        working = [json.loads(cast("bytes", self._client.get(key)))["payload"] for key in self._worker_keys()]
        resque = Counter(map(_token_of, [*map(json.loads, lists), *working]))
        failed = Counter(_token_of(json.loads(text)["payload"]) for text in self._texts("failed"))
        return Standing(job, outbox, +undelivered, resque, failed, ledger.jobs)

    def _in_qudo(self) -> Counter[Token]:
        return Counter(
            (source, _token(row.arg)) for source, database in self._sources.items() for row in job_rows(database)
        )

    def _texts(self, pattern: str) -> list[bytes]:
        assert self._client is not None
        keys = self._client.scan_iter(f"{self._namespace}:{pattern}")
        return [text for key in keys for text in cast("list[bytes]", self._client.lrange(key, 0, -1))]

    def _worker_keys(self) -> list[bytes]:
        assert self._client is not None
        keys = self._client.scan_iter(f"{self._namespace}:worker:*")
        return [key for key in keys if not key.endswith(b":started")]

    # --- what must hold ---------------------------------------------------------------------------------------------

    def check_safe(self) -> Standing:
        """At every instant: no job lost, none runnable on both sides, none handed off twice."""
        standing = self.standing()
        here = standing.resque + Counter(self.taken)
        _none((token for token in self.enqueued if not (standing.job + standing.outbox + here)[token]), "lost")
        both = {token for token in here if standing.job[token]}
        if both:  # a job that crossed while we looked was in `job` first, and isn't any more
            both &= self._in_qudo().keys()
        _none(both, "in Qudo and in Resque")
        _none((token for token, times in here.items() if times > 1), "twice in Resque")
        _none((token for token, times in standing.job.items() if times > 1), "twice in Qudo")
        _none((token for token, times in standing.failed.items() if times > 1), "twice among the failures")
        return standing

    def check_each_once(self, ran: Iterable[Iterable[RanJob]] = (), names: Sequence[str] = ("main",)) -> Standing:
        """At the end: each job is in Qudo, in Resque or was run by a Qudo worker, once and in one of them.

        `ran`: what each Qudo worker has noted; `names`: the sources in the order in which workers know them.
        Nothing is left half done: no claimed row, no copy that moves, no moved row that Redis lacks.
        """
        standing = self.standing()
        worked = Counter((names[job.database], _token(job.arg)) for jobs in ran for job in jobs)
        crossed = standing.resque + Counter(self.taken)
        everywhere = standing.job + crossed + worked
        expected = Counter(self.enqueued)
        _none(expected - everywhere, "lost")
        _none(everywhere - expected, "more than once")
        _none(standing.outbox - crossed, "in the outbox, not in Resque")
        if not self.purged:
            _none(crossed - standing.outbox, "in Resque, not in the outbox")
        assert standing.handed_off == crossed.total(), "the ledger counts other jobs than Resque has"
        _none(standing.undelivered, "moved and not handed off")
        assert standing.failed == Counter(self.logged), "failures differ"
        self._check_nothing_half_done()
        return standing

    def check_all_crossed(self) -> None:
        """As `check_each_once`, and nothing is left in Qudo."""
        _none(self.check_each_once().job, "left in Qudo")

    def _check_nothing_half_done(self) -> None:
        for database in self._sources.values():
            assert database.count(where=f"grabbed_until >= {_FIRST_MARK}") == 0, "rows stayed claimed"
            if _has_outbox(database):
                assert database.count("qudo_migrate_chunk", "state <> 0") == 0, "a chunk stayed as moving"

    # --- order ------------------------------------------------------------------------------------------------------

    def order(self, source: str = "main") -> dict[str, list[Token]]:
        """The free and due jobs of each func's queue, in Qudo's order."""
        database = self._sources[source]
        now = database.now()
        rows = job_rows(database, f"grabbed_until <= {now} AND run_after <= {now}")
        order: dict[str, list[Token]] = {}
        for row in sorted(rows, key=lambda row: (-row.priority, row.id)):
            order.setdefault(row.func.lower().replace("::", "_"), []).append((source, _token(row.arg)))
        return order

    def check_order(self, order: Mapping[str, Sequence[Token]]) -> None:
        """Each queue has these jobs in this order; others may stand among them."""
        for queue, tokens in order.items():
            wanted = set(tokens)
            found = [
                token for text in self._texts(f"queue:{queue}") if (token := _token_of(json.loads(text))) in wanted
            ]
            wrong = [place for place, pair in enumerate(zip(found, tokens, strict=False)) if pair[0] != pair[1]]
            assert found == list(tokens), (
                f"queue {queue} isn't in Qudo's order: {len(found)} of {len(tokens)}, wrong from {wrong[:1]} on:"
                f" {found[wrong[0] : wrong[0] + 3] if wrong else []}"
            )


def _token(arg: bytes | None) -> str:
    return str(json.loads(arg or b"null")["job"])


def _token_of(payload: Mapping[str, Any]) -> Token:
    return str(payload["qudo"]["source"]), str(payload["args"][0]["job"])


def _none(tokens: Iterable[Token], what: str) -> None:
    found = list(tokens)
    assert not found, f"{len(found)} jobs {what}: {found[:5]}"


def _has_outbox(database: Database) -> bool:
    catalogue = (
        "sqlite_master WHERE name" if database.engine == "SQLite" else "information_schema.tables WHERE table_name"
    )
    here = "" if database.engine == "SQLite" else " AND table_schema = DATABASE()"
    return bool(database.rows(f"SELECT 1 FROM {catalogue} = '{_OUTBOX}'{here}"))
