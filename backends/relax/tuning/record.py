"""What tuning found: the answer to a question, on a processor, and what is known of how it was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter

from ..choice import Option
from ..runtime import CODE

if TYPE_CHECKING:
    from ..machine import Machine


@dataclass(frozen=True)
class Processor:
    """What the speed of a kernel depends on besides what it computes; see `Machine`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    architecture: str
    cpu: str
    lanes: int
    registers: int
    cache: int
    threads: int
    features: tuple[str, ...]
    """Those whose instructions compiled code may hold, sorted."""

    @cached_property
    def key(self) -> str:
        """The processor in one line."""
        return _line(asdict(self))

    @staticmethod
    def read(data: Any) -> Processor:
        """From the data of a line.

        Raises:
            pydantic.ValidationError: where it is none.
        """
        return _PROCESSOR.validate_python(data)


_PROCESSOR = TypeAdapter(Processor)


def processor(machine: Machine) -> Processor:
    """A machine as records know it."""
    return Processor(
        machine.triple.partition("-")[0],
        machine.cpu,
        machine.lanes,
        machine.registers,
        machine.cache,
        machine.threads,
        tuple(sorted(name for name in machine.features if CODE.match(name))),
    )


Answer = Mapping[str, Option]


@dataclass(frozen=True)
class Record:
    """The best answer that was found to a question.

    `seconds` and `analytic` are least times of one run with the answer, and with the analytic default (`default`),
    measured in turns; `spread` is the distance of the quartiles of the answer's times as a part of `seconds`; `trials`
    says out of how many candidates; `when` is the time in UTC.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    question: str
    """Its key."""
    processor: Processor
    answer: Answer
    default: Answer
    seconds: float
    analytic: float
    spread: float
    trials: int
    when: str
    netc: str

    @cached_property
    def kind(self) -> str:
        return str(json.loads(self.question)[0])

    @cached_property
    def facts(self) -> dict[str, Any]:
        return dict(json.loads(self.question)[1])

    @property
    def line(self) -> str:
        """The record as a line of a file."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data |= {"question": json.loads(self.question), "processor": asdict(self.processor)}
        return _line(data)

    @staticmethod
    def read(line: str) -> Record:
        """The record that a line is.

        Raises:
            ValueError: where it is none.
        """
        data: Any = json.loads(line)
        match data:
            case {"question": [str(), dict()]}:
                return _RECORD.validate_python({**data, "question": _line(data["question"])})
            case _:
                raise ValueError("a record is an object with a question, which is a kind and its facts")


_RECORD = TypeAdapter(Record)


def written(answer: Answer) -> str:
    """An answer as a key: the same for equal answers."""
    return json.dumps(dict(answer), sort_keys=True, separators=(",", ":"))


def _line(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))
