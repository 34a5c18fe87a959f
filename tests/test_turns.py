"""Groups run in turns: what is told of the turns is what was run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CONTEST = """
from netc.backends.relax.machine import host
from netc.backends.relax.turns import contest
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.workload import Workload
from netc.compiler.program import read_source
from netc.compiler.source import Source

text = "model m = M() (x: f32[4, 16])\\nmodule M() (x) { return x |> linear(32) |> relu |> linear(16) }\\n"
workload = Workload(read_source(Source("m.net", text)).model("m").graph)
nodes = tuple(workload.work.nodes)
parts = [Group("first", nodes[:2]), Group("second", nodes[2:])]
found = contest(workload, Group("all", nodes), parts, host(threads=2), turns=3)
assert len(found.fused) == len(found.unfused) == 3 and min(*found.fused, *found.unfused) > 0
print(found.timing.text)
"""


@pytest.mark.parametrize(("given", "threads"), [(None, "2 threads"), ("1", "1 thread")])
def test_the_threads_that_ran_are_told_of(given: str | None, threads: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TVM_NUM_THREADS"}
    env |= {} if given is None else {"TVM_NUM_THREADS": given}
    run = subprocess.run([sys.executable, "-c", CONTEST], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"medians of 3 runs in turns with 2 kernels, {threads}"
