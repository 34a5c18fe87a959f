"""Tuning: records survive writers and kills, nearest ones are valid answers, candidates fail alone."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc.__main__ import app
from netc.backends.relax.build import compile, prepare
from netc.backends.relax.choice import Analytic, Asked, Fixed, Question, ask
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import Machine, host
from netc.backends.relax.tuning import candidate, database
from netc.backends.relax.tuning.candidate import Failure, Program, Same
from netc.backends.relax.tuning.database import Database, Trial, read_lines, write_lines
from netc.backends.relax.tuning.nearest import adapted, distance, near
from netc.backends.relax.tuning.program import program
from netc.backends.relax.tuning.record import Processor, Record, processor, written
from netc.backends.relax.tuning.recorded import Recorded, shipped
from netc.backends.relax.tuning.search import proposals
from netc.backends.relax.tuning.task import Source as Tuned
from netc.backends.relax.tuning.task import Task, tasks
from netc.backends.relax.tuning.tune import Limits, Progress, State, tune
from netc.compiler.backend import backend
from netc.compiler.diagnostic import Diagnostic, NetcError
from netc.compiler.library import level_steps
from netc.compiler.pipeline import run as run_passes
from netc.compiler.program import read, read_source
from netc.compiler.source import Source
from netc.compiler.target import LLVM
from typer.testing import CliRunner

HERE = Processor("x86_64", "znver4", 16, 32, 1 << 20, 2, ("avx", "avx2", "avx512f", "fma"))
TILES = ("6 32", "12 32", "4 64")


def question(rows: int = 64, tiles: tuple[str, ...] = TILES, **facts: Any) -> Question:
    return ask("linear", {"rows": rows, "columns": 128, "dtype": "f32", **facts}, {"tile": tiles, "unroll": (1, 4)})


def record(asked: Question, answer: dict[str, Any] | None = None, **given: Any) -> Record:
    found = answer or {"tile": "4 64", "unroll": 4}
    values = {"processor": HERE, "answer": found, "default": asked.default, "seconds": 0.9, "analytic": 1.0}
    values |= {"spread": 0.01, "trials": 6, "when": "2026-01-01T00:00:00+00:00", "netc": "0.1.0"}
    return Record(question=asked.key, **(values | given))


# ---------------------------------------------------------------------------------------------------- the database


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    kept = [record(question(rows)) for rows in (8, 64, 128)]
    with Database(tmp_path / "a" / "r.sqlite") as one:
        assert one.put(kept) == 3
        one.add("q", HERE, "0.1.0", Trial({"tile": "1 2"}, 1.0, 2.0, 0.1))
        one.add("q", HERE, "0.1.0", Trial({"tile": "9 9"}, failure="it crashed"))
    with Database(tmp_path / "a" / "r.sqlite") as again:
        assert sorted(again.records(), key=lambda r: r.line) == sorted(kept, key=lambda r: r.line)
        trials = again.trials("q", HERE, "0.1.0")
        assert [(t.seconds, t.failure) for t in trials.values()] == [(1.0, None), (None, "it crashed")]
        assert not again.trials("q", HERE, "0.2.0")
        assert not again.trials("q", replace(HERE, threads=1), "0.1.0")


def test_the_newer_record_stays(tmp_path: Path) -> None:
    old, new = record(question()), record(question(), {"tile": "6 32", "unroll": 1}, when="2026-01-02T00:00:00+00:00")
    with Database(tmp_path / "r.sqlite") as opened:
        for first, second, changed in ((old, new, 1), (new, old, 0)):
            opened.put([first])
            assert opened.put([second]) == changed
            assert opened.records() == [new]


def write(path: Path, process: int) -> None:
    with Database(path) as opened:
        for i in range(25):
            asked = question(process * 1000 + i)
            opened.add(asked.key, HERE, "0.1.0", Trial(asked.default, 1.0, 1.0, 0.0))
            opened.put([record(asked)])


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(path, i)) for i in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0, 0]
    wanted = {question(p * 1000 + i).key for p in (1, 2) for i in range(25)}
    with Database(path) as opened:
        assert {r.question for r in opened.records()} == wanted
        assert all(len(opened.trials(key, HERE, "0.1.0")) == 1 for key in wanted)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_text("a diary, long enough to be no empty file" * 100)
    with pytest.raises(NetcError, match="cannot be used"):
        Database(path)
    assert path.read_text().startswith("a diary")
    with pytest.raises(NetcError, match="cannot be used"):
        Database(tmp_path)
    with Database(tmp_path / "later.sqlite") as opened:
        opened._connection.execute("PRAGMA user_version = 9")
    with pytest.raises(NetcError, match="version 9"):
        Database(tmp_path / "later.sqlite")
    (tmp_path / "empty.sqlite").touch()
    assert database.load(tmp_path / "empty.sqlite") == []
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE diary (page TEXT)")
    with pytest.raises(NetcError, match="version 0"):
        Database(tmp_path / "other.sqlite")


def test_where_records_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NETC_RECORDS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert database.default_path() == tmp_path / "netc" / "records.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert database.default_path() == tmp_path / "home" / ".cache" / "netc" / "records.sqlite"
    monkeypatch.setenv("NETC_RECORDS", str(tmp_path / "mine"))
    assert database.default_path() == tmp_path / "mine"
    monkeypatch.setenv("NETC_RECORDS", "none")
    assert database.default_path() is None
    assert database.load(None) == database.load(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_lines_read_back_and_wrong_ones_are_told(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    kept = [record(question(rows)) for rows in (8, 64)]
    assert write_lines(kept, path) == 2
    assert sorted(read_lines(path), key=lambda r: r.line) == sorted(kept, key=lambda r: r.line)
    data = json.loads(kept[0].line)
    wrong = ["{", "[]", json.dumps({**data, "question": 3}), json.dumps({**data, "seconds": "soon"})]
    wrong += [json.dumps({**data, "extra": 1}), json.dumps({**data, "processor": {}})]
    path.write_text("\n".join([kept[0].line, *wrong]))
    with pytest.raises(NetcError) as caught:
        read_lines(path)
    assert [d.message.split(" is ")[0] for d in caught.value.diagnostics] == [f"{path}:{n}" for n in range(2, 8)]


# ---------------------------------------------------------------------------------------------------- answers


def test_records_answer_exactly_then_nearly_then_not() -> None:
    near_one, far = question(72), question(640)
    mine = record(question())
    answers = Recorded(HERE, [mine])
    assert answers.answer(question()) == mine.answer
    assert answers.answer(near_one) == {"tile": "4 64", "unroll": 4}
    assert answers.answer(far) == far.default
    assert [answers.origins[q] for q in (question(), near_one, far)] == ["records", "near records", "analytic"]


def test_own_records_win_and_the_order_of_records_does_not_matter() -> None:
    mine = record(question())
    other = record(question(), {"tile": "12 32", "unroll": 1})
    assert Recorded(HERE, [mine], [other]).answer(question()) == mine.answer
    assert Recorded(HERE, [], [other]).answer(question()) == other.answer
    exact = Recorded(HERE, [record(question(72))], [other])
    assert exact.answer(question()) == other.answer, "a record of the question itself before a near one"
    abroad = replace(HERE, cpu="znver5")
    assert Recorded(HERE, [mine], [replace(other, processor=abroad)]).answer(question(72)) == mine.answer
    many = [record(question(rows), {"tile": t, "unroll": 4}) for rows in (60, 68) for t in TILES]
    for records in (many, many[::-1]):
        assert Recorded(HERE, records).answer(question()) == Recorded(HERE, many).answer(question())


def test_what_does_not_compare() -> None:
    for other in (question(dtype="f16"), question(stride=1), question(rows=129), question(rows=4)):
        assert not near(distance(question(), HERE, record(other)))
    for lanes in (replace(HERE, lanes=8), replace(HERE, architecture="aarch64"), replace(HERE, threads=64)):
        assert not near(distance(question(), HERE, record(question(), processor=lanes)))
    assert near(distance(question(), HERE, record(question(), processor=replace(HERE, cpu="znver5", threads=4))))
    assert not near(
        distance(
            ask("conv", {"stride": (1, 1)}, {"a": (1,)}),
            HERE,
            record(ask("conv", {"stride": (2, 2)}, {"a": (1,)}), {"a": 1}),
        )
    )


def test_a_default_that_was_found_to_be_right_stays_the_default() -> None:
    found = record(question(), {"tile": "6 32", "unroll": 4})
    asked = question(72, ("9 32", "6 32"))
    assert adapted(asked, found) == {"tile": "9 32", "unroll": 4}
    assert adapted(question(72, ("9 32", "5 64", "12 64")), record(question())) == {"tile": "5 64", "unroll": 4}
    assert adapted(question(72, ("9 32", "12 64")), record(question())) == {"tile": "9 32", "unroll": 4}


OPTIONS = st.integers(0, 300) | st.sampled_from(["", "x", "8", "4 16", "5 16", "4 16 image", "08 1"])
SPACES = st.dictionaries(st.sampled_from("abcd"), st.lists(OPTIONS, min_size=1, max_size=6))
FACTS = st.dictionaries(
    st.sampled_from("pqr"),
    st.integers(0, 4096) | st.booleans() | st.sampled_from(["N", "f32"]) | st.tuples(st.integers(1, 99), st.just("N")),
)


@given(SPACES, SPACES, FACTS, FACTS, st.data())
def test_an_adapted_record_is_always_an_answer(
    a: dict[str, Any], b: dict[str, Any], facts: dict[str, Any], other: dict[str, Any], data: st.DataObject
) -> None:
    """Whatever the record says, of whatever question, from whatever netc."""
    asked = ask("kind", facts, a)
    was = ask("kind", data.draw(st.sampled_from([facts, other])), b)
    answer = data.draw(st.fixed_dictionaries({name: st.sampled_from(found) for name, found in was.space}))
    found = Record.read(record(was, answer or {"z": 1}).line)
    assert asked.valid(adapted(asked, found))
    assert asked.valid(Recorded(HERE, [found]).answer(asked))
    assert distance(was, HERE, found) == (0, 0, 0)


def test_shipped_records_are_well_formed() -> None:
    for found in shipped():
        assert found.answer.keys() == found.default.keys()
        assert 0 < found.seconds <= found.analytic


# ---------------------------------------------------------------------------------------------------- search

POINTS = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), min_size=1
)


@given(POINTS, st.randoms(use_true_random=False))
def test_proposals_are_new_answers(space: dict[str, list[int]], draw: Any) -> None:
    asked = ask("kind", {}, space)
    tried = {written(asked.default): 1.0}
    found = 0
    for answer in itertools.islice(proposals(asked, tried), 40):
        assert asked.valid(answer)
        assert written(answer) not in tried
        tried[written(answer)] = draw.choice([0.5, 0.9, 1.5, float("inf")])
        found += 1
    assert found == asked.points - 1 or asked.points > 24
    assert found > 16 or asked.points <= 24


def test_a_large_space_is_searched_around_the_best_answer() -> None:
    """A valley in four parameters of ten candidates each, whose bottom is far from the default."""
    asked = ask("kind", {}, {name: range(10) for name in "abcd"})
    best = {"a": 3, "b": 7, "c": 5, "d": 8}
    tried = {written(asked.default): 1.0}
    for answer in itertools.islice(proposals(asked, tried), 160):
        tried[written(answer)] = 0.1 + sum((answer[n] - best[n]) ** 2 for n in "abcd") / 200  # type: ignore[operator]
    assert min(tried.values()) < 0.12
    again = dict(itertools.islice(tried.items(), 20))
    assert next(proposals(asked, again)) == json.loads(list(tried)[20]), "a search that was stopped goes on"


# ---------------------------------------------------------------------------------------------------- the tuner

TEXT = """model m = M() (x: f32[2, 24])
module M() (x) { return x |> linear(40) |> relu |> linear(40) |> linear(24) }
model other = M() (x: f32[2, 24])
"""
MACHINE = host(threads=1)


def source(text: str = TEXT, model: str = "m") -> Tuned:
    return Tuned(prepare(read_source(Source("m.net", text)).model(model).graph, {}))


def best(task: Task, choices: Any) -> tuple[bool, str]:
    """Whether this is the candidate that shall be fast, and its answer: the one before the last of a small space."""
    answers = list(itertools.product(*(found for _, found in task.question.space)))
    fast = tuple(choices.given[name] for name, _ in task.question.space) == answers[-2]
    return fast, written(choices.given)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pretend:
    """Runs take the time that they say, whatever else the machine does."""
    monkeypatch.setattr(candidate, "_seconds", lambda run, count, clock: run())
    return Pretend(tmp_path / "log")


@dataclass(frozen=True)
class Pretend:
    """Programs that do nothing, one answer of each space faster; and what shall go wrong, by the answer."""

    log: Path
    wrong: Callable[[str], None] = lambda _: None

    def __call__(self, task: Task, machine: Machine, choices: Any, known: Any) -> Program:
        fast, answer = best(task, choices)
        with self.log.open("a") as file:
            file.write(f"{task.name} {answer}\n")
        if choices.given != task.question.default:
            self.wrong(answer)
        return Program(lambda: 0.001 if fast else 0.002, lambda: [np.ones(3, np.float32)])


def all_points(states: Sequence[State]) -> int:
    return sum(s.task.question.points for s in states)


def test_tasks_are_questions_each_once() -> None:
    made = tasks([source(), source(model="other")], MACHINE, Analytic())
    assert len({t.question for t in made}) == len(made) == 3
    assert [t.weight for t in made] == [2, 2, 2]
    assert [t.question.kind for t in made] == ["linear"] * 3
    assert all(t.question.points > 1 for t in made)
    for task in made:
        assert task.name in task.graph.nodes
        assert len([n for n in task.graph.nodes.values() if n.op.name == "linear"]) == 1
    assert "relu" in {n.op.name for n in made[0].graph.nodes.values()}, "the kernel is what TVM fuses"


def test_the_best_answer_is_found_kept_and_not_measured_again(tmp_path: Path, pretend: Pretend) -> None:
    with Database(tmp_path / "r.sqlite") as opened:
        told: list[Progress] = []
        states = tune([source()], MACHINE, opened, build=pretend, listen=told.append)
        for state in states:
            assert state.record is not None
            assert best(state.task, Fixed(state.task.question, state.record.answer, Analytic()))[0]
            assert state.ratio < 0.9
            assert not state.failures
        assert told[-1].made == all_points(states) - len(states)
        assert told[-1].seconds < 0.9 * told[-1].analytic
        measured = pretend.log.read_text()
        again = tune([source()], MACHINE, opened, build=pretend)
        assert [s.record for s in again] == [s.record for s in states]
        assert pretend.log.read_text() == measured
        answers = Recorded(processor(MACHINE), opened.records())
        lowered = lower(source().graph, MACHINE, None, answers)
        assert set(answers.origins.values()) == {"records"}
        assert all(best_answer(a) for a in lowered.asked)


def best_answer(asked: Asked) -> bool:
    answers = list(itertools.product(*(found for _, found in asked.question.space)))
    return tuple(asked.answer[name] for name, _ in asked.question.space) == answers[-2]


def test_limits_hold_and_every_task_has_its_floor(tmp_path: Path, pretend: Pretend) -> None:
    with Database(tmp_path / "r.sqlite") as opened:
        states = tune([source()], MACHINE, opened, Limits(trials=7), build=pretend)
        assert sum(s.tried for s in states) == 7
        assert min(s.tried for s in states) >= 2
        assert all(s.record for s in states)
        for limits, wanted in ((Limits(minutes=0), 7), (Limits(trials=5), 7), (Limits(trials=9), 9)):
            more = tune([source()], MACHINE, opened, limits, build=pretend)
            assert sum(s.tried for s in more) == wanted


def crash(answer: str) -> None:
    os.write(2, b"the generator gave up\n")
    os.abort()


def hang(answer: str) -> None:
    while True:
        time.sleep(1)


def refuse(answer: str) -> None:
    raise NetcError([Diagnostic("x", "no such kernel")])


FAULTS = {
    "crash": (crash, "it crashed (SIGABRT): the generator gave up"),
    "hang": (hang, "building it took too long"),
    "refuse": (refuse, "no such kernel"),
}


@pytest.mark.parametrize(("fault", "cause"), FAULTS.values(), ids=FAULTS.keys())
def test_a_candidate_fails_alone(
    fault: Callable[[str], None], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretend: Pretend
) -> None:
    monkeypatch.setattr(candidate, "BUILD", 3.0)
    (first,) = tasks([source()], MACHINE, Analytic())[:1]
    bad = written(next(itertools.islice(proposals(first.question, {written(first.question.default): 1.0}), 1, 2)))

    def wrong(answer: str) -> None:
        if answer == bad:
            fault(answer)

    with Database(tmp_path / "r.sqlite") as opened:
        (state, *_) = tune([source()], MACHINE, opened, build=replace(pretend, wrong=wrong))
        assert [(written(t.answer), t.failure) for t in state.failures] == [(bad, cause)]
        assert state.ratio < 0.9
        stored = opened.trials(state.task.question.key, processor(MACHINE), version("netc"))
        assert stored[bad].failure == cause
        assert len(stored) == state.task.question.points


def test_wrong_numbers_and_late_crashes_are_failures(tmp_path: Path) -> None:
    (first,) = tasks([source()], MACHINE, Analytic())[:1]
    answers = list(itertools.islice(proposals(first.question, {written(first.question.default): 1.0}), 3))
    off, nan, late = map(written, answers)

    def build(task: Task, machine: Machine, choices: Any, known: Any) -> Program:
        answer = written(choices.given)
        value = {off: 1.01, nan: float("nan")}.get(answer, 1.0)
        runs = itertools.count()

        def run() -> None:
            if answer == late and next(runs) > 5:
                os.abort()

        return Program(run, lambda: [np.full(3, value, np.float32)])

    with Database(tmp_path / "r.sqlite") as opened:
        (state, *_) = tune([source()], MACHINE, opened, Limits(trials=9), build=build)
    causes = {written(t.answer): str(t.failure) for t in state.failures}
    assert causes.keys() == {off, nan, late}
    assert causes[off] == "wrong numbers: output 0 differs by 1.0e-02 of its largest element"
    assert "wrong numbers" in causes[nan]
    assert causes[late] == "it crashed (SIGABRT)"


def test_answers_that_make_the_same_kernel_are_measured_once(tmp_path: Path, pretend: Pretend) -> None:
    """Here the first parameter alone matters."""

    def build(task: Task, machine: Machine, choices: Any, known: Any) -> Program:
        kernel = written({n: choices.given[n] for n, _ in task.question.space[:1]})
        if kernel in known:
            raise Same(kernel)
        return replace(pretend(task, machine, choices, known), kernel=kernel)

    with Database(tmp_path / "r.sqlite") as opened:
        for _ in range(2):
            states = tune([source()], MACHINE, opened, build=build)
            for state in states:
                first = state.task.question.space[0][1]
                assert state.tried == len(first) - 1
                assert len(state.trials) == state.task.question.points
                times = {(t.answer[state.task.question.space[0][0]], t.seconds) for t in state.trials.values()}
                assert len(times) == len(first)
                assert state.decided


class Everything(frozenset[str]):
    def __contains__(self, name: object) -> bool:
        return True


def test_parameters_that_do_not_matter_are_noticed() -> None:
    """The tile of direct convolution does not where there is none."""
    text = "model m = M() (x: f32[1, 32, 28, 28])\nmodule M() (x) { return x |> conv2d(32, 3, padding = 1) }\n"
    (task,) = tasks([source(text)], MACHINE, Analytic())
    names: dict[str, set[str]] = {}
    for answer in every(task.question):
        with pytest.raises(Same) as caught:
            program(task, MACHINE, Fixed(task.question, answer, Analytic()), Everything())
        names.setdefault(str(answer["algorithm"]).split()[0][:8], set()).add(str(caught.value))
    algorithms = [str(a) for a in dict(task.question.space)["algorithm"]]
    tiles = dict(task.question.space)["tile"]
    assert len(names["direct"]) >= len(tiles) > 1
    assert 1 <= len(names["winograd"]) <= sum(a.startswith("winograd") for a in algorithms)


def test_a_default_that_fails_costs_its_task_only(tmp_path: Path, pretend: Pretend) -> None:
    def build(task: Task, machine: Machine, choices: Any, known: Any) -> Program:
        if task.name == "linear":
            raise Failure("not today")
        return pretend(task, machine, choices, known)

    with Database(tmp_path / "r.sqlite") as opened:
        first, *others = tune([source()], MACHINE, opened, Limits(trials=6), build=build)
        assert (first.failure, first.record, first.tried) == ("not today", None, 0)
        assert all(s.record and s.tried for s in others)


def test_real_kernels_with_their_numbers_checked(tmp_path: Path) -> None:
    """Each candidate of a small product is built, agrees with the default, and compiles with what was found."""
    text = "model m = M() (x: f32[5, 8])\nmodule M() (x) { return x |> linear(20) |> relu }\n"
    made = read_source(Source("m.net", text)).model("m")
    with Database(tmp_path / "r.sqlite") as opened:
        (state,) = tune([source(text)], MACHINE, opened, Limits(trials=4))
        assert (state.tried, state.failures, state.failure) == (4, [], None)
        wanted = {r.question for r in opened.records()}
        assert wanted == {state.task.question.key}
    kept = replace(state.record, answer=state.trials[list(state.trials)[1]].answer)  # type: ignore[type-var]
    reference = backend("pytorch").Reference(made.graph, 0)
    manifests: list[str] = []
    for name in ("a", "b"):
        answers = Recorded(processor(MACHINE), [kept])
        artifact = compile(made.graph, LLVM(threads=1), tmp_path / name, reference=reference, choices=answers)
        assert artifact is not None
        (told,) = artifact.manifest["answers"]
        assert told["from"] == "records"
        assert told["answer"] == kept.answer != state.task.question.default
        assert told["nodes"] == ["linear"]
        assert artifact.manifest["difference"]["relative"] < 1e-5
        manifests.append((tmp_path / name / "model.so").read_bytes().hex())
    assert manifests[0] == manifests[1], "the same graph, target, seed and records give the same bytes"


def work(folder: Path, build: Pretend) -> None:
    with Database(folder / "r.sqlite") as opened:
        tune([source()], MACHINE, opened, build=build)


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, pretend: Pretend) -> None:
    """Ten kills; what was stored before each is there after it, and in the end everything was measured, hardly anything
    of it twice."""
    context = multiprocessing.get_context("fork")
    draw = random.Random(5)
    stored: set[tuple[str, str]] = set()
    for _ in range(10):
        tuner = context.Process(target=work, args=(tmp_path, pretend))
        tuner.start()
        time.sleep(draw.uniform(0.05, 0.6))
        tuner.kill()
        tuner.join()
        found = set(measured(tmp_path / "r.sqlite"))
        assert found >= stored
        stored = found
    work(tmp_path, pretend)
    states = tasks([source()], MACHINE, Analytic())
    points = {(t.question.key, w) for t in states for w in map(written, every(t.question))}
    assert set(measured(tmp_path / "r.sqlite")) == points
    with Database(tmp_path / "r.sqlite") as opened:
        assert {r.question for r in opened.records()} == {t.question.key for t in states}
        assert opened._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    defaults = {f"{t.name} {written(t.question.default)}" for t in states}
    built = Counter(line for line in pretend.log.read_text().splitlines() if line not in defaults)
    assert set(built) == {f"{t.name} {written(a)}" for t in states for a in every(t.question)} - defaults
    # A kill costs the two candidates that are being built, and the finals that a task ends with.
    assert sum(n - 1 for n in built.values()) <= 2 * 10 + 3 * (10 + 2 * len(states))


def every(asked: Question) -> Iterator[dict[str, Any]]:
    names = [name for name, _ in asked.space]
    for values in itertools.product(*(found for _, found in asked.space)):
        yield dict(zip(names, values, strict=True))


def measured(path: Path) -> list[tuple[str, str]]:
    if not path.exists() or not path.stat().st_size:
        return []
    with Database(path) as opened:
        return opened._connection.execute("SELECT question, answer FROM trials").fetchall()


def test_two_tuners_share_their_records(tmp_path: Path, pretend: Pretend) -> None:
    context = multiprocessing.get_context("fork")
    tuners = [context.Process(target=work, args=(tmp_path, pretend)) for _ in range(2)]
    for tuner in tuners:
        tuner.start()
    for tuner in tuners:
        tuner.join()
    assert [t.exitcode for t in tuners] == [0, 0]
    made = tasks([source()], MACHINE, Analytic())
    assert len(measured(tmp_path / "r.sqlite")) == sum(t.question.points for t in made)


def test_nothing_is_left_running(tmp_path: Path, pretend: Pretend) -> None:
    """A tuner that is killed takes its candidates with it: they see that their pipe is closed."""

    def wrong(answer: str) -> None:
        (tmp_path / f"{os.getpid()}.pid").touch()

    def run() -> None:
        with Database(tmp_path / "r.sqlite") as opened:
            tune([source()], MACHINE, opened, build=replace(pretend, wrong=wrong))

    tuner = multiprocessing.get_context("fork").Process(target=run)
    tuner.start()
    while not list(tmp_path.glob("*.pid")):
        time.sleep(0.01)
    tuner.kill()
    tuner.join()
    pids = [int(p.stem) for p in tmp_path.glob("*.pid")]
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.02)
    pytest.fail(f"{pids} still run")


# ---------------------------------------------------------------------------------------------------- the command

FILE = """\
module M() (x: [N, 8]) { return x |> linear(20) |> relu |> linear(4) }
model m = M() (x: f32[N, 8])
target here = llvm(threads = 1)
target board = llvm(threads = 1, triple = "riscv64-linux-gnu", cpu = "generic-rv64")
plan p for m on here {
    batch 5
    fuse pattern linear |> relu?
    tune trials = 4
}
plan far for m on board {
    batch 5
    tune trials = 4
}
"""


@pytest.fixture
def netc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.net").write_text(FILE)

    def run(*arguments: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, arguments)
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found.exit_code, found.output

    return run


def test_tuning_exporting_importing_compiling(netc: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    model = ("m.net:m", "--target", "here", "--bind", "N=5")
    code, said = netc("tune", *model, "--trials", "4", "--records", "a.sqlite", "--export", "a.jsonl")
    assert code == 0, said
    assert "2 tasks, 4 trials" in said
    assert "2 records in a.jsonl" in said
    assert netc("tune", "--import", "a.jsonl", "--records", "b.sqlite") == (0, "2 of 2 records are new in b.sqlite\n")
    assert netc("tune", "--export", "b.jsonl", "--records", "b.sqlite") == (0, "2 records in b.jsonl\n")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    origins: dict[str, set[str]] = {}
    for name, records in {"with": "b.sqlite", "without": "none", "fresh": "nowhere.sqlite"}.items():
        code, said = netc("compile", *model, "-o", name, "--records", records)
        assert code == 0, said
        origins[name] = {a["from"] for a in json.loads((tmp_path / name / "manifest.json").read_text())["answers"]}
    assert origins["with"] == {"records"}
    assert origins["without"] == {"analytic"}
    assert not (tmp_path / "nowhere.sqlite").exists()


def test_a_plan_is_tuned_before_it_is_compiled(netc: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = netc("compile", "m.net:p", "-o", "made", "--records", "r.sqlite")
    assert code == 0, said
    assert "2 tasks, 4 trials" in said
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert {a["from"] for a in manifest["answers"]} == {"records"}
    assert [len(g["nodes"]) for g in manifest["groups"]] == [2, 1]
    code, said = netc("compile", "m.net:p", "-o", "made", "--records", "r.sqlite", "--tune", "--trials", "5")
    assert "2 tasks, 5 trials" in said


def test_each_model_takes_the_sizes_that_it_has(netc: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    layer = "module M(n: int) (x) { return x |> linear(n) }\n"
    models = "model m = M(24) (x: f32[N, 8])\nmodel s = M(40) (x: f32[T, 8])\n"
    (tmp_path / "two.net").write_text(f"{layer}{models}target here = llvm(threads = 1)\n")
    code, said = netc(
        "tune", "two.net:m", "two.net:s", "--bind", "N=5", "--bind", "T=7", "--trials", "2", "--records", "r"
    )
    assert code == 0, said
    assert "2 tasks" in said


def test_what_cannot_be_tuned_is_told(netc: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary")
    wrong = {
        ("tune",): (2, "say what to tune"),
        ("tune", "m.net:m", "--target", "here", "--records", "none"): (2, "needs a file"),
        ("tune", "m.net:m", "--target", "here", "--records", "r"): (1, "leaves N open"),
        ("tune", "m.net:m", "--target", "here", "--bind", "N=1", "--records", "diary"): (1, "cannot be used"),
        ("tune", "m.net:p", "m.net:far", "--records", "r"): (2, "different targets"),
        ("tune", "m.net:p", "--bind", "N=1", "--records", "r"): (2, "says what --bind would"),
        ("tune", "m.net:m", "--target", "here", "--bind", "B=1", "--records", "r"): (1, "no model has a dimension B"),
        ("tune", "m.net:m", "--target", "here", "--bind", "N=²", "--records", "r"): (2, "a number of at least 1"),
        ("tune", "m.net:far", "--records", "r"): (1, "does not run here"),
        ("compile", "m.net:far", "-o", "far", "--records", "r"): (1, "does not run here"),
        ("compile", "m.net:p", "-o", "p", "--records", "none"): (2, "needs a file"),
        ("compile", "m.net:m", "-o", "p", "--trials", "3"): (2, "limit --tune"),
        ("compile", "m.net:m", "--target", "here", "-o", "p", "--records", "diary"): (1, "cannot be used"),
        ("compile", "m.net:m", "--target", "here", "-o", "p", "--records", "n" * 300): (1, "cannot be used"),
        ("tune", "--import", "diary", "--records", "r"): (1, "diary:1 is no record"),
        ("tune", "--import", "nowhere", "--records", "r"): (1, "cannot be read"),
    }
    for arguments, (code, message) in wrong.items():
        assert netc(*arguments)[0] == code, arguments
        assert message in netc(*arguments)[1], arguments


def test_stopped_from_the_keyboard_it_keeps_what_it_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "netc", "tune", f"{SPECS}/resnet.net:resnet18", "--bind", "N=1"]
    command += ["--records", "r.sqlite", "--minutes", "5"]
    # Tests that a shell started in the background ignore this signal, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        tuner = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while not measured(tmp_path / "r.sqlite") and tuner.poll() is None:
        time.sleep(0.05)
    tuner.send_signal(signal.SIGINT)
    _, said = tuner.communicate()
    assert tuner.returncode == 130, said
    assert "goes on from there" in said
    assert "Traceback" not in said
    assert measured(tmp_path / "r.sqlite")


# ---------------------------------------------------------------------------------------------------- what ships

SPECS = Path(__file__).parents[1] / "specs"
TUNED = {
    "resnet.net:resnet18": {"N": 1},
    "resnet.net:resnet50": {"N": 1},
    "convnext.net:convnext_tiny": {"N": 1},
    "unet.net:unet": {"N": 1},
    "mobilenet_v2.net:mobilenet_v2": {"N": 1},
    "efficientnet_lite.net:lite0": {"N": 1},
    "vit.net:deit_tiny": {"N": 1},
    "bert.net:bert_mini": {"N": 1, "T": 128},
    "gpt2.net:gpt2_block": {"N": 1, "T": 128},
}
"""The models whose kernels the shipped records are about."""


@cache
def shipped_tasks(threads: int) -> dict[str, Task]:
    """What these models ask, with and without the answers of records."""
    machine = host(threads=threads)
    found: dict[str, Task] = {}
    for name, sizes in TUNED.items():
        path, _, model = name.partition(":")
        made = read(str(SPECS / path)).model(model)
        graph = run_passes(made.graph, level_steps(2, 0), facts=made.facts).final
        for choices in (Analytic(), Recorded(processor(machine), shipped())):
            for task in tasks([Tuned(prepare(graph, sizes))], machine, choices):
                found.setdefault(task.question.key, task)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("found", shipped(), ids=lambda r: f"{r.question} on {r.processor.threads}")
def test_shipped_records_compute_what_defaults_do(found: Record) -> None:
    machine = host(threads=found.processor.threads)
    if processor(machine) != found.processor:
        pytest.skip(f"recorded on another processor, {found.processor.cpu}")
    task = shipped_tasks(found.processor.threads).get(found.question)
    assert task is not None, "no model asks this: the record is of no use any more"
    assert task.question.valid(found.answer)
    expected = None
    for answer in (found.default, found.answer):
        thus = Fixed(task.question, answer, Analytic())
        with candidate.Candidate(lambda t=thus: program(task, machine, t, ()), machine.threads, expected) as built:
            built.ready()
            expected = built.results()


# ---------------------------------------------------------------------------------------------------- other machines


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[str]:
    """A tracker and two devices of the key `board`, on this machine."""
    processes: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "TVM_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def start(module: str, name: str, *arguments: str) -> str:
        command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *arguments]
        path = tmp_path / name
        log = path.open("w+")
        processes.append(
            subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True, start_new_session=True)
        )
        for _ in range(3000):
            found = re.search(r"bind to 127\.0\.0\.1:(\d+)", path.read_text())
            if found:
                return found[1]
            assert processes[-1].poll() is None, path.read_text()
            time.sleep(0.05)
        raise AssertionError(path.read_text())

    try:
        address = f"127.0.0.1:{start('rpc_tracker', 'tracker', '--port', '29190', '--port-end', '29290')}"
        for device in DEVICES:
            ports = ("--port", "29390", "--port-end", "29490")
            start("rpc_server", device, *ports, "--tracker", address, "--key", "board")
        yield address
    finally:
        for process in processes[::-1]:
            os.killpg(process.pid, signal.SIGKILL)  # they work in processes of their own, which would stay
            process.wait()


DEVICES = ("device1", "device2")


@pytest.mark.slow
def test_targets_are_tuned_for_on_their_devices(
    tracker: str, netc: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """By all three commands that tune, for a plan and a model; what is compiled does not say where."""
    farm = f'llvm(threads = 1) remote(host = "{tracker}", key = "KEY")'
    targets = f"target farm = {farm.replace('KEY', 'board')}\ntarget boats = {farm.replace('KEY', 'boat')}\n"
    plan = "plan q for m on farm {\n    batch 5\n    tune trials = 4\n}\n"
    (tmp_path / "m.net").write_text(FILE + targets + plan)
    model = ("m.net:m", "--bind", "N=5", "--records", "r.sqlite")
    for _ in range(100):
        code, said = netc("tune", *model, "--target", "boats")
        assert code == 1
        if "its devices: board" in said:
            break
        time.sleep(0.1)
    assert "has no device boat" in said

    code, said = netc("tune", *model, "--target", "farm", "--trials", "4")
    assert code == 0, said
    assert "2 tasks, 4 trials" in said
    with Database(tmp_path / "r.sqlite") as opened:
        assert len(opened.records()) == 2
        assert tracker not in "".join(r.line for r in opened.records())
        assert all(failure is None for (failure,) in opened._connection.execute("SELECT failure FROM trials"))
    told = "".join((tmp_path / device).read_text() for device in DEVICES)
    assert [(tmp_path / device).read_text().count("start serving") > 0 for device in DEVICES] == [True, True], told

    for name, target in {"far": "farm", "near": "here"}.items():
        code, said = netc("compile", *model, "--target", target, "-o", name)
        assert code == 0, said
    far, near = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("far", "near"))
    assert far == near
    assert {a["from"] for a in json.loads(far["manifest.json"])["answers"]} == {"records"}

    served = serving(tmp_path)
    code, said = netc("compile", *model, "--target", "farm", "-o", "far", "--tune", "--trials", "5")
    assert code == 0, said
    assert "2 tasks, 5 trials" in said
    assert serving(tmp_path) > served
    served = serving(tmp_path)
    code, said = netc("compile", "m.net:q", "-o", "planned", "--records", "s.sqlite")
    assert code == 0, said
    assert "2 tasks, 4 trials" in said
    assert serving(tmp_path) > served


def serving(folder: Path) -> int:
    """How many sessions the devices have had."""
    return sum((folder / device).read_text().count("start serving") for device in DEVICES)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "farm..lan:9190"])
def test_trackers_that_are_not_there(netc: Callable[..., tuple[int, str]], tmp_path: Path, host: str) -> None:
    (tmp_path / "m.net").write_text(f'{FILE}target farm = llvm(threads = 1) remote(host = "{host}", key = "board")\n')
    code, said = netc("tune", "m.net:m", "--target", "farm", "--bind", "N=5", "--records", "r.sqlite")
    assert code == 1
    assert "does not answer" in said
