"""qudo-migrate.toml: read, checked and typed. Every error names the key that is wrong.

Reads one file and the environment (`${VAR}` in URLs); knows no server.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import tomllib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from migrate.errors import UsageError
from migrate.qudo.serializers import BlessedMode, BytesMode, Serializer
from migrate.resque.dialects import FACTS, Dialect

DEFAULT_PATH = Path("qudo-migrate.toml")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SOURCE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Args(StrEnum):
    """How Qudo's one `arg` becomes Resque's list of arguments."""

    SINGLE = "single"  #: args = [arg]
    SPREAD = "spread"  #: an arg that is an array becomes args; anything else is [arg]


class Delayed(StrEnum):
    """What happens to a job that isn't due yet."""

    SCHEDULER = "scheduler"  #: resque-scheduler's layout: a scheduler process must run
    HOLD = "hold"  #: stays in Qudo until it is due
    START_TIME = "start_time"  #: into its queue at once, with the key that the Perl plugin Delay reads


class Unique(StrEnum):
    """Whether Qudo's uniqkey is kept unique across the crossing."""

    KEEP = "keep"
    IGNORE = "ignore"


class FailureImport(StrEnum):
    """Which `exception_log` rows become Resque failures."""

    FINAL = "final"
    ALL = "all"
    NONE = "none"


class TargetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[target]`: the Redis that Resque lives in."""

    url: str
    namespace: str = "resque"
    dialect: Dialect = Dialect.PERL


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[source]]`: one Qudo database. `name` is part of each job's identity: never rename it."""

    name: str
    url: str
    replicas: tuple[str, ...] = ()  #: urls of its replicas, whose lag holds a migration back


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `bands`: jobs of at least this priority go to another queue."""

    min_priority: int
    queue: str


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"class_": "class"}):
    """`[[route]]`: what happens to the funcs that its glob matches. Times are seconds."""

    func: str = "*"
    move: bool = True
    class_: str = "{func}"
    queue: str = "{func}"
    bands: tuple[Band, ...] = ()
    serializer: Serializer = Serializer.AUTO
    args: Args = Args.SINGLE
    bytes: BytesMode = BytesMode.REJECT
    blessed: BlessedMode = BlessedMode.STRIP
    delayed: Delayed = Delayed.SCHEDULER
    unique: Unique = Unique.KEEP
    max_retry: int = 0
    retry_delay: int = 0
    timeout: int = 3600
    lease_grace: int = 60

    def class_name(self, func: str) -> str:
        """The Resque class of a job of `func`."""
        return self.class_.replace("{func}", func)

    def queue_name(self, func: str, priority: int) -> str:
        """The queue of a job of `func`: that of the highest band it reaches, else the route's own."""
        template = self.queue
        reached = None
        for band in self.bands:
            if priority >= band.min_priority and (reached is None or band.min_priority > reached):
                reached, template = band.min_priority, band.queue
        return template.replace("{func}", func.lower().replace("::", "_"))


class Failures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"import_": "import"}):
    """`[failures]`: which `exception_log` rows become Resque failures."""

    import_: FailureImport = FailureImport.FINAL


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    target: TargetConfig
    source: tuple[SourceConfig, ...]
    route: tuple[Route, ...] = ()
    failures: Failures = Failures()

    def route_for(self, func: str) -> Route:
        """The first route whose glob matches `func`; the defaults when none does."""
        for route in self.route:
            if fnmatch.fnmatchcase(func, route.func):
                return route
        return DEFAULT_ROUTE

    def only_sources(self, names: Iterable[str]) -> tuple[SourceConfig, ...]:
        """The sources named, or all when `names` is empty. Raises UsageError for an unknown name."""
        wanted = set(names)
        known = {source.name for source in self.source}
        for name in sorted(wanted - known):
            raise UsageError(f"--source {name}: no such source; known: {', '.join(sorted(known))}")
        return tuple(source for source in self.source if not wanted or source.name in wanted)


DEFAULT_ROUTE = Route()


def load(path: Path = DEFAULT_PATH, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check a configuration file. Raises UsageError that names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file",
            advice="write one with: qudo-migrate init --source NAME=URL --target URL",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from error
    return parse(text, str(path), os.environ if environ is None else environ)


def parse(text: str, where: str, environ: Mapping[str, str]) -> Config:
    """Check the text of a configuration. `where` stands in front of each error."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from error
    _reject_unknown_keys(raw, Config, where, "")
    try:
        config = msgspec.convert(_expand(raw, where, environ), Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {_readable(str(error))}") from None
    _check(config, where)
    return config


def _reject_unknown_keys(value: object, shape: object, where: str, path: str) -> None:
    """Name the first unknown key with its place and the nearest known one; msgspec names neither."""
    if isinstance(value, list):
        (inner, *_) = getattr(shape, "__args__", (None,))
        for index, item in enumerate(value):
            _reject_unknown_keys(item, inner, where, f"{path}[{index}]")
    elif isinstance(value, dict) and isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        hints = get_type_hints(shape)
        fields = {field.encode_name: hints[field.name] for field in msgspec.structs.fields(shape)}
        for key, item in value.items():
            here = f"{path}.{key}" if path else key
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f", did you mean {near[0]}?" if near else f"; known: {', '.join(fields)}"
                raise UsageError(f"{where}: {here}: unknown key{hint}")
            _reject_unknown_keys(item, fields[key], where, here)


def _expand(raw: dict[str, Any], where: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Put the environment's values into the URLs; other texts have no use for secrets."""

    def expand(url: object, key: str) -> object:
        if not isinstance(url, str):
            return url
        for name in _VARIABLE.findall(url):
            if name not in environ:
                raise UsageError(f"{where}: {key}: ${{{name}}} is not set", advice=f"export {name}=… and try again")
        return _VARIABLE.sub(lambda match: _placed(environ[match[1]], match), url)

    result = dict(raw)
    if isinstance(raw.get("target"), dict) and "url" in raw["target"]:
        result["target"] = {**raw["target"], "url": expand(raw["target"]["url"], "target.url")}
    if isinstance(raw.get("source"), list):
        result["source"] = [
            _expand_source(item, f"source[{index}]", expand) for index, item in enumerate(raw["source"])
        ]
    return result


def _expand_source(item: object, key: str, expand: Callable[[object, str], object]) -> object:
    if not isinstance(item, dict):
        return item
    expanded = dict(item)
    if "url" in item:
        expanded["url"] = expand(item["url"], f"{key}.url")
    if isinstance(item.get("replicas"), list):
        expanded["replicas"] = [expand(url, f"{key}.replicas[{i}]") for i, url in enumerate(item["replicas"])]
    return expanded


def _placed(value: str, match: re.Match[str]) -> str:
    """Quote a user name or password as URLs need it; a variable that holds more than that is taken as it is."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    in_credentials = "://" in before and "@" in after and "/" not in before.split("://", 1)[1]
    return urllib.parse.quote(value, safe="") if in_credentials else value


def _readable(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.route[0].timeout`" into "route[0].timeout: expected …"."""
    text, separator, place = message.partition(" - at `$.")
    if not separator:
        return message[0].lower() + message[1:]
    return f"{place.rstrip('`')}: {text[0].lower()}{text[1:]}".replace("`", "")


def _check(config: Config, where: str) -> None:
    if not config.source:
        raise UsageError(f"{where}: source: at least one [[source]] is needed")
    seen: set[str] = set()
    for index, source in enumerate(config.source):
        key = f"source[{index}].name"
        if not _SOURCE_NAME.fullmatch(source.name):
            raise UsageError(f"{where}: {key}: use 1 to 64 letters, digits, '_', '.' or '-'")
        if source.name in seen:
            raise UsageError(f"{where}: {key}: {source.name!r} is there twice")
        seen.add(source.name)
    if not config.target.namespace or any(c.isspace() for c in config.target.namespace):
        raise UsageError(f"{where}: target.namespace: must be a name without spaces")
    for index, route in enumerate(config.route):
        _check_route(route, config.target.dialect, f"{where}: route[{index}]")


def _check_route(route: Route, dialect: Dialect, key: str) -> None:
    for name in ("max_retry", "retry_delay", "timeout", "lease_grace"):
        if getattr(route, name) < 0:
            raise UsageError(f"{key}.{name}: must not be negative")
    for name, text in (("func", route.func), ("class", route.class_), ("queue", route.queue)):
        if not text:
            raise UsageError(f"{key}.{name}: must not be empty")
    for position, band in enumerate(route.bands):
        if not band.queue:
            raise UsageError(f"{key}.bands[{position}].queue: must not be empty")
    if route.delayed is Delayed.START_TIME and not FACTS[dialect].start_time_key:
        raise UsageError(f'{key}.delayed: "start_time" is read by the Perl plugin Delay only, not by {dialect}')
