"""The book: Markdown pages whose commands run, in this process, and must print what the page says.

A fenced block whose first word is `net` is written to the file named after it (`example.net` without a name); a block
`console` holds commands after `$ ` and what they print. `pytest --bless` rewrites the printed parts.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from netc.__main__ import app
from typer.testing import CliRunner

BOOK = Path(__file__).parent / "book"
BLOCK = re.compile(r"^```(net|console)[ ]?(.*?)\n(.*?)^```$", re.M | re.S)


def run(command: str) -> str:
    """What a `netc` command prints, standard error first, and its exit code where that is not 0."""
    words = shlex.split(command)
    assert words[0] == "netc", f"the book runs only netc, not {command}"
    result = CliRunner().invoke(app, words[1:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    printed = "\n".join(line.rstrip() for line in (result.stderr + result.stdout).strip("\n").splitlines())
    return printed + (f"\n[exit {result.exit_code}]" if result.exit_code else "")


def replay(text: str) -> str:
    """The page with every console block filled with what its commands print now."""

    def block(match: re.Match[str]) -> str:
        kind, name, body = match.groups()
        if kind == "net":
            Path(name or "example.net").write_text(body)
            return match.group(0)
        commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
        printed = "\n".join(f"$ {c}\n{run(c)}".rstrip() for c in commands)
        return f"```console\n{printed}\n```"

    return BLOCK.sub(block, text)


@pytest.mark.parametrize("page", sorted(BOOK.glob("*.md")), ids=lambda p: p.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    replayed = replay(text)
    if request.config.getoption("--bless"):
        page.write_text(replayed)
    else:
        assert replayed == text
