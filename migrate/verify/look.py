"""The first look at Resque: reads every entry once, and keeps what the comparison needs in small memory.

Reads Redis only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from migrate.jobs import Identity
from migrate.resque import entries, owners
from migrate.resque.entries import Entry, Page
from migrate.resque.looking import Place
from migrate.resque.target import Target
from migrate.verify import content
from migrate.verify.alike import Alike
from migrate.verify.content import Origin, QueueNumbers
from migrate.verify.entry import Told, told, usual
from migrate.verify.findings import Findings
from migrate.verify.order import Order
from migrate.verify.sightings import LAST_SEQ, PLACE_CODES, Batch, Sightings, describe
from migrate.verify.words import Kind

#: Letters of names out of Redis that a finding shows: they may be anything.
SHOWN_LETTERS = 120


class Look:
    """What Resque held. `foreign`, `imported` and `native` are whole only when `run` has come to its end."""

    def __init__(self, target: Target, known: Mapping[int, str], sources: Collection[str], findings: Findings) -> None:
        """`known`: the owner of each batch; `sources`: the names in the configuration."""
        self._target = target
        self._known = dict(known)
        self._sources = sources
        self._findings = findings
        self.queue_numbers = QueueNumbers()
        self.sightings = Sightings()
        self._order = Order(self.sightings)
        self.alike = Alike()
        self.foreign: Counter[str] = Counter()  #: by source; "" for none of ours
        self.imported: Counter[tuple[str, str]] = Counter()  #: by source and class
        self.natives = 0  #: entries that say themselves that they were born in Resque
        self.entries = 0

    def run(self, pulse: Callable[[int], None]) -> None:
        """Read everything; `pulse` hears of each page's entries and may raise to end the look."""
        for page in entries.pages(self._target):
            if page.place is Place.QUEUED or page.place is Place.DELAYED:
                self._usual(page)
            else:
                for text in page.texts:
                    self._meet(Entry(text, page.place, page.where))
            self.entries += len(page.texts)
            pulse(len(page.texts))
        self.alike.ready()

    def _usual(self, page: Page) -> None:
        """A page of what are jobs with an identity, nearly all of them."""
        _, place, where = page
        code, is_queue = PLACE_CODES[place], place is Place.QUEUED
        queue_number = self.queue_numbers(where)
        see, meets, locate, job_number = self.sightings.see, self._order.meets, self.locate, content.job_number
        for text in page.texts:
            job = usual(text)
            located = locate(job.qudo.outbox) if job is not None else ""
            if job is None or isinstance(located, str):
                self._meet(Entry(text, place, where))
                continue
            batch, seq = located
            of_queue = queue_number if is_queue else self.queue_numbers(job.queue)
            see(batch, seq, job_number(job.class_, job.args, job.qudo, of_queue), code)
            if is_queue:
                meets(where, batch, seq)

    def _meet(self, entry: Entry) -> None:
        """Any other entry."""
        try:
            found = told(entry)
        except ValueError:
            self._note_foreign(entry, None, "it isn't a job")
            return
        if found is None:
            return
        if found.outbox is None:
            self._without_identity(entry, found)
            return
        located = self.locate(found.outbox)
        if isinstance(located, str):
            self._note_foreign(entry, found, located)
            return
        batch, seq = located
        job, origin = found.job, found.origin or {}
        queue_number = self.queue_numbers(found.queue)
        number = content.job_number(job.get("class"), job.get("args"), Origin.of(origin), queue_number)
        self.sightings.see(batch, seq, number, PLACE_CODES[entry.place])
        if entry.place is Place.QUEUED:
            self._order.meets(entry.where, batch, seq)

    def locate(self, name: str) -> tuple[Batch, int] | str:
        """Batch and seq of an identity as it stands in a payload, or why there is no such one."""
        digits, _, number = name.partition("-")
        batch = self.sightings.batches.get(digits)
        if batch is None:
            located = self._first_of_batch(name)
            if isinstance(located, str):
                return located
            batch = located
        if not (number.isascii() and number.isdigit()) or len(number) > 5 or (number[0] == "0" and number != "0"):
            return "it has no valid identity"
        seq = int(number)
        return (batch, seq) if seq <= LAST_SEQ else "it has no valid identity"

    def _first_of_batch(self, name: str) -> Batch | str:
        try:
            identity = Identity.parse(name)
        except ValueError:
            return "it has no valid identity"
        source = self.owner(identity.batch)
        if source is None:
            return "nothing of its batch was ever handed off"
        if source not in self._sources:
            return f"the configuration has no source {source[:SHOWN_LETTERS]}"
        return self.sightings.batch(identity.batch, source)

    def owner(self, batch: int) -> str | None:
        """The source of a batch, of one that appeared meanwhile, too."""
        source = self._known.get(batch)
        if source is None:
            source = owners.owner(self._target, batch)
            if source is not None:
                self._known[batch] = source
        return source

    def _without_identity(self, entry: Entry, found: Told) -> None:
        origin = found.origin
        if origin is not None and "exception_log" in origin and entry.place is Place.FAILED:
            source = origin.get("source")
            if source in self._sources:
                self.imported[str(source), str(found.job.get("class"))] += 1
            else:
                self._note_foreign(entry, found, "a failure of a source that the configuration doesn't have")
            return
        if origin is not None and "native" in origin:
            self.natives += 1
            return
        if origin is not None and ("id" in origin or "outbox" in origin):
            self._note_foreign(entry, found, "it has no valid identity")
            return
        job = found.job
        second = int(entry.where) if entry.place is Place.DELAYED and entry.where.isdigit() else 0
        number = content.work_number(job.get("class"), job.get("args"))
        self.alike.add(number, self.queue_numbers(found.queue), second, entry.place)

    def _note_foreign(self, entry: Entry, found: Told | None, reason: str) -> None:
        origin: Mapping[str, Any] = found.origin or {} if found else {}
        source, job_id = origin.get("source"), origin.get("id")
        named = source if isinstance(source, str) else None
        self.foreign[named if named in self._sources and named is not None else ""] += 1
        class_ = found.job.get("class") if found else None
        self._findings.add(
            Kind.FOREIGN,
            f"{describe(entry.place, entry.where[:SHOWN_LETTERS])}: {reason}",
            source=named[:SHOWN_LETTERS] if named else None,
            id=job_id if type(job_id) is int and 0 <= job_id < 1 << 64 else None,
            outbox=found.outbox[:SHOWN_LETTERS] if found and found.outbox else None,
            func=class_[:SHOWN_LETTERS] if isinstance(class_, str) else None,
        )
