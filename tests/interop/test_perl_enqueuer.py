"""What `Enqueuer` writes with each serializer, read by Perl as Qudo's workers read it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from migrate import Enqueuer
from tests.integration.dualwriting import FUNC, configured
from tests.qudo_app import job_rows
from tests.servers import Database, RedisServer

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl isn't installed")

READ = {
    "storable": "use Storable 'thaw'; my $arg = thaw(<STDIN>);",
    # `utf8` decodes names as Data::MessagePack encodes Perl's character strings.
    "messagepack": "use Data::MessagePack; my $arg = Data::MessagePack->new->utf8->unpack(<STDIN>);",
    "json": "my $arg = JSON::PP->new->utf8->decode(<STDIN>);",
}
PROGRAM = "use JSON::PP; local $/; binmode STDIN; {read} print JSON::PP->new->canonical->ascii->encode($arg)"
ARG = {"code": "0123", "n": 7, "名": "鮎", "list": [None, {}, [], "1e5", -3]}


@pytest.mark.parametrize("serializer", READ)
@pytest.mark.usefixtures("redis")
def test_perl_reads_what_enqueuer_wrote(serializer: str, innodb: Database, redis_server: RedisServer) -> None:
    if (
        serializer == "messagepack"
        and subprocess.run(["perl", "-MData::MessagePack", "-e", "1"], check=False).returncode
    ):
        pytest.skip("Perl's Data::MessagePack isn't installed")
    config = configured({"main": innodb}, redis_server, {"func": FUNC, "serializer": serializer})
    with Enqueuer(config) as jobs:
        jobs.enqueue(FUNC, ARG)
    program = PROGRAM.replace("{read}", READ[serializer])
    (row,) = job_rows(innodb)
    perl = subprocess.run(["perl", "-e", program], input=row.arg, capture_output=True, check=True)
    found = json.loads(perl.stdout)
    assert found == ARG
    assert (type(found["code"]), type(found["n"])) == (str, int)
