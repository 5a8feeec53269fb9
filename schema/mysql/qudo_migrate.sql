-- qudo-migrate's own tables on MySQL and MariaDB. They stand in the source's database, beside Qudo's.
--
-- `run` creates them where they lack and its account may. For a DBA who creates them by hand, `init --print-ddl` prints
-- them fitted to a source, and that is the thing to run: qudo_migrate_pending.pending_key must have the very character
-- set and collation of that source's job.uniqkey (here: the default of utf8mb4), and the engine is MyISAM where the
-- server has no InnoDB.
-- tests/unit/test_schema.py checks that this file is what migrate/qudo/ddl.py generates, tests/integration/test_schema.py
-- that a server understands both alike.

-- Moves whose jobs may still have to be handed off: one row for each move, written in the move's own transaction,
-- deleted once the bits of all its jobs are known to be durable in Redis.
CREATE TABLE IF NOT EXISTS qudo_migrate_chunk (
  batch       BIGINT NOT NULL,
  first_seq   INTEGER NOT NULL,
  last_seq    INTEGER NOT NULL,
  jobs        INTEGER NOT NULL,
  state       SMALLINT NOT NULL,            -- 0: may be handed off, 1: copies of rows that are still in job (MyISAM)
  moved_at_us BIGINT NOT NULL,              -- the server's clock, microseconds: the order of hand-off
  PRIMARY KEY (batch, first_seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- What the configuration said when a job moved, so that an edited configuration never strands a moved job.
CREATE TABLE IF NOT EXISTS qudo_migrate_decision (
  id       BIGINT NOT NULL,                 -- 63 bits of the text's hash
  decision TEXT NOT NULL,                   -- JSON
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- What the source knows of itself and of its Redis: its own id, the target's id, the newest beat.
CREATE TABLE IF NOT EXISTS qudo_migrate_meta (
  name  VARCHAR(64) NOT NULL,
  value VARCHAR(255) NOT NULL,
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Jobs that have left job, as they were, from the move until the purge. (batch, seq) is a job's identity, never used
-- twice.
CREATE TABLE IF NOT EXISTS qudo_migrate_outbox (
  batch         BIGINT NOT NULL,            -- random, 63 bits
  seq           INTEGER NOT NULL,
  decision      BIGINT NOT NULL,            -- qudo_migrate_decision.id
  moved_at      INTEGER UNSIGNED NOT NULL,  -- the server's clock, Unix seconds
  job_id        BIGINT UNSIGNED,            -- job.id as it was, NULL when it never was there
  func_id       INTEGER UNSIGNED NOT NULL,
  arg           MEDIUMBLOB,
  uniqkey       VARBINARY(1020),            -- the bytes, whatever the character set: 255 characters of at most 4
  enqueue_time  INTEGER UNSIGNED,
  grabbed_until INTEGER UNSIGNED NOT NULL,
  run_after     INTEGER UNSIGNED NOT NULL,
  retry_cnt     INTEGER UNSIGNED NOT NULL,
  priority      INTEGER UNSIGNED NOT NULL,
  due           INTEGER UNSIGNED,           -- of rows that apps wrote: from when they may be handed off,
                                            -- NULL once they are known to be durable in Redis
  PRIMARY KEY (batch, seq),
  UNIQUE (due, batch, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- uniqkeys of jobs that have left job and are not over: a second job under such a key waits in job.
CREATE TABLE IF NOT EXISTS qudo_migrate_pending (
  func_id     INTEGER UNSIGNED NOT NULL,
  pending_key VARCHAR(255) NOT NULL,        -- compares as job.uniqkey does
  batch       BIGINT NOT NULL,              -- the holder's identity
  seq         INTEGER NOT NULL,
  PRIMARY KEY (func_id, pending_key),
  UNIQUE (batch, seq)                       -- a key is freed by its holder
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Jobs that a rollback has put back into job, until Redis is known to have forgotten that they are on their way.
CREATE TABLE IF NOT EXISTS qudo_migrate_returned (
  batch  BIGINT NOT NULL,
  seq    INTEGER NOT NULL,
  job_id BIGINT UNSIGNED,  -- job.id as it is now, where it had to be known (MyISAM)
  PRIMARY KEY (batch, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
