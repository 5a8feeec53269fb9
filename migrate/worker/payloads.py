"""What a queue's entry says, and the text of its next try. Pure: no I/O.

Values are decoded by the standard library, which keeps integers of any size; texts of a next try carry the arguments'
very bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from json.scanner import make_scanner
from typing import Any, NamedTuple

import msgspec

from migrate.resque.dialects import FACTS, Dialect

_encode = msgspec.json.encode


class NotAJob(Exception):
    """A text that no worker could perform; says why, without the data."""


class Payload(NamedTuple):
    """One job as a worker takes it."""

    text: bytes
    value: dict[str, Any]
    class_name: str
    args: list[Any]
    retries: int  #: failures so far, those in Qudo too
    max_retry: int  #: what the payload itself allows; 0: it doesn't say


class NextTry(NamedTuple):
    """The texts of a job's next try."""

    queued: bytes  #: for its queue
    delayed: bytes  #: for the delayed layout
    left_behind: bytes  #: the inside of an object with the keys that the delayed text must not carry, or nothing
    content: str  #: names class, args and queue: by it the keys left behind are found again; "" where nothing is


def decode(text: bytes) -> Payload:
    """Raises NotAJob."""
    try:
        value = _value(text.decode())
    except (ValueError, RecursionError):
        raise NotAJob("not JSON, or no UTF-8") from None
    if not isinstance(value, dict):
        raise NotAJob("not a JSON object")
    name, args = value.get("class"), value.get("args")
    if not isinstance(name, str) or not name:
        raise NotAJob("names no class")
    if args is None:
        args = []
    if not isinstance(args, list):
        raise NotAJob(f"args of {name} are no list")
    return Payload(text, value, name, args, _retries(value), _count(value.get("max_retry")))


def _value(text: str) -> Any:
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)  # space around it, or more than one value


def _refuse(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are no JSON


#: Made once: `json.loads` would make one for each text, which costs a child more than the decoding (seen).
_decoder = json.JSONDecoder(parse_constant=_refuse)
_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_decoder)  # type: ignore[arg-type]


def _retries(value: dict[str, Any]) -> int:
    """Resque's own count where there is one; else how often the job had failed in Qudo."""
    if "retry_count" in value:
        return _count(value["retry_count"])
    ours = value.get("qudo")
    return _count(ours.get("retry_cnt")) if isinstance(ours, dict) else 0


def _count(value: object) -> int:
    """Perl may have written a number as a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else 0


def next_try(payload: Payload, queue: str, max_retries: int, dialect: Dialect) -> NextTry:
    """The texts for one more retry, the arguments' bytes unchanged.

    Where the dialect's scheduler knows class, args and queue only, the count and what else the payload carries is left
    behind, to be found again by the content: resque-retry and node-resque count by it, too.
    """
    fields: dict[str, Any] = msgspec.json.decode(payload.text, type=dict[str, msgspec.Raw])
    fields.pop("start_time", None)  # it has come
    fields.pop("queue", None)  # the delayed layout's
    fields["retry_count"] = payload.retries + 1
    if FACTS[dialect].retry_keys:
        fields["max_retry"] = max_retries
    queued = _encode(fields)
    core = {"class": fields.pop("class"), "args": fields.pop("args", []), "queue": queue}
    ordered = {name: core[name] for name in FACTS[dialect].delayed_order}
    if FACTS[dialect].delayed_extras:
        return NextTry(queued, _encode({**ordered, **fields}), b"", "")
    return NextTry(queued, _encode(ordered), _encode(fields)[1:-1], content(payload, queue))


def content(payload: Payload, queue: str) -> str:
    """One spelling of class, args and queue, whoever has encoded them: numbers as doubles, as Node has them."""
    return json.dumps([payload.class_name, _as_doubles(payload.args), queue], sort_keys=True, separators=(",", ":"))


def _as_doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_doubles(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    return value


def with_keys(text: bytes, inside: bytes) -> bytes:
    """The text of an object with these keys in front."""
    return b"{" + inside + b"," + text.lstrip()[1:]
