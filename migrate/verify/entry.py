"""What an entry of Resque tells: the job in it, its identity, where it belongs. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from migrate.resque.entries import Entry
from migrate.resque.looking import Place
from migrate.verify import content
from migrate.verify.content import Origin


class Told(NamedTuple):
    """A job as Resque holds it."""

    job: dict[str, Any]
    queue: object  #: the queue that it is in, goes to, or came from
    origin: dict[str, Any] | None  #: what its key `qudo` says
    outbox: str | None  #: its identity as it stands there


class _Named(Origin, gc=False, kw_only=True):
    """An origin that has an identity."""

    outbox: str


class UsualJob(msgspec.Struct, gc=False):
    """A job with an identity, in a queue or a delayed list: what nearly all entries are."""

    qudo: _Named
    class_: Any = msgspec.field(name="class", default=None)
    args: Any = None
    queue: Any = None  #: of a delayed job


_decode_usual = msgspec.json.Decoder(UsualJob).decode


def usual(text: bytes) -> UsualJob | None:
    """The usual entry, read in a third of the time; None for any other, which `told` reads.

    The reader is another one than Qudo's args are read by. What it reads otherwise, a second look compares in detail.
    """
    try:
        return _decode_usual(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def told(entry: Entry) -> Told | None:
    """The job of an entry; None for history: a failure that was put back. Raises ValueError for what isn't a job."""
    value = content.decoded(entry.text)
    if not isinstance(value, dict):
        raise ValueError("not a job")  # noqa: TRY004  whatever isn't a job is one kind of error
    queue: object = entry.where
    job = value
    if entry.place is Place.FAILED and value.get("retried_at"):
        return None
    if entry.place is Place.WORKING or entry.place is Place.FAILED:
        queue, payload = value.get("queue"), value.get("payload")
        if not isinstance(payload, dict):
            raise ValueError("not a job")
        job = payload
    elif entry.place is Place.DELAYED:
        queue = value.get("queue")
    origin = job.get("qudo")
    if not isinstance(origin, dict):
        return Told(job, queue, None, None)
    outbox = origin.get("outbox")
    return Told(job, queue, origin, outbox if isinstance(outbox, str) else None)
