"""qudo-migrate: moves jobs from Qudo (MySQL, MariaDB, SQLite) to Resque (Redis), each exactly once."""

__version__ = "0.1.0"
