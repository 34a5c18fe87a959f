"""Where the files are that a spec names."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from .diagnostic import Diagnostic, Label, NetcError, nearest
from .source import Span


def locate(text: str, base: Path, root: Path, span: Span) -> Path:
    """The file or folder that a text at `span` names: relative to `base`, below `root`, or inside an installed package
    (`package:NAME/path`).

    Raises:
        NetcError: where there is no such file, or it lies outside.
    """
    if text.startswith("package:"):
        return _in_package(text, span)
    path = (base / text).resolve()
    if not path.is_relative_to(root):
        raise _problem(
            "outside-folder",
            f"{text} lies outside the folder that files of this spec may lie in",
            span,
            "move the file there, or allow a folder that all of them lie in: --allow FOLDER",
            (f"the folder is {root}",),
        )
    if not path.exists():
        close = nearest(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.exists() else None
        raise _problem("file-not-found", f"there is no file {text}", span, close)
    return path


def _in_package(text: str, span: Span) -> Path:
    name, _, rest = text.removeprefix("package:").partition("/")
    spec = find_spec(name) if re.fullmatch(r"\w+", name) else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = (Path(folder) / rest).resolve()
        if path.is_relative_to(Path(folder).resolve()) and path.exists():
            return path
    missing = f"the package {name} is not installed" if not folders else f"the package {name} has no file {rest}"
    fix = f"pip install --no-deps {name.replace('_', '-')}" if not folders else None
    raise _problem("file-not-found", missing, span, fix)


def _problem(code: str, message: str, span: Span, fix: str | None, notes: tuple[str, ...] = ()) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span),), notes, fix)])
