"""The text of a first qudo-migrate.toml. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from migrate.qudo.serializers import Serializer
from migrate.resque.dialects import Dialect


@dataclass
class FoundFunc:
    """What samples of all sources say of one func."""

    name: str
    sources: list[str] = field(default_factory=list)
    sampled: int = 0  #: jobs looked at that say something
    counts: Counter[Serializer] = field(default_factory=Counter)
    priorities: set[int] = field(default_factory=set)
    delayed: bool = False
    retried: bool = False


def _string(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def head(target_url: str, namespace: str, dialect: Dialect, sources: Mapping[str, str]) -> str:
    """`[target]` and each `[[source]]`."""
    lines = [
        "# Written by `qudo-migrate init`. Check it, then: qudo-migrate plan",
        "# ${VAR} in a url comes from the environment.",
        "",
        "[target]",
        f"url = {_string(target_url)}",
        f"namespace = {_string(namespace)}",
        f"dialect = {_string(dialect)}  # perl | ruby | node: whose workers and scheduler will run the jobs",
    ]
    for name, url in sources.items():
        lines += [
            "",
            "[[source]]",
            f"name = {_string(name)}  # part of each job's identity: never rename it",
            f"url = {_string(url)}",
        ]
    return "\n".join(lines) + "\n"


def routes(funcs: Mapping[str, FoundFunc], dialect: Dialect) -> str:
    """A route for each func, with what was found and what the worker class must tell."""
    lines = [
        "",
        "# One route for each func; the first whose glob matches wins. Keys left out have these defaults:",
        '#   move = true, class = "{func}", queue = "{func}" (lower case, "::" as "_"), args = "single" (or "spread"),',
        '#   bytes = "reject" (latin1, base64), blessed = "strip" (reject), delayed = "scheduler" (hold, start_time),',
        '#   unique = "keep" (ignore), timeout = 3600, lease_grace = 60',
        "# max_retry and retry_delay are Qudo's max_retries and retry_delay: they live in the Perl worker class,",
        "# not in the database. Copy them from there.",
    ]
    for func in sorted(funcs.values(), key=lambda each: each.name):
        lines += ["", *_route(func, dialect)]
    lines += [
        "",
        "[failures]",
        'import = "final"  # which exception_log rows become Resque failures: final | all | none',
        "",
    ]
    return "\n".join(lines)


def _route(func: FoundFunc, dialect: Dialect) -> list[str]:
    lines = [
        "[[route]]",
        f"func = {_string(_as_glob(func.name))}",
        f"serializer = {_serializer(func)}",
    ]
    if len(func.priorities) > 1:
        ranks = ", ".join(map(str, sorted(func.priorities, reverse=True)[:6]))
        lines.append(
            f"# priorities found: {ranks}; for queues of their own:"
            ' bands = [{ min_priority = 10, queue = "{func}_high" }]'
        )
    if func.delayed:
        lines.append('# some jobs are due later: delayed = "scheduler" needs a scheduler beside the workers')
    if func.retried:
        hint = "" if dialect is Dialect.PERL else "  # read by the Perl plugin Retry and by `qudo-migrate work` only"
        lines.append(f"# jobs of this func have been retried: max_retry = 3{hint}")
    return lines


def _serializer(func: FoundFunc) -> str:
    total = sum(func.counts.values())
    if not total:
        return '"auto"  # no job to look at'
    (best, count), *rest = func.counts.most_common()
    if rest:
        shares = ", ".join(f"{kind} {number / total:.0%}" for kind, number in func.counts.most_common())
        return f'"auto"  # mixed: {shares} of {total} jobs looked at'
    return f"{_string(best)}  # {count} jobs looked at"


def _as_glob(name: str) -> str:
    """A glob that matches this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
