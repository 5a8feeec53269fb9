"""What a route decided for one func and band: stored beside each moved row, so an edited config never strands it.

Pure: made from configuration, turned into text and back.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import msgspec

from migrate.config import Args, Config, Delayed, Unique
from migrate.qudo.serializers import BlessedMode, BytesMode, Serializer
from migrate.resque.dialects import Dialect


class Decision(msgspec.Struct, frozen=True, dict=True, rename={"class_": "class"}):
    """All that translation needs besides the row. Times are seconds."""

    func: str
    class_: str
    queue: str
    dialect: Dialect
    serializer: Serializer
    usual: Serializer | None  #: with serializer auto: what most of the func's jobs are
    args: Args
    bytes: BytesMode
    blessed: BlessedMode
    delayed: Delayed
    unique: Unique
    max_retry: int
    retry_delay: int
    timeout: int

    @cached_property
    def text(self) -> str:
        """The JSON that the source's decision table keeps."""
        return msgspec.json.encode(self).decode()

    @cached_property
    def id(self) -> int:
        """63 bits of the text's hash: the same decision has the same id in every process."""
        digest = hashlib.blake2b(self.text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    @classmethod
    def parse(cls, text: str) -> Decision:
        """Read what `text` wrote."""
        return msgspec.json.decode(text, type=cls)


def decide(config: Config, func: str, priority: int, usual: Serializer | None = None) -> Decision:
    """What the configuration says of a job of `func` with this priority."""
    route = config.route_for(func)
    return Decision(
        func=func,
        class_=route.class_name(func),
        queue=route.queue_name(func, priority),
        dialect=config.target.dialect,
        serializer=route.serializer,
        usual=usual if route.serializer is Serializer.AUTO else None,
        args=route.args,
        bytes=route.bytes,
        blessed=route.blessed,
        delayed=route.delayed,
        unique=route.unique,
        max_retry=route.max_retry,
        retry_delay=route.retry_delay,
        timeout=route.timeout,
    )
