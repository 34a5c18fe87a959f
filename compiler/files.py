"""Writing files: whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .diagnostic import Diagnostic, NetcError


def refuse_folder(path: Path) -> None:
    """Say so where a file is to be written and a folder is named.

    Raises:
        NetcError: where `path` is a folder (`cannot-write`).
    """
    try:
        folder = path.is_dir()
    except OSError as error:
        raise _unwritable(path, error) from error
    if folder:
        raise NetcError([Diagnostic("cannot-write", f"{path} cannot be written: it is a folder")])


def refuse_unwritable(path: Path) -> None:
    """Say so before the work whose result is to be written to a file, where it cannot be.

    Raises:
        NetcError: as `written_whole`.
    """
    refuse_folder(path)
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _unwritable(path: Path, error: OSError) -> NetcError:
    reason = error.strerror or str(error)
    return NetcError([Diagnostic("cannot-write", f"{path} cannot be written: {reason}")])


@contextmanager
def written_whole(path: Path) -> Generator[Path]:
    """An empty file beside `path` to write to. It takes `path`'s place when the block ends, and goes when it fails.

    Its mode is an ordinary file's, also where the writer puts another file in its place (as safetensors does).

    Raises:
        NetcError: where the folder does not exist or cannot be written to (`cannot-write`).
    """
    refuse_folder(path)
    partial = _partial(path)
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if os.path.lexists(partial):
            partial.unlink()
