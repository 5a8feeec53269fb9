-- What the account of the migration needs on each MySQL or MariaDB source, for a DBA. Put the source's database in the
-- place of `qudo`, the account in the place of 'qudo_migrate'@'%'. The account itself is made first, with
--
--   CREATE USER 'qudo_migrate'@'%' IDENTIFIED BY '…'
--
-- tests/unit/test_schema.py checks that these are the grants of migrate/qudo/ddl.py, tests/integration/test_schema.py
-- that an account with them and no others can create the tables and use them.

-- Jobs leave job for the outbox and come back by rollback.
GRANT SELECT, INSERT, UPDATE, DELETE ON `qudo`.* TO 'qudo_migrate'@'%';

-- Creates the tables of qudo_migrate.sql. Not needed where a DBA has created them.
GRANT CREATE ON `qudo`.* TO 'qudo_migrate'@'%';

-- Only with binlog_format=STATEMENT, and even there not needed: who may set the session to ROW can move jobs in larger
-- batches. The right is BINLOG ADMIN on MariaDB 10.5 or later, SESSION_VARIABLES_ADMIN on MySQL 8.0, SUPER before those.
