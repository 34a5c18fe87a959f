"""Find how far a model must be scaled to meet a budget: over every width, depth and resolution that it can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import groupby, pairwise
from math import exp, log
from typing import Any, Literal, NamedTuple

from .choose import listed
from .extent import Stuck
from .register import Limit, Refusal
from .rounding import repeat_steps
from .space import KNOBS, Knob, Point, Space

Method = Literal["order", "compound", "tiny"]

CLOSE = 0.99
"""So much of an upper limit is near enough."""

_LARGEST = {"width": Fraction(16), "depth": Fraction(16), "resolution": Fraction(4)}
_SMALLEST = Fraction(1, 1000)
_PATIENCE = 6
"""Where so many values of a knob in a row meet no limits, larger and larger steps are made."""
_ENOUGH = 400
"""So many models are looked at before the nearest to the budget is taken."""

TINY = (
    # ratio of MACs to EfficientNet-B0's, resolution, depth: TinyNet E, D, C, B, A, and B0 itself
    (24 / 387, 106 / 224, 0.6),
    (52 / 387, 152 / 224, 0.695),
    (100 / 387, 184 / 224, 0.85),
    (202 / 387, 188 / 224, 1.1),
    (339 / 387, 192 / 224, 1.2),
    (1.0, 1.0, 1.0),
)
"""Han et al., "Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets" (NeurIPS 2020), table 4."""


class Range(NamedTuple):
    """What a quantity may be, both ends included."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float, Fraction)) and self.low <= value <= self.high


@dataclass
class Best:
    """A point that meets all limits, and how much of an upper limit it reaches."""

    point: Point
    reach: float


@dataclass
class Search:
    """The search for one call of `scale`. `given` holds the knobs that are not to be found."""

    space: Space
    limits: Sequence[Limit]
    given: Point
    prefer: Sequence[Knob]
    method: Method
    step: int
    stuck: dict[str, str] = field(default_factory=dict[str, str])
    """Why a knob cannot move, with the node first: by knob."""
    looked: int = 0
    """How many models have been counted."""
    _taken: dict[tuple[int, ...] | None, bool] = field(default_factory=dict[tuple[int, ...] | None, bool])
    _values: dict[Knob, list[Any]] = field(default_factory=dict[Knob, list[Any]])

    # ------------------------------------------------------------------------------------------------ limits

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """By quantity or knob: the least and the largest value that the limits allow."""
        found: dict[str, Range] = {}
        for limit in self.limits:
            if self.space.symbol(limit.quantity):
                continue
            low, high = found.get(limit.quantity, Range(float("-inf"), float("inf")))
            v = limit.value
            tiny = abs(v) * 1e-12
            new = {
                "<=": Range(low, min(high, v)),
                "<": Range(low, min(high, v - tiny)),
                ">=": Range(max(low, v), high),
                ">": Range(max(low, v + tiny), high),
                "==": Range(max(low, v * CLOSE), min(high, v * (2 - CLOSE))),
            }[limit.relation]
            if new.low > new.high:
                raise Refusal(f"no value of {limit.quantity} meets all its limits", option="limits")
            found[limit.quantity] = new
        return found

    @cached_property
    def budgets(self) -> dict[str, Range]:
        return {q: r for q, r in self.ranges.items() if q not in KNOBS}

    def _affords(self, point: Point) -> bool:
        """Whether no cost is above its limit; a resolution that a node refuses is not had at any price."""
        costs = self._costs(point)
        return costs is not None and all(costs[q] <= r.high for q, r in self.budgets.items())

    def _meets(self, point: Point) -> bool:
        costs = self._costs(point)
        return costs is not None and all(costs[q] in r for q, r in self.budgets.items())

    def _reach(self, point: Point) -> float:
        """The largest part of an upper limit that is used; 1 where there is none."""
        costs = self._costs(point)
        assert costs is not None
        parts = [costs[q] / r.high for q, r in self.budgets.items() if r.high < float("inf")]
        return max(parts, default=1.0)

    def _spent(self, point: Point) -> tuple[float, ...] | None:
        """What a point costs of all that is limited."""
        costs = self._costs(point)
        return None if costs is None else tuple(costs[q] for q in self.budgets)

    def _costs(self, point: Point) -> dict[str, int] | None:
        try:
            self.looked += not self.space.known(point)
            return self.space.costs(point)
        except Stuck as stuck:
            self.stuck.setdefault("resolution", f"%{stuck.node}: {stuck.text}")
            return None

    # ------------------------------------------------------------------------------------------------ knobs

    @cached_property
    def start(self) -> Point:
        """The model as it is, with what is given."""
        given = self.given
        return Point(given.width or Fraction(1), given.depth or Fraction(1), given.resolution or self.space.base_sides)

    @cached_property
    def free(self) -> list[Knob]:
        """The knobs to find, in order of preference."""
        wanted: list[Knob] = [k for k in dict.fromkeys(self.prefer) if getattr(self.given, k) is None]
        if "resolution" in wanted and self.space.base_sides is None:
            wanted.remove("resolution")
            self.stuck["resolution"] = "no input has sides in numbers"
        return wanted

    @cached_property
    def directions(self) -> tuple[bool, bool]:
        """Whether knobs may fall below 1, and rise above it."""
        if self._costs(self.start) is None:
            return True, True
        costs = self._costs(self.start) or {}
        costly = not self._affords(self.start)
        poor = any(costs[q] < r.low for q, r in self.budgets.items())
        bounded = any(r.high < float("inf") for r in self.budgets.values())
        return costly, poor or (bounded and not costly)

    def values(self, knob: Knob) -> list[Any]:
        """What a knob can be, ascending; not every resolution is one that the nodes take."""
        if knob not in self._values:
            found = self._range(knob)
            if not found:
                raise Refusal(f"no {knob} lies within its limits", option="limits")
            takes = knob != "resolution" or any(map(self._takes, found))
            self._values[knob] = found if takes else [self.start.resolution]
        return self._values[knob]

    def _range(self, knob: Knob) -> list[Any]:
        fall, rise = self.directions
        low = _SMALLEST if fall else Fraction(1)
        high = _LARGEST[knob] if rise else Fraction(1)
        own = self.ranges.get(knob)
        if own is not None:
            unit = self.space.base_sides[0] if knob == "resolution" and self.space.base_sides else 1
            low = Fraction(str(own.low)) / unit if own.low > 0 else _SMALLEST
            high = Fraction(str(own.high)) / unit if own.high < float("inf") else max(high, low)
        return {"width": self._widths, "depth": self._depths, "resolution": self._resolutions}[knob](low, high)

    def _widths(self, low: Fraction, high: Fraction) -> list[Fraction]:
        found = self.space.base.steps(low, high)
        return sorted({*found, Fraction(1)}) if low <= 1 <= high else found

    def _depths(self, low: Fraction, high: Fraction) -> list[Fraction]:
        steps = {s for n in set(self.space.given) for s in repeat_steps(n, self.space.rounding, low, high)}
        found: list[Fraction] = sorted({low, high, *steps, *([Fraction(1)] if low <= 1 <= high else [])})
        runs = [list(run) for _, run in groupby(found, self.space.repeats)]
        if len(runs) == 1:
            self.stuck.setdefault("depth", self._why_no_depth())
        return [next((d for d in run if d == 1), run[-1]) for run in runs]

    def _why_no_depth(self) -> str:
        single = [s[0].path for s in self.space.stages.blocks if len(s) == 1]
        if not self.space.stages.blocks:
            return "the model has no blocks"
        return f"every stage is one block, or its blocks change the shape: {listed(f'%{p}' for p in single)}"

    def _resolutions(self, low: Fraction, high: Fraction) -> list[tuple[int, ...]]:
        base = self.space.base_sides
        assert base is not None
        first = max(self.step, -(-int(low * base[0]) // self.step) * self.step)
        sides = {*range(first, int(high * base[0]) + 1, self.step), *([base[0]] if low <= 1 <= high else [])}
        return [self.space.sides(side) for side in sorted(sides)]

    # ------------------------------------------------------------------------------------------------ search

    def run(self) -> tuple[Point, tuple[str, ...]]:
        """The point, and what is to be said of it.

        Raises:
            Refusal: where no point meets the limits.
        """
        start, free = self.start, self.free
        outside = [k for k in KNOBS if k not in free and not self._within(k, start)]
        if outside:
            raise Refusal(f"{outside[0]} lies outside its limits as it is given", option="limits")
        if all(self._within(k, start) for k in free) and self._meets(start) and self._reach(start) >= CLOSE:
            return start, ()
        found = self._best(free, start) if self.method == "order" else self._by_formula()
        if found is None:
            raise self._none(free, start)
        outside = [k for k in KNOBS if not self._within(k, found.point)]
        if outside:
            text = f"method {self.method} makes {outside[0]} {getattr(found.point, outside[0])}, outside its limits"
            raise Refusal(text, option="method")
        notes = [f"{k} stays: {text}" for k, text in self.stuck.items() if getattr(found.point, k) == getattr(start, k)]
        if found.reach < CLOSE:
            notes.append(f"{found.reach:.1%} of the budget is used, the most of {self.looked} models that were counted")
        return found.point, tuple(notes)

    def _within(self, knob: Knob, point: Point) -> bool:
        """Whether a knob meets the limits of its own."""
        value = getattr(point, knob)
        own = self.ranges.get(knob)
        return own is None or value is None or (value[0] if knob == "resolution" else value) in own

    def _best(self, free: Sequence[Knob], point: Point) -> Best | None:
        if not free:
            return Best(point, self._reach(point)) if self._meets(point) else None
        knob, *rest = free
        values = self.values(knob)

        def affords(index: int) -> bool:
            return self._affords(self._lowest(rest, _with(point, knob, values[index])))

        last = _last(len(values), affords, lambda index: self._below(knob, index))
        if not rest:  # costs only fall below this value
            return self._best((), _with(point, knob, values[last])) if last >= 0 else None
        best: Best | None = None
        misses, index = 0, last
        before: tuple[float, ...] | None = None
        while index >= 0 and self.looked < _ENOUGH:
            found = self._best(rest, _with(point, knob, values[index]))
            if found is not None and (best is None or found.reach > best.reach):
                best = found
            costs = self._spent(found.point) if found else None
            if (best is not None and best.reach >= CLOSE) or (costs is not None and costs == before):
                break  # near enough; or this knob is nothing to what is limited
            before = costs
            misses += 1
            stride = 1 if best is not None or misses <= _PATIENCE else 2 ** (misses - _PATIENCE)
            following = self._below(knob, index - stride if index == 0 or index >= stride else 0)
            if stride > 1:
                following = self._first(rest, point, knob, following, index)
            index = following
        return best

    def _first(self, rest: Sequence[Knob], point: Point, knob: Knob, low: int, high: int) -> int:
        """The largest index below `high` that meets the limits, if `low` does, and all between do up to some one."""
        values = self.values(knob)
        if low < 0 or self._best(rest, _with(point, knob, values[low])) is None:
            return low
        while high - low > 1 and (middle := self._below(knob, (low + high) // 2)) > low:
            if self._best(rest, _with(point, knob, values[middle])) is None:
                high = middle
            else:
                low = middle
        return low

    def _below(self, knob: Knob, index: int) -> int:
        """The index of the largest value, up to one, that nodes take; -1 where there is none."""
        values = self.values(knob)
        while knob == "resolution" and index >= 0 and not self._takes(values[index]):
            index -= 1
        return index

    def _takes(self, sides: tuple[int, ...] | None) -> bool:
        """Whether the nodes of the model take a resolution, at its own depth."""
        if sides not in self._taken:
            self._taken[sides] = self._try(sides)
        return self._taken[sides]

    def _try(self, sides: tuple[int, ...] | None) -> bool:
        try:
            self.space.extended(self.space.stages.repeats, sides)
        except Stuck as stuck:
            self.stuck["resolution"] = f"at {sides[0] if sides else None} %{stuck.node} cannot follow: {stuck.text}"
            return False
        return True

    def _lowest(self, knobs: Sequence[Knob], point: Point) -> Point:
        for knob in knobs:
            found = self.values(knob)
            point = _with(point, knob, next(v for v in found if knob != "resolution" or self._takes(v)))
        return point

    # ------------------------------------------------------------------------------------------------ formulas

    def _by_formula(self) -> Best | None:
        """Depth and resolution by the method's formula, and the largest width: where that is not near the budget, at
        the resolution nearest to the formula's where it is."""
        depth, wanted = self._formula()
        point = self.start if self.given.depth is not None else self.start._replace(depth=depth)
        near: list[tuple[int, ...] | None] = [point.resolution]
        if self.given.resolution is None and self.space.base_sides is not None:
            every = self._resolutions(_SMALLEST, _LARGEST["resolution"])
            near = [*sorted(every, key=lambda v: abs(v[0] - wanted))[: 2 * _PATIENCE]]
        best: Best | None = None
        for sides in (s for s in near if s is None or self._takes(s)):
            found = self._best(["width"] if self.given.width is None else [], point._replace(resolution=sides))
            if found is not None and (best is None or found.reach > best.reach):
                best = found
            if best is not None and best.reach >= CLOSE:
                break
        return best

    def _formula(self) -> tuple[Fraction, int]:
        """The depth, and the height of pictures."""
        quantity = next(
            (q for q in ("macs", "flops") if q in self.budgets and self.budgets[q].high < float("inf")), None
        )
        costs = self._costs(self.start)
        if quantity is None or costs is None:
            raise Refusal(f"method {self.method} needs an upper limit of macs or flops", option="method")
        ratio = self.budgets[quantity].high / costs[quantity]
        if self.method == "tiny":
            side, deep = _interpolated(ratio)
        else:
            side, deep = (base ** (log(ratio) / log(2)) for base in (1.15, 1.2))
        base = self.space.base_sides[0] if self.space.base_sides else 1
        return Fraction(str(round(deep, 3))), max(1, round(base * side / self.step)) * self.step

    # ------------------------------------------------------------------------------------------------ no such point

    def _none(self, free: Sequence[Knob], start: Point) -> Refusal:
        """Why no point meets the limits: the least, or the most, that can be reached, and what holds each knob."""
        least = self._lowest(free, start)
        costs = self._costs(least)
        notes: list[str] = []
        nodes: list[str] = []
        if costs is None:
            raise Refusal("the model does not take this resolution", notes=list(self.stuck.values()))
        for quantity, limit in self.budgets.items():
            if costs[quantity] > limit.high:
                heavy = self.space.heaviest(least, quantity)
                notes.append(
                    f"{quantity} can be at most {limit.high:,.0f}, and at least {costs[quantity]:,} are needed"
                )
                notes.append(f"most of them are in %{heavy}")
                nodes.append(heavy)
        if not notes:
            most = self._highest(free, start)
            reached = self._costs(most) or costs
            for quantity, limit in self.budgets.items():
                if reached[quantity] < limit.low:
                    notes.append(
                        f"{quantity} must be at least {limit.low:,.0f}, and at most {reached[quantity]:,} are reached"
                    )
        message = "no width, depth and resolution meets the limits"
        if not notes:
            message = f"none of the {self.looked} models that were counted meets the limits"
            notes.append("each limit can be met, but not all of them together, or nothing lies between the two ends")
        smallest = ", ".join(f"{costs[q]:,} {q}" for q in self.space_quantities)
        notes.append(f"the smallest that can be reached: {smallest}")
        notes += [self._held(k, least) for k in KNOBS]
        return Refusal(message, nodes=nodes, option="limits", notes=notes)

    @property
    def space_quantities(self) -> tuple[str, ...]:
        """What is said of a smallest model."""
        return ("macs", "parameters", "activations", "peak")

    def _highest(self, knobs: Sequence[Knob], point: Point) -> Point:
        for knob in knobs:
            values = self.values(knob)
            point = _with(point, knob, values[self._below(knob, len(values) - 1)])
        return point

    def _held(self, knob: Knob, least: Point) -> str:
        """What holds a knob where it is at its smallest."""
        if knob in self.stuck:
            return f"{knob} is stuck: {self.stuck[knob]}"
        if getattr(self.given, knob) is not None:
            return f"{knob} is given"
        if knob not in self.prefer:
            return f"{knob} is not in prefer"
        if knob == "width":
            fixed = [c for c in self.space.base.analysis.classes if c.fixed]
            largest = max(fixed, key=lambda c: sum(1 for _ in c.places), default=None)
            reason = f"; {largest.fixed[0].text}: {largest.places[0]}" if largest and largest.places else ""
            return f"width ends at one unit of every class that may change{reason}"
        if knob == "depth":
            blocks = self.space.repeats(least.depth or Fraction(1))
            return f"depth ends at {list(blocks)} blocks in the stages"
        assert least.resolution is not None
        return f"resolution ends at {' × '.join(map(str, least.resolution))}"


def _with(point: Point, knob: Knob, value: Any) -> Point:
    return point._replace(**{knob: value})


def _last(count: int, holds: Callable[[int], bool], below: Callable[[int], int]) -> int:
    """The last index up to which something holds, of those that `below` leads to; -1 where it never does."""
    low, high = -1, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        at = below(middle)
        if at <= low or holds(at):
            low = middle
        else:
            high = at - 1
    return below(low)


def _interpolated(ratio: float) -> tuple[float, float]:
    """Resolution and depth for a ratio of MACs, straight in logarithms between the published models."""
    if ratio <= TINY[0][0]:
        return TINY[0][1:]
    for (a, *low), (b, *high) in pairwise(TINY):
        if ratio <= b:
            t = (log(ratio) - log(a)) / (log(b) - log(a))
            side, deep = (exp(log(x) * (1 - t) + log(y) * t) for x, y in zip(low, high, strict=True))
            return side, deep
    return TINY[-1][1:]
