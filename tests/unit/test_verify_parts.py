"""The pure parts of a verification: numbers for content, small memory for sightings, entries without an identity."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.config import parse
from migrate.decision import decide
from migrate.jobs import Identity, QudoJob
from migrate.resque.entries import ANCHOR_ENTRIES, Entry, fresh_from, from_tail
from migrate.resque.looking import Place
from migrate.resque.target import Target
from migrate.verify import content, html
from migrate.verify.alike import Alike, Taken
from migrate.verify.entry import told
from migrate.verify.expected import differs, expected
from migrate.verify.findings import Finding, Findings
from migrate.verify.order import Order
from migrate.verify.plot import plot
from migrate.verify.report import Report, SourceReport
from migrate.verify.sightings import LAST_SEQ, PLACE, PLACE_CODES, SEVERAL, VISITED, Sightings
from migrate.verify.throughput import WIDTHS, Span, Throughput
from migrate.verify.values import difference
from migrate.verify.words import BESIDE, STATES, Jobs, Kind
from tests.schemas import SCHEMAS, check

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([0, 0.0, -0.0, 1, 1.0, True, "1", "", "\ud800", 2**53, float(2**53)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)

# --- content --------------------------------------------------------------------------------------------------------


@given(values, values)
def test_two_values_have_one_spelling_only_if_a_worker_cannot_tell_them_apart(left: Any, right: Any) -> None:
    assert (content.spelling(left) == content.spelling(right)) == (difference(left, right) is None)


@given(values, st.booleans(), st.integers(0, 3))
def test_decoding_does_not_depend_on_who_encoded(value: Any, ascii_only: bool, blanks: int) -> None:
    text = " " * blanks + json.dumps(value, ensure_ascii=ascii_only, indent=blanks or None) + "\n" * blanks
    with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair has no bytes
        assert difference(value, content.decoded(text.encode())) is None


@pytest.mark.parametrize("text", [b"", b"{", b"{} x", b"[1,]", b"[" * 100_000])
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        content.decoded(text)


def test_nan_is_equal_to_nothing_that_json_may_hold() -> None:
    found = content.decoded(b"[NaN, Infinity]")
    assert content.spelling(found) != content.spelling([None, None])
    assert content.spelling(found) != content.spelling(["NaN", "Infinity"])


# --- entries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pushed", [0, 1, 3, 7, 12])
@pytest.mark.parametrize("popped", [0, 1, 5, 12, 40])
def test_a_list_that_is_pushed_and_popped_while_it_is_read_gives_each_entry_once(pushed: int, popped: int) -> None:
    entries = [b"%d" % number for number in range(100)]
    numbers = itertools.count()
    pages = 0

    class Client:
        def lrange(self, _key: bytes, first: int, last: int) -> list[bytes]:
            nonlocal pages
            pages += 1
            page = entries[max(0, len(entries) + first) : max(0, len(entries) + last + 1)]
            entries.extend(b"new %d" % next(numbers) for _ in range(pushed))
            del entries[:popped]
            return page

    class Reader:
        @contextlib.contextmanager
        def commands(self) -> Iterator[Client]:
            yield Client()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("migrate.resque.entries.FIRST_PAGE_ENTRIES", 20)
        patch.setattr("migrate.resque.entries.MOST_PAGE_ENTRIES", 20)
        seen = list(itertools.chain.from_iterable(from_tail(cast("Target", Reader()), b"key")))

    assert max(Counter(seen).values()) == 1
    still_there = set(entries) & {b"%d" % number for number in range(100)}
    assert still_there <= set(seen)
    assert pages > 2


@pytest.mark.parametrize("taken", [1, 5, 19, 30, 60])
def test_entries_taken_near_the_tail_hide_none(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback takes some before each page; what is left shifts towards the tail."""
    entries = [b"%d" % number for number in range(500)]
    gone: set[bytes] = set()

    class Client:
        def lrange(self, _key: bytes, first: int, last: int) -> list[bytes]:
            page = entries[max(0, len(entries) + first) : max(0, len(entries) + last + 1)]
            if len(gone) < 240:
                gone.update(entries[-taken:])
                del entries[-taken:]
            return page

    class Reader:
        @contextlib.contextmanager
        def commands(self) -> Iterator[Client]:
            yield Client()

    for name, value in {"FIRST_PAGE_ENTRIES": 20, "MOST_PAGE_ENTRIES": 20, "STEP_BACK_ENTRIES": 20}.items():
        monkeypatch.setattr(f"migrate.resque.entries.{name}", value)
    seen = list(itertools.chain.from_iterable(from_tail(cast("Target", Reader()), b"key")))
    assert set(entries) <= set(seen)
    assert len(gone) >= min(240, 21 * taken)


def test_entries_alike_are_all_given() -> None:
    assert fresh_from([b"a"] * 20, [b"a"] * 28) == ANCHOR_ENTRIES
    assert fresh_from([], [b"a", b"a"]) == 0


def test_an_entry_taken_out_of_the_middle_hides_none() -> None:
    before = [b"%d" % number for number in range(20)]
    gone = before[12:15]
    page = [text for text in [*before[10:], b"x", b"y"] if text not in gone]
    assert page[fresh_from(before, page) :] == [b"x", b"y"]


@pytest.mark.parametrize(
    ("entry", "queue"),
    [
        (Entry(b'{"class":"A","args":[]}', Place.QUEUED, "q"), "q"),
        (Entry(b'{"class":"A","args":[],"queue":"q"}', Place.DELAYED, "5"), "q"),
        (Entry(b'{"queue":"q","payload":{"class":"A","args":[]}}', Place.WORKING, "w"), "q"),
        (Entry(b'{"queue":"q","payload":{"class":"A","args":[]},"retried_at":null}', Place.FAILED, "failed"), "q"),
    ],
)
def test_the_job_of_an_entry(entry: Entry, queue: str) -> None:
    found = told(entry)
    assert found is not None
    assert (found.job["class"], found.queue, found.outbox) == ("A", queue, None)


def test_a_failure_that_was_put_back_is_history() -> None:
    assert told(Entry(b'{"payload":{"class":"A"},"retried_at":"2026"}', Place.FAILED, "failed")) is None


@pytest.mark.parametrize("text", [b"[]", b"1", b'{"payload":[]}', b"{}"])
def test_what_is_no_failure_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a job"):
        told(Entry(text, Place.FAILED, "failed"))


# --- sightings ------------------------------------------------------------------------------------------------------


def test_a_million_identities_take_eight_bytes_each() -> None:
    sightings = Sightings()
    for number in range(16):
        batch = sightings.batch(number, "main")
        for seq in range(LAST_SEQ, -1, -1):
            sightings.see(batch, seq, 1 << 5, PLACE_CODES[Place.QUEUED])
    size = sum(each.words.buffer_info()[1] * each.words.itemsize for each in sightings.batches.values())
    assert size == 16 * (LAST_SEQ + 1) * 8
    assert not sightings.copies


def test_copies_are_counted_and_the_furthest_place_counts() -> None:
    sightings = Sightings()
    batch = sightings.batch(7, "main")
    for place in (Place.DELAYED, Place.QUEUED, Place.FAILED):
        sightings.see(batch, 3, 0, PLACE_CODES[place])
    assert sightings.copies == {Identity(7, 3): 3}
    assert batch.word(3) & PLACE == 4
    assert batch.word(3) & SEVERAL
    assert batch.word(4) == batch.word(60_000) == 0
    assert list(batch.unvisited) == [3]
    batch.put(9, VISITED)
    assert list(batch.unfound) == [9]


@pytest.mark.parametrize(
    ("queue", "late"),
    [([1, 2, 3], []), ([3, 1, 2], [2]), ([2, 3, 1], [1]), ([3, 2, 1], [1, 2]), ([1, 3, 2, 4], [2]), ([2, 2], [])],
)
def test_jobs_behind_younger_ones_are_late(queue: list[int], late: list[int]) -> None:
    """Of 3, 1, 2 one is out of order, whichever: 3 stands too far ahead, 2 is the one behind it that is named."""
    sightings = Sightings()
    order = Order(sightings)
    batch = sightings.batch(7, "main")
    for seq in reversed(queue):
        order.meets("q", batch, seq)
    assert sorted(identity.seq for identity in sightings.late) in (late, [1] if queue == [3, 1, 2] else late)


def test_order_is_a_matter_of_one_queue_and_one_batch() -> None:
    sightings = Sightings()
    order = Order(sightings)
    one, two = sightings.batch(1, "main"), sightings.batch(2, "main")
    for queue, batch, seq in (("a", one, 1), ("a", two, 9), ("b", one, 5), ("b", two, 2)):
        order.meets(queue, batch, seq)
    assert sightings.late == {}


# --- entries without an identity ------------------------------------------------------------------------------------


def _alike(*entries: tuple[int, int, int, Place]) -> Alike:
    alike = Alike()
    for work, queue, second, place in entries:
        alike.add(work, queue, second, place)
    alike.ready()
    return alike


def test_each_entry_accounts_for_one_job() -> None:
    alike = _alike((32, 1, 500, Place.DELAYED), (32, 1, 500, Place.DELAYED), (64, 1, 0, Place.QUEUED))
    taken = [alike.take(32, 1, 500, Identity(1, seq)) for seq in range(3)]
    assert taken == [Taken(Place.DELAYED, other_queue=False)] * 2 + [None]
    assert alike.unaccounted == 1
    assert alike.doubled() == []


def test_the_job_of_that_second_is_preferred_and_a_moved_one_is_found() -> None:
    alike = _alike((32, 1, 600, Place.DELAYED), (32, 1, 0, Place.QUEUED), (32, 1, 500, Place.DELAYED))
    assert alike.take(32, 1, 500, Identity(1, 1)) == Taken(Place.DELAYED, other_queue=False)
    assert alike.take(32, 1, 700, Identity(1, 2)) == Taken(Place.QUEUED, other_queue=False)
    assert alike.take(32, 1, 800, Identity(1, 3)) == Taken(Place.DELAYED, other_queue=False)


def test_another_queue_is_another_job_unless_it_waits_for_the_same_second() -> None:
    alike = _alike((32, 2, 0, Place.QUEUED), (64, 2, 500, Place.DELAYED))
    assert alike.take(32, 1, 500, Identity(1, 1)) is None
    assert alike.take(64, 1, 500, Identity(1, 2)) == Taken(Place.DELAYED, other_queue=True)


def test_further_entries_at_the_same_second_are_doubles_and_others_are_natives() -> None:
    alike = _alike(*[(32, 1, 500, Place.DELAYED)] * 4, (32, 1, 0, Place.QUEUED))
    alike.take(32, 1, 500, Identity(1, 1))
    alike.take(32, 1, 500, Identity(1, 2))
    (doubled,) = alike.doubled()
    assert doubled.entries == 2
    assert alike.unaccounted == 1


def test_a_hundred_thousand_jobs_alike_take_no_longer_than_others() -> None:
    alike = _alike(*[(32, 1, 500, Place.DELAYED)] * 50_000, *[(32, 1, 0, Place.QUEUED)] * 50_000)
    assert all(alike.take(32, 1, 500, Identity(1, seq)) for seq in range(100_000))
    assert alike.unaccounted == 0


# --- what must be there ---------------------------------------------------------------------------------------------


def _expected(arg: bytes, **fields: Any) -> Any:
    config = parse('[target]\nurl = "redis://h"\n[[source]]\nname = "main"\nurl = "sqlite:///x"\n', "a test", {})
    record = QudoJob("main", 7, 1, "Worker::Mail", arg, None, 5, 0, 0, 0, 0)
    return expected(msgspec.structs.replace(record, **fields), decide(config, "Worker::Mail", 0))


def _payload(args: object, **origin: object) -> dict[str, Any]:
    return {"class": "Worker::Mail", "args": args, "qudo": {"source": "main", "id": 7, "enqueue_time": 5} | origin}


def test_a_difference_is_named_by_its_path_and_never_by_its_value() -> None:
    wanted = _expected(b'{"a": [1, "secret"]}')
    same = _payload([{"a": [1, "secret"]}], outbox="…")
    assert differs(wanted, same, "worker_mail") is None
    assert differs(wanted, same, "other") == "queue: another string"
    assert differs(wanted, _payload([{"a": [1, "hidden"]}]), "worker_mail") == "args[0].a[1]: another string"
    assert differs(wanted, _payload([{"a": [1, "secret"]}], priority=3), "worker_mail") == "qudo: other keys"
    assert differs(wanted, _payload([{"a": [1, "secret"]}], id=8), "worker_mail") == "qudo.id: another integer"


def test_numbers_that_a_worker_has_read_and_written_again_are_the_same() -> None:
    wanted = _expected(b'{"a": 1.0, "b": 9007199254740993}')
    reread = _payload([{"a": 1, "b": 9007199254740992}])
    assert differs(wanted, reread, "worker_mail") is not None
    assert differs(wanted, reread, "worker_mail", numbers_reread=True) is None
    assert differs(wanted, _payload([{"a": 2, "b": 9007199254740993}]), "worker_mail", numbers_reread=True) is not None
    assert differs(wanted, _payload([{"a": "1", "b": 9007199254740993}]), "worker_mail", numbers_reread=True)


# --- throughput -----------------------------------------------------------------------------------------------------


def _spans(*moved_at: int) -> list[tuple[int, int, int]]:
    throughput = Throughput()
    throughput.add(moved_at)
    return [(each.at, each.seconds, each.moved) for each in throughput.spans()]


def test_throughput_is_in_equal_spans_without_gaps() -> None:
    assert _spans() == []
    assert _spans(7, 7, 9) == [(7, 1, 2), (8, 1, 0), (9, 1, 1)]
    assert _spans(7, 66) == [(7, 1, 1), *((at, 1, 0) for at in range(8, 66)), (66, 1, 1)]
    assert _spans(7, 67)[0] == (6, 2, 1)


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=20), max_size=5))
def test_throughput_loses_no_job_however_long_it_lasted(parts: list[list[int]]) -> None:
    throughput = Throughput()
    for part in parts:
        throughput.add(part)
    spans = throughput.spans()
    assert sum(each.moved for each in spans) == sum(map(len, parts))
    assert len(spans) <= 60 or spans[0].seconds == WIDTHS[-1]
    assert all(after.at - before.at == before.seconds for before, after in itertools.pairwise(spans))


def test_weeks_of_single_seconds_take_little_memory() -> None:
    throughput = Throughput()
    for start in range(0, 500_000, 5000):
        throughput.add(range(start, start + 5000))
    assert len(throughput._moved) <= 20_000
    assert sum(each.moved for each in throughput.spans()) == 500_000


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60), st.sampled_from(WIDTHS))
def test_every_column_is_within_the_picture(moved: list[int], seconds: int) -> None:
    moved[0] += 1
    drawn = plot([Span(n * seconds, seconds, jobs) for n, jobs in enumerate(moved)], 800, 170)
    assert drawn is not None
    for column, jobs in zip(drawn.columns, moved, strict=True):
        assert drawn.left <= column.x
        assert column.x + column.width <= drawn.width
        assert drawn.lines[-1].y - 1 <= column.y
        assert column.y + column.height <= drawn.bottom + 0.1
        assert (column.height > 0) == (jobs > 0)
    assert drawn.lines[0].y > drawn.lines[1].y


# --- the report -----------------------------------------------------------------------------------------------------


def _report(**changes: Any) -> Report:
    report = Report(
        "verify", "1", "ok", True, 0, False, "2026-01-01T00:00:00Z", 1.0, 0, 0.0, "redis://h", "resque", 0, None,
        [SourceReport("main", Jobs(), [], None)], Jobs(), [], 1000, 0, [], [], [], "qudo-migrate run",
    )  # fmt: skip
    return msgspec.structs.replace(report, **changes)


def test_records_and_schema_have_the_same_words() -> None:
    definitions = SCHEMAS["report.schema.json"]["$defs"]
    assert list(definitions["jobs"]["properties"]) == list(Jobs.__struct_fields__)
    assert set(Jobs.__struct_fields__) == {*STATES, *BESIDE, "handed_off"}
    assert list(SCHEMAS["report.schema.json"]["properties"]) == list(Report.__struct_fields__)
    assert definitions["finding"]["properties"]["kind"]["enum"] == [kind.value for kind in Kind]
    assert list(definitions["finding"]["properties"]) == list(Finding.__struct_fields__)
    assert {*STATES, *BESIDE} == html.MEANINGS.keys()
    check(msgspec.to_builtins(_report()), "report")


def test_findings_are_capped_by_kind_and_all_counted() -> None:
    findings = Findings(cap=2)
    for number in range(5):
        findings.add(Kind.MISSING, "gone", source="main", id=number)
    findings.add(Kind.FOREIGN, "odd")
    assert [(each.kind, each.id) for each in findings.listed] == [
        (Kind.MISSING, 0), (Kind.MISSING, 1), (Kind.FOREIGN, None),
    ]  # fmt: skip
    assert findings.left_out == 3
    assert not findings.has_room(Kind.MISSING)


def test_the_page_says_the_verdict_first_whatever_it_is() -> None:
    assert "✓ Ok" in html.render(_report())
    assert "! Incomplete" in html.render(_report(complete=False))
    wrong = html.render(_report(verdict="differences", totals=Jobs(missing=2)))
    assert "✗ Differences" in wrong
    assert wrong.index("2 missing") < wrong.index("<svg")


@given(st.text())
def test_no_text_gets_into_the_page_as_markup(text: str) -> None:
    finding = Finding(Kind.FOREIGN, text, None, text, text, text)
    page = html.render(_report(findings=[finding], target=text, next=text))
    plain = html.render(_report(findings=[Finding(Kind.FOREIGN, "x", None, "x", "x", "x")], target="x", next="x"))
    assert page.count("<") - page.count("<wbr>") == plain.count("<") + (0 if text else -3)
