"""QudoJob -> ResqueJob by a route's decision. Pure: no I/O, no clock of its own.

Promise 4 (nothing changes) is kept here and in `qudo/serializers`: the arg's JSON text is put into the payload as it
is, never decoded and encoded again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

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


class Translation(NamedTuple):
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
        self._head = b'{"class":' + name + b',"args":'
        self._qudo = b',"qudo":{"source":' + _encode(source)
        self._spreads = decision.args is Args.SPREAD
        self._max_depth = facts.max_depth - _LEVELS_AROUND
        order = dict(zip(("class", "args", "queue"), (name, None, queue), strict=True))
        before, after = _around_args(facts.delayed_order, order)
        self._delayed_head, self._delayed_tail = before, after

    def translate(self, job: QudoJob, identity: Identity, now: int) -> Translation:
        """Make the payload of `job`; `now` is the server's Unix second, which tells due from delayed.

        Raises Untranslatable with the reason.
        """
        decision = self.decision
        args, findings = self._args(job.arg)
        early = job.run_after > now
        extras = self._extras(job, identity, early)
        payload = self._head + args + extras + b"}"
        if not early or decision.delayed is not Delayed.SCHEDULER:
            return Translation(ResqueJob(identity, decision.queue, payload, func=decision.func), findings)
        tail = extras if self._facts.delayed_extras else b""
        text = self._delayed_head + args + self._delayed_tail + tail + b"}"
        return Translation(ResqueJob(identity, decision.queue, payload, job.run_after, text, decision.func), findings)

    def translate_failure(self, failure: QudoFailure) -> ResqueFailure:
        """Make an entry of Resque's list of failures, so that resque-web shows it and can requeue it.

        Raises Untranslatable with the reason.
        """
        args, _ = self._args(failure.arg)
        parts = [self._head, args, self._qudo, b',"exception_log":%d' % failure.id]
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

    def _args(self, arg: bytes | None) -> tuple[bytes, tuple[Finding, ...]]:
        """The text of Resque's list of arguments, and what is worth knowing of it."""
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

    def _extras(self, job: QudoJob, identity: Identity, early: bool) -> bytes:
        """The keys behind class and args: where the job came from, and what its dialect reads."""
        parts = [self._qudo]
        if job.id is not None:
            parts.append(b',"id":%d' % job.id)
        parts.append(self._named % identity)
        if job.uniqkey is not None:
            parts.append(b',"uniqkey":' + _encode(readable(job.uniqkey)))
        if job.priority:
            parts.append(b',"priority":%d' % job.priority)
        if job.retry_cnt:
            parts.append(b',"retry_cnt":%d' % job.retry_cnt)
        if job.enqueue_time:
            parts.append(b',"enqueue_time":%d' % job.enqueue_time)
        parts.append(b"}")
        decision = self.decision
        if self._facts.retry_keys and decision.max_retry:
            parts.append(b',"max_retry":%d,"retry_count":%d' % (decision.max_retry, job.retry_cnt))
        if early and decision.delayed is Delayed.START_TIME:
            parts.append(b',"start_time":%d' % job.run_after)
        return b"".join(parts)


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
