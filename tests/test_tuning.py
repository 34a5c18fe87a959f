"""Tuning: records survive writers and kills, nearest ones are valid answers, candidates fail alone."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc.backends.relax.choice import Question, ask
from netc.backends.relax.tuning import database
from netc.backends.relax.tuning.database import Database, Trial, read_lines, write_lines
from netc.backends.relax.tuning.nearest import adapted, distance, near
from netc.backends.relax.tuning.record import Processor, Record
from netc.backends.relax.tuning.recorded import Recorded, shipped
from netc.compiler.diagnostic import NetcError

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
        assert [(t.ratio, t.failure) for t in trials.values()] == [(0.5, None), (float("inf"), "it crashed")]
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
        for i in range(60):
            asked = question(process * 1000 + i)
            opened.add(asked.key, HERE, "0.1.0", Trial(asked.default, 1.0, 1.0, 0.0))
            opened.put([record(asked)])


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(path, i)) for i in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0, 0]
    wanted = {question(p * 1000 + i).key for p in (1, 2) for i in range(60)}
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
    with pytest.raises(NetcError, match="version 0"):
        database.load(tmp_path / "empty.sqlite")
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
