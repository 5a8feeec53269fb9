"""What a child does: it gets jobs over a socket, performs them, and says how they ended. It knows no Redis."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextvars import copy_context

import msgspec

from migrate.worker import frames, lineage
from migrate.worker.functions import Registry
from migrate.worker.payloads import decode
from migrate.worker.performing import Attempt, Outcome, attempt_at, perform
from migrate.worker.retries import Policy

#: Jobs after which Python has learned what it wants to know.
WARM_UPS = 20


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One job on its way to a child, with the rules that hold for it."""

    queue: str
    text: bytes
    max_retries: int
    timeout: float
    retry_delay: float | None  #: None: the function that the app has given decides


#: Made once: a coder for each message would cost a child a tenth of a job (seen).
encode = msgspec.msgpack.Encoder().encode
read_outcome = msgspec.msgpack.Decoder(Outcome).decode
_read_order = msgspec.msgpack.Decoder(Order).decode


def order_of(text: bytes, attempt: Attempt) -> Order:
    """What a child needs to know to make the same attempt."""
    running, delay = attempt.running, attempt.retry_delay
    fixed = None if callable(delay) else delay
    return Order(running.queue, text, running.max_retries, running.timeout, fixed)


def attempt_of(order: Order, registry: Registry) -> Attempt:
    """Raises only for what the worker has refused before."""
    payload = decode(order.text)
    function = registry.find(payload.class_name)
    if function is None:
        raise LookupError(payload.class_name)
    delay = function.retry_delay if order.retry_delay is None else order.retry_delay
    policy = Policy(order.max_retries, delay or 0.0, order.timeout)
    return attempt_at(function, payload, policy, order.queue)


def serve(worker: int, registry: Registry, jobs: int) -> None:
    """Perform so many jobs, or fewer when the worker closes its end of this descriptor."""
    for _ in range(jobs):
        frame = frames.receive(worker)
        if frame is None:
            return
        attempt = attempt_of(_read_order(frame), registry)
        running = attempt.running
        lineage.set_title(f"Processing {running.queue} since {int(time.time())} [{running.class_name}]")
        outcome = perform(attempt)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:  # noqa: BLE001, S110  whatever the app has put there
            pass
        frames.send(worker, encode(outcome))


def warm_up() -> None:
    """Serve some jobs that do nothing, before a fork: Python writes what it learns of code into the code.

    In a child each such write copies a page, and each copy costs two microseconds.
    """
    registry = Registry()
    registry("nothing")(lambda *_: None)
    text = json.dumps({"class": "nothing", "args": [{}]}).encode()
    order = encode(Order("", text, 0, 0.0, 0.0))
    ours, childs = socket.socketpair()
    with ours, childs:
        for _ in range(WARM_UPS):
            frames.send(ours.fileno(), order)
            copy_context().run(serve, childs.fileno(), registry, 1)  # no job runs here
            read_outcome(frames.receive(ours.fileno()) or b"")
