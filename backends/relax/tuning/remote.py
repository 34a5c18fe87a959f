"""Kernels of tasks run on the remote devices of a target, through TVM's tracker and servers: `python -m
tvm.exec.rpc_tracker` on one machine, `python -m tvm.exec.rpc_server --tracker HOST:PORT --key KEY` on each device.

A candidate is compiled and linked here, in its fork. For each measurement it asks the tracker for a device, sends the
library and the weights, and gives the device back: the default and a candidate run in turns on one device, or on any of
several that share a key and have to be alike.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ....compiler.diagnostic import Diagnostic, NetcError
from ....compiler.target import Remote
from ..artifact import Array, kept
from ..build import Built, build, probe
from ..choice import Choices
from ..link import link, linker, write_objects
from ..machine import Machine
from ..untyped import tvm
from .candidate import LEAST, Failure, Program
from .program import kernel_of
from .task import Task

PATIENCE = 60
"""Seconds that a device may be held for a measurement."""
LIBRARY = "candidate.so"


@dataclass(frozen=True)
class Devices:
    """Devices that a tracker knows under a key."""

    of: Remote

    def check(self) -> None:
        """Make sure that there is one.

        Raises:
            NetcError: where the tracker does not answer, or has no such device.
        """
        try:
            known = self._tracker().summary()["queue_info"]
        except (OSError, RuntimeError, UnicodeError) as error:  # the last: no name of a host
            message = f"the tracker {self.of.host} does not answer: {error}"
            raise NetcError([Diagnostic("remote", message)]) from None
        if self.of.key not in known:
            notes = (f"its devices: {', '.join(sorted(known)) or 'none'}",)
            raise NetcError([Diagnostic("remote", f"{self.of.host} has no device {self.of.key}", (), notes)])

    def _tracker(self) -> Any:
        return import_module("tvm.rpc").connect_tracker(*self.of.address)

    def program(self, task: Task, machine: Machine, choices: Choices, known: Collection[str]) -> Program:
        """As `program.program`, for the devices.

        Raises:
            NetcError: where it cannot be built.
            Failure: where it cannot be linked here, and as there.
            Same: as there.
        """
        kernel = kernel_of(task, machine, choices, known)
        if linker(machine) is None:
            raise Failure("there is no linker for the target here")
        built = build(task.graph, machine, 0, task.groups, choices)
        arrays = [*probe({name: node.types[0] for name, node in task.graph.inputs.items()}), *built.constants.values()]
        with tempfile.TemporaryDirectory() as folder:
            link(write_objects(built.executable, Path(folder)), Path(folder) / LIBRARY, machine)
            library = bytearray((Path(folder) / LIBRARY).read_bytes())

        def seconds() -> float:
            with self._loaded(library, arrays, machine) as (vm, device):
                vm.invoke_stateful("main")
                measured = vm.time_evaluator(
                    "invoke_stateful", device, number=1, repeat=1, min_repeat_ms=int(1e3 * LEAST)
                )
                return float(measured("main").mean)

        def results() -> Sequence[Array]:
            with self._loaded(library, arrays, machine) as (vm, _):
                vm.invoke_stateful("main")
                return _results(vm.get_outputs("main"), built)

        return Program(lambda: None, results, kernel, seconds)

    @contextmanager
    def _loaded(self, library: bytearray, arrays: Sequence[Array], machine: Machine) -> Generator[tuple[Any, Any]]:
        """A device with the library loaded and its inputs set."""
        tracker = self._tracker()
        session = tracker.request(self.of.key, session_timeout=PATIENCE)
        try:
            session.get_function("runtime.config_threadpool")(1, machine.threads)
            session.upload(library, LIBRARY)
            device = session.cpu()
            vm = tvm.runtime.vm.VirtualMachine(session.load_module(LIBRARY), device)
            vm.set_input("main", *(tvm.runtime.tensor(kept(a).numpy(), device) for a in arrays))
            yield vm, device
        finally:
            # The device is free when nothing refers to it any more.
            vm = session = device = tracker = None
            gc.collect()


def _results(found: Any, built: Built) -> list[Array]:
    tensors = list(found) if isinstance(found, tuple | list) else [found]
    types = built.lowered.outputs.values()
    return [t.numpy().view(type.dtype.as_numpy) for t, type in zip(tensors, types, strict=True)]
