"""Import directions, held by reading every import in the tree, those inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import networkx
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("compiler", "backends", "grammar", "specs")

# What each room of the compiler builds on directly; what those build on may be used too.
# A new room takes its place here.
BUILDS_ON = {
    "source": "",
    "diagnostic": "source",
    "tree": "source",
    "syntax": "diagnostic tree grammar",
    "types": "",
    "budget": "",
    "target": "tree diagnostic quantity",
    "quantity": "tree diagnostic",
    "locate": "diagnostic",
    "builtin": "types",
    "rename": "checkpoint",
    "files": "diagnostic",
    "feed": "diagnostic types",
    "operators": "types",
    "graph": "operators source",
    "axes": "graph diagnostic",
    "cost": "graph diagnostic",
    "dimension": "diagnostic tree builtin",
    "text": "graph tree diagnostic dimension",
    "align": "graph",
    "diff": "text align",
    "compare": "diff cost",
    "dot": "graph",
    "report": "pipeline cost text fusion",
    "checkpoint": "diagnostic types",
    "fit": "graph rename checkpoint",
    "weights": "initialise fit files",
    "initialise": "graph diagnostic",
    "value": "graph tree",
    "scope": "graph tree diagnostic",
    "names": "scope value builtin",
    "contract": "",
    "blocks": "graph paths",
    "place": "graph paths",
    "paths": "",
    "family": "graph cost weights",
    "merging": "axes blocks calibration passes",
    "reach": "graph",
    "transforms": "blocks place paths family probe measure calibration merging reach library",
    "plan": "library options quantity target pipeline names",
    "fusion": "passes paths plan rewrite backend cost",
    "passes": "axes cost contract backend weights",
    "elaboration": "syntax names budget target",
    "importer": "syntax names rename",
    "rewrite": "elaboration contract text backend passes",
    "options": "tree diagnostic",
    "pipeline": "passes text contract options",
    "library": "importer pipeline rewrite",
    "explain": "library rewrite",
    "bisect": "pipeline",
    "reproduce": "pipeline rewrite",
    "probe": "passes weights",
    "difference": "",
    "measure": "pipeline probe backend difference",
    "backend": "diagnostic",
    "model": "backend cost text weights target library report invoke",
    "calibration": "probe feed dataset",
    "invoke": "transforms options pipeline tree",
    "receipt": "invoke cost measure",
    "program": "elaboration model locate transforms invoke plan fusion",
    "expectation": "program",
    "reference": "operators",
    "layout": "tree",
    "format": "syntax layout",
    "grammar": "",
    "specs": "",
    "dataset": "diagnostic",
    "backends": "passes diagnostic weights target family dataset paths fusion difference",
    "netc": "axes receipt expectation reference format feed specs backends compare dot report explain bisect reproduce "
    "measure",
}

HEAVY = frozenset({"torch", "tvm", "onnx", "onnxruntime", "transformers"})


class Import(NamedTuple):
    """`module` imports `target` (dotted, without `netc.`, or another package's name) at `line`."""

    module: str
    target: str
    line: int
    lazy: bool
    """It does not run when the module is loaded: in a function, or for type checkers only."""
    absolute: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_files() -> dict[str, Path]:
    """Every module of the tree: its name without the leading `netc.`, and its file."""
    found: dict[str, Path] = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[:2] == ("compiler", "netc"):
                parts = ("netc", *parts[2:])
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = module_files()


def imports_of(module: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[module].read_text())
    lazy = {inner for outer in ast.walk(tree) if waits(outer) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, ours(alias.name), node.lineno, node in lazy, absolute=True)
        elif isinstance(node, ast.ImportFrom):
            base = source_of(module, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                target = inner if inner in MODULES else base
                yield Import(module, target, node.lineno, node in lazy, absolute=node.level == 0)


def waits(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def ours(name: str) -> str:
    """A module of the tree without its leading `netc.`; another package's name as it is."""
    short = name.removeprefix("netc.")
    return short if short.split(".")[0] in ROOMS else name


def source_of(module: str, node: ast.ImportFrom) -> str:
    """The module that a `from … import` names."""
    if node.level == 0:
        return ours(node.module or "")
    package = MODULES[module].name == "__init__.py"
    base = ["netc", *(p for p in module.split(".") if p != "netc")][: None if package else -1]
    base = base[: len(base) - node.level + 1]
    assert base, f"{module}:{node.lineno} climbs out of netc"
    return ours(".".join([*base, *(node.module or "").split(".")]).strip("."))


IMPORTS = list(dict.fromkeys(i for module in MODULES for i in imports_of(module)))
INTERNAL = [i for i in IMPORTS if i.target in MODULES]


def room_of(module: str) -> str:
    """`compiler.passes.expand` → `passes`; `backends.relax.lower` → `backends`."""
    first, *rest = module.split(".")
    return rest[0] if first == "compiler" and rest else first


def may_use(room: str) -> set[str]:
    direct = BUILDS_ON[room].split()
    return {room, *direct}.union(*(may_use(d) for d in direct))


def test_the_reader_sees_imports() -> None:
    """The tests below would pass on an empty list."""
    found = {(i.module, i.target) for i in INTERNAL}
    assert ("compiler.graph", "compiler.operators.operator") in found
    assert ("backends.rules", "compiler.graph") in found
    assert ("netc", "compiler.graph") in found
    assert any(i.lazy and i.target == "networkx" for i in IMPORTS)


def test_every_room_has_a_place() -> None:
    assert {room_of(m) for m in MODULES} - BUILDS_ON.keys() - {"compiler"} == set()


def test_every_import_goes_down() -> None:
    placed = [i for i in INTERNAL if room_of(i.module) in BUILDS_ON]
    upward = [str(i) for i in placed if room_of(i.target) not in may_use(room_of(i.module))]
    assert not upward, "\n".join(upward)


def test_no_import_cycle() -> None:
    """Lazy imports count, and so do the packages that Python imports on the way to a module."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for i in INTERNAL:
        parents = {".".join(i.target.split(".")[:n]) for n in range(1, i.target.count(".") + 1)}
        inside = {m for m in parents if f"{i.module}.".startswith(f"{m}.")}
        graph.add_edges_from((i.module, target) for target in {i.target, *parents} - inside)
    cycles = [sorted(c) for c in networkx.strongly_connected_components(graph) if len(c) > 1]
    assert not cycles


def test_imports_inside_the_tree_are_relative() -> None:
    """Else the folder and the installed package would be two copies. `netc/__init__.py` is the one at the top."""
    wrong = [str(i) for i in INTERNAL if i.absolute and not i.module.startswith("netc")]
    assert not wrong, "\n".join(wrong)


def test_the_compiler_names_backends_in_one_place_only() -> None:
    """It imports none; one module loads them by entry point."""
    naming = {
        module
        for module, path in MODULES.items()
        if not module.startswith("backends")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("netc.backends")
    }
    assert len(naming) <= 1, naming


def test_the_compiler_does_not_use_what_backends_wrap() -> None:
    """PyTorch is the exception, where a checkpoint can be read by its own loader only."""
    wrong = [str(i) for i in IMPORTS if i.module.startswith("compiler") and i.target.split(".")[0] in HEAVY - {"torch"}]
    wrong += [str(i) for i in IMPORTS if i.module.startswith("compiler") and i.target == "torch" and not i.lazy]
    assert not wrong, "\n".join(wrong)


def test_no_backend_is_named_after_what_it_wraps() -> None:
    """`backends/onnx.py` would shadow `onnx` for anything that puts the folder on the path."""
    wrapped = {i.target.split(".")[0] for i in IMPORTS if i.module.startswith("backends")} | HEAVY
    assert not {m for m in MODULES if m.startswith("backends.") and m.rpartition(".")[2] in wrapped}


def test_type_checkers_see_the_installed_layout() -> None:
    links = {path.name: path.resolve() for path in (ROOT / "typings" / "netc").iterdir()}
    inner = {path.name: path for path in (ROOT / "compiler" / "netc").glob("*.py")}
    assert links == {**inner, **{room: ROOT / room for room in ROOMS}}


def test_every_package_is_packaged() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert {p for p in folders if not (p / "__init__.py").is_file()} == set()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {m if m.startswith("netc") else f"netc.{m}" for m, path in MODULES.items() if path.name == "__init__.py"}
    assert packages == set(settings["tool"]["setuptools"]["packages"])


def test_importing_netc_loads_nothing_heavy() -> None:
    code = f"import netc, sys; print(*sorted({set(HEAVY)} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stderr


def test_every_public_name_is_there() -> None:
    import netc

    assert not [name for name in netc.__all__ if getattr(netc, name, None) is None]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        netc.nothing  # noqa: B018


def test_netc_exists_once() -> None:
    with pytest.raises(ImportError, match="import it as netc"):
        import netc.compiler.netc  # noqa: F401
