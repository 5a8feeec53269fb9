"""Qudo's tables and our own, as SQLAlchemy Core sees them. `schema/` holds the same in DDL; tests hold them together.

Text columns of Qudo (`func.name`, `uniqkey`) are read as bytes: shops speak Latin-1 to the server while sending UTF-8.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql

#: A lease of this value marks a row that a MyISAM move has claimed (Qudo's column is INT UNSIGNED).
MOVE_LEASE = 2147483647
#: A lease of this value marks a row that a rollback has put into a MyISAM `job` and not yet freed.
RETURN_LEASE = 2147483646

_unsigned = Integer().with_variant(mysql.INTEGER(unsigned=True), "mysql", "mariadb")
# SQLite makes a rowid alias, and so an AUTOINCREMENT, of an INTEGER primary key only.
_big_unsigned = (
    BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql", "mariadb").with_variant(Integer(), "sqlite")
)
_big = BigInteger().with_variant(Integer(), "sqlite")
_medium_blob = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_flag = SmallInteger().with_variant(mysql.TINYINT(1), "mysql", "mariadb")
_uniqkey_bytes = LargeBinary().with_variant(mysql.VARBINARY(1020), "mysql", "mariadb")

qudo = MetaData()

func = Table(
    "func",
    qudo,
    Column("id", _unsigned, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False),
    UniqueConstraint("name"),
)

job = Table(
    "job",
    qudo,
    Column("id", _big_unsigned, primary_key=True, autoincrement=True),
    Column("func_id", _unsigned, nullable=False),
    Column("arg", _medium_blob),
    Column("uniqkey", String(255)),
    Column("enqueue_time", _unsigned),
    Column("grabbed_until", _unsigned, nullable=False),
    Column("run_after", _unsigned, nullable=False, server_default=text("0")),
    Column("retry_cnt", _unsigned, nullable=False, server_default=text("0")),
    Column("priority", _unsigned, nullable=False, server_default=text("0")),
    UniqueConstraint("func_id", "uniqkey"),
    Index("priority", "priority"),
)

exception_log = Table(
    "exception_log",
    qudo,
    Column("id", _big_unsigned, primary_key=True, autoincrement=True),
    Column("func_id", _unsigned, nullable=False, server_default=text("0")),
    Column("exception_time", _unsigned, nullable=False),
    Column("message", _medium_blob, nullable=False),
    Column("uniqkey", String(255)),
    Column("arg", _medium_blob),
    Column("retried", _flag, nullable=False, server_default=text("0")),
    Index("func_id", "func_id"),
    Index("exception_time", "exception_time"),
)

job_status = Table(
    "job_status",
    qudo,
    Column("id", _big_unsigned, primary_key=True, autoincrement=True),
    Column("func_id", _unsigned, nullable=False, server_default=text("0")),
    Column("arg", _medium_blob, nullable=False),
    Column("uniqkey", String(255)),
    Column("status", String(10)),
    Column("job_start_time", _unsigned, nullable=False),
    Column("job_end_time", _unsigned, nullable=False),
)

ours = MetaData()

#: Every row of `job` that crosses, as it was, from the move until the purge; and what apps write here instead of there.
#: `due`: the second from which a row that an app wrote may be handed off, until its bit is known to be durable; NULL
#: for moved rows, whose chunk record says the same.
outbox = Table(
    "qudo_migrate_outbox",
    ours,
    Column("batch", _big, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("decision", _big, nullable=False),
    Column("moved_at", _unsigned, nullable=False),
    Column("job_id", _big_unsigned),
    Column("func_id", _unsigned, nullable=False),
    Column("arg", _medium_blob),
    Column("uniqkey", _uniqkey_bytes),
    Column("enqueue_time", _unsigned),
    Column("grabbed_until", _unsigned, nullable=False),
    Column("run_after", _unsigned, nullable=False),
    Column("retry_cnt", _unsigned, nullable=False),
    Column("priority", _unsigned, nullable=False),
    Column("due", _unsigned),
    PrimaryKeyConstraint("batch", "seq"),
    UniqueConstraint("due", "batch", "seq"),  # unique: so it is part of CREATE TABLE, and needs no right of its own
)

#: One row for each move: what may still have to be handed off. It goes once all its bits are known to be durable.
chunk = Table(
    "qudo_migrate_chunk",
    ours,
    Column("batch", _big, nullable=False),
    Column("first_seq", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("jobs", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("moved_at_us", _big, nullable=False),
    PrimaryKeyConstraint("batch", "first_seq"),
)

#: What routes decided, by the hash of the decision: an edited configuration never strands a moved row.
decision = Table(
    "qudo_migrate_decision",
    ours,
    Column("id", _big, primary_key=True, autoincrement=False),
    Column("decision", Text, nullable=False),
)

#: uniqkeys of jobs that have left `job` and are not over. The key has `job.uniqkey`'s own character set and collation.
pending = Table(
    "qudo_migrate_pending",
    ours,
    Column("func_id", _unsigned, nullable=False),
    Column("pending_key", String(255), nullable=False),
    Column("batch", _big, nullable=False),
    Column("seq", Integer, nullable=False),
    PrimaryKeyConstraint("func_id", "pending_key"),
    UniqueConstraint("batch", "seq"),  # a key is freed by its holder
)

#: Jobs that a rollback has put back into `job`, until Redis is known to have forgotten that they are on their way.
returned = Table(
    "qudo_migrate_returned",
    ours,
    Column("batch", _big, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("job_id", _big_unsigned),
    PrimaryKeyConstraint("batch", "seq"),
)

#: Which Redis this source belongs to, and the newest beat seen of it.
meta = Table(
    "qudo_migrate_meta",
    ours,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)
