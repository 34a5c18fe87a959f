"""TVM's Python API without types: it is built at run time, and what annotations it has are not right."""

from __future__ import annotations

from typing import Any

import tvm as _tvm
from tvm import relax as _relax
from tvm import s_tir as _s_tir
from tvm import te as _te
from tvm import tirx as _tirx
from tvm.script.ir_builder import IRBuilder as _IRBuilder
from tvm.script.ir_builder import tirx as _builder

tvm: Any = _tvm
relax: Any = _relax
s_tir: Any = _s_tir
te: Any = _te
tirx: Any = _tirx
build: Any = _builder
"""Statements for the builder that is at work."""
builder: Any = _IRBuilder
