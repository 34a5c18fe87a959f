"""The normal form: a graph as `.net` text, one node a line, and back.

    graph g {
        input %x: f32[N, 3, 224, 224]

        param @conv1.weight: f32[64, 3, 7, 7] = fan_in_uniform

        %conv1: f32[N, 64, 112, 112] = conv2d(%x, @conv1.weight, stride = [2, 2], padding = [[3, 3], [3, 3]], …)

        return %conv1
    }

Operands stand in order, optional ones under their names; every attribute is written out, in the order of declaration.
Columns are not aligned, so that renaming one node changes one line and its readers'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

from pydantic import ValidationError

from . import operators as _families
from . import tree as t
from .diagnostic import Diagnostic, Diagnostics, Label, NetcError, nearest
from .dimension import dimension, tensor_type
from .graph import Graph, Input, Node, Parameter, ParameterRef, Phase, Ref, Scope, Value, check_phase
from .operators.operator import INITIALISERS, OPERATORS, Initialiser, Operand, Operator, ShapeError, validate
from .source import Span
from .types import DType, Expression, TensorType

assert _families  # importing the families fills OPERATORS


# ------------------------------------------------------------------------------------------------- graph → text


def print_graph(graph: Graph) -> str:
    """The graph in normal form. `read_graph` of its tree is an equal graph."""
    sections = [
        [f"input %{node.path}: {node.types[0]}" for node in graph.inputs.values()],
        [_parameter(p) for p in graph.parameters.values()],
        [_scope(s) for s in graph.scopes.values()],
        [_node(n) for n in graph.nodes.values() if not isinstance(n.op, Input)],
        [f"tap {literal(name)} = {ref}" for name, ref in graph.taps.items()],
        _return(graph.outputs),
    ]
    body = "\n".join("".join(f"    {line}\n" for line in section) for section in sections if section)
    return f"graph {graph.name} {{\n{body}}}\n"


def _parameter(parameter: Parameter) -> str:
    kind = "buffer" if parameter.buffer else "param" if parameter.trainable else "frozen param"
    return f"{kind} @{parameter.path}: {parameter.type} = {_initialiser(parameter.initialiser)}"


def _initialiser(initialiser: Initialiser) -> str:
    arguments = ", ".join(map(literal, initialiser.arguments))
    return f"{initialiser.kind}({arguments})" if arguments else initialiser.kind


def _scope(scope: Scope) -> str:
    of = "" if scope.instance == scope.path else f" of {scope.instance}"
    return f"scope {scope.path} = {scope.module}{of}" if scope.path else f"scope = {scope.module}"


def _node(node: Node) -> str:
    op = node.op
    arguments: list[str] = []
    named: list[str] = []
    for operand, value in zip(op.operands, node.inputs, strict=False):
        if operand.variadic:
            break
        if not operand.optional:
            arguments.append(str(value))
        elif value is not None:
            named.append(f"{operand.name} = {value}")
    if op.operands and op.operands[-1].variadic:
        arguments.append(f"[{', '.join(map(str, node.inputs[len(op.operands) - 1 :]))}]")
    for name, value in op.attributes().items():
        if not _is_declared(op, name):
            named.append(f"{name} = {literal(value)}")
    phase = "" if node.phase == "both" else f"{node.phase} "
    types = str(node.types[0]) if len(node.types) == 1 else f"({', '.join(map(str, node.types))})"
    return f"{phase}%{node.path}: {types} = {op.name}({', '.join(arguments + named)})"


def _is_declared(op: Operator | type[Operator], attribute: str) -> bool:
    """Whether an attribute is what the line declares anyway: the types that a user's function returns."""
    return op.name == "extern" and attribute == "types"


def _return(outputs: Mapping[str, Ref]) -> list[str]:
    if list(outputs) == ["output"]:
        return [f"return {outputs['output']}"]
    return [f"return {', '.join(f'{name} = {ref}' for name, ref in outputs.items())}"] if outputs else []


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "{": "\\{", "}": "\\}"})


def literal(value: Any) -> str:
    """A compile-time value as the language writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, DType):
        return value.value
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, (int, Expression)):
        return str(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(literal, cast('Sequence[Any]', value)))}]"
    raise TypeError(f"{value!r} has no text in normal form")


# ------------------------------------------------------------------------------------------------- text → graph


def read_graph(text: t.GraphText) -> Graph:
    """The graph that a text in normal form describes, checked line by line.

    Raises:
        NetcError: with every problem found; a line that is wrong is not followed to the lines that read it.
    """
    try:
        return _Reader(text).graph()
    except RecursionError:
        raise _error("too-deep", f"the graph {text.name.text} nests its lists too deeply", text.name.span) from None


_PROBLEMS = 100
"""Reading stops after so many."""
_SEARCHED = 10_000
"""Among more names than this, none is proposed for a misspelt one."""


class _Reader:
    def __init__(self, text: t.GraphText) -> None:
        self._text = text
        self._problems = Diagnostics()
        self._nodes: dict[str, Node] = {}
        self._wrong: set[str] = set()
        """Values and parameters that could not be made, as they are written; what reads them is not checked."""
        self._parameters: dict[str, Parameter] = {}
        self._scopes: dict[str, Scope] = {}
        self._outputs: dict[str, Ref] = {}
        self._taps: dict[str, Ref] = {}
        self._defined = {
            line.value.path: line.span for line in reversed(text.lines) if isinstance(line, (t.GraphInput, t.GraphNode))
        }

    def graph(self) -> Graph:
        returns: list[t.Return] = []
        for line in self._text.lines:
            try:
                if isinstance(line, t.Return):
                    returns.append(line)
                else:
                    self._line(line)
            except NetcError as error:
                self._problems.extend(error.diagnostics)
            if isinstance(line, (t.GraphInput, t.GraphNode)) and line.value.path not in self._nodes:
                self._wrong.add(f"%{line.value.path}")
            if isinstance(line, t.GraphParameter) and line.parameter.path not in self._parameters:
                self._wrong.add(f"@{line.parameter.path}")
            if len(self._problems) > _PROBLEMS:
                break
        else:
            self._return(returns)
        graph = Graph(self._text.name.text, self._nodes, self._outputs, self._parameters, self._scopes, self._taps)
        if not self._problems.errors:
            self._check_phases(graph)
        self._problems.stop_on_errors()
        return graph

    def _line(self, line: t.GraphInput | t.GraphParameter | t.GraphScope | t.GraphNode | t.Tap) -> None:
        if isinstance(line, t.GraphInput):
            self._input(line)
        elif isinstance(line, t.GraphParameter):
            self._parameter(line)
        elif isinstance(line, t.GraphNode):
            self._node(line)
        elif isinstance(line, t.Tap):
            name = self._string(line.name)
            ref = self._reference(line.value)
            if name in self._taps:
                self._report("duplicate", f'there are two taps "{name}"', line.name.span)
            if ref is not None:
                self._taps[name] = ref
        else:
            if line.path in self._scopes:
                self._report("duplicate", f"there are two scopes {line.path}", line.span)
            self._scopes[line.path] = Scope(line.path, line.module, line.instance or line.path, (line.span,))

    # -- definitions

    def _new(self, value: t.ValueName) -> str:
        if value.index:
            self._report("normal-form", "a node is defined without an index", value.span, fix=f"%{value.path}")
        if value.path in self._nodes or f"%{value.path}" in self._wrong:
            first = Label(self._defined[value.path], "defined here")
            self._report("duplicate", f"%{value.path} is defined twice", value.span, first)
        return value.path

    def _input(self, line: t.GraphInput) -> None:
        path = self._new(line.value)
        type_ = tensor_type(line.type)
        self._nodes[path] = Node(path, Input(type_), (), (type_,), origin=(line.span,))

    def _parameter(self, line: t.GraphParameter) -> None:
        path = line.parameter.path
        if path in self._parameters:
            first = Label(self._parameters[path].origin[0], "declared here")
            self._report("duplicate", f"@{path} is declared twice", line.parameter.span, first)
        type_ = tensor_type(line.type)
        initialiser = _read_initialiser(line.initial)
        buffer, trainable = line.kind == "buffer", line.kind == "param"
        self._parameters[path] = Parameter(path, type_, initialiser, trainable, buffer, origin=(line.span,))

    def _node(self, line: t.GraphNode) -> None:
        path = self._new(line.value)
        types = tuple(tensor_type(d) for d in line.types)
        call = line.expression
        if not isinstance(call, t.Call) or not isinstance(call.function, t.Name):
            raise _error("normal-form", f"%{path} is one operator applied to its inputs", call.span)
        name = call.function
        cls = OPERATORS.get(name.text)
        if cls is None or cls is Input:
            fix = nearest(name.text, OPERATORS)
            raise _error("unknown-operator", f"there is no operator {name.text}", name.span, fix=fix)
        inputs, attributes, places = self._arguments(cls, call)
        if _is_declared(cls, "types"):
            attributes["types"] = types
        op = self._operator(cls, attributes, places, call)
        if op is not None and inputs is not None:
            self._typed(line, path, op, inputs, types, call)

    def _typed(
        self,
        line: t.GraphNode,
        path: str,
        op: Operator,
        inputs: list[tuple[Ref | None, Span]],
        declared: tuple[TensorType, ...],
        call: t.Call,
    ) -> None:
        """Infer the node's types, compare them with the declared ones, and add the node."""
        given = [None if ref is None else self._type(ref) for ref, _ in inputs]
        try:
            op = op.canonical(*given)
            types = op.shape(*given)
        except ShapeError as error:
            which = error.operands or range(len(inputs))
            spans = [(given[i], inputs[i][1]) for i in which if i < len(inputs) and given[i] is not None]
            labels = [Label(call.span), *(Label(span, f"this is {type_}") for type_, span in spans[:4])]
            raise NetcError([Diagnostic(error.code, error.message, tuple(labels), error.notes, error.fix)]) from None
        if types != declared:
            right = str(types[0]) if len(types) == 1 else f"({', '.join(map(str, types))})"
            span = line.types[0].span.to(line.types[-1].span)
            raise _error(
                "declared-type", f"%{path} is {right}, not what is declared", span, fix=f"%{path}: {right} = …"
            )
        phase = cast(Phase, line.phase or "both")
        self._nodes[path] = Node(path, op, tuple(ref for ref, _ in inputs), types, phase, origin=(line.span,))

    def _return(self, lines: Sequence[t.Return]) -> None:
        if not lines:
            self._report("no-output", f"the graph {self._text.name.text} returns nothing", self._text.name.span)
        for line in lines[1:]:
            self._report("duplicate", "a graph returns once", line.span, Label(lines[0].span, "the first time"))
        for output in lines[0].outputs if lines else ():
            if output.name is None and len(lines[0].outputs) > 1:
                self._report(
                    "normal-form", "several outputs are named", output.span, fix="return first = %a, second = %b"
                )
            name = output.name.text if output.name else "output"
            if name in self._outputs and output.name:
                self._report("duplicate", f"there are two outputs {name}", output.name.span)
            try:
                ref = self._reference(output.value)
            except NetcError as error:
                self._problems.extend(error.diagnostics)
                continue
            if ref is not None:
                self._outputs[name] = ref

    def _check_phases(self, graph: Graph) -> None:
        for node in graph.nodes.values():
            for ref in node.refs:
                if isinstance(ref, Value):
                    for problem in check_phase(graph, node, ref):
                        self._report("phase", problem, node.origin[0], Label(graph.nodes[ref.node].origin[0]))

    # -- uses

    def _reference(self, expression: t.Expr) -> Ref | None:
        """The value or parameter that an expression names; None where it exists but is wrong itself."""
        if isinstance(expression, t.ParameterName):
            if expression.path in self._parameters:
                return ParameterRef(expression.path)
            return self._undefined(f"@{expression.path}", self._parameters, expression.span)
        if not isinstance(expression, t.ValueName):
            raise _error("normal-form", "an input is a value `%…` or a parameter `@…`", expression.span)
        path, index = expression.path, expression.index
        node = self._nodes.get(path)
        if node is None:
            if path in self._defined and f"%{path}" not in self._wrong:
                below = Label(self._defined[path], "defined here")
                raise _error("undefined-value", f"%{path} is used before it is defined", expression.span, below)
            return self._undefined(f"%{path}", self._nodes, expression.span)
        if index >= len(node.types):
            message = f"%{path} has {len(node.types)} output{'s' * (len(node.types) > 1)}, counted from 0"
            raise _error("undefined-value", message, expression.span, Label(node.origin[0], "defined here"))
        return Value(path, index)

    def _undefined(self, ref: str, names: Mapping[str, Any], span: Span) -> None:
        if ref not in self._wrong:
            fix = nearest(ref[1:], names) if len(names) <= _SEARCHED else None
            raise _error("undefined-value", f"there is no {ref}", span, fix=fix and ref[0] + fix)

    def _type(self, ref: Ref) -> TensorType:
        if isinstance(ref, ParameterRef):
            return self._parameters[ref.parameter].type
        return self._nodes[ref.node].types[ref.index]

    def _arguments(
        self, cls: type[Operator], call: t.Call
    ) -> tuple[list[tuple[Ref | None, Span]] | None, dict[str, Any], dict[str, t.Argument]]:
        """Inputs by operand (None where one is wrong), attributes by name, and where those are written."""
        operands = {o.name: o for o in cls.operands}
        accepted = [f.name for f in fields(cast(Any, cls)) if not _is_declared(cls, f.name)]
        waiting = [o.name for o in cls.operands if not o.optional]
        given: dict[str, t.Argument] = {}
        attributes: dict[str, Any] = {}
        fine = True
        for argument in call.arguments:
            name = argument.name.text if argument.name else waiting[0] if waiting else ""
            try:
                if not name:
                    raise _error("operand", _wanted(cls), argument.span)
                if name in given:
                    raise _error(
                        "operand", f"{name} is given twice", argument.span, Label(given[name].span, "first here")
                    )
                if name not in operands and name not in accepted:
                    notes = (f"its arguments: {', '.join([*operands, *accepted])}",)
                    fix = nearest(name, [*operands, *accepted])
                    span = (argument.name or argument).span
                    raise _error("attribute", f"{cls.name} has no argument {name}", span, notes=notes, fix=fix)
                given[name] = argument
                if name in waiting:
                    waiting.remove(name)
                if name not in operands:
                    attributes[name] = _read_value(argument.value)
            except NetcError as error:
                fine = False
                self._problems.extend(error.diagnostics)
        for name in waiting:
            fine = False
            self._report("operand", f"{cls.name} needs its input {name}", call.span)
        inputs = self._inputs(cls.operands, given, call.span)
        places = {name: a for name, a in given.items() if name not in operands}
        return (inputs if fine else None), attributes, places

    def _inputs(
        self, operands: Sequence[Operand], given: Mapping[str, t.Argument], span: Span
    ) -> list[tuple[Ref | None, Span]] | None:
        inputs: list[tuple[Ref | None, Span]] = []
        fine = True
        for operand in operands:
            argument = given.get(operand.name)
            if argument is None:
                if not operand.variadic:
                    inputs.append((None, span))
                continue
            try:
                for expression in _listed(operand, argument.value):
                    ref = self._reference(expression)
                    fine = fine and ref is not None
                    inputs.append((ref, expression.span))
            except NetcError as error:
                fine = False
                self._problems.extend(error.diagnostics)
        return inputs if fine else None

    def _operator(
        self, cls: type[Operator], attributes: Mapping[str, Any], places: Mapping[str, t.Argument], call: t.Call
    ) -> Operator | None:
        try:
            return validate(cls, attributes)
        except ValidationError as error:
            for one in error.errors():
                self._problems.add(_attribute_problem(cls, one, places, call))
        return None

    def _string(self, text: t.Text) -> str:
        return "".join(p if isinstance(p, str) else "" for p in text.parts)

    def _report(self, code: str, message: str, span: Span, *labels: Label, fix: str | None = None) -> None:
        self._problems.add(Diagnostic(code, message, (Label(span), *labels), fix=fix))


def _error(
    code: str, message: str, span: Span, *labels: Label, notes: Sequence[str] = (), fix: str | None = None
) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span), *labels), tuple(notes), fix)])


def _wanted(cls: type[Operator]) -> str:
    """How an operator is written, for a superfluous argument."""
    inputs = [f"[{o.name}, …]" if o.variadic else o.name for o in cls.operands if not o.optional]
    return f"{cls.name} takes {', '.join(inputs) or 'no inputs'}; everything else is written by name"


def _listed(operand: Operand, expression: t.Expr) -> Iterable[t.Expr]:
    if not operand.variadic:
        return (expression,)
    if not isinstance(expression, t.ListOf):
        raise _error("operand", f"{operand.name} is a list of values", expression.span, fix="[%a, %b]")
    return expression.items


def _attribute_problem(cls: type[Operator], error: Any, places: Mapping[str, t.Argument], call: t.Call) -> Diagnostic:
    name = str(error["loc"][0]) if error["loc"] else ""
    place = places.get(name)
    if place is None:
        return Diagnostic("attribute", f"{cls.name} needs {name}", (Label(call.span),), fix=f"{name} = …")
    reason = str(error["msg"]).removeprefix("Value error, ")
    message = f"{cls.name} cannot take `{place.value.span.text}` as {name}: {reason[:1].lower()}{reason[1:]}"
    return Diagnostic("attribute", message, (Label(place.span),))


def _read_initialiser(expression: t.Expr) -> Initialiser:
    function = expression.function if isinstance(expression, t.Call) else expression
    arguments = expression.arguments if isinstance(expression, t.Call) else ()
    name = function.text if isinstance(function, t.Name) else ""
    if name not in INITIALISERS:
        note = f"initialisers: {', '.join(INITIALISERS)}"
        message = f"there is no initialiser {function.span.text}"
        raise _error("initialiser", message, function.span, notes=(note,), fix=nearest(name, INITIALISERS))
    wanted = INITIALISERS[name]
    values = [_read_value(a.value) for a in arguments if a.name is None]
    if (
        len(values) != len(wanted)
        or len(arguments) != len(wanted)
        or not all(isinstance(v, (int, float)) for v in values)
    ):
        message = f"{name} takes {', '.join(wanted) or 'no arguments'}"
        raise _error("initialiser", message, expression.span)
    return Initialiser(name, tuple(map(float, values)))


_NUMBERS = {"inf": math.inf, "nan": math.nan}


def _read_value(expression: t.Expr) -> Any:
    """An attribute's value. Names are dtypes, `inf` and `nan`, and else symbols of dimensions."""
    if isinstance(expression, t.Constant):
        return expression.value
    if isinstance(expression, t.Number) and expression.unit is None:
        return expression.value
    if isinstance(expression, t.Text) and all(isinstance(p, str) for p in expression.parts):
        return "".join(cast("Iterator[str]", iter(expression.parts)))
    if isinstance(expression, (t.ListOf, t.TupleOf)):
        return tuple([_read_value(item) for item in expression.items])
    if isinstance(expression, t.Unary) and expression.op == "-":
        operand = expression.operand
        if isinstance(operand, t.Number) or (isinstance(operand, t.Name) and operand.text in _NUMBERS):
            return -_read_value(operand)
    if isinstance(expression, t.Name):
        if expression.text in _NUMBERS:
            return _NUMBERS[expression.text]
        if expression.text in DType.__members__.values():
            return DType(expression.text)
    try:
        return dimension(expression)
    except NetcError:
        raise _error(
            "attribute", f"`{expression.span.text}` is no value an attribute can have", expression.span
        ) from None
