"""Real servers for the tests: started in temporary folders on free loopback ports, and gone without a trace."""

from tests.servers.databases import Database, Session
from tests.servers.mariadb import Account, MariaDB, MariaDBDatabase
from tests.servers.process import Server, ServerDied
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer, ValkeyServer
from tests.servers.sqlite import SQLiteDatabase
from tests.servers.waiting import TooLate, wait_until

__all__ = [
    "Account",
    "Database",
    "MariaDB",
    "MariaDBDatabase",
    "Proxy",
    "RedisServer",
    "SQLiteDatabase",
    "Server",
    "ServerDied",
    "Session",
    "TooLate",
    "ValkeyServer",
    "wait_until",
]
