"""A place in bytes that moves forward and never past the end. Pure."""

from __future__ import annotations

from migrate.errors import Untranslatable


class Cursor:
    """Base of the binary decoders: reads bytes in order; what isn't there is an error, never an allocation."""

    #: What the bytes are, for error messages.
    name = "data"

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.size = len(data)
        self.position = position

    def byte(self) -> int:
        """The next byte. Raises Untranslatable at the end."""
        position = self.position
        if position >= self.size:
            raise self.cut_off()
        self.position = position + 1
        return self.data[position]

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises Untranslatable when there are fewer."""
        position = self.position
        end = position + count
        if end > self.size:
            raise self.cut_off()
        self.position = end
        return self.data[position:end]

    def expect(self, count: int, bytes_each: int) -> None:
        """Make sure that `count` items can follow, each of at least `bytes_each` bytes. Raises Untranslatable."""
        if count * bytes_each > self.size - self.position:
            raise self.cut_off()

    def finish(self) -> None:
        """Make sure that nothing is left. Raises Untranslatable."""
        if self.position != self.size:
            left = self.size - self.position
            raise Untranslatable(f"{self.name} ends at byte {self.position}, {left} more follow")

    def refused(self, what: str, offset: int) -> Untranslatable:
        """The error for something that stands at `offset`; `what` must not show data."""
        return Untranslatable(f"{self.name}: {what} at byte {offset}")

    def cut_off(self) -> Untranslatable:
        """The error for a length or count that the bytes don't hold."""
        return self.refused(f"cut off, more is announced than its {self.size} bytes hold,", self.position)
