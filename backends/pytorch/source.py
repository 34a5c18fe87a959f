"""A graph as readable PyTorch source: one file that needs torch alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from ...compiler.graph import Graph, ParameterRef
from ...compiler.operators.operator import Operator
from ...compiler.passes.expand import expand
from . import elementwise, layers, layout, quantization, reductions, resampling, spatial
from .call import RULES
from .classes import Class, Instance, Printer, classify
from .forward import Method, Writer
from .hierarchy import Frame, arrange
from .plan import plan
from .slots import Slot, plant

_FAMILIES = (elementwise, layers, layout, quantization, reductions, resampling, spatial)  # importing them fills RULES

_HEADER = '''\
"""{title}

{signature}

Written by netc. Needs torch alone. `load(path)` gives the model with the weights of a safetensors file, in evaluation
mode.
"""

import json

import torch
import torch.nn.functional as F
from torch import nn
'''

_LOAD = '''\
def load(path):
    """The model with the weights of a safetensors file: a header's length, the header in JSON, then the numbers."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    start = 8 + int.from_bytes(data[:8], "little")
    dtypes = {{
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
        "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }}
    weights = {{}}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(data[start + begin : start + end], dtype=torch.uint8)
            weights[name] = flat.view(dtypes[entry["dtype"]]).reshape(entry["shape"])
    model = {name}()
    model.load_state_dict(weights)
    return model.eval()
'''


def source(graph: Graph) -> str:
    """The Python source of a model: its classes, inner ones first, and a function `load`.

    Arguments of `forward` are the graph's inputs by name; one output is returned as it is, several as a tuple in order,
    those of the training phase in training mode only. The same graph gives the same text.

    Raises:
        NetcError: where the graph holds an operator that PyTorch has no rule for.
    """
    return translate(graph).text


class Translation:
    """The source of a model, and the name of its class."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name


def translate(graph: Graph, keep: frozenset[type[Operator]] | None = None, real: str = "float32") -> Translation:
    """`source`, with the name of the model's class. Derived operators outside `keep` (default: all that have a rule)
    are written as their expansions. Constants that are f32 in the graph are made of the dtype `real`."""
    graph = expand(graph, RULES.direct if keep is None else keep)
    RULES.check(graph)
    frames = arrange(graph)
    root = plant(graph, _members(frames[0]), [f.instance for f in frames[1:]])
    made = plan(graph, frames, root)
    instances = {f.instance: Instance(root.find(f.instance) if f.instance else root, f.module, []) for f in frames}
    methods: dict[str, Method] = {}
    for frame in _inner_first(frames[0]):
        siblings = instances[frame.instance].methods
        taken = {name: b for m in siblings for name, b in m.buffers.items()}
        methods[frame.path] = _share(siblings, Writer(graph, frame, made, methods, taken).write())
    helpers = {name: f for m in methods.values() for name, f in m.helpers.items()}
    imports = {name for m in methods.values() for name in m.imports}
    classes = classify(instances, helpers.keys() | {name.partition(".")[0] for name in imports}, real)
    text = _HEADER.format(title=f"{graph.name}.", signature=_signature(graph))
    text += "".join(f"\nimport {name}" for name in sorted(imports)) + ("\n" if imports else "")
    for name in sorted(helpers):
        text += f"\n\n{inspect.getsource(helpers[name])}"
    printer = Printer(classes)
    for each in classes:
        is_model = each.first.slot is root
        lines = printer.write(each, _docstring(each), _freeze(root) if is_model else ())
        text += "\n\n" + "\n".join(lines) + "\n"
    name = classes[-1].name
    return Translation(text + "\n\n" + _LOAD.format(name=name), name)


def _members(frame: Frame) -> Iterator[str]:
    """The paths of parameters and instances, in the order in which they are first used."""
    for step in frame.steps:
        if isinstance(step, Frame):
            yield step.instance
            yield from _members(step)
        else:
            yield from (r.parameter for r in step.refs if isinstance(r, ParameterRef))


def _inner_first(frame: Frame) -> Iterator[Frame]:
    for step in frame.steps:
        if isinstance(step, Frame):
            yield from _inner_first(step)
    yield frame


def _share(methods: list[Method], made: Method) -> Method:
    """The method of the instance that does the same already, or this one, under a name of its own. A call of its own
    keeps its own arguments."""
    for method in methods:
        if (method.lines, method.holes, method.marks, method.buffers) == (
            made.lines,
            made.holes,
            made.marks,
            made.buffers,
        ):
            made.name = method.name
            return made
    if methods:
        made.name = f"forward{len(methods) + 1}"
    methods.append(made)
    return made


def _signature(graph: Graph) -> str:
    given = ", ".join(f"{name}: {node.types[0]}" for name, node in graph.inputs.items())
    results = ", ".join(f"{name}: {graph.type(ref)}" for name, ref in graph.outputs.items())
    return f"({given}) -> ({results})"


def _docstring(made: Class) -> list[str]:
    """Where the instances of a class stand, unless that is the model itself."""
    paths = [i.slot.path for i in made.instances]
    if paths == [""]:
        return []
    shown = ", ".join(paths[:6]) + (", …" if len(paths) > 6 else "")
    return [f'"""{shown}"""']


def _freeze(root: Slot) -> list[str]:
    """Statements that keep frozen parameters from training, whole modules at once where all of theirs are."""
    state: dict[Slot, set[bool]] = {}
    for slot in reversed(list(root.walk())):
        own = slot.parameter
        found = {own.trainable} if own and not own.buffer and own.type.dtype.is_float else set[bool]()
        state[slot] = found.union(*(state[child] for child in slot.below.values()))
    lines: list[str] = []
    waiting: list[tuple[Slot, str]] = [(root, "self")]
    while waiting:
        slot, access = waiting.pop()
        if state[slot] == {False}:
            lines.append(f"{access}.requires_grad_(False)")
        elif False in state[slot]:
            waiting.extend((c, f"{access}{slot.access(c.name)}") for c in reversed(slot.below.values()))
    return lines
