"""Measures `qudo-migrate run` by serializer: the same values in JSON, MessagePack and Storable."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from migrate.qudo.serializers import Serializer
from migrate.qudo.serializers.encoding import encode
from tests.qudo_app.enqueueing import fill
from tests.servers import MariaDB, RedisServer
from tests.servers.command import toml

QUEUE = "resque:queue:worker_mail"


def measure(jobs: int, size: int, engine: str, run: Callable[..., Any]) -> dict[str, Any]:
    """Jobs a second by serializer, and against JSON, all in one run on one server."""
    value = {"user_id": 4711, "code": "0123", "tags": ["a", "b", {"c": None}], "subject": "x" * max(0, size - 70)}
    figures: dict[str, Any] = {}
    with MariaDB() as mariadb, RedisServer() as redis, tempfile.TemporaryDirectory() as name, redis.client() as client:
        folder = Path(name)
        for serializer in (Serializer.JSON, Serializer.MESSAGEPACK, Serializer.STORABLE):
            database = mariadb.create_database(engine)
            arg = encode(value, serializer)
            assert arg is not None
            fill(database, jobs, arg=arg, priorities=3)
            client.flushall()
            route = {"func": "*", "serializer": str(serializer)}
            folder.joinpath("qudo-migrate.toml").write_text(toml({"main": database}, redis, (route,), None))
            moved = run(folder, "run")
            assert client.llen(QUEUE) == jobs, "the run has lost jobs"
            database.drop()
            figures[f"{serializer}_jobs_per_second"] = round(jobs / moved.seconds)
            figures[f"{serializer}_cpu_us_per_job"] = round(moved.cpu_seconds / jobs * 1e6, 1)
    for serializer in (Serializer.MESSAGEPACK, Serializer.STORABLE):
        rate, base = figures[f"{serializer}_jobs_per_second"], figures[f"{Serializer.JSON}_jobs_per_second"]
        figures[f"{serializer}_to_json"] = round(rate / base, 2)
    return figures
