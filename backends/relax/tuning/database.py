"""Records on disk: one SQLite file, which any number of processes may read and write, and be killed while they do.

Every change is one transaction with SQLite's rollback journal: after a kill, or a loss of power, the next reader finds
the file as it was before the change or after it. (The write-ahead log would need files beside this one, and shared
memory, which folders on a network do not have; writes are too rare for its speed to matter.)
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ....compiler.diagnostic import Diagnostic, NetcError
from .record import Answer, Processor, Record, written

VERSION = 1
"""Of the tables."""
PATIENCE = 60.0
"""Seconds to wait for another writer."""
VARIABLE = "NETC_RECORDS"
NONE = "none"
"""The name of no file."""

TABLES = """
CREATE TABLE records (
    question TEXT NOT NULL, processor TEXT NOT NULL, answer TEXT NOT NULL, analytic_answer TEXT NOT NULL,
    seconds REAL NOT NULL, analytic REAL NOT NULL, spread REAL NOT NULL, trials INTEGER NOT NULL,
    at TEXT NOT NULL, netc TEXT NOT NULL, PRIMARY KEY (question, processor)
) WITHOUT ROWID;
CREATE TABLE trials (
    question TEXT NOT NULL, processor TEXT NOT NULL, answer TEXT NOT NULL, netc TEXT NOT NULL,
    seconds REAL, analytic REAL, spread REAL, failure TEXT, kernel TEXT, at TEXT NOT NULL,
    PRIMARY KEY (question, processor, answer, netc)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried: its times as in `Record`, or why there are none."""

    answer: Answer
    seconds: float | None = None
    analytic: float | None = None
    spread: float | None = None
    failure: str | None = None
    kernel: str | None = None
    """What the answer made: answers that make the same have the same times, measured once."""


def default_path() -> Path | None:
    """Where a user's records are: the file that `NETC_RECORDS` names, none where it says so, else one in the user's
    folder for caches (XDG Base Directory Specification)."""
    given = os.environ.get(VARIABLE)
    if given:
        return None if given == NONE else Path(given)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache"
    return folder / "netc" / "records.sqlite"


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Database:
    """The records in a file, which is made where there is none; a file that is only read may lie where nothing can be
    written.

    Raises:
        NetcError: where the file cannot be opened, or is something else (`records`); so do all methods.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path = path
        with self._told():
            if writable:
                path.parent.mkdir(parents=True, exist_ok=True)
            where = f"{path.absolute().as_uri()}?mode={'rwc' if writable else 'ro'}"
            self._connection = sqlite3.connect(where, timeout=PATIENCE, isolation_level=None, uri=True)
            if writable:
                self._make()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            message = f"the records in {path} are of version {version}, and this netc reads version {VERSION}"
            raise NetcError([Diagnostic("records", message, fix="another file: --records FILE")])

    def _make(self) -> None:
        """The tables, where the file has nothing yet."""
        with self._change():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version == tables == 0:
                for statement in TABLES.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def records(self) -> list[Record]:
        """All records, in the order of their keys."""
        columns = "question, processor, answer, analytic_answer, seconds, analytic, spread, trials, at, netc"
        with self._told():
            rows = self._connection.execute(f"SELECT {columns} FROM records ORDER BY question, processor").fetchall()
            return [_record(*row) for row in rows]

    def put(self, records: Iterable[Record]) -> int:
        """Keep records, each in the place of an older one of its question and processor; how many were new."""
        rows = [_row(record) for record in records]
        statement = """
            INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
            answer = excluded.answer, analytic_answer = excluded.analytic_answer, seconds = excluded.seconds,
            analytic = excluded.analytic, spread = excluded.spread, trials = excluded.trials, at = excluded.at,
            netc = excluded.netc WHERE excluded.at > at OR (excluded.at = at AND excluded.trials >= trials)"""
        with self._change():
            before = self._connection.total_changes
            self._connection.executemany(statement, rows)
            return self._connection.total_changes - before

    def trials(self, question: str, processor: Processor, netc: str) -> dict[str, Trial]:
        """What this version of netc has tried, by answer."""
        columns = "answer, seconds, analytic, spread, failure, kernel"
        where = "question = ? AND processor = ? AND netc = ?"
        with self._told():
            rows = self._connection.execute(
                f"SELECT {columns} FROM trials WHERE {where} ORDER BY at, answer", (question, processor.key, netc)
            ).fetchall()
        return {answer: Trial(json.loads(answer), *rest) for answer, *rest in rows}

    def add(self, question: str, processor: Processor, netc: str, trial: Trial) -> None:
        """Keep what became of a candidate."""
        row = (question, processor.key, written(trial.answer), netc)
        row += (trial.seconds, trial.analytic, trial.spread, trial.failure, trial.kernel, now())
        with self._change():
            self._connection.execute("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    @contextmanager
    def _change(self) -> Generator[None]:
        """One transaction, which takes the lock at once: two that had only read would wait for each other."""
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise _unusable(self.path, error) from error


def _unusable(path: Path, error: Exception) -> NetcError:
    reason = getattr(error, "strerror", None) or str(error)
    message = f"the records in {path} cannot be used: {reason}"
    return NetcError([Diagnostic("records", message, fix="another file: --records FILE")])


def _record(question: str, processor: str, answer: str, default: str, *rest: Any) -> Record:
    made = Processor.read(json.loads(processor))
    return Record(question, made, json.loads(answer), json.loads(default), *rest)


def _row(r: Record) -> tuple[Any, ...]:
    texts = (r.question, r.processor.key, written(r.answer), written(r.default))
    return (*texts, r.seconds, r.analytic, r.spread, r.trials, r.when, r.netc)


def load(path: Path | None) -> list[Record]:
    """The records in a file; none where there is no file, or another process is just making it.

    Raises:
        NetcError: where the file cannot be read, or holds something else (`records`).
    """
    if path is None:
        return []
    try:
        if path.stat().st_size == 0:
            return []
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from error
    with Database(path, writable=False) as database:
        return database.records()


def write_lines(records: Iterable[Record], path: Path) -> int:
    """Write records as lines of text, whole or not at all, in the order of their keys; how many.

    Raises:
        NetcError: where the file cannot be written (`cannot-write`).
    """
    from ....compiler.files import written_whole

    lines = sorted(record.line for record in records)
    with written_whole(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return len(lines)


def read_lines(path: Path) -> list[Record]:
    """The records that `write_lines` wrote.

    Raises:
        NetcError: where the file cannot be read (`file-not-found`), with every line that is no record (`records`).
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NetcError([Diagnostic("file-not-found", f"{path} cannot be read: {error}")]) from None
    found: list[Record] = []
    problems: list[Diagnostic] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(Record.read(line))
        except ValueError as error:
            problems.append(Diagnostic("records", f"{path}:{number} is no record: {_reason(error)}"))
    if problems:
        raise NetcError(problems)
    return found


def _reason(error: Any) -> str:
    """Why, in one line, of what pydantic says in several."""
    if not hasattr(error, "errors"):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
