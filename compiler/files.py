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
    if path.is_dir():
        raise NetcError([Diagnostic("cannot-write", f"{path} cannot be written: it is a folder")])


@contextmanager
def written_whole(path: Path) -> Generator[Path]:
    """An empty file beside `path` to write to. It takes `path`'s place when the block ends, and goes when it fails.

    Its mode is an ordinary file's, also where the writer puts another file in its place (as safetensors does).

    Raises:
        NetcError: where the folder does not exist or cannot be written to (`cannot-write`).
    """
    refuse_folder(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NetcError([Diagnostic("cannot-write", f"{path} cannot be written: {reason}")]) from error
    finally:
        if os.path.lexists(partial):
            partial.unlink()
