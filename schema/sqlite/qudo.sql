-- Qudo's own tables on SQLite, as Qudo 0.0214 makes them (`qudo --rdbms=SQLite`).
--
-- Read by tests and by people: qudo-migrate never creates these. All times are Unix seconds.
-- Not as on MySQL: no secondary indexes at all, ids are never used twice (AUTOINCREMENT), job_status.arg may be NULL.
-- tests/integration/test_schema.py holds this file and migrate/qudo/tables.py together.

-- Worker classes. Rows are added at the first enqueue of a class and never deleted.
CREATE TABLE func (
  id   INTEGER PRIMARY KEY AUTOINCREMENT,
  name VARCHAR(255) NOT NULL,                       -- the Perl package, such as Worker::Mail
  UNIQUE (name)
);

-- Jobs that wait, wait for a retry, or are being worked on. A job that is over has no row.
CREATE TABLE job (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  func_id       INTEGER UNSIGNED NOT NULL,
  arg           MEDIUMBLOB,                         -- what the app passed, through whatever serializer its Qudo has
  uniqkey       VARCHAR(255),
  enqueue_time  INTEGER UNSIGNED,                   -- rewritten by each grab and each retry
  grabbed_until INTEGER UNSIGNED NOT NULL,          -- the end of a worker's lease, 0 when nobody has it
  run_after     INTEGER UNSIGNED NOT NULL DEFAULT 0,
  retry_cnt     INTEGER UNSIGNED NOT NULL DEFAULT 0,
  priority      INTEGER UNSIGNED NOT NULL DEFAULT 0, -- higher runs first
  UNIQUE (func_id, uniqkey)
);

-- One row for each failure and abort, also of jobs that were tried again afterwards.
CREATE TABLE exception_log (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  func_id        INTEGER UNSIGNED NOT NULL DEFAULT 0,
  exception_time INTEGER UNSIGNED NOT NULL,
  message        MEDIUMBLOB NOT NULL,
  uniqkey        VARCHAR(255),
  arg            MEDIUMBLOB,
  retried        TINYINT(1) NOT NULL DEFAULT 0      -- 1: an operator made a new job of it
);

-- What became of jobs, for worker classes that ask for it.
CREATE TABLE job_status (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  func_id        INTEGER UNSIGNED NOT NULL DEFAULT 0,
  arg            MEDIUMBLOB,
  uniqkey        VARCHAR(255),
  status         VARCHAR(10),                       -- completed, failed or abort
  job_start_time INTEGER UNSIGNED NOT NULL,
  job_end_time   INTEGER UNSIGNED NOT NULL
);
