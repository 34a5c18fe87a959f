"""Writing files: whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .diagnostic import Diagnostic, NetcError


@contextmanager
def written_whole(path: Path) -> Generator[Path]:
    """An empty file beside `path` to write to. It takes `path`'s place when the block ends, and goes when it fails.

    Its mode is an ordinary file's, also where the writer puts another file in its place (as safetensors does).

    Raises:
        NetcError: where the folder does not exist or cannot be written to (`cannot-write`).
    """
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
