"""A model that a file declares: its graph with its weights, and the ways out of the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backend import backend
from .cost import Report, cost
from .graph import Graph
from .library import level_steps
from .pipeline import Stage, run
from .target import LLVM, Target
from .text import print_graph
from .weights import LoadReport

if TYPE_CHECKING:
    import torch

    from .invoke import Applied


@dataclass(frozen=True, slots=True)
class Model:
    """One model. Parameters without loaded weights are initialised from `seed`, the same numbers in every backend."""

    name: str
    graph: Graph
    reports: tuple[LoadReport, ...] = ()
    spec_hash: str = ""
    facts: frozenset[str] = frozenset()
    """What passes have made true of the graph; see `netc.compiler.pipeline`."""
    stages: tuple[Stage, ...] = ()
    """The passes and transforms that the graph has gone through."""
    applied: tuple[Applied, ...] = ()
    """The transforms that made it, those of the models it was made of among them; see `netc.compiler.receipt`."""

    def __str__(self) -> str:
        return print_graph(self.graph)

    def _repr_html_(self) -> str:
        """What a notebook shows: totals, and the modules as a tree that opens."""
        from .report.small import small

        return small(self.graph)

    def cost(self, bind: Mapping[str, int] | None = None) -> Report:
        """Parameters, multiply-accumulates, memory and critical path; see `netc.compiler.cost`."""
        return cost(self.graph, bind)

    def torch(self, seed: int = 0) -> torch.nn.Module:
        """The model as an `nn.Module`, with parameters named by path and this model's weights."""
        return backend("pytorch").module(self.graph, seed=seed)

    def optimised(self, level: int = 2, seed: int = 0) -> Model:
        """The model of inference after the passes of a level; see `netc passes`.

        Raises:
            NetcError: where a pass fails.
        """
        trace = run(self.graph, level_steps(level, seed), facts=self.facts)
        return replace(self, graph=trace.final, facts=trace.facts, stages=(*self.stages, *trace.stages))

    def compile(
        self, folder: str | Path, target: Target | None = None, level: int = 2, seed: int = 0, **options: Any
    ) -> Any:
        """Optimise, and compile with TVM into an artifact folder; see `netc.backends.relax.compile`."""
        made = self.optimised(level, seed)
        options |= {"spec_hash": self.spec_hash, "passes": [s.data() for s in made.stages], "seed": seed}
        return backend("tvm").compile(made.graph, target or LLVM(), Path(folder), **options)

    def export(self, path: str | Path, to: str, seed: int = 0) -> list[Path]:
        """Write source and weights (`to="pytorch"`, a folder) or an ONNX file (`to="onnx"`)."""
        return list(backend(to).export(self.graph, Path(path), seed=seed))
