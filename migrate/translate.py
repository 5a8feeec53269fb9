"""QudoJob -> ResqueJob by a route's decision. Pure: no I/O, no clock of its own.

Promise 4 (nothing changes) is kept here and in `qudo/serializers`: the arg's JSON text is put into the payload as it
is, never decoded and encoded again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import msgspec

from migrate.config import Args, Delayed
from migrate.decision import Decision
from migrate.jobs import Identity, QudoFailure, QudoJob, ResqueFailure, ResqueJob
from migrate.qudo.serializers import Finding, to_json, to_value
from migrate.resque.dialects import FACTS
from migrate.resque.stringify import stringify

_encode = msgspec.json.encode

#: Levels that stand around an arg when it lies deepest: the failure, its payload, the list of arguments.
_LEVELS_AROUND = 3

#: Around the lines of a message; not all that Unicode calls a space, which may be half a character of another set.
_BLANKS = " \t\r\n"


class Translation(msgspec.Struct, frozen=True, gc=False):
    """A job as Resque will get it, and what a lead should know of the way it was made (names, never values)."""

    job: ResqueJob
    findings: tuple[Finding, ...]


class Translator:
    """Translates the jobs of one source under one decision; what is the same for all of them is encoded once."""

    def __init__(self, source: str, decision: Decision, *, native: bool = False) -> None:
        """`native`: the jobs are born in Resque: no outbox row stands behind them, and no ledger knows them."""
        self.decision = decision
        func = _encode(decision.func).replace(b"%", b"%%")
        self._named = (b',"func":' + func + b',"native":"%016x-%d"') if native else b',"outbox":"%016x-%d"'
        facts = FACTS[decision.dialect]
        self._facts = facts
        name, queue = _encode(decision.class_), _encode(decision.queue)
        self.head = b'{"class":' + name + b',"args":'  #: what stands before the args
        self._origin = b',"qudo":{"source":' + _encode(source)
        self._qudo = self._origin.replace(b"%", b"%%")
        self._spreads = decision.args is Args.SPREAD
        self._max_depth = facts.max_depth - _LEVELS_AROUND
        order = dict(zip(("class", "args", "queue"), (name, None, queue), strict=True))
        before, after = _around_args(facts.delayed_order, order)
        self._delayed_head, self._delayed_tail = before, after

    def translate(self, job: QudoJob, identity: Identity, now: int) -> Translation:
        """Make the payload of `job`; `now` is the server's Unix second, which tells due from delayed.

        Raises Untranslatable with the reason.
        """
        form = self.form(job.uniqkey, job.run_after, job.retry_cnt, job.priority, now)
        return form.fill(job.id, job.enqueue_time, job.arg, identity)

    def form(self, uniqkey: bytes | None, run_after: int, retry_cnt: int, priority: int, now: int) -> Form:
        """The form of all jobs with these values, at this second."""
        decision = self.decision
        early = run_after > now
        kept = [self._named]
        if uniqkey is not None:
            kept.append(b',"uniqkey":' + _encode(readable(uniqkey)).replace(b"%", b"%%"))
        if priority:
            kept.append(b',"priority":%d' % priority)
        if retry_cnt:
            kept.append(b',"retry_cnt":%d' % retry_cnt)
        behind = [b"}"]
        if self._facts.retry_keys and decision.max_retry:
            behind.append(b',"max_retry":%d,"retry_count":%d' % (decision.max_retry, retry_cnt))
        if early and decision.delayed is Delayed.START_TIME:
            behind.append(b',"start_time":%d' % run_after)
        waits = early and decision.delayed is Delayed.SCHEDULER
        return Form(self, (self._qudo, b"".join(kept), b"".join(behind) + b"}"), run_after if waits else 0)

    def translate_failure(self, failure: QudoFailure) -> ResqueFailure:
        """Make an entry of Resque's list of failures, so that resque-web shows it and can requeue it.

        Raises Untranslatable with the reason.
        """
        args, _ = self.args(failure.arg)
        parts = [self.head, args, self._origin, b',"exception_log":%d' % failure.id]
        if failure.uniqkey is not None:
            parts.append(b',"uniqkey":' + _encode(readable(failure.uniqkey)))
        parts.append(b"}")
        if self._facts.retry_keys and self.decision.max_retry:
            parts.append(b',"max_retry":%d,"retry_count":0' % self.decision.max_retry)  # requeued, it starts anew
        parts.append(b"}")
        error, *backtrace = _lines(readable(failure.message))
        text = _encode(
            {
                "failed_at": time.strftime("%Y/%m/%d %H:%M:%S UTC", time.gmtime(failure.time)),
                "payload": msgspec.Raw(b"".join(parts)),
                "exception": "Qudo::Job",
                "error": error,
                "backtrace": backtrace,
                "worker": f"qudo:{failure.source}",
                "queue": self.decision.queue,
            }
        )
        if self._facts.removes_by_stringify:
            text = stringify(text) or text
        return ResqueFailure(failure.id, failure.time, fingerprint(failure), text)

    def args(self, arg: bytes | None) -> tuple[bytes, tuple[Finding, ...]]:
        """The text of Resque's list of arguments, and what is worth knowing of it. Raises Untranslatable."""
        decision = self.decision
        value = to_json(
            arg,
            decision.serializer,
            hint=decision.usual,
            bytes_mode=decision.bytes,
            blessed=decision.blessed,
            max_depth=self._max_depth,
        )
        findings = value.findings
        if findings and self._facts.exact_integers:
            findings = tuple(finding for finding in findings if finding is not Finding.BIG_INTEGER)
        spread = self._spreads and value.text.lstrip()[:1] == b"["
        return value.text if spread else b"[" + value.text + b"]", findings

    def waiting(self, args: bytes, extras: bytes) -> bytes:
        """The text for the delayed layout."""
        tail = extras if self._facts.delayed_extras else b"}"
        return self._delayed_head + args + self._delayed_tail + tail


class Form:
    """The payloads of jobs that differ only in id, enqueue time and arg: what stands between these is made once."""

    def __init__(self, translator: Translator, parts: tuple[bytes, bytes, bytes], due: int) -> None:
        """`parts`: patterns for what stands before id, from there to the enqueue time, and behind it.

        `due`: 0 for jobs that go to their queue at once.
        """
        self._args = translator.args
        self._waiting = translator.waiting
        self._head = translator.head
        self._queue, self._func = translator.decision.queue, translator.decision.func
        self._parts = parts
        self._usual = b'%b,"id":%%d%b,"enqueue_time":%%d%b' % parts
        self._due = due

    def fill(self, job_id: int | None, enqueue_time: int | None, arg: bytes | None, identity: Identity) -> Translation:
        """One job. Raises Untranslatable with the reason."""
        args, findings = self._args(arg)
        if job_id is not None and enqueue_time:
            extras = self._usual % (job_id, *identity, enqueue_time)
        else:
            extras = self._unusual(job_id, enqueue_time, identity)
        payload = self._head + args + extras
        if not self._due:
            return Translation(ResqueJob(identity, self._queue, payload, func=self._func), findings)
        waiting = self._waiting(args, extras)
        return Translation(ResqueJob(identity, self._queue, payload, self._due, waiting, self._func), findings)

    def _unusual(self, job_id: int | None, enqueue_time: int | None, identity: Identity) -> bytes:
        """The extras of a job that lacks one of them."""
        before, between, behind = self._parts
        if job_id is not None:
            before += b',"id":%d' % job_id
        if enqueue_time:
            behind = b',"enqueue_time":%d' % enqueue_time + behind
        return (before + between + behind) % identity


def expected_args(job: QudoJob, decision: Decision) -> Sequence[object]:
    """The decoded arguments that a worker must see, by a path that shares nothing with the payload's text."""
    value = to_value(
        job.arg,
        decision.serializer,
        hint=decision.usual,
        bytes_mode=decision.bytes,
        blessed=decision.blessed,
        max_depth=FACTS[decision.dialect].max_depth - _LEVELS_AROUND,
    )
    return value if decision.args is Args.SPREAD and isinstance(value, list) else [value]


def fingerprint(failure: QudoFailure) -> str:
    """What tells a row of `exception_log` from another that gets the same id later."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (failure.func.encode(), b"%d" % failure.time, failure.message, failure.uniqkey, failure.arg):
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.hexdigest()


def readable(text: bytes) -> str:
    """A text column's bytes as text: UTF-8 where they are that, else Latin-1, which never fails."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _lines(message: str) -> list[str]:
    """The lines of a message, at least one, without blanks around them.

    Not by `splitlines`: text may hold U+2028, and bytes of other character sets, read as Latin-1, U+0085.
    """
    return [line.strip(_BLANKS) for line in message.strip(_BLANKS).split("\n")]


def _around_args(order: tuple[str, ...], encoded: dict[str, bytes | None]) -> tuple[bytes, bytes]:
    """The delayed text up to the args and from behind them, in the key order of the dialect's scheduler."""
    place = order.index("args")
    before = b"".join(b'"%s":%s,' % (key.encode(), encoded[key] or b"") for key in order[:place])
    after = b"".join(b',"%s":%s' % (key.encode(), encoded[key] or b"") for key in order[place + 1 :])
    return b"{" + before + b'"args":', after
