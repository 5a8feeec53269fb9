"""Prometheus's text format over HTTP: families of samples, a histogram, and a small server. Knows nothing of jobs."""

from __future__ import annotations

import bisect
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from migrate.errors import UsageError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds that a client may take for its request.
CLIENT_SECONDS = 5.0


class Sample(NamedTuple):
    """One value. `suffix` stands behind the family's name, as `_bucket` does."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """Samples of one name. `kind`: counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


class Histogram:
    """Counts of observations by upper bounds. Usable from several threads."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = sorted(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, as often as it was met."""
        place = bisect.bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += times
            self._sum += value * times

    def samples(self, labels: Mapping[str, str]) -> list[Sample]:
        """What Prometheus wants of it: cumulative buckets, sum and count."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        found: list[Sample] = []
        below = 0
        for bound, count in zip([*self._bounds, float("inf")], counts, strict=True):
            below += count
            found.append(Sample({**labels, "le": _number(bound)}, below, "_bucket"))
        return [*found, Sample(labels, total, "_sum"), Sample(labels, below, "_count")]


def render(families: Iterable[Family]) -> str:
    """The text that a scrape gets."""
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
            lines.append(f"{family.name}{sample.suffix}{{{labels}}} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


class Exposition:
    """Serves `/metrics` in threads of its own. A context manager: listens from the start to the end of the block."""

    def __init__(self, address: str, collect: Callable[[], Iterable[Family]]) -> None:
        """`address`: HOST:PORT, [V6]:PORT or a port of 127.0.0.1; port 0: any. Raises UsageError."""
        host, port = parse_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = type("_Server", (ThreadingHTTPServer,), {"address_family": family, "daemon_threads": True})
        handler = type("_Bound", (_Handler,), {"collect": staticmethod(collect)})
        try:
            self._server: ThreadingHTTPServer = server((host, port), handler)
        except OSError as error:
            raise UsageError(f"--metrics {address}: can't listen there: {error.strerror or error}") from error
        self.port: int = self._server.server_address[1]
        self.url = f"http://[{host}]:{self.port}/metrics" if ":" in host else f"http://{host}:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> Exposition:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port. Raises UsageError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--metrics {text}: write HOST:PORT, e.g. 127.0.0.1:9108")
    return host or "127.0.0.1", int(port)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    collect: Callable[[], Iterable[Family]]

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "look at /metrics")
            return
        body = render(self.collect()).encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: stderr is for people and logs."""
