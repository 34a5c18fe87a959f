"""From LLVM's objects to what is shipped: a shared library where there is a linker for the target, else the objects."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ...compiler.diagnostic import Diagnostic, NetcError
from .machine import Machine

OBJECTS = ("model.o", "program.o")
"""Kernels; and the program that calls them, as the virtual machine's instructions."""


def write_objects(executable: Any, folder: Path) -> list[Path]:
    """Write an executable's objects into a folder."""
    written: list[Path] = []

    def keep(_: str, files: list[str], **options: Any) -> None:
        for file, name in zip(files, OBJECTS, strict=True):
            written.append(Path(shutil.copyfile(file, folder / name)))

    executable.export_library(str(folder / "unused.o"), fcompile=keep)
    return written


def link(objects: list[Path], library: Path, machine: Machine) -> None:
    """Make a shared library.

    Raises:
        NetcError: where there is no compiler driver to link with (`no-linker`), or it fails (`link`).
    """
    driver = linker(machine)
    if driver is None:
        message = "a shared library is linked with a C compiler, and none was found"
        raise NetcError(
            [Diagnostic("no-linker", message, notes=("looked for: $CC, cc, gcc, clang",), fix="apt install gcc")]
        )
    command = [driver, "-shared", "-fPIC", "-Wl,--build-id=none", "-o", str(library), *map(str, objects)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetcError([Diagnostic("link", f"{driver} failed: {done.stderr.strip()[-2000:]}")])


def linker(machine: Machine) -> str | None:
    """A compiler driver that links for a machine, if there is one."""
    if machine.native or machine.gpu:
        names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    else:
        names = [f"{machine.triple}-gcc", f"{machine.triple}-cc"]
    return next((found for name in names if name and (found := shutil.which(name))), None)
