"""qudo-migrate.toml: what it says, and that every error names the file and the key that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import parse_url
from sqlalchemy import make_url

from migrate.config import (
    Args,
    Band,
    Config,
    Delayed,
    FailureImport,
    Route,
    TargetConfig,
    Unique,
    load,
    parse,
)
from migrate.errors import UsageError
from migrate.qudo.serializers import BlessedMode, BytesMode, Serializer
from migrate.resque.dialects import Dialect

FILE = "shop.toml"
TARGET = '[target]\nurl = "redis://127.0.0.1:6379/0"\n'
SOURCE = '[[source]]\nname = "main"\nurl = "sqlite:///qudo.db"\n'
MINIMAL = TARGET + SOURCE


def parsed(text: str, **environ: str) -> Config:
    return parse(text, FILE, environ)


def error_of(text: str, **environ: str) -> UsageError:
    """The error of a configuration that can't be used; it begins with the file's name."""
    with pytest.raises(UsageError) as caught:
        parsed(text, **environ)
    assert caught.value.message.startswith(f"{FILE}: ")
    assert caught.value.exit_status == 2
    return caught.value


# --- what the keys mean ---------------------------------------------------------------------------------------------


def test_a_target_and_a_source_are_enough() -> None:
    config = parsed(MINIMAL)
    assert (config.target.namespace, config.target.dialect) == ("resque", Dialect.PERL)
    assert config.failures.import_ is FailureImport.FINAL
    assert config.route_for("Worker::Mail") == Route()


def test_every_key_of_a_route_is_read() -> None:
    config = parsed(
        MINIMAL
        + """
        [[route]]
        func = "Worker::*"
        move = false
        class = "App::{func}"
        queue = "q_{func}"
        bands = [{ min_priority = 10, queue = "high" }, { min_priority = 5, queue = "middle" }]
        serializer = "storable"
        args = "spread"
        bytes = "base64"
        blessed = "reject"
        delayed = "start_time"
        unique = "ignore"
        max_retry = 1
        retry_delay = 2
        timeout = 3
        lease_grace = 4
        """
    )
    assert config.route == (
        Route(
            func="Worker::*",
            move=False,
            class_="App::{func}",
            queue="q_{func}",
            bands=(Band(10, "high"), Band(5, "middle")),
            serializer=Serializer.STORABLE,
            args=Args.SPREAD,
            bytes=BytesMode.BASE64,
            blessed=BlessedMode.REJECT,
            delayed=Delayed.START_TIME,
            unique=Unique.IGNORE,
            max_retry=1,
            retry_delay=2,
            timeout=3,
            lease_grace=4,
        ),
    )


def test_the_first_route_that_matches_wins() -> None:
    config = parsed(
        MINIMAL
        + "".join(
            f'[[route]]\nfunc = "{func}"\nqueue = "{queue}"\n'
            for func, queue in (("Worker::Mail", "exact"), ("Worker::M*", "glob"), ("*", "rest"), ("Other", "never"))
        )
    )
    queues = {func: config.route_for(func).queue for func in ("Worker::Mail", "Worker::Map", "worker::mail", "Other")}
    assert queues == {"Worker::Mail": "exact", "Worker::Map": "glob", "worker::mail": "rest", "Other": "rest"}


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("Worker::*", "Worker::", "Worker:"),
        ("Worker::*", "Worker::A::B\nC", "My::Worker::A"),
        ("Worker::?", "Worker::鮎", "Worker::鮎鮎"),
        ("Worker::[AB]", "Worker::B", "Worker::C"),
        ("Worker::[!A]", "Worker::B", "Worker::A"),
        ("a[*]b", "a*b", "axb"),
        ("Worker", "Worker", "worker"),
    ],
)
def test_globs_match_whole_names_with_their_case(glob: str, matching: str, other: str) -> None:
    config = Config(TargetConfig("redis://x"), (), (Route(func=glob, queue="found"),))
    assert config.route_for(matching).queue == "found"
    assert config.route_for(other).queue == "{func}"


def test_a_job_goes_to_the_highest_band_that_it_reaches() -> None:
    route = Route(queue="low", bands=(Band(5, "middle"), Band(10, "high_{func}"), Band(7, "upper")))
    queues = [route.queue_name("App::Mail", priority) for priority in (0, 4, 5, 6, 7, 9, 10, 4_294_967_295)]
    assert queues == ["low", "low", "middle", "middle", "upper", "upper", "high_app_mail", "high_app_mail"]


def test_a_func_names_its_queue_in_lower_case_and_its_class_as_it_is() -> None:
    assert Route().queue_name("Worker::SendMail", 0) == "worker_sendmail"
    assert Route().class_name("Worker::SendMail") == "Worker::SendMail"
    assert Route(class_="{func}::V2", queue="x").class_name("{func}") == "{func}::V2"


def test_only_sources_keeps_the_order_of_the_file() -> None:
    config = parsed(TARGET + "".join(f'[[source]]\nname = "{name}"\nurl = "sqlite:///x"\n' for name in ("c", "a", "b")))
    assert [source.name for source in config.only_sources([])] == ["c", "a", "b"]
    assert [source.name for source in config.only_sources(["b", "c", "b"])] == ["c", "b"]
    with pytest.raises(UsageError, match=r"--source main: no such source; known: a, b, c"):
        config.only_sources(["a", "main"])


# --- what is wrong is named -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (TARGET + "port = 1\n" + SOURCE, "target.port"),
        (MINIMAL + 'user = "x"\n', "source[0].user"),
        (MINIMAL + '[[route]]\nfunc = "a"\n[[route]]\nretries = 3\n', "route[1].retries"),
        (MINIMAL + '[[route]]\nbands = [{ queue = "a" }, { minimum = 1 }]\n', "route[0].bands[1].minimum"),
        (MINIMAL + '[failures]\nexport = "all"\n', "failures.export"),
        (MINIMAL + "[retry]\n", "retry"),
        (MINIMAL + '[[route]]\nclass_ = "A"\n', "route[0].class_"),
    ],
)
def test_an_unknown_key_is_named_with_its_place(text: str, key: str) -> None:
    assert error_of(text).message.startswith(f"{FILE}: {key}: unknown key")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (MINIMAL + '[[route]]\nserialiser = "json"\n', "serializer"),
        (MINIMAL + '[[routes]]\nfunc = "*"\n', "route"),
        (MINIMAL.replace("[[source]]", "[[sources]]"), "source"),
        (MINIMAL + "[[route]]\nmax_retries = 3\n", "max_retry"),
        (MINIMAL + "[[route]]\nlease_grade = 3\n", "lease_grace"),
        (MINIMAL + '[[route]]\nbands = [{ min_prioriy = 3, queue = "a" }]\n', "min_priority"),
        (TARGET + 'namspace = "x"\n' + SOURCE, "namespace"),
        (MINIMAL + '[failures]\nimports = "all"\n', "import"),
        (MINIMAL + '[[route]]\nclas = "A"\n', "class"),
    ],
)
def test_a_mistyped_key_gets_the_nearest_known_one_as_a_hint(text: str, near: str) -> None:
    assert error_of(text).message.endswith(f"unknown key, did you mean {near}?")


def test_a_key_that_is_near_to_none_gets_the_list_of_known_ones() -> None:
    assert error_of(TARGET + "xyzzy = 1\n" + SOURCE).message.endswith("; known: url, namespace, dialect")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (SOURCE, "target"),
        (TARGET, "source"),
        ("source = []\n" + TARGET, "source"),
        (MINIMAL.replace('url = "sqlite:///qudo.db"', ""), "source[0]"),
        (SOURCE + "[target]\n", "target"),
        ("target = 1\n" + SOURCE, "target"),
        (TARGET + '[source]\nname = "main"\nurl = "x"\n', "source"),
        ("source = [3]\n" + TARGET, "source[0]"),
        (MINIMAL.replace('"main"', "1"), "source[0].name"),
        (MINIMAL.replace('"main"', "1979-05-27"), "source[0].name"),
        (SOURCE + "[target]\nurl = 6379\n", "target.url"),
        (TARGET + 'dialect = "python"\n' + SOURCE, "target.dialect"),
        (TARGET + 'namespace = ""\n' + SOURCE, "target.namespace"),
        (TARGET + 'namespace = "a b"\n' + SOURCE, "target.namespace"),
        (TARGET + 'namespace = "a\\n"\n' + SOURCE, "target.namespace"),
        (MINIMAL.replace('"main"', '""'), "source[0].name"),
        (MINIMAL.replace('"main"', '"a/b"'), "source[0].name"),
        (MINIMAL.replace('"main"', '"鮎"'), "source[0].name"),
        (MINIMAL.replace('"main"', f'"{"x" * 65}"'), "source[0].name"),
        (MINIMAL.replace('"main"', '"main\\n"'), "source[0].name"),
        (MINIMAL + SOURCE, "source[1].name"),
        (MINIMAL + '[failures]\nimport = "some"\n', "failures.import"),
    ],
)
def test_what_is_missing_or_wrong_is_named(text: str, key: str) -> None:
    assert re.search(rf"(: |`){re.escape(key)}(: |`)", error_of(text).message)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('move = "yes"', "move"),
        ("class = 1", "class"),
        ('class = ""', "class"),
        ('queue = ""', "queue"),
        ('func = ""', "func"),
        ("bands = 1", "bands"),
        ("bands = [{ min_priority = 1 }]", "bands[0]"),
        ('bands = [{ min_priority = "1", queue = "a" }]', "bands[0].min_priority"),
        ('bands = [{ min_priority = 1, queue = "" }]', "bands[0].queue"),
        ('serializer = "yaml"', "serializer"),
        ('args = "list"', "args"),
        ('bytes = "utf8"', "bytes"),
        ('blessed = "bless"', "blessed"),
        ('delayed = "later"', "delayed"),
        ('unique = "yes"', "unique"),
        ("max_retry = -1", "max_retry"),
        ("max_retry = true", "max_retry"),
        ("retry_delay = 1.5", "retry_delay"),
        ("retry_delay = -1", "retry_delay"),
        ('timeout = "3600"', "timeout"),
        ("timeout = -1", "timeout"),
        ("lease_grace = -1", "lease_grace"),
    ],
)
def test_a_wrong_value_in_a_route_names_the_route_and_the_key(line: str, key: str) -> None:
    text = f'{MINIMAL}[[route]]\nfunc = "a"\n[[route]]\n{line}\n'
    assert error_of(text).message.startswith(f"{FILE}: route[1].{key}: ")


@pytest.mark.parametrize("dialect", [Dialect.RUBY, Dialect.NODE])
def test_start_time_is_refused_where_no_worker_reads_it(dialect: Dialect) -> None:
    text = f'{TARGET}dialect = "{dialect}"\n{SOURCE}[[route]]\ndelayed = "start_time"\n'
    error = error_of(text)
    assert error.message.startswith(f"{FILE}: route[0].delayed: ")
    assert dialect in error.message


@pytest.mark.parametrize("text", ["[target", "a = ", '[target]\nurl = "a"\nurl = "b"\n', "\0"])
def test_what_is_not_toml_is_said_with_its_place(text: str) -> None:
    message = error_of(text).message
    assert "not valid TOML" in message
    assert re.search(r"\(at (line \d|end of document)", message)


def test_a_file_that_lacks_names_the_command_that_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(UsageError) as caught:
        load(path, {})
    assert str(path) in caught.value.message
    assert "qudo-migrate init" in caught.value.advice


@pytest.mark.parametrize("content", [b"\xff\xfe", b"# caf\xe9\n"])
def test_a_file_that_is_not_utf8_is_said_to_be_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "qudo-migrate.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="can't be read") as caught:
        load(path, {})
    assert str(path) in caught.value.message


def test_a_folder_in_place_of_the_file_is_said_to_be_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load(tmp_path, {})


# --- ${VAR} ---------------------------------------------------------------------------------------------------------

#: Anything an environment variable can hold.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
PASSWORDS = st.text(CHARACTERS, min_size=1, max_size=12) | st.sampled_from(
    ["@:/%", "p@ss:w/rd%40", "a#b?c&d", "${OTHER}", "[::1]", "鮎", " ", "+", "\\1", "%2F", "://"]
)


def both_urls(target: str, source: str, **environ: str) -> tuple[str, str]:
    """The urls of a target and a source once the environment is in them."""
    config = parsed(f"[target]\nurl = '{target}'\n[[source]]\nname = \"main\"\nurl = '{source}'\n", **environ)
    return config.target.url, config.source[0].url


@given(password=PASSWORDS, user=PASSWORDS)
def test_any_password_and_user_of_the_environment_reach_the_drivers_as_they_are(password: str, user: str) -> None:
    target, source = both_urls(
        "redis://${WHO}:${PW}@127.0.0.1:6379/0", "mysql+pymysql://${WHO}:${PW}@db1/qudo", PW=password, WHO=user
    )
    options = parse_url(target)
    assert (options["username"], options["password"], options["host"]) == (user, password, "127.0.0.1")
    url = make_url(source)
    assert (url.username, url.password, url.host, url.database) == (user, password, "db1", "qudo")


def test_a_variable_elsewhere_in_a_url_is_taken_as_it_is() -> None:
    target, source = both_urls(
        "${REDIS}", "sqlite:///${HOME}/a@b/${NAME}.db", REDIS="redis://:p%40ss@h:1/2", HOME="/home/a%b", NAME="q/d"
    )
    assert target == "redis://:p%40ss@h:1/2"
    assert source == "sqlite:////home/a%b/a@b/q/d.db"


def test_host_port_and_database_may_come_from_the_environment() -> None:
    target, source = both_urls(
        "redis://${HOST}:${PORT}/0", "mysql+pymysql://qudo:${PW}@${HOST}/${DB}", HOST="h1", PORT="7", DB="q", PW="/"
    )
    assert (target, source) == ("redis://h1:7/0", "mysql+pymysql://qudo:%2F@h1/q")


@pytest.mark.parametrize(
    ("target", "source", "key"),
    [("redis://:${LACKS}@h", "sqlite:///x", "target.url"), ("redis://h", "mysql://u:${LACKS}@h/q", "source[0].url")],
)
def test_a_variable_that_is_not_set_is_named_with_its_key(target: str, source: str, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        both_urls(target, source, OTHER="x")
    assert caught.value.message == f"{FILE}: {key}: ${{LACKS}} is not set"
    assert "export LACKS" in caught.value.advice


def test_a_variable_that_is_empty_is_set() -> None:
    assert both_urls("redis://:${PW}@h", "sqlite:///x${EMPTY}", PW="", EMPTY="") == ("redis://:@h", "sqlite:///x")


def test_an_expanded_value_is_not_expanded_again() -> None:
    _, source = both_urls("redis://h", "sqlite:///${A}", A="${B}", B="never")
    assert source == "sqlite:///${B}"


def test_only_urls_are_expanded() -> None:
    config = parsed(MINIMAL + '[[route]]\nfunc = "${A}"\nqueue = "${A}"\n', A="never")
    assert (config.route[0].func, config.route[0].queue) == ("${A}", "${A}")


def test_the_environment_of_the_process_is_used_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "qudo-migrate.toml"
    path.write_text(MINIMAL.replace("127.0.0.1", "${TEST_HOST}"), encoding="utf-8")
    monkeypatch.setenv("TEST_HOST", "from-the-process")
    assert load(path).target.url == "redis://from-the-process:6379/0"
    assert load(path, {"TEST_HOST": "given"}).target.url == "redis://given:6379/0"


@given(secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12, max_size=20))
def test_no_error_shows_a_password(secret: str) -> None:
    for broken in (
        '[[route]]\ntimeout = "x"\n',
        "[[route]]\ntimeout = -1\n",
        "[unknown]\n",
        SOURCE,
        "[[source]]\nname = 1\n",
    ):
        text = TARGET.replace("127", "user:${PW}@127") + SOURCE.replace("qudo.db", f"{secret}.db") + broken
        error = error_of(text, PW=secret)
        assert secret not in error.message + error.advice
