"""Tuning: candidates of every question of some models, each built and run in turns with the analytic default.

Every task first gets a floor of trials. From then on the next trials go to the task that may save most: its part of the
time of all, times what its last trials have saved, or what so few trials may hope for. Everything measured is stored at
once and is not measured again: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from math import inf

from ..artifact import Array
from ..choice import Choices, Fixed, Option
from ..machine import Machine
from .candidate import Candidate, Failure, Program, Same
from .database import Database, Trial, now
from .program import program
from .race import FINAL, MARGIN, Race, race
from .record import Answer, Record, processor, written
from .recorded import Recorded
from .search import proposals
from .task import Source, Task, tasks

FLOOR = 8
"""Trials that every task gets before any gets more."""
VISIT = 8
"""Trials of a task before the next is chosen."""
PATIENCE = 32
"""Trials without a better answer after which a task is done."""
WORTH = 1e-3
"""Part of the time of all kernels that further trials of a task must promise to save; the floor asks for nothing."""
FINALISTS = 3
"""Answers that may meet the default in a final, the fastest first, until one wins."""

Build = Callable[[Task, Machine, Choices, Collection[str]], Program]
"""A task's kernel with these answers, unless it is a known one."""


@dataclass(frozen=True)
class Limits:
    """When to stop: after so many trials of all tasks, those of earlier runs among them, or so many minutes of this
    run, whichever comes first; None for no limit."""

    trials: int | None = None
    minutes: float | None = None


@dataclass
class State:
    """How far a task is."""

    task: Task
    trials: dict[str, Trial] = field(default_factory=dict[str, Trial])
    """By answer, in the order in which they were made; the default is one of them."""
    record: Record | None = None
    failure: str | None = None
    """Why the default itself cannot be measured."""
    exhausted: bool = False
    decided: bool = False
    """Whether the record takes account of all trials."""

    @property
    def kernels(self) -> dict[str, Trial]:
        """The trials that made kernels of their own, by kernel; by answer where that is not known."""
        found: dict[str, Trial] = {}
        for answer, trial in self.trials.items():
            found.setdefault(trial.kernel or answer, trial)
        return found

    @property
    def tried(self) -> int:
        """Kernels beside the default."""
        return max(0, len(self.kernels) - (written(self.task.question.default) in self.trials))

    @property
    def analytic(self) -> float:
        """Seconds of one run of the default; nothing as long as nothing was measured."""
        return min((t.analytic for t in self.trials.values() if t.analytic is not None), default=0.0)

    @property
    def ratios(self) -> dict[str, float]:
        """The time of each answer that was tried, as a part of the default's, infinite where it failed. Least times of
        both, since other work on the machine can only add to them."""
        analytic = self.analytic
        return {a: inf if t.seconds is None else t.seconds / analytic for a, t in self.trials.items()}

    @property
    def _distinct(self) -> list[float]:
        """Ratios of kernels, in the order of trials."""
        ratios = self.ratios
        return [ratios[written(trial.answer)] for trial in self.kernels.values()]

    @property
    def ratio(self) -> float:
        """The time of the answer that is taken, as a part of the default's."""
        return self.record.seconds / self.record.analytic if self.record else 1.0

    @property
    def seconds(self) -> float:
        """Of one run with the answer that is taken."""
        return self.analytic * self.ratio

    @property
    def failures(self) -> list[Trial]:
        return [t for t in self.trials.values() if t.failure is not None]

    @property
    def since(self) -> int:
        """Trials since the best one."""
        ratios = self._distinct
        return len(ratios) - 1 - ratios.index(min(ratios)) if ratios else 0

    @property
    def done(self) -> bool:
        return self.failure is not None or (self.decided and (self.exhausted or self.since >= PATIENCE))

    @property
    def left(self) -> int:
        """Trials that it may still take, at most."""
        return 0 if self.done else max(0, min(PATIENCE, self.task.question.points - 1 - self.tried))

    @property
    def hope(self) -> float:
        """Seconds of all its kernels that further trials may save."""
        ratios = self._distinct
        before, now = min(ratios[:-VISIT], default=1.0), min(ratios, default=1.0)
        saved = 1 - now / before if before < inf else 0.0
        return self.task.weight * self.seconds * max(saved, 0.5 / (1 + len(ratios)))


@dataclass
class Progress:
    """What a listener is told after each trial, and when a task begins."""

    states: Sequence[State]
    at: State
    trial: Trial | None
    """The trial that was made last; none at the beginning of a task."""
    made: int
    """Trials of this run."""
    elapsed: float
    left: float
    """Seconds that the run may still take."""

    @property
    def analytic(self) -> float:
        """Seconds of one run of all kernels that were measured, with analytic answers."""
        return sum(s.task.weight * s.analytic for s in self.states)

    @property
    def seconds(self) -> float:
        """The same with the answers that are taken."""
        return sum(s.task.weight * s.seconds for s in self.states)


Listen = Callable[[Progress], None]


def tune(
    sources: Sequence[Source],
    machine: Machine,
    database: Database,
    limits: Limits = Limits(),
    *,
    shipped: Sequence[Record] = (),
    listen: Listen = lambda _: None,
    build: Build = program,
) -> list[State]:
    """Tune what models ask, for a machine that is the one at hand, until limits are reached or there is nothing left.

    An answer may make a kernel ask what it did not ask before: then that is tuned as well.

    Raises:
        NetcError: where a size is not known, a graph cannot be lowered, or records cannot be stored.
    """
    return _Tuner(sources, machine, database, limits, shipped, listen, build).run()


class _Tuner:
    def __init__(
        self,
        sources: Sequence[Source],
        machine: Machine,
        database: Database,
        limits: Limits,
        shipped: Sequence[Record],
        listen: Listen,
        build: Build,
    ) -> None:
        self._sources = sources
        self._machine = machine
        self._processor = processor(machine)
        self._database = database
        self._limits = limits
        self._shipped = shipped
        self._listen = listen
        self._build = build
        self._netc = version("netc")
        self._states: dict[object, State] = {}
        self._start = time.monotonic()
        self._made = 0
        # As many are built at once as there are processors; while one is measured none is built.
        self._builders = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def run(self) -> list[State]:
        while self._collect() and not self._over:
            self._floor()
            while not self._over and (open := self._open()):
                self._visit(max(open, key=lambda s: s.hope), VISIT)
        return list(self._states.values())

    def _open(self) -> list[State]:
        """Tasks that are worth more trials, or not decided yet."""
        least = WORTH * sum(s.task.weight * s.seconds for s in self._states.values())
        return [s for s in self._states.values() if not s.done and (not s.decided or s.hope >= least)]

    def _collect(self) -> bool:
        """Find tasks, with what is known of them; whether there are new ones."""
        found = tasks(self._sources, self._machine, self._choices())
        kept = {r.question: r for r in self._database.records() if r.processor == self._processor}
        new = [task for task in found if task.question not in self._states]
        for task in new:
            state = State(task)
            self._states[task.question] = state
            record = kept.get(task.question.key)
            if record is not None and task.question.valid(record.answer):
                state.record = record
            self._recall(state)
        return bool(new)

    def _recall(self, state: State) -> None:
        """Trials of earlier runs, and of one that is at work on the same records."""
        question = state.task.question
        known = self._database.trials(question.key, self._processor, self._netc)
        state.trials.update((a, t) for a, t in known.items() if question.valid(t.answer))
        state.exhausted = next(proposals(question, state.ratios), None) is None
        record = state.record
        state.decided = record is not None and (record.netc, record.trials) == (self._netc, len(state.trials))

    def _choices(self) -> Recorded:
        return Recorded(self._processor, self._database.records(), self._shipped)

    def _floor(self) -> None:
        floor = FLOOR
        if self._limits.trials is not None:
            floor = max(1, min(FLOOR, self._limits.trials // max(1, len(self._states))))
        for state in self._states.values():
            if not self._over and not state.done and state.tried < floor:
                self._visit(state, floor - state.tried)

    @property
    def _over(self) -> bool:
        return self._left_trials <= 0 or self._left_seconds <= 0

    @property
    def _left_trials(self) -> float:
        return inf if self._limits.trials is None else self._limits.trials - sum(s.tried for s in self._states.values())

    @property
    def _left_seconds(self) -> float:
        limit = inf if self._limits.minutes is None else 60 * self._limits.minutes
        return limit - (time.monotonic() - self._start)

    def _tell(self, state: State, trial: Trial | None) -> None:
        elapsed = time.monotonic() - self._start
        trials = min(self._left_trials, sum(s.left for s in self._open()))
        left = min(max(0.0, self._left_seconds), trials * elapsed / self._made if self._made else inf)
        self._listen(Progress(list(self._states.values()), state, trial, self._made, elapsed, left))

    def _visit(self, state: State, count: int) -> None:
        """Make up to `count` trials of a task, and choose its answer."""
        self._recall(state)
        if state.done:
            return
        self._tell(state, None)
        choices = self._choices()
        question = state.task.question
        try:
            with self._candidate(state, question.default, choices) as default:
                kernel = default.ready()
                expected = default.results()
                seconds = _Default(default.seconds)
                if written(question.default) not in state.trials:
                    found = race(seconds, seconds)
                    least = min(found.candidate + found.default)
                    self._keep(state, Trial(question.default, least, least, found.spread, kernel=kernel))
                while count > 0 and not self._over and state.since < PATIENCE:
                    batch = int(min(self._builders, count, self._left_trials))
                    answers = list(islice(proposals(question, state.ratios), batch))
                    if not answers:
                        state.exhausted = True
                        break
                    before = state.tried
                    self._try(state, answers, choices, seconds, expected)
                    count -= state.tried - before
                self._decide(state, choices, seconds, expected)
        except Failure as failure:
            state.failure = str(failure)
            self._tell(state, Trial(question.default, failure=str(failure)))

    def _candidate(
        self,
        state: State,
        answer: Answer,
        choices: Choices,
        expected: Sequence[Array] | None = None,
        known: Collection[str] = (),
    ) -> Candidate:
        thus = Fixed(state.task.question, answer, choices)
        return Candidate(lambda: self._build(state.task, self._machine, thus, known), self._machine.threads, expected)

    def _try(
        self,
        state: State,
        answers: Sequence[dict[str, Option]],
        choices: Choices,
        default: _Default,
        expected: Sequence[Array],
    ) -> None:
        """Build answers at once, then measure one after the other."""
        known = {t.kernel: t for t in state.trials.values() if t.kernel is not None}
        candidates: list[Candidate] = []
        try:
            for answer in answers:
                candidates.append(self._candidate(state, answer, choices, expected, known.keys()))
            built: list[str | Failure | Same | None] = []
            for candidate in candidates:
                built.append(_built(candidate))
            for answer, candidate, found in zip(answers, candidates, built, strict=True):
                if isinstance(found, Failure):
                    trial = Trial(answer, failure=str(found))
                elif isinstance(found, Same):
                    trial = replace(known[str(found)], answer=answer)
                else:
                    trial = replace(_trial(answer, candidate, default), kernel=found)
                candidate.close()
                self._made += 1
                self._keep(state, trial)
        finally:
            for candidate in candidates:
                candidate.close()

    def _keep(self, state: State, trial: Trial) -> None:
        self._database.add(state.task.question.key, self._processor, self._netc, trial)
        state.trials[written(trial.answer)] = trial
        state.decided = False
        self._tell(state, trial)

    def _decide(self, state: State, choices: Choices, default: _Default, expected: Sequence[Array]) -> None:
        """Let the fastest meet the default once more, where there were trials since the last time: of many candidates
        the fastest looks faster than it is."""
        question = state.task.question
        if state.decided:
            return
        ratios = state.ratios
        ranked = sorted(
            (ratios[w], w) for t in state.kernels.values() if ratios[w := written(t.answer)] < 1 - MARGIN / 2
        )
        hopeful = [state.trials[answer].answer for _, answer in ranked if answer != written(question.default)]
        times = self._default_times(state)
        for answer in hopeful[:FINALISTS]:
            final = self._final(state, answer, choices, default, expected)
            if final is not None and final.won:
                times = answer, min(final.candidate), min(final.default), final.spread
                break
        answer, seconds, analytic, spread = times
        made = Record(
            question.key, self._processor, answer, question.default, seconds, analytic, spread,
            len(state.trials), now(), self._netc,
        )  # fmt: skip
        self._database.put([made])
        state.record, state.decided = made, True
        self._tell(state, None)

    def _default_times(self, state: State) -> tuple[Answer, float, float, float]:
        trial = state.trials[written(state.task.question.default)]
        assert trial.seconds is not None
        assert trial.spread is not None
        return trial.answer, trial.seconds, trial.seconds, trial.spread

    def _final(
        self, state: State, answer: Answer, choices: Choices, default: _Default, expected: Sequence[Array]
    ) -> Race | None:
        """None where the candidate fails this time."""
        with self._candidate(state, answer, choices, expected) as candidate:
            if isinstance(_built(candidate), Failure):
                return None
            try:
                return race(candidate.seconds, default, FINAL)
            except Failure as failure:
                if failure is default.failure:
                    raise
                return None


class _Default:
    """The seconds of the default, and its failure, which is not the candidate's that it runs against."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.failure: Failure | None = None

    def __call__(self) -> float:
        try:
            return self._seconds()
        except Failure as failure:
            self.failure = failure
            raise


def _built(candidate: Candidate) -> str | Failure | Same | None:
    """Wait until a candidate is built: which kernel it is, or why it was not built."""
    try:
        return candidate.ready()
    except (Failure, Same) as reason:
        return reason


def _trial(answer: Answer, candidate: Candidate, default: _Default) -> Trial:
    try:
        return _measured(answer, race(candidate.seconds, default))
    except Failure as failure:
        if failure is default.failure:
            raise
        return Trial(answer, failure=str(failure))


def _measured(answer: Answer, found: Race) -> Trial:
    return Trial(answer, min(found.candidate), min(found.default), found.spread)
