"""Classes: instances of one module that are built alike share one, whose constructor takes what they differ in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...compiler.types import DType
from .forward import DTYPES, Buffer, Method
from .slots import TAKEN, Slot
from .template import REQUIRED, RESERVED, Hole, fill, literal, option, python, wrap

_WIDTH = 110


@dataclass(frozen=True)
class Tree:
    """A constructor call; with `items` one for a container, closed by `tail`."""

    head: str
    items: tuple[Tree, ...] = ()
    tail: str = ""


@dataclass(frozen=True)
class _Line:
    """One statement of a constructor: what stands before the call, the call, and what stands after it."""

    start: str
    tree: Tree
    end: str = ""


@dataclass
class Instance:
    """One module of the model: what its constructor makes and what its methods do, with the literals as holes."""

    slot: Slot
    module: str
    methods: list[Method]
    lines: list[_Line] = field(default_factory=list[_Line])
    holes: list[Hole] = field(default_factory=list[Hole])
    made: Class | None = None
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    """The arguments with which it is constructed."""

    def hole(self, hole: Hole) -> int:
        self.holes.append(hole)
        return len(self.holes) - 1

    def all_holes(self) -> list[Hole]:
        return [*self.holes, *(h for m in self.methods for h in m.holes)]

    @property
    def key(self) -> tuple[Any, ...]:
        """What instances must agree in to share a class."""
        shapes = [(h.hint, h.owner, python(h.default)) for h in self.all_holes()]
        methods = [(m.name, tuple(m.lines), tuple(m.marks), tuple(m.buffers)) for m in self.methods]
        return self.module, tuple(self.lines), tuple(methods), tuple(shapes)


@dataclass
class Class:
    """A class of the generated file. `parameters` are the constructor's: name and default."""

    number: int
    instances: list[Instance]
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    constants: dict[int, str] = field(default_factory=dict[int, str])
    """What each hole of the constructor is: Python text."""
    attributes: dict[str, str] = field(default_factory=dict[str, str])
    """What methods read from `self`: name and what the constructor sets it to."""
    method_constants: dict[int, str] = field(default_factory=dict[int, str])
    """What each hole of the methods is, counted through all of them."""
    name: str = ""

    @property
    def first(self) -> Instance:
        return self.instances[0]


def classify(instances: Mapping[str, Instance], taken: Iterable[str], real: str) -> list[Class]:
    """The classes of all instances (by path), those that others build on first; the model's own is the last.
    `taken` are other names of the file, `real` the dtype of constants that are f32 in the graph."""
    groups: dict[int, list[Instance]] = {}
    heights: dict[str, int] = {}
    for path in sorted(instances, key=lambda p: -p.count(".") if p else 1):
        instance = instances[path]
        heights[path] = 1 + max((heights[s.path] for s in _members(instance.slot) if s.instance), default=0)
    for path, instance in instances.items():
        groups.setdefault(heights[path], []).append(instance)
    classes: list[Class] = []
    for height in sorted(groups):
        alike: dict[tuple[Any, ...], list[Instance]] = {}
        for instance in groups[height]:
            _Constructor(instance, instances, real).write()
            alike.setdefault(instance.key, []).append(instance)
        for members in alike.values():
            made = Class(len(classes), members)
            _unify(made)
            classes.append(made)
    order = {path: i for i, path in enumerate(instances)}
    _name_classes(sorted(classes, key=lambda c: order[c.first.slot.path]), {*RESERVED, *taken})
    return classes


def _members(slot: Slot) -> Iterator[Slot]:
    """The slots that the instance's own class creates."""
    waiting = list(reversed(slot.below.values()))
    while waiting:
        below = waiting.pop()
        yield below
        if not below.instance:
            waiting.extend(reversed(below.below.values()))


# ------------------------------------------------------------------------------------------------------ constructors


class _Constructor:
    """Writes the constructor of one instance."""

    def __init__(self, instance: Instance, instances: Mapping[str, Instance], real: str) -> None:
        self._instance = instance
        self._real = real
        self._instances = instances

    def write(self) -> None:
        slot = self._instance.slot
        for child in slot.below.values():
            self._assign(child, "self")
        buffers = {name: b for m in self._instance.methods for name, b in m.buffers.items()}
        for name, buffer in buffers.items():
            self._register(name, buffer)

    def _assign(self, slot: Slot, above: str) -> None:
        assert slot.above
        access = f"{above}{slot.above.access(slot.name)}"
        if slot.parameter and slot.parameter.buffer and access.endswith(f".{slot.name}"):
            self._instance.lines.append(_Line(f'{above}.register_buffer("{slot.name}", ', self._tree(slot), ")"))
        else:
            self._instance.lines.append(_Line(f"{access} = ", self._tree(slot)))
        self._write_inside(slot, access)

    def _write_inside(self, slot: Slot, access: str) -> None:
        """What the call that makes a container cannot make."""
        if slot.kind == "holder":
            for child in slot.below.values():
                self._assign(child, access)
        elif slot.kind in ("list", "dictionary"):
            for child in slot.numbered or slot.below.values():
                self._write_inside(child, f"{access}{slot.access(child.name)}")

    def _tree(self, slot: Slot) -> Tree:
        children = slot.numbered or list(slot.below.values())
        match slot.kind:
            case "instance":
                return Tree(self._construct(self._instances[slot.path]))
            case "layer":
                return Tree(self._layer(slot))
            case "parameter":
                return Tree(self._parameter(slot))
            case "list" if slot.chained:
                return Tree("nn.Sequential(", tuple(map(self._tree, children)), ")")
            case "list":
                return Tree("nn.ModuleList([", tuple(map(self._tree, children)), "])")
            case "parameter list":
                return Tree("nn.ParameterList([", tuple(map(self._tree, children)), "])")
            case "dictionary":
                items = [(c.name, self._tree(c)) for c in children]
                named = tuple(Tree(f"{python(name)}: {t.head}", t.items, t.tail) for name, t in items)
                return Tree("nn.ModuleDict({", named, "})")
            case "holder":
                return Tree("nn.Module()")

    def _layer(self, slot: Slot) -> str:
        assert slot.layer
        expression, holes = slot.layer
        start = len(self._instance.holes)
        self._instance.holes.extend(holes)
        return _shifted(expression.text, start)

    def _construct(self, inner: Instance) -> str:
        assert inner.made
        required = [n for n, default in inner.made.parameters.items() if default is REQUIRED]
        given: list[str] = []
        for name in required:
            mark = literal(self._instance.hole(Hole(inner.values[name], name, inner.slot.name)))
            given.append(mark if len(required) <= 3 else f"{name}={mark}")
        text = ", ".join(given)
        for name, default in inner.made.parameters.items():
            if default is not REQUIRED:
                text += option(self._instance.hole(Hole(inner.values[name], name, inner.slot.name, default)))
        return f"\ue000c{inner.made.number}\ue001({text})"

    def _parameter(self, slot: Slot) -> str:
        parameter = slot.parameter
        assert parameter
        kind = parameter.type
        sizes = [literal(self._instance.hole(Hole(d, "size", slot.name))) for d in kind.shape]
        dtype = "" if kind.dtype is DType.F32 else f", dtype=torch.{DTYPES[kind.dtype]}"
        data = f"torch.empty({', '.join(sizes) or '()'}{dtype})"
        if parameter.buffer:
            return data
        return f"nn.Parameter({data})" if kind.dtype.is_float else f"nn.Parameter({data}, requires_grad=False)"

    def _register(self, name: str, buffer: Buffer) -> None:
        if buffer.value is None:
            data = "torch.empty(0)"
        else:
            mark = literal(self._instance.hole(Hole(_listed(buffer.value), "value", name)))
            dtype = self._real if buffer.dtype is DType.F32 else DTYPES[buffer.dtype]
            data = f"torch.tensor({mark}, dtype=torch.{dtype})"
        line = _Line(f'self.register_buffer("{name}", ', Tree(data), ", persistent=False)")
        self._instance.lines.append(line)


def _shifted(text: str, start: int) -> str:
    """The text with its holes counted from `start`."""
    return fill(text, "lo", lambda kind, n, _: literal(n + start) if kind == "l" else option(n + start))


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value  # type: ignore[reportUnknownVariableType]


# ------------------------------------------------------------------------------------------------------ unification


_WIDTHS = frozenset(
    {
        "in_channels", "out_channels", "num_channels", "in_features", "out_features", "num_features", "embedding_dim",
        "normalized_shape", "hidden_size", "input_size", "size", "groups",
    }
)  # fmt: skip
"""Numbers of one kind: where two are always equal or one is a multiple of the other, that is no accident."""


def _unify(made: Class) -> None:
    """Decide which holes of the instances become arguments of their class."""
    rows = [instance.all_holes() for instance in made.instances]
    own = len(made.first.holes)
    columns: dict[str, tuple[str, list[Any]]] = {}
    names: dict[tuple[str, tuple[str, ...]], str] = {}
    taken = set(RESERVED) | TAKEN | set(made.first.slot.below) | {n for m in made.first.methods for n in m.buffers}
    defaults: dict[str, Any] = {}
    wide: set[str] = set()
    for i, hole in enumerate(rows[0]):
        values = [row[i].value for row in rows]
        column = tuple(map(python, values))
        if len(set(column)) == 1:
            text = column[0]
        else:
            kind = "width" if hole.hint in _WIDTHS else hole.hint
            name = names.get((kind, column))
            if name is None:
                name = names[kind, column] = _choose(hole, taken)
                taken.add(name)
                widths = {n: c for n, c in columns.items() if n in wide}
                multiple = _multiple(values, widths) if kind == "width" else None
                wide.update({name} if kind == "width" else ())
                columns[name] = (multiple or name, values)
                defaults[name] = hole.default
            elif python(defaults[name]) != python(hole.default):
                defaults[name] = REQUIRED
            text = columns[name][0]
            if i >= own:
                made.attributes[name] = text
                text = f"self.{name}"
        if i < own:
            made.constants[i] = text
        else:
            made.method_constants[i - own] = text
    arguments = [name for name, (text, _) in columns.items() if text == name]
    for name in arguments:
        if python(defaults[name]) not in map(python, columns[name][1]):
            defaults[name] = REQUIRED
    arguments.sort(key=lambda n: defaults[n] is not REQUIRED)
    made.parameters = {name: defaults[name] for name in arguments}
    for row, instance in enumerate(made.instances):
        instance.made = made
        instance.values = {name: columns[name][1][row] for name in arguments}


def _choose(hole: Hole, taken: set[str]) -> str:
    base = re.sub(r"\W", "_", hole.owner)
    base = base if base.isidentifier() else "module"
    for name in (hole.hint, f"{base}_{hole.hint}"):
        if name not in taken:
            return name
    number = 2
    while f"{base}_{hole.hint}{number}" in taken:
        number += 1
    return f"{base}_{hole.hint}{number}"


def _multiple(values: Sequence[Any], columns: Mapping[str, tuple[str, list[Any]]]) -> str | None:
    """The column as a whole multiple of another argument: the width of a hidden layer, say."""
    if not all(type(v) is int and v > 0 for v in values):
        return None
    for name, (text, others) in columns.items():
        if text == name and all(type(v) is int and v > 0 for v in others):
            factor = values[0] // others[0]
            if factor > 1 and all(v == factor * o for v, o in zip(values, others, strict=True)):
                return f"{factor} * {name}"
    return None


def _name_classes(classes: Iterable[Class], taken: set[str]) -> None:
    """Name classes after their modules; a second shape of one module after the member it has besides, or by number."""
    firsts: dict[str, Class] = {}
    for made in classes:
        module = made.first.module
        base = module if module.isidentifier() else "Model"
        more = [n for n in made.first.slot.below if n not in firsts.setdefault(module, made).first.slot.below]
        names = [base]
        if len(more) == 1 and more[0].isidentifier():
            names.append(base + more[0].title().replace("_", ""))
        number = 2
        while names and names[0] in taken:
            names.pop(0)
            if not names:
                names.append(f"{base}{number}")
                number += 1
        made.name = names[0]
        taken.add(made.name)


# ------------------------------------------------------------------------------------------------------ text


class Printer:
    """Writes classes as Python, once all of them have their names."""

    def __init__(self, classes: Sequence[Class]) -> None:
        self._names = [c.name for c in classes]

    def write(self, made: Class, top: Sequence[str] = (), end: Sequence[str] = ()) -> list[str]:
        """The lines of a class; `top` is its docstring, `end` are further statements of the constructor."""
        first = made.first
        lines = [f"class {made.name}(nn.Module):", *_indented(top)]
        body = [*self._constructor(made), *end]
        if body:
            given = [n if d is REQUIRED else f"{n}={python(d)}" for n, d in made.parameters.items()]
            lines += [*([""] if top else []), *_indented(wrap(f"def __init__({', '.join(['self', *given])}):"))]
            lines += _indented(["super().__init__()", *body], 2)
        start = 0
        for method in first.methods:
            lines += ["", *_indented(self._method(made, method, start))]
            start += len(method.holes)
        if len(lines) > 1 and not lines[1]:
            del lines[1]
        return lines

    def _constructor(self, made: Class) -> list[str]:
        lines = [f"self.{name} = {text}" for name, text in made.attributes.items()]
        for line in made.first.lines:
            lines.extend(self._line(made, line))
        return lines

    def _line(self, made: Class, line: _Line) -> list[str]:
        lines = self._call(made, line.tree)
        lines[0] = line.start + lines[0]
        lines[-1] += line.end
        return wrap(lines[0]) if len(lines) == 1 else lines

    def _call(self, made: Class, tree: Tree) -> list[str]:
        head = self._filled(made, made.constants, made.first.holes, tree.head)
        if not tree.items:
            return [head + tree.tail]
        items = [self._call(made, item) for item in tree.items]
        texts = _fold(items)
        if len(texts) == 1 and len(items) > 1 and tree.tail == "])":
            # All of one kind: a generator is all there is.
            first, last = texts[0][0].removeprefix("*("), texts[0][-1]
            if len(texts[0]) == 1:
                return [f"{head[:-1]}{first}"]
            *body, turns = [first, *texts[0][1:-1], last]
            return [head[:-1], *_indented([*body, turns.removesuffix(")")]), ")"]
        flat = ", ".join(t[0] for t in texts)
        if all(len(t) == 1 for t in texts) and len(head) + len(flat) < _WIDTH - 24 and len(texts) < 5:
            return [f"{head}{flat}{tree.tail}"]
        inner = [line for text in texts for line in _indented([*text[:-1], f"{text[-1]},"])]
        return [head, *inner, tree.tail]

    def _method(self, made: Class, method: Method, start: int) -> list[str]:
        names = _argument_names(method)
        constants = {i: made.method_constants[start + i] for i in range(len(method.holes))}
        filled = [self._filled(made, constants, method.holes, line) for line in method.lines]
        lines = [fill(line, "a", lambda _, n, __: names[n]) for line in filled]
        given = ", ".join(["self", *(names[n] for n in method.marks)])
        return [f"def {method.name}({given}):", *_indented(lines)]

    def _filled(self, made: Class, constants: Mapping[int, str], holes: Sequence[Hole], text: str) -> str:
        def give(kind: str, number: int, _: Any) -> str:
            if kind == "c":
                return self._names[number]
            value, hole = constants[number], holes[number]
            if kind == "l":
                return value
            return "" if hole.default is not REQUIRED and value == python(hole.default) else f", {hole.hint}={value}"

        return fill(text, "loc", give).replace("(, ", "(")


def _argument_names(method: Method) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, wanted in zip(method.marks, method.preferences, strict=True):
        name, count = wanted if wanted.isidentifier() else "x", 2
        base = name
        while name in method.names or name in RESERVED or name in names.values():
            name, count = f"{base}{count}", count + 1
        names[number] = name
    return names


def _fold(items: list[list[str]]) -> list[list[str]]:
    """Equal neighbours as one generator: three of one line, two of several."""
    folded: list[list[str]] = []
    i = 0
    while i < len(items):
        end = i + 1
        while end < len(items) and items[end] == items[i]:
            end += 1
        enough = end - i > 2 if len(items[i]) == 1 else end - i > 1
        if enough and not items[i][0].startswith(('"', "nn.Parameter(")):
            turns = f"for _ in range({end - i}))"
            first, *rest = items[i]
            folded.append([f"*({first}", *rest, turns] if rest else [f"*({first} {turns}"])
        else:
            folded.extend(items[i:end])
        i = end
    return folded


def _indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    return [f"{'    ' * depth}{line}" if line else "" for line in lines]
