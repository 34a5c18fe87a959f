from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from netc.compiler.checkpoint import Checkpoint, Header, open_checkpoint
from netc.compiler.diagnostic import Diagnostic, NetcError
from netc.compiler.graph import Graph, Parameter
from netc.compiler.operators.operator import INITIALISERS, Initialiser
from netc.compiler.rename import Drop, Part, Permute, RenameMap, Rule
from netc.compiler.source import Source, Span
from netc.compiler.types import Dim, DType, TensorType, symbol
from netc.compiler.weights import InMemory, load, save, value, values


def parameter(path: str, *shape: Dim, kind: str = "zeros", arguments: tuple[float, ...] = (), dtype: str = "f32"):
    return Parameter(path, TensorType(DType(dtype), shape), Initialiser(kind, arguments))


def graph(*parameters: Parameter) -> Graph:
    edit = Graph("g").edit()
    for p in parameters:
        edit.parameter(p)
    return edit.done()


ARGUMENTS = {"constant": (2.5,), "normal": (1.0, 0.5), "trunc_normal": (1.0, 0.5), "uniform": (-1.0, 3.0)}
SHAPE = (48, 32, 3, 3)
FAN_IN, FAN_OUT = 32 * 9, 48 * 9


def drawn(kind: str) -> np.ndarray:
    return value(parameter("w", *SHAPE, kind=kind, arguments=ARGUMENTS.get(kind, ())))


@pytest.mark.parametrize("kind", [kind for kind in INITIALISERS if kind != "given"])
@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16"])
def test_every_initialiser_gives_the_declared_type(kind: str, dtype: str):
    array = value(parameter("w", 5, 4, 3, kind=kind, arguments=ARGUMENTS.get(kind, ()), dtype=dtype))
    assert array.shape == (5, 4, 3)
    assert array.dtype == DType(dtype).as_numpy
    assert np.isfinite(array.astype(np.float64)).all()


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [
        ("normal", 1.0, 0.5),
        ("kaiming_normal", 0.0, math.sqrt(2 / FAN_OUT)),
        ("xavier_normal", 0.0, math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("trunc_normal", 1.0, 0.5 * 0.87962566),  # the standard deviation of a unit normal cut at ±2
    ],
)
def test_normal_moments(kind: str, mean: float, std: float):
    array = drawn(kind).astype(np.float64)
    error = std / math.sqrt(array.size)
    assert abs(array.mean() - mean) < 4 * error
    assert abs(array.std() - std) < 4 * error


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("uniform", -1.0, 3.0),
        ("kaiming_uniform", -math.sqrt(6 / FAN_OUT), math.sqrt(6 / FAN_OUT)),
        ("xavier_uniform", -math.sqrt(6 / (FAN_IN + FAN_OUT)), math.sqrt(6 / (FAN_IN + FAN_OUT))),
        ("fan_in_uniform", -1 / math.sqrt(FAN_IN), 1 / math.sqrt(FAN_IN)),
        ("trunc_normal", 0.0, 2.0),
    ],
)
def test_bounds_are_kept_and_reached(kind: str, low: float, high: float):
    array = drawn(kind)
    slack = 1e-6 * (high - low)
    assert array.min() >= low - slack
    assert array.max() <= high + slack
    assert array.min() < low + 0.02 * (high - low)
    assert array.max() > high - 0.02 * (high - low)


@pytest.mark.parametrize("kind", ["kaiming_normal", "xavier_normal", "xavier_uniform", "kaiming_uniform"])
def test_scale_agrees_with_torch(kind: str):
    import torch
    from torch.nn import init

    torch.manual_seed(0)
    arguments = {"mode": "fan_out", "nonlinearity": "relu"} if kind.startswith("kaiming") else {}
    theirs = getattr(init, f"{kind}_")(torch.empty(SHAPE), **arguments)
    assert drawn(kind).std() == pytest.approx(theirs.std().item(), rel=0.03)


def test_identity_is_a_dirac_kernel():
    assert (value(parameter("w", 3, 4, kind="identity")) == np.eye(3, 4)).all()
    kernel = value(parameter("w", 4, 4, 3, 5, kind="identity"))
    assert (kernel[:, :, 1, 2] == np.eye(4)).all()
    assert kernel.sum() == 4


def test_constants():
    assert (value(parameter("a", 3, kind="ones", dtype="i64")) == 1).all()
    assert not value(parameter("a", dtype="bool")).any()
    assert value(parameter("a", kind="constant", arguments=(2.5,))) == 2.5


def test_values_depend_on_seed_and_path_alone():
    a, b = (parameter(p, 50, kind="normal", arguments=(0, 1)) for p in "ab")
    both, reversed_, alone = values(graph(a, b)), values(graph(b, a)), values(graph(b))
    assert (both["b"] == reversed_["b"]).all()
    assert (both["b"] == alone["b"]).all()
    assert (both["a"] != both["b"]).any()
    assert (values(graph(b), seed=1)["b"] != both["b"]).any()


def test_drawn_numbers_never_change():
    """Recorded results depend on these streams; a change of theirs is a change of every seeded model."""
    array = value(parameter("layer1.0.conv1.weight", 4, kind="normal", arguments=(0.0, 1.0)), seed=7)
    assert array.tolist() == pytest.approx(RECORDED, abs=1e-7)


RECORDED = [0.10592971742153168, -1.4719138145446777, 1.44453763961792, 0.2683930993080139]


def test_data_come_before_the_initialiser():
    held = np.arange(3, dtype=np.float32)
    p = Parameter("a", TensorType(DType.F32, (3,)), Initialiser("ones"), data=InMemory(held))
    assert values(graph(p))["a"] is held


def test_data_of_another_shape_are_refused():
    p = Parameter("a", TensorType(DType.F32, (4,)), Initialiser("ones"), data=InMemory(np.zeros(3, np.float32)))
    with pytest.raises(ValueError, match="the data of a are"):
        value(p)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (parameter("w", symbol("N"), 3), "symbolic-parameter"),
        (parameter("w", 3, kind="identity"), "unfit-initialiser"),
        (parameter("w", 3, kind="given"), "parameter-without-data"),
        (parameter("w", 3, kind="normal", arguments=(0, 1), dtype="i64"), "unfit-initialiser"),
        (parameter("w", 10**9, 10**9), "parameter-too-large"),
    ],
)
def test_parameters_that_cannot_be_drawn(bad: Parameter, code: str):
    with pytest.raises(NetcError) as caught:
        value(bad)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert "w" in caught.value.diagnostics[0].message


def checkpoint(tensors: dict[str, np.ndarray], aliases: dict[str, str] | None = None) -> tuple[Checkpoint, list[str]]:
    """A checkpoint in memory, and the names that have been read from it."""
    read: list[str] = []

    def reader(name: str) -> np.ndarray:
        read.append(name)
        return tensors[name]

    dtypes = {d.as_numpy: d for d in DType}
    headers = {n: Header(str(a.dtype), dtypes.get(a.dtype), a.shape) for n, a in tensors.items()}
    return Checkpoint("c.safetensors", headers, reader, aliases or {}), read


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(1, math.prod(shape) + 1).reshape(shape).astype(dtype)


def problems(graph: Graph, stored: Checkpoint, rename: RenameMap | None = None) -> dict[str, Diagnostic]:
    with pytest.raises(NetcError) as caught:
        load(graph, stored, rename)
    found = {d.code: d for d in caught.value.diagnostics}
    assert len(found) == len(caught.value.diagnostics)
    return found


def test_loading_reads_nothing_until_asked():
    stored, read = checkpoint({"a": numbers(2, 3), "b": numbers()})
    loaded, report = load(graph(parameter("a", 2, 3), parameter("b")), stored)
    assert read == []
    assert (value(loaded.parameters["a"]) == stored.read("a")).all()
    assert "b" not in read
    assert value(loaded.parameters["b"]).shape == ()
    assert report.loaded == {"a": ("a",), "b": ("b",)}
    assert report.casts == {}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, DType.BF16.as_numpy])
def test_floats_are_cast_and_the_cast_is_reported(dtype: np.dtype):
    stored, _ = checkpoint({"a": numbers(3).astype(dtype)})
    loaded, report = load(graph(parameter("a", 3)), stored)
    assert value(loaded.parameters["a"]).tolist() == [1, 2, 3]
    assert value(loaded.parameters["a"]).dtype == np.float32
    assert report.data()["casts"] == {"a": [report.casts["a"][0].value, "f32"]}


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint32", "bool"])
def test_other_kinds_of_dtype_are_never_cast(dtype: str):
    stored, _ = checkpoint({"a": numbers(3, dtype=dtype)})
    found = problems(graph(parameter("a", 3)), stored)
    assert found.keys() == {"mistyped-tensors"}
    assert "a is" in found["mistyped-tensors"].notes[0]


def test_all_that_does_not_fit_is_said_at_once():
    source = Source("m.net", "model m = net |> load(c)")
    span = Span(source, 17, 24)
    g = graph(parameter("conv1.weight", 4, 3), parameter("fc.weight", 2, 5), parameter("fc.bias", 2))
    stored, read = checkpoint({"conv.weight": numbers(4, 3), "fc.weight": numbers(5, 2), "fc.bias": numbers(2)})
    with pytest.raises(NetcError) as caught:
        load(g, stored, span=span)
    found = {d.code: d for d in caught.value.diagnostics}
    assert found.keys() == {"missing-tensors", "superfluous-tensors", "misshapen-tensors"}
    assert all(d.span == span for d in found.values())
    assert found["missing-tensors"].notes == ("conv1.weight, f32[4, 3]; the nearest is conv.weight, f32[4, 3]",)
    assert found["superfluous-tensors"].notes == ("conv.weight, f32[4, 3]",)
    assert '"conv.weight" -> "conv1.weight"' in (found["superfluous-tensors"].fix or "")
    assert found["misshapen-tensors"].notes == ("fc.weight is f32[5, 2]; the parameter fc.weight is f32[2, 5]",)
    assert found["misshapen-tensors"].fix == '"fc.weight" -> "fc.weight" |> permute([1, 0])'
    assert read == []


def test_long_lists_are_cut():
    g = graph(*(parameter(f"l{i}.weight", 2) for i in range(30)))
    found = problems(g, checkpoint({})[0])
    assert len(found["missing-tensors"].notes) == 11
    assert found["missing-tensors"].notes[-1] == "… and 20 more"
    assert "lacks 30 of the 30" in found["missing-tensors"].message


NAMES = ("stem.weight", "layer.0.weight", "layer.1.weight", "head.bias")


def test_a_common_prefix_is_proposed():
    stored, _ = checkpoint({f"net.model.{n}": numbers(3) for n in NAMES})
    g = graph(*(parameter(n, 3) for n in NAMES))
    found = problems(g, stored)
    assert '"net.model.{rest}" -> "{rest}" } explains all' in (found["missing-tensors"].fix or "")
    load(g, stored, RenameMap("m", (Rule("net.model.{rest}", "{rest}"),)))


def test_a_lacking_prefix_is_proposed():
    stored, _ = checkpoint({n: numbers(3) for n in NAMES})
    g = graph(*(parameter(f"backbone.{n}", 3) for n in NAMES), parameter("head.weight", 9))
    found = problems(g, stored)
    assert '"{rest}" -> "backbone.{rest}" } explains 4 of the 5' in (found["missing-tensors"].fix or "")


def test_not_strict_keeps_initialisers_and_reports():
    g = graph(parameter("a", 2, kind="ones"), parameter("b", 2))
    stored, _ = checkpoint({"b": numbers(2), "c": numbers(2)})
    loaded, report = load(g, stored, strict=False)
    assert report.missing == ("a",)
    assert report.superfluous == ("c",)
    assert value(loaded.parameters["a"]).tolist() == [1, 1]
    assert value(loaded.parameters["b"]).tolist() == [1, 2]


def test_batch_norm_counters_are_bookkeeping_only_beside_their_statistics():
    g = graph(parameter("bn.running_mean", 2))
    counters = {"bn.num_batches_tracked": numbers(dtype="int64"), "x.num_batches_tracked": numbers(dtype="int64")}
    stored, _ = checkpoint({"bn.running_mean": numbers(2), **counters})
    assert problems(g, stored)["superfluous-tensors"].notes == ("x.num_batches_tracked, i64[]",)
    _, report = load(g, stored, RenameMap("m", drops=(Drop("x.**"), Drop("y.**"))))
    assert report.bookkeeping == ("bn.num_batches_tracked",)
    assert report.dropped == ("x.num_batches_tracked",)
    assert report.idle == ('drop "y.**"',)


def test_renamed_counters_are_bookkeeping_too():
    stored, _ = checkpoint({"m.bn.running_mean": numbers(2), "m.bn.num_batches_tracked": numbers(dtype="int64")})
    _, report = load(graph(parameter("bn.running_mean", 2)), stored, RenameMap("m", (Rule("m.{rest}", "{rest}"),)))
    assert report.bookkeeping == ("m.bn.num_batches_tracked",)


@pytest.mark.parametrize("aliases", [{}, {"lm_head.weight": "wte.weight"}])
def test_tied_tensors_must_be_dropped_explicitly(aliases: dict[str, str]):
    stored, _ = checkpoint({"wte.weight": numbers(5, 2), "lm_head.weight": numbers(5, 2)}, aliases)
    g = graph(parameter("wte.weight", 5, 2))
    found = problems(g, stored)["superfluous-tensors"]
    assert "wte.weight" in found.notes[0]
    assert 'drop "lm_head.weight"' in (found.fix or "")
    assert "tied weights are one parameter" in (found.fix or "")
    load(g, stored, RenameMap("m", drops=(Drop("lm_head.weight"),)))


def test_two_tensors_for_one_parameter_are_an_error_that_names_both():
    rename = RenameMap("m", (Rule("x", "a"),))
    found = problems(graph(parameter("a", 2)), checkpoint({"a": numbers(2), "x": numbers(2)})[0], rename)
    text = found["rename-conflict"].notes[0]
    assert text == 'a is filled by a by its name, and by x by the rule "x" -> "a"'


def test_parts_of_a_target_are_joined_in_order():
    rules = [Rule(f"{{p**}}.{n}", "{p}.qkv", target_part=Part(i, 3)) for i, n in enumerate(("query", "key", "value"))]
    tensors = {
        f"h.{n}": numbers(size, 2) * (i + 1) for i, (n, size) in enumerate([("key", 1), ("value", 1), ("query", 4)])
    }
    loaded, report = load(graph(parameter("h.qkv", 6, 2)), checkpoint(tensors)[0], RenameMap("m", tuple(rules)))
    expected = np.concatenate([tensors["h.query"], tensors["h.key"], tensors["h.value"]])
    assert (value(loaded.parameters["h.qkv"]) == expected).all()
    assert report.loaded == {"h.qkv": ("h.query", "h.key", "h.value")}


def test_parts_of_a_target_are_stacked():
    rule = Rule("experts.{e}.w", "w", target_part=Part("e", 3), steps=(Permute((1, 0)),))
    tensors = {f"experts.{e}.w": numbers(2, 4) + 10 * e for e in (2, 0, 1)}
    loaded, _ = load(graph(parameter("w", 3, 4, 2)), checkpoint(tensors)[0], RenameMap("m", (rule,)))
    assert (value(loaded.parameters["w"]) == np.stack([tensors[f"experts.{e}.w"].T for e in range(3)])).all()


def test_a_cut_source_fills_several_parameters():
    rules = (Rule("gu", "gate", Part(0, 2)), Rule("gu", "up", Part(1, 2)))
    loaded, _ = load(
        graph(parameter("gate", 2), parameter("up", 2)), checkpoint({"gu": numbers(4)})[0], RenameMap("m", rules)
    )
    assert value(loaded.parameters["gate"]).tolist() == [1, 2]
    assert value(loaded.parameters["up"]).tolist() == [3, 4]


def test_parts_that_nothing_fills():
    rename = RenameMap("m", (Rule("q", "qkv", target_part=Part(0, 3)),))
    found = problems(graph(parameter("qkv", 6)), checkpoint({"q": numbers(2)})[0], rename)
    assert found["missing-parts"].notes == ("qkv: nothing fills [1 of 3], [2 of 3]; q fill the rest",)


def test_parts_that_do_not_join():
    rules = tuple(Rule(n, "t", target_part=Part(i, 2)) for i, n in enumerate("ab"))
    found = problems(
        graph(parameter("t", 4, 2)), checkpoint({"a": numbers(2, 2), "b": numbers(2, 3)})[0], RenameMap("m", rules)
    )
    assert "the parts are [2, 2], [2, 3]" in found["misshapen-tensors"].notes[0]


def test_a_faulty_rule_is_reported_once():
    rename = RenameMap("m", (Rule("l.{i}", "{1 // (i - i)}"),))
    stored, _ = checkpoint({f"l.{i}": numbers(2) for i in range(5)})
    assert problems(graph(parameter("a", 2)), stored, rename)["bad-target"]


# ---------------------------------------------------------------------------------------------------------------- files


def everything() -> dict[str, np.ndarray]:
    arrays = {d.value: numbers(2, 3).astype(d.as_numpy) for d in DType}
    return {**arrays, "scalar": numbers()}


def typed(tensors: dict[str, np.ndarray]) -> Graph:
    dtypes = {d.as_numpy: d.value for d in DType}
    return graph(*(parameter(n, *a.shape, dtype=dtypes[a.dtype]) for n, a in tensors.items()))


def test_safetensors_round_trip_in_every_dtype(tmp_path: Path):
    tensors = everything()
    g = graph(*(replace(p, data=InMemory(tensors[n])) for n, p in typed(tensors).parameters.items()))
    path = tmp_path / "w.safetensors"
    save(g, path, metadata={"spec": "abc", "a": "b"})
    first = path.read_bytes()
    save(g, path, metadata={"a": "b", "spec": "abc"})
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    loaded, report = load(typed(tensors), open_checkpoint(path))
    assert report.casts == {}
    for name, array in values(loaded).items():
        assert array.dtype == tensors[name].dtype
        assert array.shape == tensors[name].shape
        assert (array == tensors[name]).all()


def test_saving_fails_whole(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    path.write_text("before")
    with pytest.raises(NetcError):
        save(graph(parameter("w", symbol("N"))), path)
    with pytest.raises(NetcError, match="cannot be written"):
        save(graph(parameter("w", 2)), tmp_path / "missing" / "w.safetensors")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pytorch_files(tmp_path: Path, suffix: str, zipped: bool, wrapper: str | None):
    import torch

    state = {d: torch.arange(1, 7).reshape(2, 3).to(getattr(torch, t)) for d, t in TORCH.items()}
    state |= {"scalar": torch.tensor(1.0), "turned": torch.arange(6.0).reshape(2, 3).t()}
    path = tmp_path / f"w{suffix}"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path, _use_new_zipfile_serialization=zipped)
    stored = open_checkpoint(path)
    assert stored.headers["bf16"] == Header("bfloat16", DType.BF16, (2, 3))
    tensors = everything() | {"turned": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    loaded, _ = load(typed(tensors), stored)
    for name, array in values(loaded).items():
        assert array.dtype == tensors[name].dtype
        assert (array == tensors[name]).all()


TORCH = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
}


def test_pytorch_says_what_is_tied(tmp_path: Path):
    import torch

    weight = torch.ones(2, 3)
    path = tmp_path / "w.pth"
    torch.save({"a": weight, "b": weight, "part": weight[0], "other": weight.clone()}, path)
    assert open_checkpoint(path).aliases == {"b": "a"}


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("hostile-was-here"),))


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"a": Hostile()}, "w.pth")
    assert unreadable(tmp_path / "w.pth").fix
    assert not Path("hostile-was-here").exists()


def unreadable(path: Path) -> Diagnostic:
    with pytest.raises(NetcError) as caught:
        open_checkpoint(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "unreadable-checkpoint"
    return diagnostic


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.safetensors.index.json"])
@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"{}", b"PK\x03\x04 not a zip", b"\xff" * 100, b"[" * 100_000])
def test_damaged_files(tmp_path: Path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(path) in unreadable(path).message


def test_missing_files_and_other_formats(tmp_path: Path):
    assert "no such file" in unreadable(tmp_path / "w.safetensors").message
    path = tmp_path / "w.npz"
    path.touch()
    with pytest.raises(NetcError, match="no known checkpoint format"):
        open_checkpoint(path)


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path):
    import torch

    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    assert "'epoch', 'lr'" in unreadable(tmp_path / "w.pth").message


def shards(folder: Path, index: object) -> Path:
    save(graph(parameter("a", 2, kind="ones")), folder / "one.safetensors")
    save(graph(parameter("b", 3)), folder / "two.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def test_several_files(tmp_path: Path):
    path = shards(tmp_path, {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    loaded, _ = load(graph(parameter("a", 2), parameter("b", 3)), open_checkpoint(path))
    assert {n: a.tolist() for n, a in values(loaded).items()} == {"a": [1, 1], "b": [0, 0, 0]}


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/one.safetensors", "three.safetensors", "one.pth", 3, "", None, []]
)
def test_an_index_names_siblings_only(tmp_path: Path, name: object):
    unreadable(shards(tmp_path, {"weight_map": {"a": name}}))


def test_an_index_of_a_tensor_its_files_lack(tmp_path: Path):
    path = shards(tmp_path, {"weight_map": {"a": "one.safetensors", "z": "two.safetensors"}})
    assert "z" in unreadable(path).message
