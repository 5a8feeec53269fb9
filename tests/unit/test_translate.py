"""From a Qudo row to what Resque gets: the value unchanged, the right keys, and never deeper than workers can read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrate.config import Args, Band, Config, Delayed, Route, TargetConfig
from migrate.decision import Decision, decide
from migrate.errors import Untranslatable
from migrate.jobs import Identity, QudoFailure, QudoJob, ResqueJob
from migrate.qudo.serializers import BytesMode, Finding, PlainValue, Serializer, nfreeze
from migrate.resque.dialects import Dialect
from migrate.translate import Translator, expected_args, fingerprint
from tests.schemas import check

NOW = 1_800_000_000
IDENTITY = Identity(0x0123456789ABCDEF, 42)
RECORDED = Path(__file__).parents[1] / "data" / "resque"

DIALECTS = st.sampled_from(Dialect)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "0123", "1e5", "鮎", "🐟", "\u2028", "\x7f", "\0", '"\\/', "true", "</script>"]
)


def values(*numbers: st.SearchStrategy[int] | st.SearchStrategy[float]) -> st.SearchStrategy[PlainValue]:
    """Trees of JSON values."""
    scalars: st.SearchStrategy[PlainValue] = st.one_of(st.none(), st.booleans(), TEXTS, *numbers)
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
    )


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
BIG_INTEGERS = st.integers(-(10**30), 10**30) | st.sampled_from([2**53 + 1, -(2**53) - 1, 2**64 - 1, -(2**63)])
#: Beyond 2**64, and its digits are those of a double.
WHOLE = 119_209_289_550_781_250_000_000
JSON_VALUES = values(BIG_INTEGERS, FLOATS)


def decision(
    dialect: Dialect = Dialect.PERL,
    func: str = "Worker::Mail",
    priority: int = 0,
    usual: Serializer | None = None,
    **route: Any,
) -> Decision:
    """What a configuration with this one route decides; `usual` is what most of the func's args are."""
    config = Config(target=TargetConfig(url="redis://x", dialect=dialect), source=(), route=(Route(**route),))
    return decide(config, func, priority, usual)


def job(arg: bytes | None = b"{}", **fields: Any) -> QudoJob:
    """A row that is due, and that sets nothing else."""
    row: dict[str, Any] = {
        "source": "main",
        "id": 7,
        "func_id": 1,
        "func": "Worker::Mail",
        "uniqkey": None,
        "enqueue_time": None,
        "grabbed_until": 0,
        "run_after": NOW,
        "retry_cnt": 0,
        "priority": 0,
    }
    return QudoJob(arg=arg, **(row | fields))


def failure(arg: bytes | None = b"{}", **fields: Any) -> QudoFailure:
    """A row of exception_log."""
    row: dict[str, Any] = {
        "source": "main",
        "id": 5,
        "func_id": 1,
        "func": "Worker::Mail",
        "time": NOW,
        "message": b"died at Mail.pm line 3.\n",
        "uniqkey": None,
    }
    return QudoFailure(arg=arg, **(row | fields))


def translated(row: QudoJob, how: Decision) -> ResqueJob:
    return Translator("main", how).translate(row, IDENTITY, NOW).job


def failed(row: QudoFailure, how: Decision) -> dict[str, Any]:
    """The entry of Resque's list of failures."""
    text = Translator("main", how).translate_failure(row).text
    assert text is not None
    result: dict[str, Any] = json.loads(text)
    return result


def exactly(value: object) -> str:
    """A text that is the same for equal values only: 1, 1.0, True, "1", 0.0 and -0.0 are six, the order counts."""
    return json.dumps(value)


def as_read_from(expected: object, found: object) -> object:
    """`found` with its objects in the order of `expected`, and its whole numbers of the type that they have there."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return {key: as_read_from(value, found[key]) for key, value in expected.items()}
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [as_read_from(*pair) for pair in zip(expected, found, strict=True)]
    if type(expected) is float and type(found) is int:
        return float(found)
    if type(expected) is int and type(found) is float:
        return int(Decimal(repr(found)))
    return found


# --- promise 4: nothing changes -------------------------------------------------------------------------------------


class Written:
    """An arg as one of Qudo's serializers wrote it."""

    def __init__(self, serializer: Serializer, arg: bytes, value: PlainValue) -> None:
        self.serializer = serializer
        self.arg = arg
        self.value = value

    def __repr__(self) -> str:
        return f"{self.serializer}: {self.arg!r}"


@st.composite
def json_texts(draw: st.DrawFn) -> Written:
    """JSON by any writer: escaped or not, with spaces or not, with spaces around it."""
    value = draw(JSON_VALUES)
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    )
    around = draw(st.sampled_from(["", " ", "\n", "\t\r\n "]))
    return Written(Serializer.JSON, f"{around}{text}{around}".encode(), value)


WRITTEN = st.one_of(
    json_texts(),
    values(st.integers(-(2**63), 2**64 - 1), FLOATS).map(
        lambda value: Written(Serializer.MESSAGEPACK, msgspec.msgpack.encode(value), value)
    ),
    # Storable holds larger integers and all floats as text.
    values(st.integers(-(2**31), 2**31 - 1)).map(lambda value: Written(Serializer.STORABLE, nfreeze(value), value)),
    TEXTS.map(lambda text: Written(Serializer.RAW, text.encode(), text)),
)


@given(written=WRITTEN, dialect=DIALECTS, args=st.sampled_from(Args), early=st.booleans())
@example(
    Written(Serializer.JSON, b"[119209289550781250000000]", [119209289550781250000000]),
    Dialect.NODE,
    Args.SINGLE,
    False,
)
def test_a_worker_receives_the_value_that_qudo_held(
    written: Written, dialect: Dialect, args: Args, early: bool
) -> None:
    how = decision(dialect, serializer=written.serializer, args=args)
    row = job(written.arg, run_after=NOW + early)

    result = translated(row, how)

    spread = args is Args.SPREAD and isinstance(written.value, list)
    expected = written.value if spread else [written.value]
    for text in [result.payload] + ([result.delayed] if result.delayed else []):
        assert exactly(json.loads(text)["args"]) == exactly(expected)
    assert exactly(expected_args(row, how)) == exactly(expected)
    imported = failed(failure(written.arg), how)["payload"]["args"]
    # Node's are written as JavaScript would: 1.0 as 1, 2**80 with an exponent, and keys that are numbers first.
    assert exactly(as_read_from(expected, imported) if dialect is Dialect.NODE else imported) == exactly(expected)


@given(value=JSON_VALUES.filter(lambda value: isinstance(value, (list, dict))), dialect=DIALECTS)
def test_json_is_recognised_and_passed_on_as_the_very_bytes(value: PlainValue, dialect: Dialect) -> None:
    arg = json.dumps(value, indent=1).encode()
    result = translated(job(arg, run_after=NOW + 1), decision(dialect))
    assert result.delayed is not None
    for text in (result.payload, result.delayed):
        assert b'"args":[' + arg + b"]" in text


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("args", Args)
def test_an_arg_of_null_is_one_null(dialect: Dialect, args: Args) -> None:
    how = decision(dialect, args=args)
    assert json.loads(translated(job(None), how).payload)["args"] == [None]
    assert failed(failure(None), how)["payload"]["args"] == [None]
    assert expected_args(job(None), how) == [None]


@pytest.mark.parametrize(
    ("arg", "args"),
    [
        (b"[1,[2],null]", [1, [2], None]),
        (b" [1]", [1]),
        (b"[]", []),
        (b'{"0":1}', [{"0": 1}]),
        (b'"[1]"', ["[1]"]),
        (b"null", [None]),
    ],
)
def test_spread_makes_an_array_the_arguments_and_leaves_all_else(arg: bytes, args: list[object]) -> None:
    how = decision(serializer=Serializer.JSON, args=Args.SPREAD)
    assert json.loads(translated(job(arg), how).payload)["args"] == args
    assert list(expected_args(job(arg), how)) == args


@pytest.mark.parametrize(
    ("mode", "text"), [(BytesMode.LATIN1, "a\xff\xe9"), (BytesMode.BASE64, base64.b64encode(b"a\xff\xe9").decode())]
)
def test_bytes_that_are_no_text_cross_as_the_route_says(mode: BytesMode, text: str) -> None:
    how = decision(serializer=Serializer.RAW, bytes=mode)
    translation = Translator("main", how).translate(job(b"a\xff\xe9"), IDENTITY, NOW)
    assert json.loads(translation.job.payload)["args"] == [text]
    assert translation.findings == (Finding[mode.name],)
    with pytest.raises(Untranslatable, match="aren't UTF-8"):
        translated(job(b"a\xff\xe9"), decision(serializer=Serializer.RAW))


# --- what stands beside the arguments -------------------------------------------------------------------------------


@given(
    job_id=st.none() | st.integers(0, 2**64 - 1),
    uniqkey=st.none() | TEXTS.map(str.encode) | st.binary(max_size=8),
    priority=st.integers(0, 2**32 - 1),
    retry_cnt=st.integers(0, 2**32 - 1),
    enqueue_time=st.none() | st.integers(0, 2**32 - 1),
    max_retry=st.integers(0, 100),
    dialect=DIALECTS,
    early=st.booleans(),
)
def test_a_payload_carries_what_resque_has_no_place_for_when_it_is_set(
    job_id: int | None,
    uniqkey: bytes | None,
    priority: int,
    retry_cnt: int,
    enqueue_time: int | None,
    max_retry: int,
    dialect: Dialect,
    early: bool,
) -> None:
    row = job(
        id=job_id,
        uniqkey=uniqkey,
        priority=priority,
        retry_cnt=retry_cnt,
        enqueue_time=enqueue_time,
        run_after=NOW + early,
    )
    result = translated(row, decision(dialect, max_retry=max_retry))

    payload = json.loads(result.payload)
    check(payload, "payload")
    qudo: dict[str, Any] = {"source": "main", "outbox": "0123456789abcdef-42"}
    if job_id is not None:
        qudo["id"] = job_id
    if uniqkey is not None:
        qudo["uniqkey"] = _text(uniqkey)
    qudo |= {key: value for key, value in (("priority", priority), ("retry_cnt", retry_cnt)) if value}
    if enqueue_time:
        qudo["enqueue_time"] = enqueue_time
    retry = {"max_retry": max_retry, "retry_count": retry_cnt} if dialect is Dialect.PERL and max_retry else {}
    extras = {"qudo": qudo, **retry}
    assert payload == {"class": "Worker::Mail", "args": [{}], **extras}
    if result.delayed is not None:
        text = json.loads(result.delayed)
        check(text, "delayed", f"#/$defs/{dialect}")
        kept = extras if dialect is Dialect.PERL else {}
        assert text == {"class": "Worker::Mail", "args": [{}], "queue": "worker_mail", **kept}
    assert (result.delayed is not None, result.due) == (early, row.run_after if early else 0)


def _text(stored: bytes) -> str:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored.decode("latin-1")


@given(batch=st.integers(0, 2**63 - 1), seq=st.integers(0, 65_535))
def test_a_payload_names_its_identity_in_a_form_that_reads_back(batch: int, seq: int) -> None:
    identity = Identity(batch, seq)
    result = Translator("main", decision()).translate(job(), identity, NOW).job
    text = json.loads(result.payload)["qudo"]["outbox"]
    assert text == identity.text
    assert Identity.parse(text) == identity == result.identity


@given(name=TEXTS.filter(bool))
@example('Worker::"Mail"\\')
def test_class_and_queue_may_hold_any_characters(name: str) -> None:
    result = translated(job(func=name, run_after=NOW + 1), decision(func=name))
    assert result.delayed is not None
    queue = name.lower().replace("::", "_")
    assert (json.loads(result.payload)["class"], result.queue) == (name, queue)
    assert (json.loads(result.delayed)["class"], json.loads(result.delayed)["queue"]) == (name, queue)


def test_class_and_queue_are_the_routes_and_the_highest_band_that_is_reached_counts() -> None:
    bands = (Band(10, "{func}_high"), Band(100, "urgent"), Band(50, "{func}_higher"))
    route: dict[str, Any] = {"class_": "My::{func}", "queue": "q", "bands": bands}
    queues = {}
    for priority in (0, 9, 10, 49, 50, 99, 100, 4_000_000_000):
        result = translated(job(priority=priority), decision(priority=priority, **route))
        assert json.loads(result.payload)["class"] == "My::Worker::Mail"
        queues[priority] = result.queue
    high, higher = "worker_mail_high", "worker_mail_higher"
    assert list(queues.values()) == ["q", "q", high, high, higher, higher, "urgent", "urgent"]


@pytest.mark.parametrize("dialect", [Dialect.RUBY, Dialect.NODE])
def test_retries_are_written_for_perl_only(dialect: Dialect) -> None:
    how = decision(dialect, max_retry=3)
    assert list(json.loads(translated(job(retry_cnt=1), how).payload)) == ["class", "args", "qudo"]
    assert list(failed(failure(), how)["payload"]) == ["class", "args", "qudo"]


def test_perls_retry_plugin_goes_on_where_qudo_was() -> None:
    how = decision(max_retry=3)
    payload = json.loads(translated(job(retry_cnt=2), how).payload)
    assert (payload["max_retry"], payload["retry_count"]) == (3, 2)
    again = failed(failure(), how)["payload"]
    assert (again["max_retry"], again["retry_count"]) == (3, 0)
    assert "max_retry" not in json.loads(translated(job(retry_cnt=2), decision()).payload)


# --- jobs that aren't due -------------------------------------------------------------------------------------------

#: The keys of a delayed text, in the order that each scheduler writes and looks for.
DELAYED_KEYS = {
    Dialect.PERL: ["class", "args", "queue", "qudo", "max_retry", "retry_count"],
    Dialect.RUBY: ["class", "args", "queue"],
    Dialect.NODE: ["class", "queue", "args"],
}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_delayed_text_has_the_keys_of_its_scheduler_in_its_order(dialect: Dialect) -> None:
    result = translated(job(run_after=NOW + 60), decision(dialect, max_retry=2))
    assert result.due == NOW + 60
    assert result.delayed is not None
    assert list(json.loads(result.delayed)) == DELAYED_KEYS[dialect]
    # Where a server's clock is ahead, the hand-off puts the job into its queue at once: that text has all keys.
    assert "qudo" in json.loads(result.payload)


@pytest.mark.parametrize("run_after", [0, NOW - 1, NOW])
def test_a_job_is_due_in_the_second_of_its_time(run_after: int) -> None:
    result = translated(job(run_after=run_after), decision())
    assert (result.due, result.delayed) == (0, None)


def test_start_time_goes_into_the_queue_at_once_with_the_key_that_perls_plugin_reads() -> None:
    how = decision(delayed=Delayed.START_TIME, max_retry=1)
    early = translated(job(run_after=NOW + 60), how)
    assert (early.due, early.delayed) == (0, None)
    payload = json.loads(early.payload)
    check(payload, "payload")
    assert list(payload) == ["class", "args", "qudo", "max_retry", "retry_count", "start_time"]
    assert payload["start_time"] == NOW + 60
    assert "start_time" not in json.loads(translated(job(), how).payload)
    assert "start_time" not in failed(failure(), how)["payload"]


# --- what each dialect can read -------------------------------------------------------------------------------------

#: The deepest text that the parsers and writers of each dialect accept, and the deepest arg that we do: a job that
#: fails stands inside of a failure record, its payload and the list of arguments.
DEEPEST_TEXT = {Dialect.PERL: 512, Dialect.RUBY: 100, Dialect.NODE: 1000}
DEEPEST_ARG = {Dialect.PERL: 509, Dialect.RUBY: 97, Dialect.NODE: 512}

NESTED: dict[Serializer, Callable[[int], bytes]] = {
    Serializer.JSON: lambda depth: b"[" * depth + b"]" * depth,
    Serializer.MESSAGEPACK: lambda depth: b"\x91" * (depth - 1) + b"\x90",
    Serializer.STORABLE: lambda depth: nfreeze(json.loads("[" * depth + "]" * depth)),
}


def depth_of(text: bytes) -> int:
    """Levels of nesting, of a text without brackets in strings."""
    depth = deepest = 0
    for byte in text:
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    return deepest


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("serializer", NESTED)
@pytest.mark.parametrize("detected", [False, True], ids=["told", "detected"])
def test_nesting_is_limited_so_that_even_a_failure_record_can_be_read(
    dialect: Dialect, serializer: Serializer, detected: bool
) -> None:
    how = decision(dialect, usual=serializer, serializer=Serializer.AUTO if detected else serializer)
    deepest, nested = DEEPEST_ARG[dialect], NESTED[serializer]

    result = translated(job(nested(deepest), run_after=NOW + 1), how)

    assert depth_of(result.payload) == deepest + 2
    record = Translator("main", how).translate_failure(failure(nested(deepest))).text
    assert record is not None
    assert depth_of(record) == deepest + 3 <= DEEPEST_TEXT[dialect]
    assert depth_of(b'{"queue":"q","run_at":"t","payload":' + result.payload + b"}") <= DEEPEST_TEXT[dialect]
    if serializer is Serializer.STORABLE and deepest == 512:
        return  # deeper than that even the writer of this test's data refuses
    for refused in (deepest + 1, deepest + 2):
        with pytest.raises(Untranslatable, match=r"nested|deep"):
            translated(job(nested(refused)), how)
        with pytest.raises(Untranslatable, match=r"nested|deep"):
            failed(failure(nested(refused)), how)


@pytest.mark.parametrize("dialect", Dialect)
def test_brackets_in_strings_are_no_nesting(dialect: Dialect) -> None:
    arg = json.dumps({"[": "[{" * 1000, "\\": '"[{'}).encode()
    assert json.loads(translated(job(arg), decision(dialect)).payload)["args"] == [json.loads(arg)]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("arg", "big"),
    [
        (b"[9007199254740993]", True),
        (b"[-9007199254740993]", True),
        (b'{"a":[18446744073709551615]}', True),
        (b"[9007199254740992]", False),
        (b"[-9007199254740992]", False),
        (b'["9007199254740993"]', False),
    ],
)
def test_only_node_has_integers_over_two_to_the_53rd_to_report(dialect: Dialect, arg: bytes, big: bool) -> None:
    for serializer in (Serializer.JSON, Serializer.MESSAGEPACK):
        how = decision(dialect, serializer=serializer)
        data = arg if serializer is Serializer.JSON else msgspec.msgpack.encode(json.loads(arg))
        findings = Translator("main", how).translate(job(data), IDENTITY, NOW).findings
        assert findings == ((Finding.BIG_INTEGER,) if big and dialect is Dialect.NODE else ())


@pytest.mark.parametrize("dialect", Dialect)
def test_other_findings_are_every_dialects(dialect: Dialect) -> None:
    translation = Translator("main", decision(dialect)).translate(job(b"[0.1234567890123456789]"), IDENTITY, NOW)
    assert translation.findings == (Finding.LONG_FLOAT,)


@pytest.mark.parametrize("arg", [b"[1e400]", b"[NaN]", b'["\\ud800"]', b"[1,]", b"", b"\xff"])
def test_what_is_no_json_stays_with_a_reason(arg: bytes) -> None:
    how = decision(serializer=Serializer.JSON)
    for translate in (lambda: translated(job(arg), how), lambda: failed(failure(arg), how)):
        with pytest.raises(Untranslatable) as raised:
            translate()
        assert raised.value.message


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failure_has_resques_keys_and_says_where_it_came_from() -> None:
    row = failure(b'{"to":"ayu"}', message="no such user 鮎\n at A.pm line 2\n  at B.pm\n".encode(), uniqkey=b"\xe9")
    result = Translator("shop-1", decision()).translate_failure(row)
    assert (result.id, result.time, result.fingerprint) == (5, NOW, fingerprint(row))
    assert result.text is not None
    assert json.loads(result.text) == {
        "failed_at": "2027/01/15 08:00:00 UTC",
        "payload": {
            "class": "Worker::Mail",
            "args": [{"to": "ayu"}],
            "qudo": {"source": "shop-1", "exception_log": 5, "uniqkey": "é"},
        },
        "exception": "Qudo::Job",
        "error": "no such user 鮎",
        "backtrace": ["at A.pm line 2", "at B.pm"],
        "worker": "qudo:main",
        "queue": "worker_mail",
    }


@pytest.mark.parametrize(
    ("message", "error", "backtrace"),
    [
        (b"", "", []),
        (b"\n", "", []),
        (b"died", "died", []),
        (b"died \n\n", "died", []),
        (b"one\r\ntwo\r\n", "one", ["two"]),
        (b"\n one\n\n  two\n", "one", ["", "two"]),
        (b"\xc0\xc1 died\nline 2", "\xc0\xc1 died", ["line 2"]),
        ("鮎\n死".encode("euc_jp"), "\xb0\xbe", ["\xbb\xe0"]),
        # Only line ends end a line: text and the bytes of other character sets hold what looks like one.
        ("a\u2028b\u0085c\x0bd\x1ce\nf".encode(), "a\u2028b\u0085c\x0bd\x1ce", ["f"]),
        ("テスト".encode("shift_jis") + b"\nf", "\x83e\x83X\x83g", ["f"]),
        (b"\x85\x85 at \xe9\nf", "\x85\x85 at \xe9", ["f"]),
    ],
)
def test_a_message_is_cut_into_error_and_backtrace(message: bytes, error: str, backtrace: list[str]) -> None:
    record = failed(failure(message=message), decision())
    assert (record["error"], record["backtrace"]) == (error, backtrace)


@given(message=st.binary(max_size=60), uniqkey=st.none() | st.binary(max_size=10), time=st.integers(0, 2**32 - 1))
def test_any_message_makes_a_failure_that_can_be_read(message: bytes, uniqkey: bytes | None, time: int) -> None:
    record = failed(failure(message=message, uniqkey=uniqkey, time=time), decision())
    lines = [line.strip(" \t\r\n") for line in _text(message).strip(" \t\r\n").split("\n")]
    assert [record["error"], *record["backtrace"]] == lines
    assert re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d UTC", record["failed_at"])


def test_a_failure_goes_to_the_queue_of_priority_0() -> None:
    bands = (Band(1, "high"),)
    assert failed(failure(), decision(queue="low", bands=bands))["queue"] == "low"


CHANGES: dict[str, Any] = {
    "func": "Worker::Mailer",
    "time": NOW + 1,
    "message": b"died at Mail.pm line 4.\n",
    "uniqkey": b"",
    "arg": b"{} ",
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_fingerprint_tells_rows_apart_that_get_the_same_id(field: str) -> None:
    row = failure()
    assert fingerprint(row) == fingerprint(failure())
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(row))
    assert fingerprint(msgspec.structs.replace(row, **{field: CHANGES[field]})) != fingerprint(row)


def test_a_fingerprint_tells_null_from_empty_and_where_a_field_ends() -> None:
    rows = [failure(None), failure(b""), failure(b"-"), failure(None, uniqkey=b""), failure(b"a", uniqkey=b"")]
    rows += [failure(b"", uniqkey=b"a"), failure(b"1:a", message=b"m"), failure(b"a", message=b"m1:")]
    assert len({fingerprint(row) for row in rows}) == len(rows)


# --- against what the real implementations wrote --------------------------------------------------------------------


def recorded(name: str) -> dict[str, Any]:
    """A whole Redis as a real Resque left it: key to value."""
    keys: dict[str, Any] = json.loads((RECORDED / f"{name}_resque.json").read_text(encoding="utf-8"))
    return {key: entry["value"] for key, entry in keys.items()}


def test_delayed_texts_are_those_of_resque_scheduler_byte_for_byte() -> None:
    texts = [text for key, value in recorded("ruby").items() if key.startswith("resque:delayed:") for text in value]
    assert len(texts) == 4
    for text in texts:
        same = json.loads(text)
        how = decision(Dialect.RUBY, func=same["class"], args=Args.SPREAD)
        arg = json.dumps(same["args"], separators=(",", ":")).encode()
        assert translated(job(arg, func=same["class"], run_after=NOW + 1), how).delayed == text.encode()


@pytest.mark.parametrize(("place", "start_time", "max_retry"), [(0, 4102444800, 0), (1, None, 3)])
def test_payloads_have_the_keys_of_perls_resque_with_values_of_the_same_kind(
    place: int, start_time: int | None, max_retry: int
) -> None:
    theirs = json.loads(recorded("perl")["resque:queue:mail"][place])
    how = decision(func=theirs["class"], max_retry=max_retry, delayed=Delayed.START_TIME)
    arg = json.dumps(theirs["args"][0]).encode()
    row = job(arg, func=theirs["class"], run_after=start_time or NOW)
    ours = json.loads(translated(row, msgspec.structs.replace(how, serializer=Serializer.JSON)).payload)
    del ours["qudo"]
    # What Perl writes as null or 0 is what it takes a lacking key for.
    assert ours.keys() <= theirs.keys()
    assert {**dict.fromkeys(theirs, None), "max_retry": 0, "retry_count": 0, **ours} == theirs


@pytest.mark.parametrize("dialect", [Dialect.PERL, Dialect.RUBY])
def test_failures_have_the_keys_of_the_real_ones_with_values_of_the_same_kind(dialect: Dialect) -> None:
    for text in recorded(str(dialect))["resque:failed"]:
        theirs = json.loads(text)
        payload = theirs["payload"]
        arg = json.dumps(payload["args"]).encode()
        row = failure(arg, func=payload["class"], message=f"{theirs['error']}\n at line 2".encode())
        how = decision(dialect, func=payload["class"], args=Args.SPREAD, queue=theirs["queue"], max_retry=2)
        ours = failed(row, how)
        assert ours.keys() == theirs.keys()
        assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
        assert [type(line) for line in ours["backtrace"]] == [type(line) for line in theirs["backtrace"]]
        assert (ours["error"], ours["queue"]) == (theirs["error"], theirs["queue"])
        assert _same_form(ours["failed_at"], theirs["failed_at"])
        del ours["payload"]["qudo"]
        assert ours["payload"].keys() <= payload.keys()
        assert (ours["payload"]["class"], ours["payload"]["args"]) == (payload["class"], payload["args"])
        if dialect is Dialect.RUBY:
            assert list(ours) == list(theirs)


def _same_form(one: str, other: str) -> bool:
    return re.sub(r"\d", "0", one) == re.sub(r"\d", "0", other)
