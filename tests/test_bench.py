"""`netc bench`: candidates compute the same, with equal threads, and what is told of them is what was measured.

No test here looks at how long anything took.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from math import isclose, prod
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import netc
import numpy as np
import pytest
from netc.__main__ import app
from netc.backends.bench import NETC, PEERS, Board, Entry, Peak, Score, Subject, board, check, lively, measure, peer
from netc.backends.bench.board import Spread, start
from netc.backends.bench.kernel import Kernel, kernels
from netc.backends.bench.process import Process
from netc.backends.bench.subject import feed
from netc.compiler.backend import backend
from netc.compiler.cost import cost
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph
from netc.compiler.passes.bind import bind
from netc.compiler.report.board import board_page
from netc.compiler.source import Source
from netc.compiler.weights import InMemory, value
from typer.testing import CliRunner

TEXT = """
model small = Small() (x: f32[N, 3, 12, 12], tokens: i64[N, T])
module Small() (x, tokens) {
    y = x |> conv2d(8, 3, padding = 1) |> relu |> mean(dim = [2, 3])
    z = tokens |> embedding(20, 8) |> mean(dim = 1)
    return y |> linear(5), softmax(y + z)
}
"""
SIZES = {"N": 1, "T": 7}
SLOW = {"inductor"}
INSTALLED = [
    pytest.param(
        one,
        marks=[
            pytest.mark.skipif(find_spec(one.package) is None, reason=f"{one.package} is not installed"),
            *([pytest.mark.slow] if one.name in SLOW else []),
        ],
        id=one.name,
    )
    for one in (NETC, *PEERS.values())
]


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets it for the whole process."""
    monkeypatch.setenv("TVM_NUM_THREADS", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.net"
    path.write_text(TEXT)
    return path


@pytest.fixture
def graph(file: Path) -> Graph:
    return bind(netc.load(file).model("small").graph, SIZES)


@pytest.fixture
def subject(graph: Graph, tmp_path: Path) -> Subject:
    return Subject(graph, lambda: netc.Model("small", graph).optimised(2).graph, tmp_path / "work", threads=1)


@pytest.mark.parametrize("one", INSTALLED)
def test_a_candidate_computes_the_model(one: peer.Peer, subject: Subject) -> None:
    started = start(subject, one)
    with started.process as process:
        assert len(process.seconds(3)) == 3
        found, expected = process.results(), subject.exact()
        assert len(found) == len(expected) == 2
        for a, b in zip(found, expected, strict=True):
            assert b.dtype == np.float64
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-6)
        assert process.version[0].isdigit()
        assert started.size > 0
        assert process.memory() > 10 << 20
        assert (started.compile is not None) == one.compiles


def test_inputs_are_rows_of_their_tables(graph: Graph) -> None:
    x, tokens = feed(graph)
    assert (x.shape, x.dtype, tokens.shape, tokens.dtype) == ((1, 3, 12, 12), np.float32, (1, 7), np.int64)
    many = np.concatenate([feed(graph, seed)[1] for seed in range(100)])
    assert sorted(set(many.ravel().tolist())) == list(range(20))


def test_a_process_that_fails_says_why(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(NetcError) as caught:
        Process("onnxruntime", tmp_path, subject.inputs, 1)
    (problem,) = caught.value.diagnostics
    assert problem.code == "cannot-run"
    assert "model.onnx" in problem.message or "onnxruntime" in problem.message


def test_a_peer_that_fails_is_left_out(subject: Subject) -> None:
    broken = peer.Peer("broken", "numpy", "onnx", "netc")
    score = measure(subject, [broken], turns=2, sizes=SIZES)
    assert list(score.entries) == ["netc"]
    assert "KeyError: 'broken'" in score.failures["broken"]


def test_peers_must_be_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [p.name for p in check(["torch", "torch"])] == ["torch"]
    find: Callable[[str], object] = find_spec
    monkeypatch.setattr(peer, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(NetcError) as caught:
        check(["openvin", "openvino"])
    unknown, missing = caught.value.diagnostics
    assert (unknown.code, unknown.fix) == ("unknown-peer", "openvino")
    assert (missing.code, missing.fix) == ("not-installed", "pip install 'netc[bench]'")


def test_drawn_weights_keep_outputs_alive() -> None:
    layers = " |> ".join(f"conv2d(8, 3, padding = 1) as c{i} |> batch_norm as b{i} |> relu" for i in range(12))
    text = f"model deep = Deep() (x: f32[1, 8, 8, 8])\nmodule Deep() (x) {{ return x |> {layers} }}\n"
    graph = netc.loads(Source("deep.net", text)).model("deep").graph
    one, other = feed(graph, 1), feed(graph, 2)

    def reaction(graph: Graph) -> float:
        reference = backend("pytorch").Reference(graph)
        (a,), (b,) = reference(one), reference(other)
        return float(abs(a - b).max() / abs(a).max())

    assert reaction(graph) < 0.01
    assert reaction(lively(graph)) > 0.1
    loaded = graph.with_parameters([replace(graph.parameters["c0.weight"], data=InMemory(np.ones((8, 8, 3, 3), "f4")))])
    assert (value(lively(loaded).parameters["c0.weight"]) == 1).all()


def test_kernels_hold_the_whole_model(subject: Subject) -> None:
    started = start(subject, NETC)
    with started.process as process:
        found = kernels(subject, process, 2)
    assert sum(k.operations for k in found) == 2 * cost(subject.graph).macs
    assert all(k.seconds > 0 for k in found)
    convolution = next(k for k in found if k.kind == "conv2d")
    values = [(1, 3, 12, 12), (8, 3, 3, 3), (8,), (1, 8, 12, 12)]
    assert {"conv2d", "relu"} <= set(convolution.nodes)
    if set(convolution.nodes) == {"conv2d", "relu"}:
        assert convolution.bytes == 4 * sum(map(prod, values))
    nodes = [node for k in found for node in k.nodes]
    assert len(nodes) == len(set(nodes))


def test_the_page(tmp_path: Path) -> None:
    kinds = [("add", 0), ("conv2d", 1000)]
    many = [Kernel((f"<b>{i}", "relu"), ("k",), *kinds[i % 2], 10, 1e-6 * (i + 1)) for i in range(70)]
    one = Score("one", {"N": 1}, 500, {"netc": entry(1, 2, 4), "a": entry(2, 2, 2)}, {"b": "<i>why"}, tuple(many))
    two = Score("two", {}, 5, one.entries)
    whole = Board(2, 3, Peak(2e9, "a", "a product"), Peak(5e5, "a", "a sum"), scores=[one, two])
    page = board_page(json.loads(json.dumps(whole.data())))
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>" not in page
    assert "<i>why" not in page
    parsed = ElementTree.fromstring(page[page.index("<section") : page.index("</section>") + len("</section>")])
    drawn = {kind: [svg for svg in parsed.iter("svg") if svg.get("class") == kind] for kind in ("bars", "roofline")}
    assert [len(svg.findall("rect")) for svg in drawn["bars"]] == [2, 2]
    (roofline,) = drawn["roofline"]
    assert len(roofline.findall("circle")) == 35
    text = "".join(parsed.itertext())
    assert "netc takes 1.00 ×" in text
    assert "and 10 more" in text
    assert "caches" in text
    assert "without b: <i>why" in text


def entry(*seconds: float) -> Entry:
    return Entry("1", seconds, 1e-7, None, 1.0, 1 << 20, 1 << 10)


def test_the_board_says_what_was_measured() -> None:
    one = Score("one", {"N": 1}, 500, {"netc": entry(1, 2, 4), "a": entry(2, 2, 2), "b": entry(1, 4, 16)})
    two = Score("two", {}, 500, {"netc": entry(3, 3), "a": entry(1, 1)})
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(2, 3, 4)
    assert Spread.of([1.0]) == Spread(1, 1, 1)
    assert (one.ratio("a").median, one.ratio("b").median) == (1, 0.5)
    assert (one.peers, one.best, two.best) == (["a", "b"], "a", "a")
    whole = Board(2, 3, Peak(2000, "a", "a product"), scores=[one, two])
    assert one.share("netc", whole.peak) == 0.25
    means = whole.means()
    assert means.keys() == {"a", "best"}
    assert isclose(means["a"], 3**0.5)
    data = json.loads(json.dumps(whole.data()))
    assert data["models"][0]["candidates"]["b"]["ratio"] == [0.375, 0.5, 0.75]
    assert list(whole.samples())[1:4] == ["one,netc,0,1", "one,netc,1,2", "one,netc,2,4"]


def test_the_command(file: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    command = ["bench", str(file), "--against", "torch", "--bind", "N=2,T=7", "--threads", "1", "--turns", "3"]
    done = CliRunner().invoke(app, [*command, "--samples", str(samples), "--format", "json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    (model,) = data["models"]
    assert (data["threads"], data["turns"], model["sizes"]) == (1, 3, {"N": 2, "T": 7})
    assert model["macs"] == netc.load(file).model("small").cost({"N": 2, "T": 7}).macs
    assert list(model["candidates"]) == ["netc", "torch"]
    rows = [line.split(",") for line in samples.read_text().splitlines()[1:]]
    for name, told in model["candidates"].items():
        own = [float(r[3]) for r in rows if r[:2] == ["small", name]]
        assert len(own) == 3
        assert isclose(told["median"], median(own), rel_tol=1e-2)
        assert told["difference"] < 1e-5
    rate = 2 * model["macs"] / model["candidates"]["netc"]["median"]
    assert isclose(model["candidates"]["netc"]["share"], rate / data["peak"]["rate"])
    assert isclose(prod(data["means"].values()), model["candidates"]["torch"]["ratio"][1] ** 2)


def test_the_command_as_text(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = ["bench", str(file), "--against", "", "--threads", "1", "--turns", "2", "--html", str(page)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert 'class="roofline"' in page.read_text()
    assert "measured peak" in done.stdout
    assert "small, N = 1, T = 128" in done.stdout


BROKEN = """
extern swish(beta: float = 1.0) (x: [N, C]) -> f32[N, C] { pytorch "own_functions:swish" }
model broken = Broken() (x: f32[N, 4])
module Broken() (x) { return x |> swish(2.0) }
model tiny = Tiny() (x: f32[N, 4])
module Tiny() (x) { return x |> linear(3) }
"""


def test_a_model_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    path, page = tmp_path / "two.net", tmp_path / "page.html"
    path.write_text(BROKEN)
    command = ["bench", f"{path}:broken", f"{path}:tiny", "--against", "", "--threads", "1", "--turns", "2"]
    done = CliRunner().invoke(app, [*command, "--format", "json", "--html", str(page)])
    assert done.exit_code == 1, done.output
    data = json.loads(done.stdout)
    (failed,), (model,) = data["failed"], data["models"]
    assert (failed["model"], failed["sizes"], model["model"]) == ("broken", {"N": 1}, "tiny")
    why = failed["diagnostics"][0]["message"]
    assert "swish" in why
    assert why in done.stderr
    assert "broken was not measured" in done.stderr
    section = page.read_text().partition("<section")[2].partition("</section>")[0]
    text = "".join(ElementTree.fromstring(f"<section{section}</section>").itertext())
    assert f"not measured: {why}" in text


def test_pytorch_runs_in_the_format_it_is_faster_in(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = PEERS["torch"]
    for faster in ("plain", "other"):
        times = {"plain": [2.0, 3.0], "other": [2.5, 2.5]} | {faster: [9.0, 1.0]}
        monkeypatch.setattr(board, "race", lambda *_, told=times: told)
        with start(subject, torch).process as process:
            assert process.version.endswith("channels_last") == (faster == "other")
            found = process.results()
        for a, b in zip(found, subject.exact(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--threads", "100000"], 2, "cores"),
        (["--bind", "Q=1"], 1, "no model has a dimension Q"),
        (["--against", "tflite"], 1, "there is no peer tflite"),
        (["--samples", "nowhere/samples.csv"], 1, "nowhere/samples.csv cannot be written"),
        (["--html", "n" * 300], 1, "cannot be written"),
    ],
)
def test_wrong_options_are_explained(file: Path, options: list[str], code: int, said: str) -> None:
    done = CliRunner().invoke(app, ["bench", str(file), *options])
    assert done.exit_code == code, done.output
    assert said in done.stderr


def test_what_is_no_number_differs() -> None:
    one, nothing = np.ones(3), np.array([1, np.nan, 1])
    assert board.difference([one, one], [one, one * 2]) == 0.5
    assert np.isnan(board.difference([one, nothing], [one, one]))
    assert np.isnan(board.difference([nothing, one], [one, one * 2]))
    assert board.difference([nothing], [nothing]) == 0
