"""What the server says of every statement of a migration: none reads more than a page, but for those named here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import WriteConfig
from tests.qudo_app import enqueue, func_id, log_exception
from tests.qudo_app.enqueueing import fill
from tests.servers import MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli

ROWS = 12_000
#: Rows that one statement may read: a page of `verify` and of the walk through the outbox, and some more.
PAGE_ROWS = 5_100
#: Rows from which on a scan of a whole table, or a sort, is one too many.
FEW_ROWS = 2_100

#: How often, on average, one command may read each row: `run` reads, locks, copies, deletes, and looks again.
TIMES = 8

#: Statements that read a whole table once, and why.
ONCE = {
    "counts what is in job, by func and priority": r"SELECT job\.func_id, job\.priority, count.* FROM job GROUP BY",
    "the total of a progress bar": r"SELECT count\(\*\) AS count_1\s+FROM qudo_migrate_outbox",
    "a list that names much of a short batch": r"DELETE FROM qudo_migrate_outbox WHERE",
    "one job's story: an index would cost each move": r"FROM qudo_migrate_outbox\s+WHERE .*job_id = \d+",
}


class Statement(NamedTuple):
    """One statement in the server's slow log."""

    text: str
    rows: int
    scans: bool
    sorts: bool


class SlowLog:
    """Every statement of every new connection, with what it read."""

    def __init__(self, server: MariaDB) -> None:
        self._path = server.folder / "all-statements.log"

    def statements(self) -> list[Statement]:
        """All since the last time."""
        text = self._path.read_text(errors="replace")
        self._path.write_text("")
        found = []
        for entry in re.split(r"(?m)^(?=# User@Host)", text)[1:]:
            examined = re.search(r"Rows_examined: (\d+)", entry)
            lines = [line for line in entry.splitlines() if not re.match(r"#|use |SET timestamp", line)]
            assert examined, entry
            scans = "Full_scan: Yes" in entry or "Full_join: Yes" in entry
            found.append(Statement(" ".join(lines), int(examined[1]), scans, "Filesort: Yes" in entry))
        return found


@pytest.fixture
def slow_log(mariadb: MariaDB) -> Iterator[SlowLog]:
    log = SlowLog(mariadb)
    settings = {
        "long_query_time": 0,
        "log_slow_verbosity": "'query_plan'",
        "slow_query_log_file": f"'{log._path}'",
        "slow_query_log": 1,
    }
    root = mariadb.root()
    for name, value in settings.items():
        root.execute(f"SET GLOBAL {name} = {value}")
    yield log
    for name in ("slow_query_log", "slow_query_log_file", "log_slow_verbosity", "long_query_time"):
        root.execute(f"SET GLOBAL {name} = DEFAULT")
    root.close()


def test_no_statement_reads_more_than_a_page(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig, slow_log: SlowLog
) -> None:
    fill(innodb, ROWS, priorities=3)
    fill(innodb, 600, func="Worker::Keyed", uniqkey="k{n}")
    fill(innodb, 20, func="Worker::Rare")
    fill(innodb, 200, func="Worker::Later", run_after=4000)
    for number in range(20):
        log_exception(innodb, func_id(innodb, "Worker::Mail"), "died", b'{"x":%d}' % number, None)
    innodb.execute("UPDATE job SET enqueue_time = enqueue_time - 7200")  # else keyed jobs would go one by one
    innodb.execute("ANALYZE TABLE job")
    write_config({"main": innodb}, redis_server)
    slow_log.statements()

    commands = [
        ("plan",),
        ("run", "--batch-size", "500", "--func", "Worker::[MKL]*"),
        ("verify",),
        ("status",),
        ("where", "main:5"),
        ("follow", "--until-idle", "1"),
        ("rollback", "--func", "Worker::Keyed"),
        ("purge", "--older-than", "0"),
    ]
    wrong = []
    for command in commands:
        if command[0] == "follow":
            enqueue(innodb, "Worker::Mail", b"{}")
            slow_log.statements()
        result = cli(*command, "--json")
        assert result.status == 0, f"{command}: {result.stdout}{result.stderr}"
        found = slow_log.statements()
        assert found, command
        total = sum(each.rows for each in found)
        if total > TIMES * ROWS:
            wrong.append(f"{command[0]}: {total} rows in all")
        for each in found:
            too_many = each.rows > PAGE_ROWS or (each.rows > FEW_ROWS and (each.scans or each.sorts))
            if too_many and not any(re.search(pattern, each.text) for pattern in ONCE.values()):
                wrong.append(f"{command[0]}: {each.rows} rows{' sorted' * each.sorts}: {each.text[:300]}")
    assert not wrong, "\n".join(wrong)
