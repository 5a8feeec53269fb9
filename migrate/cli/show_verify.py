"""How a verification looks on a terminal: the report in about ten lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from migrate.cli.printing import counted, noun, output_console, print_next, table
from migrate.verify.findings import Finding
from migrate.verify.report import Report
from migrate.verify.words import DIFFERENCES, HANDED_OFF, STATES, Jobs, Kind

#: Findings that a terminal lists; the reports list more.
SHOWN_FINDINGS = 5


def show_verification(report: Report, folder: Path | None) -> None:
    """The verdict, where the jobs are, what is wrong, the next command."""
    console = output_console()
    totals = report.totals
    if not report.complete:
        verdict = "[bold red]incomplete[/]"
    elif report.verdict == "ok":
        verdict = "[bold green]ok[/]"
    else:
        verdict = "[bold red]differences[/]"
    wrong = ", ".join(f"{getattr(totals, word):,} {word}" for word in DIFFERENCES)
    console.print(
        f"{verdict}: {counted(report.jobs, 'jobs')} compared in {report.seconds:,.1f} s"
        f" ({report.jobs_per_second:,.0f} jobs/s); {wrong}",
        soft_wrap=True,
    )
    for source in report.sources:
        if source.error is None:
            console.print(f"  {escape(source.name)}: {_where(source.jobs)}", soft_wrap=True)
    beside = [
        f"{getattr(totals, word):,} {word}"
        for word in ("native", "foreign", "imported", "purged", "returned")
        if getattr(totals, word)
    ]
    if beside:
        console.print(f"  beside these: {', '.join(beside)}", soft_wrap=True)
    for each in report.mirror:
        copies = "copy" if each.compared == 1 else "copies"
        console.print(
            f"  mirror of {escape(each.func)}: {each.compared:,} {copies} compared, {each.different:,} different,"
            f" {each.gone:,} done by Qudo meanwhile, {each.missed:,} missed",
            soft_wrap=True,
        )
    shown = _of_each_kind(report.findings)
    if shown:
        rows = [(each.kind.value, _job(each), each.func or "", each.detail) for each in shown]
        console.print(table("", ("finding", "job", "func", "detail"), rows))
        further = len(report.findings) - len(shown) + report.findings_left_out
        if further:
            findings = noun(further, "findings")
            console.print(f"  and {further:,} more {findings}: --report DIR lists {report.findings_cap:,} of each kind")
    for error in report.errors:
        console.print(f"[bold red]{escape(error.error)}[/]", soft_wrap=True)
        if error.advice:
            console.print(f"  → {escape(error.advice)}", soft_wrap=True)
    if folder is not None:
        console.print(f"Report: {escape(str(folder))}/report.html and report.json", soft_wrap=True)
    print_next(console, report.next)


def _of_each_kind(findings: Sequence[Finding]) -> list[Finding]:
    """A few in their order, the first of each kind among them: a thousand missing jobs don't hide a doubled one."""
    met: Counter[Kind] = Counter()
    ranks = []
    for place, each in enumerate(findings):
        ranks.append((met[each.kind], place))
        met[each.kind] += 1
    return [findings[place] for place in sorted(place for _, place in sorted(ranks)[:SHOWN_FINDINGS])]


def _job(finding: Finding) -> str:
    if finding.source is None and finding.id is None:
        return finding.outbox or ""
    return f"{finding.source or '?'}:{finding.outbox if finding.id is None else finding.id}"


def _where(jobs: Jobs) -> str:
    in_qudo = [word for word in STATES if word not in HANDED_OFF]

    def listed(words: tuple[str, ...] | list[str]) -> str:
        return ", ".join(f"{getattr(jobs, word):,} {word.replace('_', ' ')}" for word in words if getattr(jobs, word))

    qudo, resque = listed(in_qudo), listed(list(HANDED_OFF))
    parts = [counted(jobs.all, "jobs")]
    parts.append(f"in Resque {jobs.handed_off:,} ({resque})" if resque else "none handed off")
    if qudo:
        parts.append(f"in Qudo {qudo}")
    return "; ".join(parts)
