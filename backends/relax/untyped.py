"""TVM's Python API without types: it is built at run time, and what annotations it has are not right."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .runtime import load_tvm

tvm: Any = load_tvm()
relax: Any = import_module("tvm.relax")
s_tir: Any = import_module("tvm.s_tir")
te: Any = import_module("tvm.te")
tirx: Any = import_module("tvm.tirx")
build: Any = import_module("tvm.script.ir_builder.tirx")
"""Statements for the builder that is at work."""
builder: Any = import_module("tvm.script.ir_builder").IRBuilder
Expr: Any = import_module("tvm.ir").Expr
Range: Any = import_module("tvm.ir").Range
Load: Any = import_module("tvm.ir").TensorLoad
Analyzer: Any = import_module("tvm.sym").Analyzer
walk: Any = import_module("tvm_ffi").structural_walk
pipelines: Any = import_module("tvm.tirx.compilation_pipeline")
mutate: Any = import_module("tvm_ffi").structural_mutate
StructuralKey: Any = import_module("tvm_ffi").StructuralKey
structural_hash: Any = import_module("tvm_ffi").structural_hash
