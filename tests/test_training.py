"""Training: what it reaches, that it is one function of its options, and that a killed run ends as it would have."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import netc
import numpy
import pytest
import torch
from interruption import Interruption
from netc.__main__ import app
from netc.backends.pytorch import module
from netc.backends.training import Result, parse_options, train
from netc.backends.training.augment import flip, shift
from netc.backends.training.task import fit
from netc.compiler.dataset import load_data, read_idx
from netc.compiler.graph import Graph
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_pre_hook
from typer.testing import CliRunner

SPECS = Path(__file__).parents[1] / "specs"
FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it

NETWORK = """
module Net() (x: [N, 1, 8, 8]) {
    x = x |> conv2d(4, 3, 2, padding = 1, bias = false) as conv |> batch_norm as bn |> relu
    return logits = x |> flatten(1) |> dropout(0.2) |> linear(10) as fc
}
model net = Net() (x: f32[N, 1, 8, 8])
"""

PLAIN = """
module Net() (x: [N, 64]) {
    return logits = x |> linear(10) as fc
}
model net = Net() (x: f32[N, 64])
"""

AUXILIARY = """
module Net() (x: [N, 64]) {
    h = x |> linear(16) as stem |> relu
    train {
        early = h |> linear(10) as early
    }
    infer {
        probabilities = h |> softmax
    }
    logits = h |> linear(10) as fc
    return early, logits, probabilities
}
model net = Net() (x: f32[N, 64])
"""


@pytest.fixture
def graph(tmp_path: Path) -> Callable[[str], Graph]:
    def build(text: str) -> Graph:
        path = tmp_path / "spec.net"
        path.write_text(text)
        return netc.load(path).model("net").graph

    return build


@pytest.fixture
def run(tmp_path: Path, graph: Callable[[str], Graph]) -> Callable[..., Result]:
    """Train the text of a spec (`net` in it) into a folder of `tmp_path`."""

    def start(text: str = NETWORK, folder: str = "run", **options: Any) -> Result:
        values = {"data": "digits", "output": tmp_path / folder, "epochs": 2, "batch": 128, **options}
        return train(graph(text), parse_options(values))

    return start


def refused(call: Callable[[], object]) -> list[netc.Diagnostic]:
    with pytest.raises(netc.NetcError) as caught:
        call()
    return list(caught.value.diagnostics)


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["netc"])


# ------------------------------------------------------------------------------------------------- what it reaches


def test_digits_reach_97_percent_and_load_into_a_spec(tmp_path: Path) -> None:
    made = netc.load(SPECS / "digits.net").model("digits")
    options = {"data": "digits", "output": tmp_path, "epochs": 20, "batch": 32, "learning_rate": 3e-3}
    result = train(made.graph, parse_options(options))
    assert result.rows[-1].val_accuracy >= 0.97

    # Again from what was written alone: the weights by a `load` in a spec, and the standardisation from the header.
    (tmp_path / "digits.net").write_text((SPECS / "digits.net").read_text())
    (tmp_path / "trained.net").write_text(
        'import "digits.net" { digits }\nmodel trained = digits |> load("model.safetensors")\n'
    )
    network = netc.load(tmp_path / "trained.net").model("trained").torch()
    about = header(result.model)
    digits: Any = load_digits()
    x = torch.tensor(digits.images[::5, None], dtype=torch.float32)
    with torch.no_grad():
        classes = network((x - about["mean"][0]) / about["std"][0]).argmax(1).numpy()
    assert (classes == digits.target[::5]).mean() == result.rows[-1].val_accuracy


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_reaches_88_percent(tmp_path: Path) -> None:
    """Two epochs, well below a minute; benchmarks/training.py runs the full five."""
    made = netc.load(SPECS / "fashion_mnist.net").model("fashion_mnist")
    options = {
        "data": str(FASHION), "output": tmp_path, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.1,
        "nesterov": True, "weight_decay": 5e-4, "warmup": 0.5, "flip": True,
    }  # fmt: skip
    assert train(made.graph, parse_options(options)).rows[-1].val_accuracy >= 0.88


def test_bf16_learns(run: Callable[..., Result]) -> None:
    mixed, full = (run(folder=p, epochs=8, batch=32, learning_rate=1e-2, precision=p) for p in ("bf16", "f32"))
    assert mixed.rows[-1].val_accuracy >= 0.9
    assert load_file(mixed.model)["fc.weight"].dtype == torch.float32
    assert mixed.model.read_bytes() != full.model.read_bytes()


# ----------------------------------------------------------------------------------------------- what it computes


def standard_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The training part, flattened and standardised, computed here independently."""
    digits: Any = load_digits()
    kept = numpy.arange(len(digits.target)) % 5 != 0
    x = digits.images[kept].reshape(-1, 64)
    return torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32), torch.tensor(digits.target[kept])


PENALTY = """
module Net() (x: [N, 64]) {
    let fc = linear(10, in_features = 64)
    train {
        decay = sum(square(fc.weight))
    }
    return decay, logits = fc(x)
}
model net = Net() (x: f32[N, 64])
"""


@pytest.mark.parametrize("phase", ["train", "both"])
def test_numbers_of_the_train_phase_are_added_to_the_loss(
    run: Callable[..., Result], graph: Callable[[str], Graph], phase: str
) -> None:
    text = (
        PENALTY if phase == "train" else PENALTY.replace("    train {\n", "").replace("    }\n    return", "    return")
    )
    x, y = standard_digits()
    decay, logits = module(graph(text), seed=0).train()(x)
    main = functional.cross_entropy(logits, y)
    rows = [run(text, folder=str(w), epochs=1, batch=len(y), penalty=w).rows[0] for w in (0.5, 1.0)]
    assert [r.train_loss for r in rows] == pytest.approx([(main + w * decay).item() for w in (0.5, 1.0)], rel=1e-5)


def test_a_penalty_on_nothing_is_refused(run: Callable[..., Result]) -> None:
    (found,) = refused(lambda: run(penalty=0.5))
    assert found.code == "option-without-effect"


def test_a_mixture_of_experts_is_trained_with_its_balance(tmp_path: Path) -> None:
    made = netc.load(SPECS / "widenet.net").model("widenet_digits_2")
    options = {"data": "digits", "epochs": 10, "batch": 32, "learning_rate": 3e-3, "penalty": 0.01, "output": tmp_path}
    assert train(made.graph, parse_options(options)).rows[-1].val_accuracy > 0.8


TOKENS = """
module Net(rows = 12) (x: [N, T]) {
    return logits = x |> embedding(rows, 16) |> mean(1) |> linear(3) as fc
}
model net = Net() (x: i64[N, T])
"""


def tokens(path: Path, low: int = 0, dtype: str = "int64") -> str:
    """Three classes, each of which uses four of twelve tokens."""
    y = numpy.arange(150) % 3
    x = numpy.random.default_rng(0).integers(0, 4, (150, 8)) + 4 * y[:, None] + low
    numpy.savez(path / "tokens.npz", x=x.astype(dtype), y=y)
    return str(path / "tokens.npz")


@pytest.mark.parametrize("dtype", ["int64", "uint8", ">u2", "uint64"])
def test_integers_reach_an_integer_input_as_they_are(tmp_path: Path, run: Callable[..., Result], dtype: str) -> None:
    result = run(TOKENS, data=tokens(tmp_path, dtype=dtype), batch=20, epochs=20, learning_rate=0.03)
    assert result.rows[-1].val_accuracy == 1
    assert "mean" not in header(result.model)


@pytest.mark.parametrize(
    ("low", "dtype", "message"),
    [
        (1, "int64", "holds integers from 1 to 12, and the embedding has 12 rows"),
        (-1, "int64", "holds integers from -1 to 10, and the embedding has 12 rows"),
        (0, "float32", "holds numbers of float32"),
    ],
)
def test_integers_that_do_not_fit_are_refused(
    tmp_path: Path, run: Callable[..., Result], low: int, dtype: str, message: str
) -> None:
    (found,) = refused(lambda: run(TOKENS, data=tokens(tmp_path, low, dtype), batch=20))
    assert message in found.message
    assert found.span is not None
    (found,) = refused(lambda: run(TOKENS.replace("i64", "u8"), data=tokens(tmp_path, 250, "int64"), batch=20))
    assert found.fix == "declare the input as i64[N, T]"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_logits_and_a_third_of_the_auxiliary(
    run: Callable[..., Result], graph: Callable[[str], Graph], smoothing: float
) -> None:
    x, y = standard_digits()
    early, logits = module(graph(AUXILIARY), seed=0).train()(x)
    main, auxiliary = (functional.cross_entropy(o, y, label_smoothing=smoothing).item() for o in (logits, early))
    row = run(AUXILIARY, epochs=1, batch=len(y), label_smoothing=smoothing).rows[0]
    assert row.train_loss == pytest.approx(main + 0.3 * auxiliary, rel=1e-5)
    assert row.train_accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()))


def test_one_step_of_sgd_is_the_gradient(run: Callable[..., Result], graph: Callable[[str], Graph]) -> None:
    x, y = standard_digits()
    network = module(graph(PLAIN), seed=3)
    functional.cross_entropy(network(x), y).backward()
    trained = load_file(run(PLAIN, epochs=1, batch=len(y), optimizer="sgd", learning_rate=0.5, seed=3).model)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(trained[name], parameter - 0.5 * parameter.grad)


def test_weight_decay_spares_biases(run: Callable[..., Result], graph: Callable[[str], Graph]) -> None:
    options = {"epochs": 1, "batch": 1437, "optimizer": "sgd", "learning_rate": 0.5}
    without, decayed = (load_file(run(PLAIN, folder=str(w), weight_decay=w, **options).model) for w in (0.0, 0.1))
    start = dict(module(graph(PLAIN)).named_parameters())["fc.weight"].detach()
    assert torch.equal(without["fc.bias"], decayed["fc.bias"])
    torch.testing.assert_close(without["fc.weight"] - decayed["fc.weight"], 0.05 * start, atol=1e-6, rtol=1e-4)


def test_frozen_parameters_and_buffers(run: Callable[..., Result], graph: Callable[[str], Graph]) -> None:
    frozen = NETWORK.replace(
        "module Net() (x: [N, 1, 8, 8]) {", 'module Net() (x: [N, 1, 8, 8]) {\n    freeze("conv.*")'
    )
    start = dict(module(graph(frozen)).named_parameters())
    trained = load_file(run(frozen).model)
    assert torch.equal(trained["conv.weight"], start["conv.weight"])
    assert not torch.equal(trained["fc.weight"], start["fc.weight"])
    assert trained.keys() == graph(frozen).parameters.keys()
    assert trained["bn.running_mean"].any()


def test_nothing_to_train(run: Callable[..., Result]) -> None:
    frozen = PLAIN.replace("{\n", '{\n    freeze("*")\n', 1)
    assert [d.code for d in refused(lambda: run(frozen))] == ["nothing-to-train"]


def test_metrics_are_a_table_of_the_epochs(run: Callable[..., Result]) -> None:
    result = run(epochs=3, warmup=1, learning_rate=0.01)
    with (result.folder / "metrics.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == list(result.rows[0]._fields)
    assert [(r["epoch"], r["step"]) for r in lines] == [("1", "11"), ("2", "22"), ("3", "33")]
    assert [float(r["val_loss"]) for r in lines] == [r.val_loss for r in result.rows]
    assert float(lines[0]["learning_rate"]) == 0.01
    assert float(lines[2]["val_loss"]) < float(lines[0]["val_loss"])


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "constant"}, {0: 1.0, 39: 1.0}),
        ({"schedule": "constant", "warmup": 1}, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 20: 0.5, 30: 0.5 * (1 + math.cos(0.75 * math.pi))}),
        ({"schedule": "cosine", "warmup": 2}, {19: 1.0, 20: 1.0, 30: 0.5}),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.5}, {19: 1.0, 20: 0.5, 39: 0.5}),
    ],
)
def test_learning_rate(options: dict[str, Any], rates: dict[int, float]) -> None:
    """Of four epochs of ten steps."""
    parsed = parse_options({"data": "digits", "output": "run", "epochs": 4, "learning_rate": 1, **options})
    assert {step: parsed.rate(step, 10) for step in rates} == pytest.approx(rates)


def test_augmentation_moves_and_mirrors() -> None:
    torch.manual_seed(0)
    x = torch.zeros(200, 2, 7, 9)
    x[:, :, 3, 4] = 1
    moved = shift(x, 2)
    assert moved.shape == x.shape
    assert moved.sum() == x.sum()
    places = {(int(r) - 3, int(c) - 4) for _, _, r, c in moved.nonzero()}
    assert places == {(r, c) for r in range(-2, 3) for c in range(-2, 3)}
    assert torch.equal(moved[:, 0], moved[:, 1])

    x = torch.arange(100 * 2 * 3 * 4).reshape(100, 2, 3, 4).float()
    mirrored = [not torch.equal(a, b) for a, b in zip(flip(x), x, strict=True)]
    assert 30 < sum(mirrored) < 70
    torch.manual_seed(1)
    result = flip(x)
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(result, x, strict=True))


@pytest.fixture
def batches() -> Iterator[list[torch.Tensor]]:
    """What the trained module is given in the training phase."""
    found: list[torch.Tensor] = []

    def note(layer: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if type(layer).__name__ == "Net" and layer.training:
            found.append(given[0].clone())

    handle = register_module_forward_pre_hook(note)
    yield found
    handle.remove()


def test_every_epoch_takes_the_examples_in_another_order(
    run: Callable[..., Result], batches: list[torch.Tensor]
) -> None:
    run(PLAIN, batch=100)
    every = {row.numpy().tobytes() for row in standard_digits()[0]}
    taken = [row.numpy().round(5).tobytes() for batch in batches for row in batch]
    first, second = taken[:1400], taken[1400:]
    assert len(set(first)) == len(set(second)) == 1400 < len(every)
    assert first != second
    assert set(first) != set(second), "the same partial batch is dropped in every epoch"


def test_every_step_is_augmented_anew(run: Callable[..., Result], batches: list[torch.Tensor], tmp_path: Path) -> None:
    x = numpy.tile(numpy.arange(64.0).reshape(1, 8, 8), (50, 1, 1))
    numpy.savez(tmp_path / "same.npz", x=x, y=numpy.arange(50) % 10)
    run(data=str(tmp_path / "same.npz"), batch=40, shift=2, epochs=4)
    assert len({batch.numpy().tobytes() for batch in batches}) == 4


def test_progress_is_shown_on_a_console(tmp_path: Path, graph: Callable[[str], Graph]) -> None:
    console = Console(record=True, file=io.StringIO(), width=60)
    train(graph(PLAIN), parse_options({"data": "digits", "output": tmp_path / "run", "epochs": 2}), console)
    shown = console.export_text()
    assert "epoch 1/2" in shown
    assert "epoch 2/2" in shown


# ----------------------------------------------------------------------------------------------- the same result


def test_the_same_options_give_the_same_bytes(run: Callable[..., Result]) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, third = (run(folder=f"{i}", seed=s, shift=1) for i, s in enumerate((0, 0, 1)))
    assert first.model.read_bytes() == second.model.read_bytes() != third.model.read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "nesterov": True, "learning_rate": 0.1, "shift": 1, "flip": True},
        {"optimizer": "adam", "schedule": "step", "step_epochs": 1},
        {"optimizer": "adamw", "weight_decay": 0.1, "warmup": 1, "precision": "bf16", "label_smoothing": 0.1},
    ],
    ids=lambda o: o["optimizer"],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    run: Callable[..., Result], interrupt: Callable[[int], None], options: dict[str, Any]
) -> None:
    whole = run(folder="whole", epochs=3, **options)
    draw = random.Random(options["optimizer"])
    for trial in range(3):
        stop = draw.randrange(6, 33)
        interrupt(stop)
        with pytest.raises(Interruption):
            run(folder=f"{trial}", epochs=3, checkpoint_steps=5, **options)
        resumed = run(folder=f"{trial}", epochs=3, checkpoint_steps=5, resume=True, **options)
        assert resumed.model.read_bytes() == whole.model.read_bytes(), f"interrupted in step {stop}"
        assert [r[:-1] for r in resumed.rows] == [r[:-1] for r in whole.rows]
        assert [r.seconds for r in resumed.rows] == sorted(r.seconds for r in resumed.rows)


KILLED = """
import os, signal, sys
import netc
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from netc.backends.training import parse_options, train

spec, output, stop = sys.argv[1:]
left = [int(stop)]

def count(*_):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

register_optimizer_step_post_hook(count)
options = {"data": "digits", "output": output, "epochs": 3, "batch": 32, "checkpoint_steps": 7, "shift": 1}
train(netc.load(spec).model("net").graph, parse_options(options))
"""


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path: Path, run: Callable[..., Result]) -> None:
    options = {"epochs": 3, "batch": 32, "checkpoint_steps": 7, "shift": 1}
    whole = run(folder="whole", **options)
    stop = random.Random(2).randrange(10, 3 * 44)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "spec.net"), str(tmp_path / "killed"), str(stop)]
    # The arithmetic of a run depends on its threads.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(command, capture_output=True, text=True, check=False, env=threads)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    resumed = run(folder="killed", resume=True, **options)
    assert resumed.model.read_bytes() == whole.model.read_bytes(), f"killed in step {stop}"
    assert [r[:-1] for r in resumed.rows] == [r[:-1] for r in whole.rows]


def test_the_command_is_killed_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """From outside, at no chosen point; what the clock says is all that may differ."""
    command = [sys.executable, "-m", "netc", "train", f"{SPECS / 'digits.net'}:digits", "--data", "digits"]
    command += ["--epochs", "4", "--batch", "16", "--checkpoint-steps", "10"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--output", str(whole)], check=True, capture_output=True)
    with subprocess.Popen([*command, "--output", str(killed)], stdout=subprocess.DEVNULL) as process:
        while not (killed / "checkpoint.safetensors").exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    subprocess.run([*command, "--output", str(killed), "--resume"], check=True, capture_output=True)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    tables = [[line.rpartition(",")[0] for line in (p / "metrics.csv").open()] for p in (whole, killed)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "digits", "--batch", "-4"], 2, "batch = -4: input should be greater than or equal to 2"),
        (["--data", "digits", "--optimizer", "adamm"], 2, "help: optimizer = adam"),
        (["--data", "digits", "--optimiser", "sgd"], 2, "--optimizer"),
        ([], 2, "training needs the option data"),
        (["--data", "nowhere"], 1, "there is no data at nowhere"),
    ],
)
def test_the_command_explains_what_is_wrong(arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["train", f"{SPECS / 'digits.net'}:digits", *arguments])
    assert result.exit_code == code
    assert message in result.output


def test_a_checkpoint_is_replaced_whole(
    tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from netc.backends.training import checkpoint

    whole = run(folder="whole", epochs=3)
    saved: list[bytes] = []

    def fail_late(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        saved.append(path.read_bytes())
        if len(saved) == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise Interruption

    save_file = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", fail_late)
    with pytest.raises(Interruption):
        run(epochs=3)
    monkeypatch.undo()
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == saved[0]
    stale = tmp_path / "run" / ".checkpoint.safetensors.0badcafe.partial"
    stale.write_bytes(saved[0][:100])
    assert run(epochs=3, resume=True).model.read_bytes() == whole.model.read_bytes()
    assert not stale.exists()


def test_a_finished_run_resumes_to_itself(run: Callable[..., Result]) -> None:
    first = run()
    written = first.model.read_bytes()
    first.model.unlink()
    again = run(resume=True)
    assert again.rows == first.rows
    assert again.model.read_bytes() == written


def test_resuming_another_run_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    run()
    assert {d.message.partition("with ")[2] for d in refused(lambda: run(resume=True, epochs=3, seed=1))} == {
        "epochs = 2, not epochs = 3",
        "seed = 0, not seed = 1",
    }
    messages = " ".join(d.message for d in refused(lambda: run(NETWORK.replace("relu", "gelu"), resume=True)))
    assert "another graph" in messages
    assert [d.code for d in refused(run)] == ["run-exists"]
    assert [d.code for d in refused(lambda: run(folder="empty", resume=True))] == ["nothing-to-resume"]
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    assert [d.code for d in refused(lambda: run(resume=True))] == ["bad-checkpoint"]
    path.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    assert [d.code for d in refused(lambda: run(resume=True))] == ["bad-checkpoint"]


def test_a_diverging_run_says_so_and_keeps_its_checkpoint(run: Callable[..., Result], tmp_path: Path) -> None:
    options = {"optimizer": "sgd", "schedule": "step", "step_epochs": 1, "step_factor": 0.5, "learning_rate": 1e30}
    found = refused(lambda: run(**options))
    assert [d.code for d in found] == ["training-diverged"]
    assert found[0].fix == "learning_rate = 1e+29, or a warm-up"
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


PROCESSES = """
import json, sys
import netc
from netc.backends.training import parse_options, train

spec, options = sys.argv[1:]
train(netc.load(spec).model("net").graph, parse_options(json.loads(options)))
"""


def test_two_processes_train_as_one(tmp_path: Path, run: Callable[..., Result]) -> None:
    """Each takes half of every batch, so without dropout and batch norm the sums are the same but for rounding."""
    shared = {"data": "digits", "epochs": 2, "batch": 64, "optimizer": "sgd", "learning_rate": 0.1}
    one = run(PLAIN, folder="one", **shared)
    (tmp_path / "main.py").write_text(PROCESSES)
    options = {**shared, "output": str(tmp_path / "two")}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(tmp_path / "main.py"), str(tmp_path / "spec.net"), json.dumps(options)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    files = {p.name for p in (tmp_path / "two").iterdir()}
    assert files == {"metrics.csv", "checkpoint.safetensors", "model.safetensors"}
    assert header(tmp_path / "two" / "checkpoint.safetensors")["about"]["processes"] == 2
    with (tmp_path / "two" / "metrics.csv").open() as stream:
        rows = [[float(v) for v in line[:-1]] for line in list(csv.reader(stream))[1:]]
    assert rows == [pytest.approx(list(r[:-1]), rel=1e-4) for r in one.rows]
    weights = load_file(tmp_path / "two" / "model.safetensors")
    torch.testing.assert_close(weights, load_file(one.model), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("values", "code", "message", "fix"),
    [
        ({"epoch": 3}, "unknown-option", "training has no option epoch", "epochs = 3"),
        ({"zzz": 3}, "unknown-option", "training has no option zzz", None),
        ({"schedule": "cosin"}, "bad-option", "schedule = cosin", "schedule = cosine"),
        ({"epochs": 0}, "bad-option", "greater than or equal to 1", None),
        ({"learning_rate": "inf"}, "bad-option", "finite", None),
        ({"epochs": "two"}, "bad-option", "valid integer", None),
        ({"nesterov": True}, "option-without-effect", "nesterov has no effect with optimizer = adamw", None),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0}, "option-without-effect", "above 0", "momentum = 0.9"),
        ({"step_factor": 0.5}, "option-without-effect", "step_factor has no effect with schedule = cosine", None),
        ({"epochs": 5, "warmup": 5}, "bad-option", "nothing is left", "warmup = 0.5"),
    ],
)
def test_options_are_checked(values: dict[str, Any], code: str, message: str, fix: str | None) -> None:
    (found,) = refused(lambda: parse_options({"data": "digits", "output": "run", **values}))
    assert found.code == code
    assert message in found.message
    assert fix is None or found.fix == fix


def test_all_wrong_options_are_said_at_once() -> None:
    found = refused(lambda: parse_options({"epochs": -1, "optimiser": "sgd"}))
    assert [d.code for d in found] == ["missing-option", "missing-option", "bad-option", "unknown-option"]


def test_options_come_as_texts() -> None:
    parsed = parse_options({"data": "digits", "output": "run", "epochs": "3", "flip": "true", "learning_rate": "1e-2"})
    assert (parsed.epochs, parsed.flip, parsed.learning_rate) == (3, True, 0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 2000}, "larger than the training set of 1437"),
        ({"device": "cuda"}, "no CUDA device"),
    ],
)
def test_options_that_do_not_fit_the_data(run: Callable[..., Result], options: dict[str, Any], message: str) -> None:
    if "device" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (found,) = refused(lambda: run(**options))
    assert message in found.message


def test_images_are_needed_to_flip(run: Callable[..., Result], tmp_path: Path) -> None:
    numpy.savez(tmp_path / "vectors.npz", x=numpy.ones((50, 64)), y=numpy.arange(50) % 10)
    (found,) = refused(lambda: run(PLAIN, data=str(tmp_path / "vectors.npz"), flip=True, batch=8))
    assert found.message == "flip is for images, and an example of vectors.npz is a vector of 64"


def test_options_are_known_without_torch() -> None:
    code = "import sys; from netc.backends.training import parse_options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------------------- data


def idx(array: numpy.ndarray[Any, Any]) -> bytes:
    codes = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
    head = bytes([0, 0, codes[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, name: str = "{}-idx{}-ubyte", pack: Callable[[bytes], bytes] = bytes) -> Path:
    folder.mkdir(exist_ok=True)
    generator = numpy.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 8, 8), numpy.uint8)
        (folder / name.format(f"{part}-images", 3)).write_bytes(pack(idx(images)))
        labels = (numpy.arange(count) % 10).astype(numpy.uint8)
        (folder / name.format(f"{part}-labels", 1)).write_bytes(pack(idx(labels)))
    return folder


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_idx_arrays_come_back(tmp_path: Path, dtype: str) -> None:
    array = numpy.arange(24).reshape(2, 3, 4).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array))
    found = read_idx(tmp_path / "a")
    assert found.dtype == dtype
    numpy.testing.assert_array_equal(found, array)


def test_idx_folders_in_every_spelling(tmp_path: Path, run: Callable[..., Result]) -> None:
    spellings = [
        write_idx(tmp_path / "plain"),
        write_idx(tmp_path / "dots", "{}.idx{}-ubyte"),
        write_idx(tmp_path / "packed", "{}-idx{}-ubyte.gz", gzip.compress),
    ]
    sets = [load_data(str(folder)) for folder in spellings]
    assert sets[0].shape == (1, 8, 8)
    assert sets[0].classes == 10
    assert sets[0].mean == pytest.approx(sets[0].train.x.mean(dtype=float))
    assert sets[0].std == pytest.approx(sets[0].train.x.std(dtype=float))
    for other in sets[1:]:
        numpy.testing.assert_array_equal(other.train.x, sets[0].train.x)
        numpy.testing.assert_array_equal(other.test.y, sets[0].test.y)
    assert run(data=str(spellings[0]), batch=20).rows[-1].step == 6


def test_npz_archives(tmp_path: Path, run: Callable[..., Result]) -> None:
    generator = numpy.random.default_rng(0)
    x, y = generator.normal(3, 2, (50, 1, 8, 8)), numpy.arange(50) % 10
    numpy.savez(tmp_path / "one.npz", x=x, y=y)
    one = load_data(str(tmp_path / "one.npz"))
    numpy.testing.assert_array_equal(one.test.x, x[::5])
    assert len(one.train) == 40
    numpy.savez_compressed(tmp_path / "four.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    four = load_data(str(tmp_path / "four.npz"))
    numpy.testing.assert_array_equal(four.test.y, y[40:])
    assert run(data=str(tmp_path / "four.npz"), batch=10).rows[-1].step == 8


def test_standardisation_is_by_channel_and_never_divides_by_zero(tmp_path: Path) -> None:
    x = numpy.random.default_rng(0).normal([[[[1]], [[2]], [[3]]]], [[[[1]], [[10]], [[0]]]], (100, 3, 4, 4))
    numpy.savez(tmp_path / "a.npz", x=x, y=numpy.arange(100) % 2)
    data = load_data(str(tmp_path / "a.npz"))
    assert data.mean == pytest.approx(data.train.x.mean((0, 2, 3)), rel=1e-5)
    assert data.std[:2] == pytest.approx(data.train.x.std((0, 2, 3))[:2], rel=1e-5)
    assert data.std[2] == 1


def test_data_that_is_not_there(tmp_path: Path) -> None:
    (found,) = refused(lambda: load_data(str(tmp_path / "nothing")))
    assert found.code == "unknown-data"
    folder = write_idx(tmp_path / "idx")
    (found,) = refused(lambda: load_data(str(folder / "train-images-idx3-ubyte")))
    assert found.fix == f"data = {folder}"
    (folder / "t10k-labels-idx1-ubyte").unlink()
    (found,) = refused(lambda: load_data(str(folder)))
    assert found.message == f"{folder} has no t10k-labels"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "holds fewer"),
        (lambda b: b + b"0", "holds more"),
        (lambda b: b[:10], "ends inside its header"),
        (lambda b: b"", "begins with nothing"),
        (lambda b: b"\1" + b[1:], "no IDX file"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "holds fewer"),
    ],
)
def test_broken_idx_files(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    folder = write_idx(tmp_path / "idx")
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    (found,) = refused(lambda: load_data(str(folder)))
    assert message in found.message


def test_broken_gzip(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx", "{}-idx{}-ubyte.gz", lambda b: gzip.compress(b)[:-20])
    (found,) = refused(lambda: load_data(str(folder)))
    assert "cannot be read" in found.message


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": numpy.ones(3)}, "holds a"),
        ({"x": numpy.ones((4, 2)), "y": numpy.array([0, 1])}, "not one label for each example"),
        ({"x": numpy.ones(()), "y": numpy.ones(())}, "not one label for each example"),
        ({"x": numpy.ones(10), "y": numpy.arange(10)}, "inputs of shape [8]"),
        ({"x": numpy.ones((10, 2)), "y": numpy.ones(10)}, "labels float64[8]"),
        ({"x": numpy.ones((10, 2)), "y": numpy.arange(10) - 5}, "negative label, -4"),
        ({"x": numpy.full((10, 2), numpy.nan), "y": numpy.arange(10)}, "not finite"),
        ({"x": numpy.full((10, 2), 1e300), "y": numpy.arange(10)}, "beyond what f32 can say"),
        ({"x": numpy.ones((10, 2)), "y": numpy.full(10, 2**63 + 1, numpy.uint64)}, "a label 9223372036854775809"),
        ({"x": numpy.ones((10, 2), complex), "y": numpy.arange(10)}, "complex128"),
        ({"x": numpy.ones((10, 0)), "y": numpy.arange(10)}, "empty examples"),
        ({"x": numpy.ones((0, 2)), "y": numpy.arange(0)}, "0 inputs"),
        ({"x": numpy.array([{}] * 10), "y": numpy.arange(10)}, "cannot be read"),
    ],
)
def test_archives_that_make_no_task(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    numpy.savez(tmp_path / "a.npz", **arrays)
    (found,) = refused(lambda: load_data(str(tmp_path / "a.npz")))
    assert message in found.message


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (b"PK\3\4 nothing", b"text", b""):
        path.write_bytes(content)
        assert [d.code for d in refused(lambda: load_data(str(path)))] == ["bad-data"]
    with path.open("wb") as stream:
        numpy.save(stream, numpy.ones(3))
    assert [d.code for d in refused(lambda: load_data(str(path)))] == ["bad-data"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")
    (found,) = refused(lambda: load_data(str(path)))
    assert found.message == f"x in {path} is no array"


def test_names_that_no_file_can_have(run: Callable[..., Result], tmp_path: Path) -> None:
    (found,) = refused(lambda: load_data("a" * 300))
    assert found.message.endswith("File name too long")
    (found,) = refused(lambda: run(folder="a" * 300))
    assert found.code == "cannot-write"
    (tmp_path / "file").write_text("")
    (found,) = refused(lambda: run(folder="file"))
    assert found.code == "cannot-write"


def test_a_folder_that_cannot_be_written_to_is_known_before_the_first_step(
    run: Callable[..., Result], tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    (tmp_path / "run" / "metrics.csv").mkdir(parents=True)
    (found,) = refused(run)
    assert found.code == "cannot-write"
    assert not batches


def test_a_full_disk(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from netc.backends.training import checkpoint

    def fail(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    (found,) = refused(run)
    assert "checkpoint.safetensors cannot be written" in found.message
    assert "No space left" in found.message


@pytest.mark.parametrize(
    ("module", "fix"), [("sklearn.datasets", "pip install scikit-learn"), ("accelerate", "pip install accelerate")]
)
def test_a_library_that_is_not_there(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, module: str, fix: str
) -> None:
    if module == "accelerate":
        monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, module, None)
    (found,) = refused(run)
    assert (found.code, found.fix) == ("missing-package", fix)


# ---------------------------------------------------------------------------------------------- graph against data


def spec(input_type: str, body: str = "x |> flatten(1) |> linear(10) as fc") -> str:
    return f"module Net() (x) {{\n    return logits = {body}\n}}\nmodel net = Net() (x: {input_type})\n"


@pytest.mark.parametrize(
    ("input_type", "shape"),
    [
        ("f32[N, 1, 8, 8]", (1, 8, 8)),
        ("f32[N, 8, 8]", (8, 8)),
        ("f32[N, 8, 8, 1]", (8, 8, 1)),
        ("f32[N, 64]", (64,)),
        ("f32[B, 64]", (64,)),
    ],
)
def test_examples_take_the_shape_of_the_input(
    graph: Callable[[str], Graph], input_type: str, shape: tuple[int, ...]
) -> None:
    assert fit(graph(spec(input_type)), load_data("digits")).shape == shape


def test_symbolic_sizes_bind(graph: Callable[[str], Graph], run: Callable[..., Result]) -> None:
    text = spec("f32[N, 1, H, W]", "x |> conv2d(10, 3) as conv |> mean([2, 3])")
    assert fit(graph(text), load_data("digits")).shape == (1, 8, 8)
    assert run(text, epochs=1).rows[0].step == 11


def test_vectors_fold_into_images(graph: Callable[[str], Graph], tmp_path: Path) -> None:
    numpy.savez(tmp_path / "a.npz", x=numpy.random.default_rng(0).normal(size=(50, 64)), y=numpy.arange(50) % 10)
    assert fit(graph(spec("f32[N, 4, 4, 4]")), load_data(str(tmp_path / "a.npz"))).shape == (4, 4, 4)


@pytest.mark.parametrize(
    ("input_type", "body", "code", "fix"),
    [
        ("f32[N, 3, 8, 8]", "flatten", "data-mismatch", "declare the input as f32[N, 1, 8, 8]"),
        ("f32[N, 1, 28, 28]", "flatten", "data-mismatch", "declare the input as f32[N, 1, 8, 8]"),
        ("f32[N, 60]", "flatten", "data-mismatch", "declare the input as f32[N, 64]"),
        ("f32[N, 4, 16]", "flatten", "data-mismatch", "declare the input as f32[N, 1, 8, 8]"),
        ("f32[32, 64]", "flatten", "fixed-batch", "declare the input as f32[N, 64]"),
        ("f32[N, 64]", "x |> linear(9)", "data-mismatch", "make the last layer 10 wide"),
        ("f32[N, 1, 8, 8]", "x", "data-mismatch", None),
        ("f64[N, 64]", "x", "data-mismatch", "declare the input as f32[N, 64]"),
        ("i64[N, 64]", "x", "data-mismatch", "declare the input as f32[N, 64]"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(
    graph: Callable[[str], Graph], input_type: str, body: str, code: str, fix: str | None
) -> None:
    text = spec(input_type) if body == "flatten" else spec(input_type, body)
    (found,) = refused(lambda: fit(graph(text), load_data("digits")))
    assert (found.code, found.fix) == (code, fix)
    assert found.span is not None
    assert found.span.source.name.endswith("spec.net")


def test_channels_last_are_recognised(graph: Callable[[str], Graph], tmp_path: Path) -> None:
    x = numpy.random.default_rng(0).normal(size=(50, 8, 8, 3))
    numpy.savez(tmp_path / "a.npz", x=x, y=numpy.arange(50) % 10)
    (found,) = refused(lambda: fit(graph(spec("f32[N, 3, 8, 8]")), load_data(str(tmp_path / "a.npz"))))
    assert "numpy.moveaxis(x, -1, 1)" in found.notes[0]


def test_several_inputs_or_outputs_are_refused(graph: Callable[[str], Graph]) -> None:
    two_in = "module Net() (x, y) {\n    return logits = x + y\n}\nmodel net = Net() (x: f32[N, 10], y: f32[N, 10])\n"
    two_out = "module Net() (x) {\n    return a = x, b = relu(x)\n}\nmodel net = Net() (x: f32[N, 64])\n"
    data = load_data("digits")
    assert [d.code for d in refused(lambda: fit(graph(two_in), data))] == ["several-inputs"]
    (found,) = refused(lambda: fit(graph(two_out), data))
    assert found.message == "a classifier has one output in both phases, and this model has a, b"
