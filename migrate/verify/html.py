"""report.html: one file that opens from disk, without network. Every text in it is data and is escaped.

A policy in the page allows no script but its own, known by its hash: data that got past the escaping would stay inert.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from migrate.verify.plot import plot
from migrate.verify.report import Report
from migrate.verify.words import BESIDE, DIFFERENCES, HANDED_OFF, STATES, Jobs, Kind

_environment = Environment(
    loader=PackageLoader("migrate.verify"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

#: What each word means, for the legend.
MEANINGS = {
    "in_flight": "a Qudo worker holds it, or did until moments ago",
    "untranslatable": "can't be expressed in Resque; stays in Qudo, free to run there",
    "kept": "stays in Qudo by route or until it is due",
    "waiting": "its uniqkey belongs to a job that Resque has not finished",
    "not_moved": "free in Qudo: the next run moves it",
    "not_handed_off": "in the outbox: the next run hands it off",
    "returning": "on its way back into Qudo",
    "working": "a Resque worker is at it",
    "queued": "in its queue",
    "delayed": "waits for its time",
    "failed": "among Resque's failures",
    "consumed": "handed off and found nowhere: a worker has taken it",
    "missing": "handed off and found nowhere, though no worker has run",
    "duplicated": "further copies in Resque, or the job is runnable in Qudo too",
    "mismatched": "Resque holds other values than Qudo did",
    "foreign": "no job, or an identity that none of the sources has given",
    "native": "born in Resque: not compared",
    "imported": "failures that came from Qudo's exception_log",
    "purged": "delivered, and deleted from the outbox: not compared any more",
    "returned": "put back into Qudo by a rollback, as new jobs: counted there, and not compared with what they were",
}


#: Words that are counted for a source as a whole: what is gone tells no func.
OF_SOURCES = ("foreign", "purged", "returned")


class Step(NamedTuple):
    """A box of the flow picture."""

    title: str
    jobs: int
    lines: list[tuple[str, int]]  #: what it is made of: word and jobs
    alarming: bool = False


def render(report: Report) -> str:
    """The page."""
    totals = report.totals
    script = _source("report.js")
    return _environment.get_template("report.html").render(
        report=report,
        totals=totals,
        steps=flow(totals),
        columns={
            source.name: columns([source.jobs, *(func.jobs for func in source.funcs)]) for source in report.sources
        },
        plots=[
            (kind, drawn)
            for kind, drawn in (
                ("wide", plot(report.throughput, 800, 170)),
                ("tall", plot(report.throughput, 340, 190)),
            )
            if drawn is not None
        ],
        wrong=[(word, getattr(totals, word)) for word in DIFFERENCES],
        beside=[(word, getattr(totals, word)) for word in BESIDE if word not in DIFFERENCES and getattr(totals, word)],
        kinds=[kind.value for kind in Kind if any(each.kind is kind for each in report.findings)],
        meanings=MEANINGS,
        of_sources=OF_SOURCES,
        mirrored_wrong=sum(each.different for each in report.mirror),
        # Ours, from files of the package; everything else goes through the escaping.
        style=Markup(_source("report.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _source(name: str) -> str:
    loader = _environment.loader
    return loader.get_source(_environment, name)[0].replace("\r\n", "\n") if loader else ""


def columns(rows: Sequence[Jobs]) -> list[str]:
    """The words that a table needs: those that count anything, what is wrong first."""
    words = dict.fromkeys((*DIFFERENCES, *HANDED_OFF, *STATES, *BESIDE))
    return [word for word in words if any(getattr(jobs, word) for jobs in rows)]


def breakable(text: str | None) -> Markup:
    """A Perl name that may be broken behind each "::"."""
    return Markup("::<wbr>").join((text or "").split("::"))


_environment.filters["breakable"] = breakable


def flow(totals: Jobs) -> list[Step]:
    """A job's way: where the jobs are on it."""

    def step(title: str, words: Sequence[str]) -> Step:
        lines = [(word.replace("_", " "), int(getattr(totals, word))) for word in words if getattr(totals, word)]
        return Step(title, sum(count for _, count in lines), lines, "missing" in words and totals.missing > 0)

    in_qudo = [word for word in STATES if word not in (*HANDED_OFF, "not_handed_off", "returning")]
    return [
        step("Qudo", in_qudo),
        step("Outbox", ("not_handed_off", "returning")),
        step("Resque", ("queued", "delayed", "working")),
        step("Over", ("consumed", "failed", "missing")),
    ]
