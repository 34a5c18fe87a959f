"""A C program that runs a compiled model of fixed sizes, without TVM's runtime: for machines that have none.

It calls the kernels of `model.so` in the order and memory that TVM's passes have planned, on one thread, and allocates
nothing but what kernels work in. With `-DNETC_MAIN` it is a whole program:

    $CC -O2 -DNETC_MAIN model.c model.so -lm -Wl,-rpath,'$ORIGIN' -o run
    ./run constants.safetensors INPUT… OUTPUT…    # files of bare numbers, row by row
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from .constants import offsets
from .destination import INTO
from .exchange import ALIGNMENT
from .untyped import relax, tirx, tvm

PROGRAM = "model.c"

CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
"""DLPack's kinds of numbers."""

HEAD = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* DLPack and TVM's calling convention. */
typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } Type;
typedef struct {
  void *data; Device device; int32_t ndim; Type dtype; int64_t *shape, *strides; uint64_t byte_offset;
} Tensor;
typedef struct { int32_t kind; uint32_t zero; union { int64_t integer; void *pointer; } value; } Any;
typedef int Kernel(void *self, const Any *arguments, int32_t count, Any *result);
typedef struct { void *sync; int32_t count; } Group;

#define LOCAL __attribute__((weak)) /* TVM's own, where it is linked */

LOCAL void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {
  fprintf(stderr, "%s: %s\n", kind, text);
}
LOCAL void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; i++) fputs(parts[i], stderr);
  fputc('\n', stderr);
}
LOCAL int TVMBackendParallelLaunch(int (*work)(int, Group *, void *), void *data, int count) {
  (void)count;
  Group group = {NULL, 1};
  return work(0, &group, data);
}
LOCAL int TVMBackendParallelBarrier(int task, Group *group) { (void)task; (void)group; return 0; }
LOCAL void *TVMBackendAllocWorkspace(int device, int id, uint64_t size, int code, int bits) {
  (void)device; (void)id; (void)code; (void)bits;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}
LOCAL int TVMBackendFreeWorkspace(int device, int id, void *memory) {
  (void)device; (void)id;
  free(memory);
  return 0;
}

/* Kernels reach these through variables, which TVM's loader would set. */
int (*__TVMBackendParallelLaunch)(int (*)(int, Group *, void *), void *, int) = TVMBackendParallelLaunch;
int (*__TVMBackendParallelBarrier)(int, Group *) = TVMBackendParallelBarrier;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = TVMBackendAllocWorkspace;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = TVMBackendFreeWorkspace;

static int call(Kernel *kernel, Tensor **tensors, int count) {
  Any arguments[MOST], result = {0, 0, {0}};
  for (int i = 0; i < count; i++) {
    arguments[i].kind = 7; /* a tensor */
    arguments[i].zero = 0;
    arguments[i].value.pointer = tensors[i];
  }
  return kernel(NULL, arguments, count, &result);
}
"""

MAIN = r"""
#ifdef NETC_MAIN
static void *filled(const char *path, size_t size) {
  FILE *file = fopen(path, "rb");
  void *memory = aligned_alloc(64, (size + 63) / 64 * 64);
  if (!file || !memory || fread(memory, 1, size, file) != size) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(1);
  }
  fclose(file);
  return memory;
}
int main(int count, char **names) {
  const void *inputs[INPUTS + 1];
  void *outputs[OUTPUTS + 1];
  if (count != 2 + INPUTS + OUTPUTS) {
    fprintf(stderr, "usage: %s CONSTANTS INPUT... OUTPUT...\n", names[0]);
    return 2;
  }
  void *constants = filled(names[1], CONSTANTS_SIZE);
  for (int i = 0; i < INPUTS; i++) inputs[i] = filled(names[2 + i], INPUT_SIZES[i]);
  for (int i = 0; i < OUTPUTS; i++) outputs[i] = aligned_alloc(64, (OUTPUT_SIZES[i] + 63) / 64 * 64);
  int failed = netc_run(constants, aligned_alloc(64, MEMORY_SIZE), inputs, outputs);
  for (int i = 0; i < OUTPUTS && !failed; i++) {
    FILE *file = fopen(names[2 + INPUTS + i], "wb");
    failed = !file || fwrite(outputs[i], 1, OUTPUT_SIZES[i], file) != OUTPUT_SIZES[i] || fclose(file);
  }
  return failed ? 1 : 0;
}
#endif
"""

CONTRACT = """
/* Run the model. `constants` holds the file constants.safetensors, `memory` MEMORY_SIZE bytes; these, the inputs and
   the outputs begin at multiples of 64 bytes. Not 0 where a kernel refuses its arguments. */
int netc_run(const void *constants, void *memory, const void *const *inputs, void *const *outputs) {
"""


def program(module: Any, constants: Path, names: Sequence[str], inputs: int) -> str | None:
    """The program for a module's `main_into`; None where sizes are symbols, which it does not compute.

    `constants` is the file that holds those `names`, which come after so many inputs.
    """
    try:
        return _Host(module[INTO], offsets(constants), names, inputs).text(constants.stat().st_size)
    except _Symbolic:
        return None


class _Symbolic(Exception):
    pass


class _Host:
    def __init__(self, function: Any, places: Mapping[str, int], names: Sequence[str], inputs: int) -> None:
        self._lines = ["  (void)constants, (void)memory, (void)inputs;"]
        self._kernels: dict[str, None] = {}
        self._values: dict[Any, Any] = {}
        self._memory = 0
        self._count = 0
        self._most = 1
        parameters = list(function.params)
        given, rest = parameters[:inputs], parameters[inputs:]
        weights, targets = rest[: len(names)], rest[len(names) :]
        self._inputs, self._outputs = [_size(p.ty) for p in given], [_size(p.ty) for p in targets]
        for i, p in enumerate(given):
            self._tensor(p, f"(char *)inputs[{i}]", p.ty)
        for p, name in zip(weights, names, strict=True):
            self._tensor(p, f"(char *)constants + {places[name]}", p.ty)
        for i, p in enumerate(targets):
            self._tensor(p, f"(char *)outputs[{i}]", p.ty)
            self._lines.append(f"  (void){self._values[p]};")
        for block in function.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        result = self._values.get(function.body.body, function.body.body)
        for i, (value, size) in enumerate(zip(result.fields, self._outputs, strict=True)):
            data = f"{self._values[value]}.data"
            self._lines.append(f"  if ({data} != outputs[{i}]) memcpy(outputs[{i}], {data}, {size});")

    def text(self, size: int) -> str:
        declared = "".join(f"extern Kernel __tvm_ffi_{k};\n" for k in self._kernels)
        facts = (
            f"\nenum {{ INPUTS = {len(self._inputs)}, OUTPUTS = {len(self._outputs)} }};\n"
            f"static const size_t INPUT_SIZES[] = {{{', '.join(map(str, [*self._inputs, 0]))}}};\n"
            f"static const size_t OUTPUT_SIZES[] = {{{', '.join(map(str, [*self._outputs, 0]))}}};\n"
            f"static const size_t MEMORY_SIZE = {max(self._memory, ALIGNMENT)}, CONSTANTS_SIZE = {size};\n"
        )
        head = HEAD.replace("MOST", str(self._most))
        return f"{head}\n{declared}{facts}{CONTRACT}" + "\n".join(self._lines) + "\n  return 0;\n}\n" + MAIN

    def _tensor(self, variable: Any, data: str, type: Any) -> None:
        name = f"v{self._count}"
        self._count += 1
        shape = _shape(type)
        strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
        kind = tvm.DataType(str(type.dtype))
        words = [", ".join(map(str, numbers)) for numbers in (shape, strides)]
        numbers = f"{{{CODES[_kind(str(type.dtype))]}, {kind.bits}, 1}}, {name}_shape, {name}_strides, 0"
        self._lines += [
            f"  int64_t {name}_shape[] = {{{words[0]}}}, {name}_strides[] = {{{words[1]}}};",
            f"  Tensor {name} = {{{data}, {{1, 0}}, {len(shape)}, {numbers}}};",
        ]
        self._values[variable] = name

    def _bind(self, variable: Any, value: Any) -> None:
        if isinstance(value, relax.Tuple):
            self._values[variable] = value
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            self._call(str(value.op.name_hint), value.args)
        elif isinstance(value, relax.Call):
            self._builtin(variable, value)
        elif value in self._values:
            self._values[variable] = self._values[value]
        elif isinstance(value, relax.TupleGetItem):
            self._values[variable] = self._values[self._values[value.tuple_value].fields[value.index]]

    def _builtin(self, variable: Any, call: Any) -> None:
        name = str(getattr(call.op, "name", "") or call.op.global_symbol)
        if name == "relax.vm.alloc_storage":
            (size,) = _numbers(call.args[0].values)
            self._values[variable] = self._memory
            self._memory += -(-size // ALIGNMENT) * ALIGNMENT
        elif name == "relax.vm.alloc_tensor":
            offset = int(call.args[1].value)
            self._tensor(variable, f"(char *)memory + {self._values[call.args[0]] + offset}", variable.ty)
        elif name == "vm.builtin.reshape":
            self._tensor(variable, f"{self._values[call.args[0]]}.data", variable.ty)
        elif name == "vm.builtin.alloc_shape_heap":
            raise _Symbolic
        elif not name.startswith(("relax.vm.kill", "relax.null_value", "vm.builtin.check", "vm.builtin.match_shape")):
            raise AssertionError(f"{name} is not known here")

    def _call(self, kernel: str, arguments: Any) -> None:
        if not all(a in self._values for a in arguments):
            raise _Symbolic
        self._kernels[kernel] = None
        self._most = max(self._most, len(arguments))
        tensors = ", ".join(f"&{self._values[a]}" for a in arguments)
        self._lines.append(f"  if (call(__tvm_ffi_{kernel}, (Tensor *[]){{{tensors}}}, {len(arguments)})) return 1;")


def _kind(dtype: str) -> str:
    return dtype.rstrip("0123456789")


def _shape(type: Any) -> list[int]:
    return _numbers(type.shape.values if hasattr(type.shape, "values") else type.shape)


def _numbers(values: Any) -> list[int]:
    found: list[int] = []
    for v in values:
        if not isinstance(v, (int, tirx.IntImm)):
            raise _Symbolic
        found.append(int(v))
    return found


def _size(type: Any) -> int:
    return prod(_shape(type)) * ((tvm.DataType(str(type.dtype)).bits + 7) // 8)
