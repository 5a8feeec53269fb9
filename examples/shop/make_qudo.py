"""Makes an SQLite file with Qudo's tables, in place of the database that a shop has. Needs only Python."""

import sqlite3
from pathlib import Path

TABLES = Path(__file__).resolve().parents[2] / "schema" / "sqlite" / "qudo.sql"

if __name__ == "__main__":
    with sqlite3.connect("qudo.db") as database:
        database.executescript(TABLES.read_text())
    print("qudo.db is there")
