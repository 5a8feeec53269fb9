"""What `init` writes is read back as it was meant, whatever the shop called its funcs."""

from __future__ import annotations

import tomllib
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrate.config import Config, Route, parse
from migrate.engine import init_text
from migrate.engine.init_text import FoundFunc
from migrate.qudo.serializers import Serializer
from migrate.resque.dialects import Dialect

#: All that a func's name can be after it was decoded: UTF-8 or Latin-1, control characters too.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
HOSTILE = [
    'Worker::"Quoted"',
    "Worker::'Quoted'",
    "'''",
    '"""',
    "Worker\\::Back",
    "\\u0041",
    "Worker::*",
    "Worker::?",
    "Worker::[A-Z]",
    "[!a]",
    "[",
    "]",
    "[]]",
    "a[b]c*d?e",
    "new\nline",
    "carriage\r\nreturn",
    "tab\there",
    "nul\0",
    "\x7f\x80\x9f\xa0\xad",
    "\u2028\u2029\ufeff\ufffe\uffff",
    "鮎の魚拓",
    "🐟",
    "\U000e0001",
    "\U0010ffff",
    "x\U000e0041y",
    "# no comment",
    "a = 1",
    "[[route]]",
    "{func}",
    "${HOME}",
    " ",
    "é",
    "e\u0301",
]


def written(funcs: dict[str, FoundFunc], dialect: Dialect = Dialect.PERL) -> Config:
    """What is read of a file with these funcs."""
    head = init_text.head("redis://h/0", "resque", dialect, {"main": "sqlite:///qudo.db"})
    return parse(head + init_text.routes(funcs, dialect), "written", {})


def assert_each_has_its_own_route(names: list[str]) -> None:
    kinds = [Serializer.JSON, Serializer.RAW, Serializer.STORABLE]
    funcs = {
        name: FoundFunc(name, counts=Counter({kinds[number % 3]: number + 1})) for number, name in enumerate(names)
    }
    config = written(funcs)
    assert len(config.route) == len(funcs)
    for name, func in funcs.items():
        assert [config.route_for(name).serializer] == list(func.counts), name
    globs = [route.func for route in config.route]
    for glob in globs:
        alone = Config(config.target, config.source, (Route(glob),))
        assert sum(alone.route_for(name) is alone.route[0] for name in funcs) == 1, glob


def test_each_hostile_name_gets_a_route_for_itself_alone() -> None:
    assert_each_has_its_own_route(HOSTILE)


@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True))
@example(names=["\U000e0001"])
def test_any_names_get_routes_for_themselves_alone(names: list[str]) -> None:
    assert_each_has_its_own_route(names)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@example(text="a\U000e0001b\U0010ffff")
def test_any_text_is_a_toml_string_that_reads_as_it_was(text: str) -> None:
    line = f"key = {init_text._string(text)}"
    assert line.isprintable()
    assert tomllib.loads(line) == {"key": text}


@given(
    url=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="$"), min_size=1, max_size=20),
    namespace=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8),
    dialect=st.sampled_from(Dialect),
)
def test_the_head_reads_as_it_was_given(url: str, namespace: str, dialect: Dialect) -> None:
    head = init_text.head(url, namespace, dialect, {"main": url, "second-1": "sqlite:///x"})
    config = parse(head, "written", {})
    assert (config.target.url, config.target.namespace, config.target.dialect) == (url, namespace, dialect)
    assert [(each.name, each.url) for each in config.source] == [("main", url), ("second-1", "sqlite:///x")]


def test_a_password_in_the_environment_stays_there() -> None:
    head = init_text.head("redis://:${REDIS_PASSWORD}@h", "resque", Dialect.PERL, {"main": "mysql://u:${PW}@h/q"})
    assert '"redis://:${REDIS_PASSWORD}@h"' in head
    config = parse(head, "written", {"REDIS_PASSWORD": "p@ss", "PW": "x"})
    assert config.target.url == "redis://:p%40ss@h"


@pytest.mark.parametrize(
    ("counts", "serializer"),
    [
        ({}, Serializer.AUTO),
        ({Serializer.JSON: 7}, Serializer.JSON),
        ({Serializer.RAW: 1}, Serializer.RAW),
        ({Serializer.JSON: 7, Serializer.STORABLE: 1}, Serializer.AUTO),
    ],
)
def test_the_serializer_is_fixed_only_where_all_samples_agree(
    counts: dict[Serializer, int], serializer: Serializer
) -> None:
    (route,) = written({"A": FoundFunc("A", counts=Counter(counts))}).route
    assert route.serializer is serializer


@pytest.mark.parametrize("dialect", list(Dialect))
def test_hints_are_comments_and_change_nothing(dialect: Dialect) -> None:
    func = FoundFunc("A", counts=Counter({Serializer.JSON: 1}), priorities={0, 5, -1}, delayed=True, retried=True)
    assert written({"A": func}, dialect).route == (Route(func="A", serializer=Serializer.JSON),)
    text = init_text.routes({"A": func}, dialect)
    assert "# priorities found: 5, 0, -1" in text
    assert "max_retry" in text
    assert "needs a scheduler" in text
