"""The cut-over: shows and moves the step on which each func stands, and says who has not followed.

Writes the steps in Redis (the authority), then a copy of them into each source. A step is taken only when its
preconditions hold for all funcs asked for; `force` takes it all the same, and names what it ignored.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property

import msgspec

from migrate.config import Config
from migrate.engine import binding, key_spelling, step_changes
from migrate.engine.followers import Followers, ProcessStatus
from migrate.engine.preconditions import Preconditions
from migrate.engine.recording import record
from migrate.engine.results import ErrorLine
from migrate.engine.routing import Routing
from migrate.engine.stopping import SIGNALLED, Stop
from migrate.errors import MigrateError, Refused, ServerError, UsageError
from migrate.qudo.source import Source
from migrate.resque import steps
from migrate.resque.history import command_line
from migrate.resque.steps import KeyGuard, Step, StepNote, Steps
from migrate.resque.target import Target
from migrate.resque.unique_keys import Spelling

ORDER = list(Step)


class Action(StrEnum):
    """What is asked for."""

    SHOW = "show"
    ADVANCE = "advance"
    BACK = "back"
    SET = "set"


class CutoverOptions(msgspec.Struct, frozen=True):
    """What the operator said."""

    action: Action
    func_glob: str = "*"
    step: Step | None = None  #: of `set`
    percent: int | None = None  #: of step `switched`
    force: bool = False


class FuncStep(msgspec.Struct, frozen=True):
    """One func."""

    func: str
    step: Step | None  #: None: simply migrated
    percent: int
    keys: KeyGuard  #: where its uniqkeys are held
    spelling: Spelling  #: which of them Redis takes for one
    kept: bool  #: run and follow leave its rows in Qudo
    user: str
    host: str
    at: str  #: UTC, ISO 8601; empty without a step


class Blocked(msgspec.Struct, frozen=True):
    """Why a func can't take the step."""

    func: str
    reason: str


class CutoverResult(msgspec.Struct, frozen=True):
    """What `cutover` prints with `--json`."""

    command: str
    action: Action
    exit_status: int
    version: int
    changed: list[str]  #: funcs
    funcs: list[FuncStep]
    processes: list[ProcessStatus]
    not_followed: list[str]  #: processes that go by an older version
    blocked: list[Blocked]
    ignored: list[str]  #: what --force ignored
    errors: list[ErrorLine]
    next: str


def cutover(config: Config, options: CutoverOptions, stop: Stop) -> CutoverResult:
    """Do it. Raises UsageError, Refused, and the servers' errors; a source that is away ends only what needs it.

    A stop ends the wait for processes: what was moved until then stays, and the result names it.
    """
    target = Target.open(config.target.url, config.target.namespace)
    sources = [Source(each.name, each.url) for each in config.source]
    try:
        return _Cutover(config, options, target, sources, stop).run()
    finally:
        for source in sources:
            source.close()
        target.close()


class _Cutover:
    """One command."""

    def __init__(
        self, config: Config, options: CutoverOptions, target: Target, sources: Sequence[Source], stop: Stop
    ) -> None:
        self._config = config
        self._options = options
        self._target = target
        self._sources = sources
        self._stop = stop
        self._followers = Followers(target, stop)
        self._preconditions = Preconditions(config, sources, target, self._followers)
        self._errors: list[ErrorLine] = []
        self._blocked: list[Blocked] = []
        self._ignored: list[str] = []
        self._changed: list[str] = []

    def run(self) -> CutoverResult:
        """Check, act, look."""
        known = steps.read(self._target)
        funcs = self._funcs(known)
        if self._options.action is not Action.SHOW:
            wanted = {func: self._wanted(func, known.notes.get(func)) for func in funcs}
            if not funcs:
                raise UsageError(
                    f"cutover: no func matches {self._options.func_glob}",
                    advice="qudo-migrate cutover show lists them; a name without wildcards is taken as it is",
                )
            self._check(wanted, known)
            if not self._blocked:
                known = self._act(wanted, known)
        return self._result(known, funcs)

    def _funcs(self, known: Steps) -> list[str]:
        """All funcs that sources, steps or the glob itself name."""
        names = set(known.notes)
        for source in self._sources:
            try:
                routing = Routing(source, self._config)
                routing.refresh()
                names |= set(routing.names.values())
            except MigrateError as error:
                self._notice(source, error)
        glob = self._options.func_glob
        if not any(letter in glob for letter in "*?["):
            names.add(glob)
        return sorted(name for name in names if name and fnmatch.fnmatchcase(name, glob))

    def _notice(self, source: Source, error: MigrateError) -> None:
        """A source that is away, named once."""
        if source.name not in {known.source for known in self._errors}:
            self._errors.append(ErrorLine(source.name, error.message, error.advice))

    def _wanted(self, func: str, note: StepNote | None) -> tuple[Step, int]:
        """The step that a func shall take, and its percentage. Raises Refused at either end."""
        options = self._options
        percent = 100 if options.percent is None else options.percent
        if options.action is Action.SET:
            assert options.step is not None  # noqa: S101  the command line asks for it
            step = options.step
        elif options.action is Action.ADVANCE:
            step = _after(note)
        elif note is None or note.step is Step.QUDO:
            raise Refused(f"{func} stands at the beginning: it has no earlier step")
        else:
            step = ORDER[ORDER.index(note.step) - 1]
        if step is not Step.SWITCHED and options.percent is not None:
            raise UsageError(f"--percent: only step switched can be ramped, {func} would go to {step}")
        return step, percent

    def _check(self, wanted: Mapping[str, tuple[Step, int]], known: Steps) -> None:
        for func, (step, _percent) in wanted.items():
            for reason in self._preconditions.reasons(func, known.notes.get(func), step):
                if self._options.force:
                    self._ignored.append(f"{func}: {reason}")
                else:
                    self._blocked.append(Blocked(func, reason))

    def _act(self, wanted: Mapping[str, tuple[Step, int]], known: Steps) -> Steps:
        """Take the steps; returns what holds then."""
        # The way back to Qudo's own rows must not hang on every source.
        self._bind(needs_all=any(step is not Step.QUDO for step, _ in wanted.values()))
        # Keys first: before and after a job may be born in Resque, every process must look on both sides.
        crossing = [func for func, (step, _) in wanted.items() if _crosses(known.notes.get(func), step)]
        first = {
            func: step_changes.new_note(known, note.step, note.percent, KeyGuard.BOTH, self._spelling(note))
            for func in crossing
            if (note := known.notes.get(func)) is not None and note.guard is not KeyGuard.BOTH
        }
        if first:
            known = self._put(first, known)
            self._followers.wait(known.version)
            if self._stop.requested:
                return known
            late = self._followers.late(known.version)
            if late and not self._options.force:
                self._blocked += [Blocked(func, f"has not followed: {', '.join(late)}") for func in first]
                return known
        notes = {}
        for func, (step, percent) in wanted.items():
            note = known.notes.get(func)
            guard = KeyGuard.BOTH if func in crossing else self._preconditions.settled_guard(func, note)
            if note is None or (note.step, note.percent, note.guard) != (step, percent, guard):
                spelling = Spelling.FOLDED if guard is KeyGuard.QUDO else self._spelling(note)
                notes[func] = step_changes.new_note(known, step, percent, guard, spelling)
        if notes:
            known = self._put(notes, known)
            self._changed = sorted(notes)
            self._followers.wait(known.version)
            asked = self._asked(next(iter(wanted.values()))[0])
            record(self._target, "cutover", seconds=0, options=asked, counts={"funcs": len(notes)}, exit_status=0)
        return known

    def _asked(self, step: Step | None) -> dict[str, str | int | bool | None]:
        """What was asked for, each as an operator types it."""
        options = self._options
        percent, force = options.percent, options.force
        return {"action": options.action, "step": step, "func": options.func_glob, "percent": percent, "force": force}

    def _spelling(self, note: StepNote | None) -> Spelling:
        """How its keys are spelled in Redis: decided anew only while Redis holds none."""
        if note is not None and note.guard is not KeyGuard.QUDO:
            return note.spelling
        return self._spelling_of_sources

    @cached_property
    def _spelling_of_sources(self) -> Spelling:
        return key_spelling.of_sources(self._sources)

    def _bind(self, *, needs_all: bool) -> None:
        for source in self._sources:
            try:
                binding.bind(source, self._target)
            except MigrateError as error:
                if needs_all:
                    raise
                self._notice(source, error)

    def _put(self, notes: Mapping[str, StepNote], known: Steps) -> Steps:
        return step_changes.put(self._target, self._sources, notes, known, self._notice)

    def _result(self, known: Steps, funcs: Sequence[str]) -> CutoverResult:
        if self._stop.requested:
            status = SIGNALLED
        else:
            status = 1 if self._blocked else ServerError.exit_status if self._errors else 0
        return CutoverResult(
            command="cutover",
            action=self._options.action,
            exit_status=status,
            version=known.version,
            changed=self._changed,
            funcs=[_shown(func, known.notes.get(func)) for func in funcs],
            processes=self._followers.statuses(known.version),
            not_followed=self._followers.late(known.version),
            blocked=self._blocked,
            ignored=self._ignored,
            errors=self._errors,
            next=self._next(known, funcs),
        )

    def _next(self, known: Steps, funcs: Sequence[str]) -> str:
        glob = self._options.func_glob
        if self._blocked:
            forced = {**self._asked(self._options.step), "force": True}
            return f"qudo-migrate {command_line('cutover', forced)}    ignores that"
        if self._options.action is Action.SHOW or not funcs:
            return "qudo-migrate cutover advance --func GLOB"
        held = {note.step for func in funcs if (note := known.notes.get(func)) is not None}
        if held == {Step.MIRROR}:
            return "qudo-migrate verify    compares the shadow copies; then cutover advance"
        if held == {Step.SWITCHED}:
            return "qudo-migrate follow    carries what unchanged apps still enqueue"
        return f"qudo-migrate cutover show --func '{glob}'"


def _after(note: StepNote | None) -> Step:
    if note is None:
        return Step.QUDO
    if note.step is Step.SWITCHED and note.percent < 100:
        return Step.SWITCHED
    return ORDER[min(ORDER.index(note.step) + 1, len(ORDER) - 1)]


def _crosses(note: StepNote | None, step: Step) -> bool:
    """Whether jobs of the func are born in Resque before or after, but not both."""
    return (note is not None and note.step is Step.RESQUE) is not (step is Step.RESQUE)


def _shown(func: str, note: StepNote | None) -> FuncStep:
    if note is None:
        return FuncStep(func, None, 100, KeyGuard.QUDO, Spelling.FOLDED, kept=False, user="", host="", at="")
    by = note.user, note.host, note.at.isoformat()
    return FuncStep(func, note.step, note.percent, note.guard, note.spelling, note.keeps, *by)
