"""Ops on symbolic shapes, and what ONNX's reference evaluator says. Not test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

import tfc.ir.ops  # noqa: F401  (fills the registry)
from tests.conformance.cases import GraphEvaluator, assert_close, make_attrs, run_loops
from tfc.ir import dims
from tfc.ir.arrays import Array, type_of
from tfc.ir.body import Expr, ExprBuilder
from tfc.ir.build import GraphBuilder, freeze, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import Dim, DimLike, symbol
from tfc.ir.evalexpr import evaluate
from tfc.ir.opdef import OPS
from tfc.ir.types import F32, DType, TensorType

Shape = Sequence[DimLike]


def make_op(
    name: str, shapes: Sequence[Shape], attrs: Mapping[str, Any], dtypes: Sequence[DType] = ()
) -> tuple[GraphBuilder, Op]:
    """The op on block arguments of these shapes, of f32 unless `dtypes` says otherwise."""
    kinds = (*dtypes, *[F32] * (len(shapes) - len(dtypes)))
    types = [TensorType(d, tuple(s)) for d, s in zip(kinds, shapes, strict=True)]
    builder = GraphBuilder(Block(types), ConstantStore())
    return builder, builder.emit(OPS[name], builder.block.args, make_attrs(OPS[name], attrs))


def body_of(op: Op) -> tuple[Expr, tuple[Dim, ...]]:
    """The op's body at indices that are the symbols i0, i1, ..., and these symbols."""
    index = tuple(symbol(f"i{axis}") for axis in range(tensor_type(op.result).rank))
    body = OPS[op.name].body
    assert body is not None
    return body(ExprBuilder(), op, 0, index), index


def fix(value: Any, symbols: Mapping[str, int]) -> Any:
    """Attributes with numbers in place of the symbols."""
    if isinstance(value, tuple):
        return tuple(fix(v, symbols) for v in value)
    return dims.evaluate(value, symbols) if isinstance(value, Dim) else value


def fix_attrs(attrs: Any, symbols: Mapping[str, int]) -> Any:
    return replace(attrs, **{f.name: fix(getattr(attrs, f.name), symbols) for f in fields(attrs)})


class SymbolicEvaluator(GraphEvaluator):
    """Evaluates values whose types have symbols, for one choice of these."""

    def __init__(
        self, constants: ConstantStore, known: Mapping[Value, Array], symbols: Mapping[str, int]
    ) -> None:
        super().__init__(constants, known)
        self.symbols = symbols

    def run(self, op: Op) -> tuple[Array, ...]:
        if op.name == "constant":
            return super().run(op)
        found = OPS[op.name].ref(fix_attrs(op.attrs, self.symbols), *map(self, op.operands))
        array = np.asarray(found)
        assert array.shape == fix(tensor_type(op.result).shape, self.symbols), op.name
        return (array,)


def check_symbolic(
    name: str,
    shapes: Sequence[Shape],
    attrs: Mapping[str, Any],
    symbols: Mapping[str, int],
    operands: Sequence[Array],
    grad: bool = True,
) -> None:
    """Compare body, loops or decomposition, made with symbols, with the reference on numbers.

    If the op has a gradient, it is built too, and compared with that of the fixed op.
    """
    dtypes = [type_of(x).dtype for x in operands]
    builder, op = make_op(name, shapes, attrs, dtypes)
    defn = OPS[name]
    want = np.asarray(defn.ref(fix_attrs(op.attrs, symbols), *operands))
    shape = fix(tensor_type(op.result).shape, symbols)
    assert want.shape == shape
    known = dict(zip(op.operands, operands, strict=True))
    if defn.body is not None:
        expr, index = body_of(op)
        iters = {str(i): n for i, n in zip(index, shape, strict=True)}
        got = evaluate(expr, iters, known, symbols)
    elif defn.loops is not None:
        (got,) = run_loops(op, operands, symbols)
    else:
        assert defn.decompose is not None
        (result,) = defn.decompose(builder, op)
        got = SymbolicEvaluator(builder.constants, known, symbols)(result)
    assert_close(got, want, 1e-5, f"{name} {attrs}")
    if not (grad and callable(defn.grad)):
        return
    fixed = [fix(tuple(s), symbols) for s in shapes]
    numbers = {name: fix(freeze(value), symbols) for name, value in attrs.items()}
    plain = make_op(name, fixed, numbers, dtypes)
    g = np.random.default_rng(0).uniform(-1, 1, shape).astype(want.dtype)
    for found, expected in zip(
        _gradients(builder, op, operands, g, symbols),
        _gradients(*plain, operands, g, {}),
        strict=True,
    ):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert_close(found, expected, 1e-4, f"gradient of {name} {attrs}")


def _gradients(
    builder: GraphBuilder, op: Op, operands: Sequence[Array], g: Array, symbols: Mapping[str, int]
) -> list[Array | None]:
    grad = OPS[op.name].grad
    assert callable(grad)
    cotangent = builder.block.add_arg(op.result.type)
    known = {cotangent: g, **dict(zip(op.operands, operands, strict=True))}
    run = SymbolicEvaluator(builder.constants, known, symbols)
    return [None if v is None else run(v) for v in grad(builder, op, [cotangent])]


def onnx_result(op_type: str, *inputs: Array | None, **attrs: Any) -> Array:
    """The first output of one ONNX node by ONNX's own reference; None leaves an input out."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    given = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    node = helper.make_node(op_type, names, ["y"], **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in given.items()
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    found: Array = np.asarray(ReferenceEvaluator(model).run(None, given)[0])
    return found


def reference(name: str, attrs: Mapping[str, Any], *operands: Array) -> Array:
    return np.asarray(OPS[name].ref(make_attrs(OPS[name], attrs), *operands))
