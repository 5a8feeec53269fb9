-- qudo-migrate's own tables on SQLite. They stand in the source's file, beside Qudo's. `run` creates them where they
-- lack.
--
-- tests/unit/test_schema.py checks that this file is what migrate/qudo/ddl.py generates, tests/integration/test_schema.py
-- that SQLite understands both alike.

-- Moves whose jobs may still have to be handed off: one row for each move, written in the move's own transaction,
-- deleted once the bits of all its jobs are known to be durable in Redis.
CREATE TABLE IF NOT EXISTS qudo_migrate_chunk (
  batch       INTEGER NOT NULL,
  first_seq   INTEGER NOT NULL,
  last_seq    INTEGER NOT NULL,
  jobs        INTEGER NOT NULL,
  state       SMALLINT NOT NULL,  -- 0: may be handed off
  moved_at_us INTEGER NOT NULL,   -- microseconds: the order of hand-off
  PRIMARY KEY (batch, first_seq)
);

-- What the configuration said when a job moved, so that an edited configuration never strands a moved job.
CREATE TABLE IF NOT EXISTS qudo_migrate_decision (
  id       INTEGER NOT NULL,      -- 63 bits of the text's hash
  decision TEXT NOT NULL,         -- JSON
  PRIMARY KEY (id)
);

-- What the source knows of itself and of its Redis: its own id, the target's id, the newest beat.
CREATE TABLE IF NOT EXISTS qudo_migrate_meta (
  name  VARCHAR(64) NOT NULL,
  value VARCHAR(255) NOT NULL,
  PRIMARY KEY (name)
);

-- Jobs that have left job, as they were, from the move until the purge. (batch, seq) is a job's identity, never used
-- twice.
CREATE TABLE IF NOT EXISTS qudo_migrate_outbox (
  batch         INTEGER NOT NULL, -- random, 63 bits
  seq           INTEGER NOT NULL,
  decision      INTEGER NOT NULL, -- qudo_migrate_decision.id
  moved_at      INTEGER NOT NULL, -- Unix seconds
  job_id        INTEGER,          -- job.id as it was, NULL when it never was there
  func_id       INTEGER NOT NULL,
  arg           BLOB,
  uniqkey       BLOB,
  enqueue_time  INTEGER,
  grabbed_until INTEGER NOT NULL,
  run_after     INTEGER NOT NULL,
  retry_cnt     INTEGER NOT NULL,
  priority      INTEGER NOT NULL,
  due           INTEGER,          -- of rows that apps wrote: from when they may be handed off,
                                  -- NULL once they are known to be durable in Redis
  PRIMARY KEY (batch, seq),
  UNIQUE (due, batch, seq)
);

-- uniqkeys of jobs that have left job and are not over: a second job under such a key waits in job.
CREATE TABLE IF NOT EXISTS qudo_migrate_pending (
  func_id     INTEGER NOT NULL,
  pending_key VARCHAR(255) NOT NULL,
  batch       INTEGER NOT NULL,   -- the holder's identity
  seq         INTEGER NOT NULL,
  PRIMARY KEY (func_id, pending_key),
  UNIQUE (batch, seq)                       -- a key is freed by its holder
);

-- Jobs that a rollback has put back into job, until Redis is known to have forgotten that they are on their way.
CREATE TABLE IF NOT EXISTS qudo_migrate_returned (
  batch  INTEGER NOT NULL,
  seq    INTEGER NOT NULL,
  job_id INTEGER,
  PRIMARY KEY (batch, seq)
);
