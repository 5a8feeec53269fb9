"""What tests of dual writing share: steps set by hand, an Enqueuer on the test's servers, and what it has written."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from migrate import Enqueuer
from migrate.config import Config, parse
from migrate.resque import steps
from migrate.resque.steps import KeyGuard, Step
from migrate.resque.target import Target
from migrate.resque.unique_keys import Spelling
from tests.resque_app import Resque
from tests.servers import Database, RedisServer
from tests.servers.command import toml

FUNC = "Worker::Mail"
QUEUE = "worker_mail"


def configured(
    sources: Mapping[str, Database | str], target: RedisServer | str, *routes: Mapping[str, object]
) -> Config:
    """The configuration that `write_config` would write."""
    return parse(toml(sources, target, routes), "test", {})


def put_step(
    server: RedisServer,
    step: Step,
    *,
    func: str = FUNC,
    percent: int = 100,
    guard: KeyGuard = KeyGuard.QUDO,
    spelling: Spelling = Spelling.FOLDED,
) -> int:
    """Set a func's step without any precondition; the version."""
    target = Target.open(server.url, "resque")
    try:
        known = steps.read(target)
        by = {"user": "test", "host": socket.gethostname()}
        note = steps.new_note(step, percent, guard, known=known.version, spelling=spelling, **by)
        version = steps.put(target, {func: note}, known=known.version)
        assert version is not None
        return version
    finally:
        target.close()


@contextmanager
def enqueuer(config: Config) -> Iterator[Enqueuer]:
    """An Enqueuer that ends with the block."""
    with Enqueuer(config) as jobs:
        yield jobs


def queued(resque: Resque, queue: str = QUEUE) -> list[Any]:
    """The payloads of a queue."""
    return [json.loads(text) for text in resque.client.lrange(resque.key(f"queue:{queue}"), 0, -1)]
