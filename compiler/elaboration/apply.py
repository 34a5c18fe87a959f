"""Constructors and instances applied to tensors: modules, operators and user functions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from .. import tree as t
from ..builtin import BUILTINS, Refused
from ..diagnostic import Label
from ..graph import Scope
from ..operators.operator import (
    LAYERS,
    OPERATORS,
    Layer,
    Operator,
    ShapeError,
)
from ..scope import Frame, Variable, join, snake
from ..source import Span
from ..types import TensorType
from ..value import (
    POISON,
    Constructor,
    ExternValue,
    FunctionValue,
    Given,
    Instance,
    ModuleValue,
    OperatorValue,
    Tensor,
    contains_tensor,
)
from .problem import Fault, Returned
from .signature import Signatures, weight_names


class Application(Signatures):
    """Constructors and instances applied to tensors: modules, operators and user functions."""

    @abstractmethod
    def _block(self, frame: Frame, block: t.Block) -> Returned | None:
        """Run the statements of a block; defined where statements are."""

    def _name(self, frame: Frame, name: str, span: Span) -> str:
        """Take an explicit name in this call; two things cannot have one name."""
        taken = frame.used.get(name)
        if taken is not None:
            self._fail(
                "duplicate-name",
                f'the name "{name}" is given twice in one module call',
                span,
                Label(taken, "first given here"),
                frame=frame,
                fix="give another name; to share weights, bind the layer with `let` and call it twice",
            )
        frame.used[name] = span
        return name

    def _invoke(
        self,
        frame: Frame,
        function: Constructor | Instance,
        inputs: list[Any],
        arguments: list[tuple[str | None, Given]],
        span: Span,
        name: str | None,
        at: Span | None,
    ) -> Any:
        """A call: of a constructor, more arguments or (with tensors) an application; of an instance, an application."""
        constructor = function.constructor if isinstance(function, Instance) else function
        tensors, rest = self._divide(constructor, inputs, arguments)
        constructor = self._given(frame, constructor, rest, span)
        if not tensors and not (isinstance(constructor, OperatorValue) and _is_source(constructor)):
            if isinstance(function, Instance):
                self._fail(
                    "call-needs-tensors", f"{function.path} is an instance: call it on tensors", span, frame=frame
                )
            return replace(constructor, name=name) if name else constructor
        if isinstance(function, Instance):
            if rest:
                self._fail(
                    "instance-arguments",
                    f"{function.path} is made already, so a call gives it tensors only",
                    rest[0][1].span,
                    Label(function.span, "made here"),
                    frame=frame,
                )
            return self._again(frame, function, tensors, span)
        path = name or constructor.name
        if path is not None:
            path = self._name(frame, path, at or span)
        return self._result(self._apply(frame, constructor, tensors, {}, span, name=path))

    def _result(self, result: Any) -> Any:
        if isinstance(result, Returned):
            values = [v for _, v in result.values]
            return values[0] if len(values) == 1 else tuple(values)
        return result

    def _divide(
        self, constructor: Constructor, inputs: list[Any], arguments: list[tuple[str | None, Given]]
    ) -> tuple[list[Any], list[tuple[str | None, Given]]]:
        """Split a call's positional arguments into tensor inputs, which come first, and compile-time ones."""
        tensors = list(inputs)
        rest = list(arguments)
        wanted = _operand_count(constructor) if isinstance(constructor, OperatorValue) else None
        if isinstance(constructor, OperatorValue) and wanted is not None and wanted > 1 and not _variadic(constructor):
            positional = [g.value for n, g in rest if n is None][: max(wanted - len(tensors), 0)]
            if any(isinstance(v, Tensor) for v in [*tensors, *positional]):
                while rest and rest[0][0] is None and len(tensors) < wanted and _operand_like(rest[0][1].value):
                    tensors.append(rest.pop(0)[1].value)
        while rest and rest[0][0] is None and contains_tensor(rest[0][1].value):
            tensors.append(rest.pop(0)[1].value)
        return tensors, rest

    def _given(
        self, frame: Frame, constructor: Constructor, arguments: list[tuple[str | None, Given]], span: Span
    ) -> Constructor:
        if not arguments:
            return constructor
        if isinstance(constructor, OperatorValue):
            return replace(constructor, bound=self._attributes(frame, constructor, arguments, span))
        declared = constructor.declaration
        bound = self._bind(
            frame, declared.parameters, constructor.bound, arguments, declared.name.text, declared.name.span, span
        )
        return replace(constructor, bound=bound)

    def _again(self, frame: Frame, instance: Instance, tensors: list[Any], span: Span) -> Any:
        leaf = instance.path.rpartition(".")[2]
        if leaf in frame.used and instance.path != join(frame.instance, leaf):
            name = frame.unique(leaf)
        else:
            name = leaf if instance.calls == 0 else f"{leaf}~{instance.calls}"
        instance.calls += 1
        result = self._apply(frame, instance.constructor, tensors, {}, span, name=name, instance=instance.path)
        return self._result(result)

    def _apply(
        self,
        frame: Frame,
        constructor: Constructor,
        tensors: list[Any],
        given: Mapping[str, Tensor],
        span: Span,
        *,
        name: str | None = None,
        instance: str | None = None,
        root: bool = False,
    ) -> Any:
        if isinstance(constructor, ModuleValue):
            self._instances += 1
            if self._instances > self._budget.instances:
                self._exhausted("too many instances", self._budget.instances, span, "instances")
            return self._apply_module(frame, constructor, tensors, span, name, instance, root)
        if isinstance(constructor, ExternValue):
            result = self._apply_extern(frame, constructor, tensors, span, name)
        else:
            result = self._apply_operator(frame, constructor, tensors, span, name, instance)
        if root:
            values = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)
            return Returned([(None, v) for v in values])
        return result

    def _apply_module(
        self,
        frame: Frame,
        module: ModuleValue,
        tensors: list[Any],
        span: Span,
        name: str | None,
        instance: str | None,
        root: bool,
    ) -> Returned | Any:
        declaration = module.declaration
        if frame.depth >= self._budget.nesting:
            self._exhausted(
                f"modules are nested too deeply, at {declaration.name.text}", self._budget.nesting, span, "nesting"
            )
        local = "" if root else name or frame.unique(snake(declaration.name.text))
        path = "" if root else join(frame.path, local)
        owner = "" if root else instance or join(frame.instance, local)
        inner = Frame(module.home, path, owner, frame.phase, declaration, frame, span, frame.depth + 1)
        if root:
            inner.used.update(frame.used)
            self._edit.scope(Scope("", declaration.name.text, "", (span,)))
        else:
            self._edit.scope(Scope(path, declaration.name.text, owner, (span,)))
        self._declare_parameters(inner, declaration.parameters, module.bound, declaration.name.text, span)
        self._declare_inputs(inner, declaration, tensors, span)
        result = self._block(inner, declaration.body)
        if result is None:
            self._fail(
                "no-return",
                f"{declaration.name.text} ends without `return`",
                declaration.name.span,
                fix="return x as its last statement",
                frame=inner,
            )
        if any(v is POISON for _, v in result.values):
            return POISON
        self._check_outputs(inner, declaration, result)
        return result

    def _apply_operator(
        self, frame: Frame, value: OperatorValue, tensors: list[Any], span: Span, name: str | None, instance: str | None
    ) -> Any:
        cls = OPERATORS[value.operator]
        local = name or frame.unique(value.operator)
        weights = weight_names(value.operator)
        given = {k: g.value for k, g in value.bound.items() if k in weights and isinstance(g.value, Tensor)}
        attributes = {k: g.value for k, g in value.bound.items() if k not in given}
        data = self._data(frame, cls, tensors, span)
        layer_class = LAYERS.get(value.operator)
        if layer_class is None:
            op = self._made(frame, cls, attributes, value.bound, span)
            inputs = self._placed(frame, cls, data, given, {}, span)
        else:
            layer = cast(Layer, self._made(frame, layer_class, attributes, value.bound, span))
            types: list[TensorType | None] = [i.type for i in data]
            weight_types = {k: w.type for k, w in given.items()}
            owner = instance or join(frame.instance, local)
            try:
                specs = layer.parameters(types, weight_types)
                op = layer.operator(types, weight_types)
            except ShapeError as error:
                raise Fault(self._shape_fault(frame, error, data, span)) from None
            created = {k: self._parameter(frame, join(owner, k), s, span) for k, s in specs.items() if k not in given}
            inputs = self._placed(frame, cls, data, given, created, span)
        return self._node(frame, op, inputs, span, local, fixed=True)

    def _data(self, frame: Frame, cls: type[Operator], tensors: list[Any], span: Span) -> list[Tensor]:
        flat: list[Any] = []
        for item in tensors:
            flat.extend(cast("Sequence[Any]", item) if isinstance(item, (list, tuple)) else [item])
        example = next((x for x in flat if isinstance(x, Tensor)), None)
        if example is None:
            return []
        boolean_first = cls.name == "where"
        beside = next((x for x in flat[1:] if isinstance(x, Tensor)), example) if boolean_first else example
        result: list[Tensor] = []
        for item in flat:
            result.append(item if isinstance(item, Tensor) else self._scalar(frame, item, beside.type.dtype, span))
        return result

    def _placed(
        self,
        frame: Frame,
        cls: type[Operator],
        data: list[Tensor],
        given: Mapping[str, Tensor],
        created: Mapping[str, Tensor],
        span: Span,
    ) -> tuple[Tensor | None, ...]:
        """Data inputs, given weights and own parameters in the order of the operands."""
        named = {**created, **given}
        inputs: list[Tensor | None] = []
        waiting = list(data)
        for operand in cls.operands:
            if operand.variadic:
                own = [v for k, v in created.items() if k not in {o.name for o in cls.operands}]
                inputs.extend(own or waiting)
                waiting = [] if not own else waiting
            elif operand.name in named:
                inputs.append(named[operand.name])
            elif waiting:
                inputs.append(waiting.pop(0))
            elif operand.optional:
                inputs.append(None)
            else:
                self._fail("input-count", f"{cls.name} needs its input {operand.name}", span, frame=frame)
        if waiting:
            wanted = [o.name for o in cls.operands if o.name not in created]
            self._fail(
                "input-count",
                f"{cls.name} takes {len(wanted)} inputs ({', '.join(wanted)}), not {len(data)}",
                span,
                frame=frame,
            )
        return tuple(inputs)

    def _apply_extern(self, frame: Frame, value: ExternValue, tensors: list[Any], span: Span, name: str | None) -> Any:
        declaration = value.declaration
        inner = Frame(value.home, frame.path, frame.instance, frame.phase, None, frame, span, frame.depth + 1)
        what = declaration.name.text
        self._declare_parameters(inner, declaration.parameters, value.bound, what, span)
        if len(tensors) != len(declaration.inputs):
            self._fail(
                "input-count", f"{what} takes {len(declaration.inputs)} inputs, not {len(tensors)}", span, frame=frame
            )
        for field, tensor in zip(declaration.inputs, tensors, strict=True):
            if isinstance(field.type, t.ShapeType):
                self._unify(inner, field.type, tensor, span, f"the input {field.name.text} of {what}")
        types: list[TensorType] = []
        for declared in declaration.outputs:
            if not isinstance(declared, t.ShapeType):
                self._fail("extern-type", f"{what} must declare the shapes it returns", declared.span, frame=frame)
            dtype = (
                tensors[0].type.dtype
                if declared.dtype is None and tensors
                else self._dtype(declared.dtype or declaration.name)
            )
            types.append(TensorType(dtype, tuple(self._dimension(inner, cast(t.Expr, d)) for d in declared.dimensions)))
        attributes = tuple((f.name.text, cast(Variable, inner.find(f.name.text)).value) for f in declaration.parameters)
        implementations = tuple((backend.text, text.raw) for backend, text in declaration.implementations)
        op = self._made(
            frame,
            OPERATORS["extern"],
            {"name_": what, "attributes_": attributes, "types": tuple(types), "implementations": implementations},
            {},
            span,
        )
        return self._node(frame, op, tensors, span, name or frame.unique(snake(what)), fixed=True)

    def _function(
        self,
        frame: Frame,
        function: FunctionValue,
        inputs: list[Any],
        arguments: list[tuple[str | None, Given]],
        span: Span,
    ) -> Any:
        declaration = function.declaration
        self._step(span, 4)  # a call takes as long as some iterations
        if frame.depth >= self._budget.nesting:
            self._exhausted("functions call each other too deeply", self._budget.nesting, span, "nesting")
        given = [(None, Given(v, span)) for v in inputs]
        bound = self._bind(
            frame, declaration.parameters, {}, [*given, *arguments], declaration.name.text, declaration.name.span, span
        )
        inner = Frame(function.home, frame.path, frame.instance, frame.phase, None, frame, span, frame.depth + 1)
        inner.used, inner.counters = frame.used, frame.counters
        self._declare_parameters(inner, declaration.parameters, bound, declaration.name.text, span)
        return self._eval(inner, declaration.body)

    def _builtin(self, frame: Frame, name: str, arguments: list[tuple[str | None, Given]], e: t.Call) -> Any:
        self._step(e.span)
        self._work(e.span, *(g.value for _, g in arguments))
        try:
            if any(n for n, _ in arguments):
                raise Refused("takes its arguments by position")
            result = BUILTINS[name](*(g.value for _, g in arguments))
            self._work(e.span, result)
            return result
        except Refused as refused:
            self._fail(refused.code, f"{name} {refused}", e.span, frame=frame)
        except TypeError:
            self._fail(
                "builtin", f"{name} does not take {len(arguments)} arguments of these kinds", e.span, frame=frame
            )

    def _arguments(self, frame: Frame, arguments: Sequence[t.Argument]) -> list[tuple[str | None, Given]]:
        return [(a.name.text if a.name else None, Given(self._eval(frame, a.value), a.span)) for a in arguments]


def _operand_like(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float)) and not isinstance(value, bool)


def _operand_count(value: OperatorValue) -> int | None:
    """How many data inputs an operator without own weights needs; None where it makes its weights."""
    if value.operator in LAYERS:
        return None
    return sum(1 for o in OPERATORS[value.operator].operands if not o.optional)


def _variadic(value: OperatorValue) -> bool:
    declared = OPERATORS[value.operator].operands
    return bool(declared) and declared[-1].variadic


def _is_source(value: OperatorValue) -> bool:
    """Operators without inputs (`arange`, `full`) make their node as soon as they are called."""
    return not OPERATORS[value.operator].operands
