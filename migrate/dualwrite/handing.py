"""Talking to Redis for one job at a time, and not at all while it is known not to answer."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, RedisError, ResponseError

from migrate.dualwrite.source_side import SourceSide
from migrate.dualwrite.watch import Watch
from migrate.engine import over
from migrate.errors import MigrateError, PausesChanged, Unavailable
from migrate.failpoints import reach
from migrate.jobs import Identity, ResqueJob
from migrate.qudo.binding import Binding
from migrate.resque import binding, enqueueing, unique_keys
from migrate.resque.enqueueing import HAND_OFF, NATIVE, Call, Claim
from migrate.resque.faults import redis_faults, translated
from migrate.resque.target import Target

log = logging.getLogger("migrate.dualwrite")


class Scripts:
    """Runs Lua scripts by their hash over connections of its own, one round trip each. Nothing is sent twice.

    redis-py's client takes half as long again for its pool, its retries and its callbacks (measured: 20 of 45 us).
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.forget_inherited()

    def forget_inherited(self) -> None:
        """In a forked child: the connections are the parent's."""
        self._idle: deque[Any] = deque()

    def run(self, script: Script, call: Call) -> Any:
        """Run a script, loading it where the server doesn't know it yet. Raises Unavailable, ServerError."""
        connection = self._borrow()
        try:
            reply = self._ask(connection, "EVALSHA", script.sha, call)
            if isinstance(reply, NoScriptError):
                reply = self._ask(connection, "EVAL", script.text, call)
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, (RedisError, OSError)):
                raise translated(self._target.label, error) from error
            raise
        self._idle.append(connection)
        if isinstance(reply, RedisError):
            raise translated(self._target.label, reply)
        return reply

    @staticmethod
    def _ask(connection: Any, command: str, script: str, call: Call) -> Any:
        packed = connection.pack_command(command, script, len(call.keys), *call.keys, *call.arguments)
        connection.send_packed_command(packed)
        try:
            return connection.read_response()
        except ResponseError as error:  # the server's answer: the connection is as good as before
            return error

    def _borrow(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if self._lives(connection):
                return connection
            connection.disconnect()
        with redis_faults(self._target.label):
            pool: Any = self._target.client.connection_pool
            connection = pool.make_connection()
            connection.connect()
            return connection

    @staticmethod
    def _lives(connection: Any) -> bool:
        """A connection that the server has closed has something to read: its end. Looking takes a microsecond."""
        try:
            return not connection.can_read(0)
        except (RedisError, OSError):
            return False

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().disconnect()


class Script(NamedTuple):
    """A Lua script and Redis's name for it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """By its text."""
        return cls(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324


class Handing:
    """Hand-offs and pushes of one process."""

    def __init__(self, target: Target, watch: Watch) -> None:
        self.target = target
        self._watch = watch
        self.scripts = Scripts(target)
        self._hand_off = Script.of(HAND_OFF)
        self._native = Script.of(NATIVE)

    def hand_off(self, side: SourceSide, job: ResqueJob, bound: Binding) -> bool:
        """Hand off a row that has been committed; False: it waits in the outbox, for `follow`. Never raises."""
        breaker = self._watch.breaker
        if not breaker.closed:
            return False
        reach("enqueue.written")
        target_id, beat = bound.target_id or "", bound.beat
        known = self._watch.now()
        try:
            for _ in range(2):
                if known.pauses.notes and known.pauses.covering(job.func) is not None:
                    return False
                try:
                    call = side.calls.call(job, target_id=target_id, beat=beat, pause_version=known.pauses.version)
                    side.calls.outcome(self.scripts.run(self._hand_off, call), target_id=target_id, beat=beat)
                except PausesChanged:
                    known = self._watch.anew()
                    continue
                breaker.succeeded()
                reach("enqueue.handed_off")
                return True
        except Unavailable as error:
            breaker.failed()
            log.warning("not handed off, `follow` will: %s", error.message)
        except MigrateError as error:
            log.warning("not handed off, a person is needed: %s", error.message)
        return False

    def push_native(self, job: ResqueJob, claim: Claim | None, *, only_claim: bool = False) -> None:
        """Push a job that is born in Resque. Raises KeyHeld, TargetMismatch, and Unavailable at once.

        When an answer is lost it is unknown whether the job is there: nothing is sent twice.
        """
        breaker = self._watch.breaker
        target_id = self._watch.now().target_id
        if target_id is None and not breaker.open:
            target_id = self._watch.anew().target_id
            if target_id is None and not breaker.open:
                raise binding.wrong_target(self.target, "", "")
        if breaker.open or target_id is None:
            raise Unavailable(
                f"target {self.target.label}: can't be reached: the job was not enqueued",
                advice="on step resque there is no database to wait in: try again when Redis is back",
            )
        call = enqueueing.native_call(self.target, job, target_id, claim, only_claim=only_claim)
        try:
            reply = self.scripts.run(self._native, call)
        except Unavailable:
            breaker.failed()
            raise
        enqueueing.native_outcome(self.target, reply, target_id)

    # --- uniqkeys ---

    def free_if_over(self, side: SourceSide, holder: Identity) -> bool:
        """Free the key of a job that has left `job`, if it is over. False while it is pending, or can't be known."""
        if self._watch.breaker.open:
            return False
        try:
            side.routing.refresh()
            return holder in over.release_over(side.source, self.target, side.routing, [holder])
        except Unavailable:
            self._watch.breaker.failed()
            return False

    def native_holder(self, func: str, key: str) -> str | None:
        """Who holds a key in Redis; None while Redis is away: then it can't be known."""
        if self._watch.breaker.open:
            return None
        try:
            return unique_keys.holder_of(self.target, func, key)
        except Unavailable:
            self._watch.breaker.failed()
            return None

    def is_over(self, holder: str) -> bool:
        """Whether a job that holds a key in Redis is found nowhere any more, or has failed for good."""
        return holder in over.natives_over(self.target, [holder])

    def release(self, func: str, claim: Claim) -> None:
        """Give a key free that was claimed in vain."""
        unique_keys.release(self.target, func, {claim.key: claim.holder})
