"""A small loop-level program made by hand: y = x * w * w in two calls of one kernel."""

from __future__ import annotations

import numpy as np

from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, DataEntry, Function, Module, SymbolInfo
from tfc.ir.dims import symbol
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import BufferAttrs, CallAttrs, ConstantAttrs
from tfc.ir.types import F32, TensorType, buffer

WEIGHTS = np.array([1, 2, 3], np.float32)


def scale_program() -> Module:
    rows = symbol("N")
    module = Module("loop", constants=ConstantStore())
    x, w = buffer(F32, rows, 3), buffer(F32, 3)
    module.data["w"] = DataEntry(module.constants.add(WEIGHTS, F32), w)
    block = Block([x, w, x], ["x", "w", "y"])
    b = LoopBuilder(block)
    with b.parallel(rows) as (i, _), b.for_(0, 3) as loop:
        product = b.mul(b.load(block.args[0], i, loop.index), b.load(block.args[1], loop.index))
        b.store(product, block.args[2], i, loop.index)
    b.emit("return")
    symbols = {"N": SymbolInfo(1, 100_000)}
    module.add(Function("scale", block, "kernel", dict(symbols)))
    block = Block([x, x], ["x", "y"])
    b = LoopBuilder(block)
    weights = b.emit("constant", (), ConstantAttrs("w", w)).result
    between = b.emit("workspace", (b.index(0),), BufferAttrs(x)).result
    b.emit("call", (block.args[0], weights, between), CallAttrs("scale"))
    b.emit("call", (between, weights, block.args[1]), CallAttrs("scale"))
    b.emit("return")
    type = TensorType(F32, (rows, 3))
    attrs = {"inputs": (("x", type),), "outputs": (("y", type),), "workspace": 12 * rows}
    module.add(Function("main", block, "main", symbols, (), attrs))
    return module
