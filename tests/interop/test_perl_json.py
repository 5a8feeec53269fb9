"""What we write can be read and written again by Perl's own JSON, down to the deepest arg that we accept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.interop.arguments import ARGUMENTS, written
from tests.qudo_app import enqueue, func_id
from tests.resque_app import Resque, unlike
from tests.servers import MariaDBDatabase, RedisServer
from tests.servers.binaries import need_program

#: Perl's JSON refuses what is nested deeper than this, JSON::PP as JSON::XS.
DEEPEST = 512

AGAIN = """
    use JSON::PP;
    my $json = JSON::PP->new->utf8->allow_nonref;
    while (<STDIN>) { print $json->encode($json->decode($_)), "\\n" }
"""

Again = Callable[[list[bytes]], list[bytes]]


@pytest.fixture
def again() -> Again:
    """Has Perl read texts and write them again."""
    perl = need_program("perl")

    def again(texts: list[bytes]) -> list[bytes]:
        result = subprocess.run([perl, "-e", AGAIN], input=b"\n".join(texts), capture_output=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return again


def test_perl_refuses_what_is_deeper(again: Again) -> None:
    assert again([b"[" * DEEPEST + b"]" * DEEPEST])
    with pytest.raises(AssertionError, match="maximum nesting level"):
        again([b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1)])


def test_payloads_and_failures_can_be_read_by_perl(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    again: Again,
) -> None:
    deepest = DEEPEST - 3  # inside of a failure, its payload and the list of arguments
    args: list[bytes] = [*map(written, ARGUMENTS.values()), b"[" * deepest + b"]" * deepest]
    for arg in args:
        enqueue(innodb, "Worker::Mail", arg)
        innodb.insert(
            "INSERT INTO exception_log (func_id, message, arg, exception_time)"
            f" VALUES (%s, 'died', {innodb.arg(arg)}, %s)",
            [func_id(innodb, "Other::Worker"), innodb.now() - 60],
        )
    write_config([innodb], redis_server, [{"func": "*", "serializer": "json"}])
    assert run().counts == {"moved": len(args), "handed_off": len(args), "imported": len(args)}

    payloads = [json.loads(text) for text in again([job.text for job in resque.queue("worker_mail")])]
    failed: Any = resque.client.lrange("resque:failed", 0, -1)
    failures = [json.loads(text)["payload"] for text in again(failed)]

    assert len(payloads) == len(failures) == len(args)
    for jobs in (payloads, failures):
        for job, (name, value) in zip(jobs, ARGUMENTS.items(), strict=False):
            # Perl writes fifteen digits of a fraction.
            assert name == "fractions" or unlike([value], job["args"]) == []
        assert json.dumps(jobs[-1]["args"]).encode() == b"[" + args[-1] + b"]"
