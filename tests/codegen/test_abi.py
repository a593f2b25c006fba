"""A program with its C entry points, linked into a shared object and called as C would."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import Array, building, compile_kernel
from tfc.compiler.codegen.abi import abi_text
from tfc.compiler.codegen.codes import (
    BAD_SHAPE,
    MESSAGES,
    NO_FEATURE,
    NO_TILES,
    OUT_OF_BOUNDS,
    SMALL_OUTPUT,
    SMALL_WORKSPACE,
)
from tfc.compiler.codegen.emit import emit_object
from tfc.compiler.codegen.header import header_text
from tfc.compiler.codegen.host import host_target
from tfc.compiler.codegen.main import main_text
from tfc.compiler.codegen.support import support_module
from tfc.compiler.link.blob import Blob
from tfc.compiler.link.shared import write_shared
from tfc.compiler.target import Target, parse_target
from tfc.ir.attrs import ConstRef
from tfc.ir.core import Block, DataEntry, Function, Module, SymbolInfo
from tfc.ir.dims import ceildiv, symbol
from tfc.ir.errors import CompileError, UnsupportedError
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import BufferAttrs, CallAttrs, ConstantAttrs
from tfc.ir.types import F32, I64, TensorType, buffer
from tfc.runtime.artifact import read_manifest

N, THREADS = symbol("N"), symbol("threads")
MANIFEST = json.dumps(
    {"format_version": 1, "name": 'a "model"\n', "prefix": "m", "é": 1}, ensure_ascii=False
).encode()
CHECK_CODE = 9


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("dims", ctypes.c_int64 * 8),
    )


class Context(ctypes.Structure):
    _fields_ = (
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("parallel_for", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("alloc", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
    )


def kernels() -> list[Function]:
    """t = x + w (a constant row); y[i, 0] = sum of t[i, :] per row, in parallel."""
    row = buffer(F32, 4)
    with building([buffer(F32, N, 4), row, buffer(F32, N, 4)], ["N"], "m_add") as (b, add):
        x, w, t = add.args
        with b.for_(0, N) as i:
            value = b.add(b.vload(x, [i.index, 0], 4), b.vload(w, [0], 4))
            b.vstore(value, t, [i.index, 0])
    with building([buffer(F32, N, 4), buffer(F32, N, 1)], ["N"], "m_sum") as (b, total):
        t, y = total.args
        with b.parallel(N) as (i, _):
            b.store(b.reduce("add", b.vload(t, [i, 0], 4)), y, i, 0)
    return [add, total]


def program() -> Module:
    """x: [N, 4], order: [2 * N] i64 -> y: [N, 1] = sum(x + w), count: [1] = N + loop of ones.

    order[0] must be below 100.
    """
    module = Module("loop")
    for kernel in kernels():
        module.add(kernel)
    module.data["w"] = DataEntry(ConstRef("0" * 32), buffer(F32, 4))
    types = [buffer(F32, N, 4), buffer(I64, 2 * N), buffer(F32, N, 1), buffer(I64, 1)]
    block = Block(types)
    main = Function("main", block, "main", {"N": SymbolInfo(lo=1, hi=1000)})
    b = LoopBuilder(block)
    x, order, y, count = block.args
    at = b.index(64 * ceildiv(N, 4))
    t = b.emit("workspace", [at], BufferAttrs(buffer(F32, N, 4))).result
    w = b.emit("constant", [], ConstantAttrs("w", buffer(F32, 4))).result
    b.check(b.lt(b.load(order, 0), b.const(100, I64)), CHECK_CODE, "order is too big")
    with b.for_(0, 2):
        b.emit("call", [x, w, t], CallAttrs("m_add"))
    with b.if_(b.gt(b.index(N), b.const(0, I64))):
        b.emit("call", [t, y], CallAttrs("m_sum"))
    with b.for_(0, 3, [b.index(N)]) as loop:
        loop.yields = [b.add(loop.carried[0], b.const(1, I64))]
    b.store(loop.results[0], count, 0)
    b.emit("return")
    main.attrs = {
        "inputs": (("x", TensorType(F32, (N, 4))), ("order/of", TensorType(I64, (2 * N,)))),
        "outputs": (("y", TensorType(F32, (N, 1))), ("count", TensorType(I64, (1,)))),
        "workspace": 64 * ceildiv(N, 4) + 16 * N + 8 * (THREADS - 1),
    }
    module.add(main)
    return module


WEIGHTS = np.array([1, 2, 3, 4], np.float32)


def build(
    path: Path, target: Target, *, checked: Target | None = None, has_tiles: bool = False
) -> Module:
    """Link the program; the entry points check for the features of `checked`, and ask for tiles."""
    module = program()
    texts = [
        main_text(module, target, "m", {"w": 64}),
        abi_text(
            module.main,
            checked or target,
            "m",
            MANIFEST,
            has_constants=True,
            has_tiles=has_tiles,
        ),
        support_module(target.triple),
    ]
    objects = [compile_kernel(f, target) for f in module.functions.values() if f.kind == "kernel"]
    objects += [emit_object(text, target) for text in texts]
    data = bytes(64) + WEIGHTS.tobytes()
    with path.open("wb") as out:
        write_shared(
            out,
            objects,
            exports=["m_run", "m_shapes", "m_workspace_size", "m_info"],
            blobs=[Blob("m_constants", len(data), 64, lambda: iter([data]))],
            manifest=MANIFEST,
        )
    return module


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("abi") / "m.so"
    build(path, host_target())
    return load(path)


def load(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    library.m_workspace_size.restype = ctypes.c_int64
    library.m_info.restype = ctypes.c_char_p
    library.m_run.argtypes = [ctypes.c_void_p] * 3
    library.m_shapes.argtypes = [ctypes.c_void_p] * 3
    return library


def tensors(*arrays: Array | tuple[int, ...]) -> Any:
    result = (Tensor * len(arrays))()
    for tensor, array in zip(result, arrays, strict=True):
        shape = array if isinstance(array, tuple) else array.shape
        for i, dim in enumerate(shape):
            tensor.dims[i] = dim
        if not isinstance(array, tuple):
            tensor.data = array.ctypes.data
            tensor.capacity = array.nbytes
    return result


class Case:
    """Arguments of one call, to be spoiled by a test."""

    def __init__(self, rows: int = 5) -> None:
        self.x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
        self.order = np.arange(2 * rows)
        self.y = np.zeros((rows, 1), np.float32)
        self.count = np.zeros(1, np.int64)
        self.workspace = np.zeros(64 * -(-rows // 4) + 16 * rows, np.uint8)
        self.context = Context(self.workspace.ctypes.data, self.workspace.nbytes)
        self.inputs = tensors(self.x, self.order)
        self.outputs = tensors(self.y, self.count)
        for output in self.outputs:
            output.dims[0] = -1

    def run(self, library: Any) -> int:
        return int(library.m_run(ctypes.addressof(self.context), self.inputs, self.outputs))


def test_run_computes_and_writes_the_dims(library: Any) -> None:
    for rows in (1, 5, 1000):
        case = Case(rows)
        assert case.run(library) == 0
        np.testing.assert_array_equal(case.y, (case.x + WEIGHTS).sum(1, keepdims=True))
        assert case.count[0] == rows + 3
        assert [list(output.dims[:2]) for output in case.outputs] == [[rows, 1], [1, 0]]


def test_constants_of_the_caller_replace_the_embedded_ones(library: Any) -> None:
    case = Case()
    weights = np.zeros(20, np.float32)
    weights[16:] = 7
    case.context.constants = weights.ctypes.data
    assert case.run(library) == 0
    np.testing.assert_array_equal(case.y, (case.x + 7).sum(1, keepdims=True))


def test_run_refuses_dims_that_do_not_fit(library: Any) -> None:
    for position, axis, dim in ((0, 1, 3), (0, 0, 4), (0, 0, -1), (1, 0, 9)):
        case = Case()
        case.inputs[position].dims[axis] = dim
        assert case.run(library) == BAD_SHAPE
        assert case.count[0] == 0


def test_run_refuses_symbols_out_of_bounds(library: Any) -> None:
    assert Case(0).run(library) == OUT_OF_BOUNDS
    case = Case(1001)
    assert case.run(library) == OUT_OF_BOUNDS


def test_run_refuses_small_outputs_but_says_their_dims(library: Any) -> None:
    case = Case()
    case.outputs[0].capacity -= 1
    assert case.run(library) == SMALL_OUTPUT
    assert list(case.outputs[0].dims[:2]) == [5, 1]


def test_run_refuses_a_small_or_missing_workspace(library: Any) -> None:
    case = Case()
    case.context.workspace_bytes -= 1
    assert case.run(library) == SMALL_WORKSPACE
    case = Case()
    case.context.workspace = None
    assert case.run(library) == SMALL_WORKSPACE
    case = Case()
    assert library.m_run(None, case.inputs, case.outputs) == SMALL_WORKSPACE


def test_workspace_grows_with_threads_where_there_is_a_pool(library: Any) -> None:
    sizes = [library.m_workspace_size((ctypes.c_int64 * 1)(5), n) for n in (0, 1, 3)]
    assert sizes == [208, 208, 224]
    case = Case()
    case.context.threads = 3
    assert case.run(library) == 0
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    )
    refuse = kind(lambda user, body, closure, n: 1)
    case.context.parallel_for = ctypes.cast(refuse, ctypes.c_void_p)
    assert case.run(library) == SMALL_WORKSPACE


def test_a_failed_check_ends_the_run_with_its_code(library: Any) -> None:
    case = Case()
    case.order[0] = 100
    assert case.run(library) == CHECK_CODE
    assert case.count[0] == 0


def test_shapes_gives_dims_bytes_and_symbols(library: Any) -> None:
    inputs, outputs = tensors((6, 4), (12,)), tensors((), ())
    symbols = (ctypes.c_int64 * 1)()
    assert library.m_shapes(inputs, outputs, symbols) == 0
    assert symbols[0] == 6
    assert [list(output.dims[:2]) for output in outputs] == [[6, 1], [1, 0]]
    assert [output.capacity for output in outputs] == [24, 8]
    assert library.m_shapes(inputs, outputs, None) == 0
    inputs[1].dims[0] = 11
    assert library.m_shapes(inputs, outputs, None) == BAD_SHAPE


def test_info_is_the_manifest_byte_for_byte(library: Any) -> None:
    assert library.m_info() == MANIFEST
    assert read_manifest(library._name)["name"] == 'a "model"\n'


def test_run_refuses_a_cpu_without_the_features(tmp_path: Path) -> None:
    host = host_target()
    lacking = [name for name in ("amx-int8", "avx512fp16", "amx-tile") if not host.has(name)]
    if host.arch != "x86_64" or not lacking:
        pytest.skip("this CPU has every feature that the test could ask for")
    path = tmp_path / "m.so"
    build(path, host, checked=dataclasses.replace(host, features=host.features | {lacking[0]}))
    library = load(path)
    for _ in range(2):  # the second answer is the remembered one
        case = Case()
        assert case.run(library) == NO_FEATURE
        assert case.count[0] == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has AMX")
def test_run_asks_linux_for_tile_registers_and_says_when_it_refuses(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    build(path, host_target(), has_tiles=True)
    library = load(path)
    refused = ctypes.CDLL(None).syscall(158, 0x1023, 18) != 0
    for _ in range(2):  # the second answer is the remembered one
        case = Case()
        assert case.run(library) == (NO_TILES if refused else 0)
        assert (case.count[0] == 0) == refused


def test_a_symbol_that_no_input_has_alone_is_an_error() -> None:
    module = program()
    module.main.attrs["inputs"] = (("x", TensorType(F32, (2 * N, 4))),)
    with pytest.raises(CompileError, match="no input has a dim that is just the symbol N"):
        abi_text(module.main, parse_target("avx2"), "m", b"{}", has_constants=False)


def test_rank_9_is_refused() -> None:
    module = program()
    module.main.attrs["outputs"] = (("y", TensorType(F32, (1,) * 9)),)
    with pytest.raises(UnsupportedError, match="y has rank 9"):
        abi_text(module.main, parse_target("avx2"), "m", b"{}", has_constants=False)


# -- the header ---------------------------------------------------------------------------------

CALLER = r"""
#include <stdio.h>
#include <stdlib.h>
#include "m.h"

int main(void) {
  float x[3 * 4] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, y[3];
  int64_t order[6] = {0}, count[1], symbols[m_SYMBOLS];
  m_tensor in[m_INPUTS] = {{0}}, out[m_OUTPUTS] = {{0}};
  m_ctx ctx = {0};
  in[m_INPUT_x].data = x;
  in[m_INPUT_x].dims[0] = 3;
  in[m_INPUT_x].dims[1] = 4;
  in[m_INPUT_order_of].data = order;
  in[m_INPUT_order_of].dims[0] = 6;
  if (m_shapes(in, out, symbols) != 0 || symbols[m_SYMBOL_N] != 3) return 1;
  if (out[m_OUTPUT_y].capacity != sizeof y) return 2;
  out[m_OUTPUT_y].data = y;
  out[m_OUTPUT_count].data = count;
  if (m_run(&ctx, in, out) != m_SMALL_WORKSPACE) return 3;
  ctx.workspace_bytes = m_workspace_size(symbols, 1);
  ctx.workspace = malloc((size_t)ctx.workspace_bytes);
  if (m_run(&ctx, in, out) != 0) return 4;
  printf("%g %g %g %d %s", y[0], y[1], y[2], (int)count[0], m_info()[0] == '{' ? "json" : "");
  free(ctx.workspace);
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_program_uses_the_header(tmp_path: Path) -> None:
    module = build(tmp_path / "libm_model.so", host_target())
    header = header_text(module.main, "m", title="tiny */ model", has_pool=True)
    (tmp_path / "m.h").write_text(header)
    (tmp_path / "caller.c").write_text(CALLER)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wno-missing-field-initializers"]
    flags += ["-Werror", "-pedantic"]
    command = ["cc", *flags, "caller.c", "-o", "caller", "-L.", "-lm_model", "-Wl,-rpath,$ORIGIN"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "caller"], check=True, capture_output=True, text=True)
    assert done.stdout == "20 36 52 6 json"


def test_the_header_names_every_port_and_code_and_includes_two_headers() -> None:
    header = header_text(program().main, "m")
    includes = [line for line in header.splitlines() if line.startswith("#include")]
    assert includes == ["#include <stddef.h>", "#include <stdint.h>"]
    for macro in ("m_INPUTS 2", "m_INPUT_x 0", "m_INPUT_order_of 1", "m_OUTPUT_count 1"):
        assert f"#define {macro}" in header
    for code, text in MESSAGES.items():
        assert f" {code} /* {text} */" in header
    assert "pool_create" not in header


def test_ports_whose_names_become_the_same_get_their_number() -> None:
    main = program().main
    main.attrs["inputs"] = tuple((name, TensorType(F32, (N,))) for name in ("a.b", "a/b"))
    header = header_text(main, "m")
    assert "#define m_INPUT_a_b 0" in header
    assert "#define m_INPUT_a_b_1 1" in header
