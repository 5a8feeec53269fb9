-- Qudo's own tables on MySQL and MariaDB, as Qudo 0.0214 makes them (`qudo --rdbms=mysql`).
--
-- Read by tests, by the demo servers of docker-compose.yml, and by people: qudo-migrate never creates these.
-- No engine is named, as Qudo names none without --use_innodb: the server's default decides. Neither is a character
-- set: that of the database decides. All times are Unix seconds. There are no foreign keys.
-- tests/integration/test_schema.py holds this file and migrate/qudo/tables.py together.

-- Worker classes. Rows are added at the first enqueue of a class and never deleted.
CREATE TABLE func (
  id   INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(255) NOT NULL,                   -- the Perl package, such as Worker::Mail
  PRIMARY KEY (id),
  UNIQUE (name)
);

-- Jobs that wait, wait for a retry, or are being worked on. A job that is over has no row.
CREATE TABLE job (
  id            BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  func_id       INT UNSIGNED NOT NULL,
  arg           MEDIUMBLOB,                     -- what the app passed, through whatever serializer its Qudo has
  uniqkey       VARCHAR(255),
  enqueue_time  INT UNSIGNED,                   -- rewritten by each grab and each retry
  grabbed_until INT UNSIGNED NOT NULL,          -- the end of a worker's lease, 0 when nobody has it
  run_after     INT UNSIGNED NOT NULL DEFAULT 0,
  retry_cnt     INT UNSIGNED NOT NULL DEFAULT 0,
  priority      INT UNSIGNED NOT NULL DEFAULT 0, -- higher runs first
  PRIMARY KEY (id),
  UNIQUE (func_id, uniqkey),
  KEY priority (priority)
);

-- One row for each failure and abort, also of jobs that were tried again afterwards.
CREATE TABLE exception_log (
  id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  func_id        INT UNSIGNED NOT NULL DEFAULT 0,
  exception_time INT UNSIGNED NOT NULL,
  message        MEDIUMBLOB NOT NULL,
  uniqkey        VARCHAR(255),
  arg            MEDIUMBLOB,
  retried        TINYINT(1) NOT NULL DEFAULT 0, -- 1: an operator made a new job of it
  PRIMARY KEY (id),
  KEY func_id (func_id),
  KEY exception_time (exception_time)
);

-- What became of jobs, for worker classes that ask for it.
CREATE TABLE job_status (
  id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  func_id        INT UNSIGNED NOT NULL DEFAULT 0,
  arg            MEDIUMBLOB NOT NULL,
  uniqkey        VARCHAR(255),
  status         VARCHAR(10),                   -- completed, failed or abort
  job_start_time INT UNSIGNED NOT NULL,
  job_end_time   INT UNSIGNED NOT NULL,
  PRIMARY KEY (id)
);
