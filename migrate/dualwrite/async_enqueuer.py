"""`AsyncEnqueuer`: `Enqueuer` for asyncio. What would block runs in threads, so there is one logic for both.

In the app's transaction the row is written over the app's own AsyncConnection, in its event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from migrate import config as configuration
from migrate.config import Config
from migrate.dualwrite.enqueuer import Enqueuer
from migrate.dualwrite.receipt import Receipt
from migrate.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

Result = TypeVar("Result")

#: Threads that enqueue for one process; each has a connection to the source.
THREADS = 8


class AsyncEnqueuer:
    """Enqueues jobs as `Enqueuer` does: the same arguments, receipts and errors. Keep one for each process.

    An enqueue that is cancelled may have been written all the same.
    """

    def __init__(self, config: Config) -> None:
        """Connects when first used."""
        self._jobs = Enqueuer(config)
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] = configuration.DEFAULT_PATH) -> AsyncEnqueuer:
        """By a qudo-migrate.toml. Raises UsageError."""
        return cls(configuration.load(Path(path)))

    async def enqueue(
        self,
        func: str,
        arg: object = None,
        *,
        uniqkey: str | None = None,
        run_after: int = 0,
        priority: int = 0,
        source: str | None = None,
        session: AsyncSession | async_scoped_session[AsyncSession] | None = None,
        connection: AsyncConnection | None = None,
    ) -> Receipt:
        """Enqueue a job; returns where it was written. Arguments and errors are those of `Enqueuer.enqueue`.

        `session` or `connection`: in the caller's transaction, an AsyncSession's or an AsyncConnection's.
        """
        enqueue = partial(
            self._jobs.enqueue, func, arg, uniqkey=uniqkey, run_after=run_after, priority=priority, source=source
        )
        if session is None and connection is None:
            return await self._in_thread(enqueue)
        if session is not None and connection is not None:
            raise UsageError(f"enqueue {func}: give session or connection, not both")
        given: Any = session if session is not None else connection
        if not asyncio.iscoroutinefunction(getattr(given, "run_sync", None)):
            raise UsageError(
                f"enqueue {func}: session must be an AsyncSession, connection an AsyncConnection",
                advice="of a Session: Enqueuer",
            )
        await self._in_thread(self._jobs.prepare)
        joined: str = await given.run_sync(self._jobs.joined_source, func, source)
        await self._in_thread(partial(self._jobs.prepare, func, joined, priority=priority))
        name = "session" if session is not None else "connection"
        receipt: Receipt = await given.run_sync(lambda sync: enqueue(**{name: sync}))
        return receipt

    async def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what was committed is handed off (or left to `follow`) and shadows are sent; whether it is."""
        return await self._in_thread(partial(self._jobs.flush, timeout))

    async def close(self) -> None:
        """Hand off what is left, and close all connections."""
        await self._in_thread(self._jobs.close)
        if self._threads is not None:
            self._threads[1].shutdown(wait=False)
            self._threads = None

    async def __aenter__(self) -> AsyncEnqueuer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        if self._threads is None or self._threads[0] != os.getpid():  # a forked child has no threads
            self._threads = os.getpid(), ThreadPoolExecutor(THREADS, "qudo-migrate enqueue")
        return await asyncio.get_running_loop().run_in_executor(self._threads[1], call)
