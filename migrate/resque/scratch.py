"""A scratch namespace: jobs are pushed as into the real one, read back, and removed. Writes nothing beside it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from migrate.jobs import ResqueJob
from migrate.resque.handoff import HandOff
from migrate.resque.target import Target

#: Seconds after which Redis removes by itself what a killed rehearsal left.
LEFTOVER_SECONDS = 3600


class Held(NamedTuple):
    """What one push has put into Redis, as it was read back."""

    queues: dict[str, list[bytes]]  #: by queue, head first
    delayed: dict[int, list[bytes]]  #: by second, head first


class _Expiring(Target):
    """A target whose scripts write nothing that stays: every key of theirs goes by itself, from the same instant on."""

    def run(self, script: str, keys: list[bytes], arguments: list[Any]) -> Any:
        with self.commands() as client, client.pipeline(transaction=True) as pipe:
            client.register_script(script)(keys=keys, args=arguments, client=pipe)
            for key in dict.fromkeys(keys):
                pipe.expire(key, LEFTOVER_SECONDS)
            return pipe.execute()[0]


class Scratch:
    """One rehearsal's namespace beside the target's own. Used by one source's thread."""

    def __init__(self, target: Target, source: str) -> None:
        namespace = f"{target.namespace}-rehearsal-{secrets.token_hex(4)}"
        self._target = _Expiring(target.client, namespace, target.label)
        self._hand_off = HandOff(self._target, source)
        self._target_id = secrets.token_hex(8)
        with self._target.commands() as client:
            client.set(self._target.keys.target_id, self._target_id, ex=LEFTOVER_SECONDS)

    def _fixed_keys(self) -> list[bytes]:
        keys = self._target.keys
        return [keys.target_id, keys.batches, keys.queues, keys.schedule]

    def push(self, jobs: Sequence[ResqueJob]) -> Held:
        """Push jobs of one batch by the real script, read them back, remove them."""
        keys = self._target.keys
        queues = sorted({job.queue for job in jobs})
        seconds = sorted({job.due for job in jobs if job.delayed is not None})
        texts = {job.delayed for job in jobs if job.delayed is not None}
        used = [
            *(keys.queue(queue) for queue in queues),
            *(keys.delayed(second) for second in seconds),
            *(keys.timestamps(text) for text in texts),
            keys.ledger(jobs[0].identity.batch),
        ]
        try:
            self._hand_off.push(jobs, target_id=self._target_id, beat=0)
            with self._target.commands() as client:
                return Held(
                    {queue: client.lrange(keys.queue(queue), 0, -1) for queue in queues},  # type: ignore[misc]
                    {second: client.lrange(keys.delayed(second), 0, -1) for second in seconds},  # type: ignore[misc]
                )
        finally:
            self._remove([*used, keys.schedule])

    def _remove(self, keys: Sequence[bytes]) -> None:
        with self._target.commands() as client:
            for start in range(0, len(keys), 1000):
                client.unlink(*keys[start : start + 1000])

    def close(self) -> None:
        """Remove what is left of the namespace."""
        self._remove(self._fixed_keys())
