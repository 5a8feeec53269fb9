"""Chunks on their way, in their order: moves that may overlap, then one push after the other.

Knows nothing of servers; what a move and a push are is `crossing.py`'s affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from migrate.qudo.turns import Turn

#: Moves that are under way at a time, where they may overlap: while the server deletes the rows of one, it locks those
#: of the next.
MOST_MOVES = 2

Chunk = TypeVar("Chunk")
Moved = TypeVar("Moved")


class Line(Generic[Chunk, Moved]):
    """Used by one thread; a fault of a move or a push is raised by the next call, and ends the line.

    After a fault nothing behind the faulty chunk moves or is pushed.
    """

    def __init__(self, move: Callable[[Chunk, Turn], Moved], push: Callable[[Moved], None]) -> None:
        """`move` and `push` are called in threads of their own; `move` tells its turn how far it is."""
        self._move = move
        self._push = push
        self._movers = ThreadPoolExecutor(MOST_MOVES)
        self._pusher = ThreadPoolExecutor(1)
        self._moves: deque[Future[Moved]] = deque()
        self._pushed: Future[None] | None = None
        self._turn: Turn | None = None
        self._overlaps = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for what is under way."""
        self._movers.shutdown()
        self._pusher.shutdown()

    def make_room(self, *, overlaps: bool) -> None:
        """Wait until another chunk may move; `overlaps`: while the last one does, if that one may overlap as well."""
        while len(self._moves) >= (MOST_MOVES if overlaps and self._overlaps else 1):
            self._end_first_move()

    def enter(self, chunk: Chunk, *, overlaps: bool) -> None:
        """Begin to move a chunk for which there is room."""
        self._turn = Turn(self._turn if self._moves else None)
        self._overlaps = overlaps
        self._moves.append(self._movers.submit(self._in_turn, chunk, self._turn))

    def settle(self) -> None:
        """Wait until all chunks have moved and are pushed."""
        while self._moves:
            self._end_first_move()
        if self._pushed is not None:
            self._pushed.result()

    def _in_turn(self, chunk: Chunk, turn: Turn) -> Moved:
        try:
            turn.begin()
            moved = self._move(chunk, turn)
            turn.committed()
            return moved
        finally:
            turn.ended()

    def _end_first_move(self) -> None:
        moved = self._moves.popleft().result()
        if self._pushed is not None:
            self._pushed.result()  # order within each queue: one push after the other
        self._pushed = self._pusher.submit(self._push, moved)
