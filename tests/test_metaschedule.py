"""The benchmark against MetaSchedule, on kernels of a small model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_metaschedule_meets_our_schedules() -> None:
    """Its candidates are built, agree with our results, and are run: one of a formula without a reduction, which is
    all that its space has, and the number that was asked for of a matrix product."""
    command = [sys.executable, ROOT / "benchmarks" / "metaschedule.py", f"{ROOT / 'specs' / 'digits.net'}:digits"]
    options = ["--share", "0", "--only", "linear", "injective", "--trials", "3"]
    done = subprocess.run(
        [*command, *options], text=True, capture_output=True, env=os.environ | {"NETC_RECORDS": "none"}
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "| `" in line]
    tried = {(name, rule): failed for _, name, rule, _, _, _, _, _, failed, _ in rows}
    assert tried == {("`linear`", "tile"): "0 of 3", ("`copy`", "injective"): "0 of 1"}
    assert all(float(ratio.split()[0]) > 0 for *_, ratio, _, _ in rows)
