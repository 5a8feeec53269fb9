"""A TCP proxy in front of any server, which misbehaves on demand: cuts, refuses, delays, holds, loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self, TypeVar

from sqlalchemy import make_url

from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.servers.waiting import wait_until

T = TypeVar("T")

#: Bytes read at once.
_PIECE = 65536

#: How a MySQL client sends COMMIT; the bare word is also in the `SET AUTOCOMMIT` of each new connection.
MYSQL_COMMIT = b"\x03COMMIT"

#: Seconds that an action of the proxy may take, and that a server may take to end a lost connection.
_CALL_SECONDS, _DRAIN_SECONDS = 10.0, 30.0


class _Fault(enum.Enum):
    LOSE_REQUEST = enum.auto()
    LOSE_REPLY = enum.auto()
    HOLD_REQUEST = enum.auto()


class Proxy:
    """Listens on `port` and passes everything on to `server`, until told otherwise. A context manager.

    The server may be stopped and started meanwhile. Patterns are looked for in what clients send: `MYSQL_COMMIT`,
    `b"EVALSHA"`. Each fault by pattern happens once, on whichever connection sends it first.
    """

    def __init__(self, server: Server | int) -> None:
        self._server = server
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._faults: list[tuple[bytes, _Fault]] = []
        self._open = asyncio.Event()
        self._released = asyncio.Event()
        self._delay_seconds = 0.0
        #: Connections accepted so far.
        self.accepted = 0
        #: Faults by pattern that have happened, and requests held just now.
        self.hits = 0
        self.held = 0

    def url(self, url: str) -> str:
        """The same URL, through the proxy."""
        return make_url(url).set(port=self.port).render_as_string(hide_password=False)

    def cut(self) -> None:
        """Reset every connection, on both sides. New ones are accepted."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Reset every connection and refuse new ones, as if nobody listened."""
        self._call(self._stop_listening)
        self.cut()

    def delay(self, seconds: float) -> None:
        """Hold back each piece of data so long, in both directions. It counts for data that comes from now on."""
        self._call(lambda: setattr(self, "_delay_seconds", seconds))

    def half_close(self) -> None:
        """End the server's side of every connection (FIN); what the clients send still arrives."""
        self._call(self._end_answers)

    def black_hole(self) -> None:
        """Pass nothing on, cut nothing, accept and never answer: a network that is away. `heal` lets all through."""
        self._call(self._open.clear)

    def lose_request(self, pattern: bytes) -> None:
        """Cut the next connection that sends `pattern`; the server never sees what held it."""
        self._arm(pattern, _Fault.LOSE_REQUEST)

    def lose_reply(self, pattern: bytes) -> None:
        """Cut the next connection that sends `pattern` once the server begins to answer; the client sees no answer."""
        self._arm(pattern, _Fault.LOSE_REPLY)

    def hold_request(self, pattern: bytes) -> None:
        """Hold the next request with `pattern` until `release`; the other connections go on."""
        self._call(self._released.clear)
        self._arm(pattern, _Fault.HOLD_REQUEST)

    def wait_held(self, timeout_seconds: float = 30.0) -> None:
        """Until a request is held."""
        wait_until(lambda: self.held, timeout_seconds, "a request is held")

    def wait_hit(self, hits: int = 1, timeout_seconds: float = 30.0) -> None:
        """Until so many faults by pattern have happened."""
        wait_until(lambda: self.hits >= hits, timeout_seconds, f"{hits} faults have happened")

    def release(self) -> None:
        """Let the held requests go on."""
        self._call(self._released.set)

    def heal(self) -> None:
        """Behave: listen, pass everything on at once, forget the faults that have not happened."""

        def all_well() -> None:
            self._delay_seconds = 0.0
            self._faults.clear()
            self._open.set()
            self._released.set()

        self._call(all_well)
        self._listen()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._links)

    def start(self) -> Self:
        """Start listening."""
        self._thread.start()
        self.heal()
        return self

    def close(self) -> None:
        """Cut everything and end."""
        self._call(self._stop_listening)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_CALL_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _arm(self, pattern: bytes, fault: _Fault) -> None:
        self._call(lambda: self._faults.append((pattern, fault)))

    def _call(self, action: Callable[[], T]) -> T:
        """Run an action in the proxy's own thread."""

        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALL_SECONDS)

    def _listen(self) -> None:
        async def listen() -> None:
            if self._listener is None:
                self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(_CALL_SECONDS)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _cut(self) -> None:
        for link in self._links:
            link.reset()

    def _end_answers(self) -> None:
        for link in self._links:
            link.end_answers()

    async def _end(self) -> None:
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The transports end in the loop's next turns.
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        port = self._server if isinstance(self._server, int) else self._server.port
        link = _Link(reader, writer)
        self._links.add(link)
        try:
            # Not before the hole is closed: a client that came in meanwhile must wait.
            await self._open.wait()
            await link.connect(port)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_requests(link))
                both.create_task(self._pass_answers(link))
        except* (OSError, asyncio.CancelledError):
            link.reset()
        finally:
            link.close()
            self._links.discard(link)

    async def _pass_requests(self, link: _Link) -> None:
        seen = b""
        while data := await link.from_client.read(_PIECE):
            await self._hinder()
            seen += data
            for pattern, fault in list(self._faults):
                # Only what has ended with this piece: a request that went by before the fault was asked for is gone.
                if pattern in seen[-(len(data) + len(pattern) - 1) :]:
                    self._faults.remove((pattern, fault))
                    await self._strike(link, fault)
                    seen = b""
            if link.is_lost:
                return
            seen = seen[-256:]
            link.to_server.write(data)
            await link.to_server.drain()
        link.end_requests()

    async def _strike(self, link: _Link, fault: _Fault) -> None:
        self.hits += fault is not _Fault.HOLD_REQUEST
        if fault is _Fault.LOSE_REQUEST:
            link.reset()
        elif fault is _Fault.LOSE_REPLY:
            link.loses_reply = True
        else:
            self.held += 1
            try:
                await self._released.wait()
            finally:
                self.held -= 1
                self.hits += 1

    async def _pass_answers(self, link: _Link) -> None:
        while data := await link.from_server.read(_PIECE):
            if link.loses_reply:
                await link.lose()
                return
            await self._hinder()
            if not link.answers_ended:
                link.to_client.write(data)
                await link.to_client.drain()
        link.end_answers()

    async def _hinder(self) -> None:
        await asyncio.sleep(self._delay_seconds)
        await self._open.wait()


class _Link:
    """One client's connection and its counterpart to the server. Lives in the proxy's thread."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.from_client, self.to_client = reader, writer
        self.from_server: asyncio.StreamReader
        self.to_server: asyncio.StreamWriter
        self._connected = False
        self.loses_reply = False
        self.is_lost = False
        self.answers_ended = False

    async def connect(self, port: int) -> None:
        """Connect to the server. Raises OSError when it doesn't listen."""
        self.from_server, self.to_server = await asyncio.open_connection("127.0.0.1", port)
        self._connected = True

    def reset(self) -> None:
        """Break both sides at once (RST)."""
        self.is_lost = True
        for writer in self._writers():
            _break(writer)

    async def lose(self) -> None:
        """Break the client's side; the server may finish all that it has received."""
        self.is_lost = True
        _break(self.to_client)
        self.end_requests()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self.from_server.read(_PIECE):
                    pass

    def end_requests(self) -> None:
        """FIN to the server."""
        _finish(self.to_server)

    def end_answers(self) -> None:
        """FIN to the client."""
        self.answers_ended = True
        _finish(self.to_client)

    def close(self) -> None:
        """Close what is still open."""
        for writer in self._writers():
            writer.close()

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [self.to_client, self.to_server] if self._connected else [self.to_client]


def _finish(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        if not writer.is_closing():
            writer.write_eof()


def _break(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        # With nothing to linger for, closing sends a reset instead of an end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
