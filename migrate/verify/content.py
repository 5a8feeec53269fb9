"""What a job is, as one number: decoded values in one spelling, hashed. Pure.

Both sides come here as decoded values and by readers that the copier doesn't use (Python's own `json`, the second
readers of `migrate/qudo/serializers`), so equal numbers mean that a worker sees what Qudo's worker would have seen.
1, 1.0, true and "1" are four values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec


class Origin(msgspec.Struct, gc=False):
    """What a payload's key `qudo` tells besides the identity; None: absent. Of any type where Resque was edited."""

    source: Any = None
    id: Any = None
    uniqkey: Any = None
    priority: Any = None
    retry_cnt: Any = None
    enqueue_time: Any = None

    @classmethod
    def of(cls, told: Mapping[str, object]) -> Origin:
        """From what stands under `qudo`."""
        return cls(*map(told.get, cls.__struct_fields__))

    @property
    def told(self) -> dict[str, object]:
        """What of it is there."""
        return {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}


_encode = msgspec.json.Encoder(order="sorted").encode
_encode_odd = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

#: Stands for NaN and its like, which no JSON may hold: half a surrogate pair, so that no real text is equal to it.
_NO_NUMBER = "\udfff"

_decoder = json.JSONDecoder(parse_constant=lambda name: _NO_NUMBER + name)
_decode_first = _decoder.raw_decode

_UNSIGNED = (1 << 64) - 1
#: Bits of a job's number: the others of a 64-bit word are for `sightings`.
NUMBER = ~0b11111 & _UNSIGNED


def decoded(text: bytes) -> Any:
    """The value of an entry. Raises ValueError for what is no JSON, or deeper than any job that crossed."""
    try:
        characters = text.decode()
        try:
            value, end = _decode_first(characters)
        except json.JSONDecodeError:
            end = -1
        # With blanks around it, or broken: the decoder's own way tells.
        return value if end == len(characters) else _decoder.decode(characters)
    except UnicodeDecodeError:
        # A Perl worker's last words may be in any character set; the job that it tells of is there all the same.
        return decoded(text.decode("utf-8", "replace").encode())
    except RecursionError:
        raise ValueError("nested too deep") from None


def spelling(value: object) -> bytes:
    """One spelling for each decoded value."""
    try:
        return _encode(value)
    except (UnicodeEncodeError, RecursionError):  # half a surrogate pair, which msgspec refuses to write
        return _encode_odd(value).encode()


def work_number(class_: object, args: object) -> int:
    """59 bits for what a worker runs: class and args. The same in one process only."""
    return hash(spelling((class_, args))) & NUMBER


def job_number(class_: object, args: object, origin: Origin, queue_number: int) -> int:
    """59 bits for all of a job that must have crossed unchanged: class, args, where it came from, its queue."""
    told = (
        class_,
        args,
        origin.source,
        origin.id,
        origin.uniqkey,
        origin.priority,
        origin.retry_cnt,
        origin.enqueue_time,
    )
    return (hash(spelling(told)) ^ queue_number) & NUMBER


class QueueNumbers:
    """A queue's name as a number, to be mixed into a job's."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, queue: object) -> int:
        """64 bits, the same for the same queue; what is no name has a number, too."""
        if not isinstance(queue, str):
            return hash(("no queue", spelling(queue))) & _UNSIGNED
        number = self._known.get(queue)
        if number is None:
            number = self._known[queue] = hash(("queue", queue)) & _UNSIGNED
        return number
