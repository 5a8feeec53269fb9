"""Which jobs of one source a rollback may take out of Resque. Decides; reads the outbox and failures, writes nothing.

An entry is judged by its identity. Where a scheduler has dropped that (delayed jobs, dialects ruby and node), any entry
alike in class and args will do, each for one row: jobs alike are worth the same.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from migrate.config import Delayed
from migrate.decision import Decision
from migrate.engine.natives import Natives
from migrate.engine.routing import Routing
from migrate.errors import Untranslatable
from migrate.identities import Identities, Told
from migrate.jobs import Identity
from migrate.parts import in_parts
from migrate.qudo import outbox, returning
from migrate.qudo.outbox import Chunk
from migrate.qudo.returning import Crossed
from migrate.qudo.source import Source
from migrate.resque import ledger, taking
from migrate.resque.dialects import FACTS
from migrate.resque.taking import Entry, Place
from migrate.resque.target import Target

#: Outbox rows that one statement reads by identity.
_ROWS_PER_READ = 300
#: Jobs that workers have begun whose rows are read together.
_BEGUN_PER_READ = 5000
#: What stands in the text of a job born in Resque; others may have it by chance.
_NATIVE = b'"native"'


class Returnable:
    """Judges the jobs of one source, pass after pass."""

    def __init__(
        self, source: Source, target: Target, routing: Routing, func_glob: str | None, natives: Natives
    ) -> None:
        """`natives` judges jobs that were born in Resque."""
        self._natives = natives
        self._source = source
        self._target = target
        self._routing = routing
        self._func_ids = {
            func_id
            for func_id, name in routing.names.items()
            if func_glob is None or fnmatch.fnmatchcase(name, func_glob)
        }
        #: Classes that jobs of the funcs asked for can have; None: all funcs are.
        self._classes = None if func_glob is None else self._classes_of(func_glob)
        self._begun = Identities()
        self._alike: _Alike | None = None
        self._stays = Told()  #: what stays in Resque, and why: `started`, `held`
        self.purged = Identities()  #: in Resque, but their outbox rows were purged

    def _classes_of(self, func_glob: str) -> frozenset[str]:
        with self._source.reading() as connection:
            all_decisions = map(Decision.parse, returning.decisions(connection))
        return frozenset(each.class_ for each in all_decisions if fnmatch.fnmatchcase(each.func, func_glob))

    def begin_pass(self) -> None:
        """Look anew at what workers have begun."""
        self._begun = Identities()
        self._stays = Told()
        self.purged = Identities()
        self._natives.begin_pass()
        if self._alike is not None:
            self._alike.begin_pass()
        for text in taking.begun(self._target):
            note = _decoded(text)
            payload = note.get("payload") if isinstance(note, dict) else None
            self._natives.begun(payload)
            identity = self._own_identity(payload)
            if identity is not None:
                self._begun.add(identity)
        for some in in_parts(self._begun, _BEGUN_PER_READ):
            for identity in self._chosen(some):
                self._stays.tell(identity, "started")

    def of_page(self, place: Place, texts: Sequence[bytes]) -> list[Entry]:
        """The entries of a page that may be taken."""
        own: dict[Identity, tuple[bytes, int]] = {}
        strange: list[tuple[bytes, Any]] = []
        copies: list[Entry] = []
        native: list[bytes] = []
        for text in texts:
            if _NATIVE in text:
                native.append(text)
            if self._classes is not None and _class(text) not in self._classes:
                continue  # most of a queue that other funcs share: nothing of it needs its row
            job = _decoded(text)
            if not isinstance(job, dict):
                continue
            if "qudo" not in job:
                strange.append((text, job))
            elif (identity := self._own_identity(job)) is not None:
                if identity in own:
                    copies.append(Entry(identity, text, own=True))
                own.setdefault(identity, (text, _retries(job)))
        free = self._free(own)
        entries = [Entry(identity, own[identity][0], own=True) for identity in own if identity in free]
        entries += [copy for copy in copies if copy.identity in free]
        return entries + self._among_strange(place, strange) + self._natives.of_page(place, native)

    def of_chunk(self, record: Chunk) -> list[int]:
        """The seqs of a chunk's undelivered jobs that may be claimed."""
        done = ledger.delivered(self._target, record.batch, record.first_seq, record.last_seq)
        with self._source.reading() as connection:
            rows = [row for row in returning.crossed_in(connection, record) if row.identity.seq not in done]
            chosen = [row for row in rows if row.func_id in self._func_ids]
            held = self._held(connection, chosen)
        return [row.identity.seq for row in chosen if row.identity not in held]

    def remaining(self) -> int:
        """Outbox rows of the funcs asked for."""
        with self._source.reading() as connection:
            return returning.count(connection, self._func_ids)

    def counts(self) -> Counter[str]:
        """What stays in Resque, as the last pass saw it."""
        return self._stays.counts()

    def _free(self, own: Mapping[Identity, tuple[bytes, int]]) -> set[Identity]:
        """Those that nobody has started and whose uniqkey has room in `job`."""
        rows = self._chosen(own, waiting=True)
        for identity, row in rows.items():
            if identity in self._begun or own[identity][1] > row.retry_cnt:
                self._stays.tell(identity, "started")
        idle = [row for identity, row in rows.items() if not self._stays.is_told(identity, "started")]
        with self._source.reading() as connection:
            held = self._held(connection, idle)
        return {row.identity for row in idle if row.identity not in held}

    def _chosen(self, identities: Collection[Identity], *, waiting: bool = False) -> dict[Identity, Crossed]:
        """The outbox rows of those that belong to the funcs asked for."""
        if not identities:
            return {}
        with self._source.reading() as connection:
            rows = returning.crossed(self._source, connection, identities)
        if waiting:
            self.purged.update(identity for identity in identities if identity not in rows)
        return {identity: row for identity, row in rows.items() if row.func_id in self._func_ids}

    def _held(self, connection: Connection, rows: Sequence[Crossed]) -> set[Identity]:
        keyed = [row.identity for row in rows if row.has_uniqkey]
        held = returning.with_held_keys(self._source, connection, keyed) if keyed else set()
        for identity in held:
            self._stays.tell(identity, "held")
        return held

    def _among_strange(self, place: Place, strange: Sequence[tuple[bytes, Any]]) -> list[Entry]:
        if not strange:
            return []
        if self._alike is None:
            self._alike = _Alike(self._source, self._target, self._routing, self._func_ids)
        found = []
        for text, job in strange:
            if not _retries(job) and (row := self._alike.row_for(job, place, self._begun)) is not None:
                found.append((row, text))
        with self._source.reading() as connection:
            held = self._held(connection, [row for row, _ in found])
        return [Entry(row.identity, text, own=False) for row, text in found if row.identity not in held]

    def _own_identity(self, job: Any) -> Identity | None:
        """The identity of a job of this source."""
        ours = job.get("qudo") if isinstance(job, dict) else None
        if not isinstance(ours, dict) or ours.get("source") != self._source.name:
            return None
        try:
            return Identity.parse(ours["outbox"])
        except (KeyError, TypeError, ValueError):
            return None


class _Alike:
    """Rows whose jobs lost their identity on the way through the delayed layout, by content."""

    def __init__(self, source: Source, target: Target, routing: Routing, func_ids: Collection[int]) -> None:
        self._source = source
        self._routing = routing
        with source.reading() as connection:
            self._now = source.now(connection)
            rows = {row.identity: row for row in returning.delayed(connection, func_ids)}
        delivered = ledger.delivered_many(target, rows)
        self._rows: dict[str, list[Crossed]] = defaultdict(list)
        listed = sorted(delivered)
        for start in range(0, len(listed), _ROWS_PER_READ):
            for identity, content in self._contents(listed[start : start + _ROWS_PER_READ]):
                self._rows[content].append(rows[identity])
        self._used: set[Identity] = set()

    def begin_pass(self) -> None:
        """All rows are there to be found again; what was taken before, the script refuses."""
        self._used = set()

    def row_for(self, job: Any, place: Place, begun: Identities) -> Crossed | None:
        """A row that this entry can account for, each once a pass: due at this second, or due by now in a queue."""
        for row in self._rows.get(_content(job), ()):
            in_place = row.run_after == place.second if place.second is not None else row.run_after <= self._now + 1
            if in_place and row.identity not in self._used and row.identity not in begun:
                self._used.add(row.identity)
                return row
        return None

    def _contents(self, identities: Sequence[Identity]) -> list[tuple[Identity, str]]:
        with self._source.reading() as connection:
            rows = outbox.rows_of(self._source, connection, identities, self._routing.names)
            decisions = outbox.read_decisions(connection, {row.decision for row in rows})
        found = []
        for row in rows:
            text = decisions.get(row.decision)
            if text is None or not _loses_identity(Decision.parse(text)):
                continue
            try:
                job = self._routing.translate_moved(row.job, text, row.identity, 0).job
            except Untranslatable:
                continue
            found.append((row.identity, _content(_decoded(job.payload))))
        return found


def _loses_identity(decision: Decision) -> bool:
    return decision.delayed is Delayed.SCHEDULER and not FACTS[decision.dialect].delayed_extras


def _content(job: Any) -> str:
    """Class and args, in one spelling whoever encoded them."""
    return json.dumps([job.get("class"), job.get("args")], sort_keys=True, separators=(",", ":"))


def _retries(job: Any) -> int:
    """How often the Perl plugin has pushed this job back, beyond what it came with."""
    count = job.get("retry_count", 0)
    return count if isinstance(count, int) else 0


class _Head(msgspec.Struct, gc=False):
    """As much of an entry as tells whose it is not."""

    class_: str = msgspec.field(name="class", default="")


_decode_head = msgspec.json.Decoder(_Head).decode


def _class(text: bytes) -> str:
    """The class of an entry; "" for what is no job."""
    try:
        return _decode_head(text).class_
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _decoded(text: bytes) -> Any:
    """The value of an entry; None for what is no JSON, or deeper than any job that crossed."""
    try:
        return msgspec.json.decode(text)
    except UnicodeDecodeError:
        return _decoded(text.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError):
        return None
