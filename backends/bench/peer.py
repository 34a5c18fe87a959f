"""The candidates: what each is called, what has to be installed for it, and the form in which it takes a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from ...compiler.diagnostic import Diagnostic, NetcError, nearest

Form = Literal["artifact", "pytorch", "onnx"]
"""What a candidate reads: netc's artifact, generated PyTorch source with its weights, or an ONNX file."""


@dataclass(frozen=True)
class Peer:
    """One candidate. `package` is what it imports."""

    name: str
    package: str
    form: Form
    extra: str
    """What to install where the package is missing; for some of them an extra of netc."""
    compiles: bool = False
    """It compiles once, into a cache that later processes read, and not while it opens a model."""


NETC = Peer("netc", "tvm", "artifact", "netc", compiles=True)
"""Ourselves."""

PEERS = {
    peer.name: peer
    for peer in (
        Peer("torch", "torch", "pytorch", "netc"),
        Peer("inductor", "torch", "pytorch", "netc", compiles=True),
        Peer("onnxruntime", "onnxruntime", "onnx", "netc[bench]"),
        Peer("openvino", "openvino", "onnx", "netc[bench]"),
    )
}
"""Who netc can be measured against: PyTorch as it is, `torch.compile`, and two runtimes of ONNX."""


def check(names: Iterable[str]) -> list[Peer]:
    """The peers of these names.

    Raises:
        NetcError: for each that is not known (`unknown-peer`) or not installed (`not-installed`).
    """
    found: list[Peer] = []
    problems: list[Diagnostic] = []
    for name in dict.fromkeys(names):
        if name not in PEERS:
            notes = (f"known: {', '.join(PEERS)}",)
            problems.append(Diagnostic("unknown-peer", f"there is no peer {name}", (), notes, nearest(name, PEERS)))
        elif find_spec(PEERS[name].package) is None:
            message = f"{name} needs the package {PEERS[name].package}, which is not installed"
            problems.append(Diagnostic("not-installed", message, fix=f"pip install '{PEERS[name].extra}'"))
        else:
            found.append(PEERS[name])
    if problems:
        raise NetcError(problems)
    return found
