"""`OpDef`: everything that is known of a graph op, in one record, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.types import TensorType

if TYPE_CHECKING:
    from tfc.ir.build import GraphBuilder
    from tfc.ir.loop.kernel import KernelWriter


class Kind(Enum):
    """How an op computes: decides fusion and the family of schedules."""

    ELEMENTWISE = "elementwise"  # element i of the result needs element i of (broadcast) operands
    INJECTIVE = "injective"  # each result element is one operand element at a computed index
    REDUCTION = "reduction"  # folds iterators away
    CONTRACTION = "contraction"  # sums products: matmul, convolution
    WINDOW = "window"  # folds a window around each element: pooling
    CONSTANT = "constant"  # no operands, no work
    COMPOSITE = "composite"  # decomposes into other ops
    OPAQUE = "opaque"  # writes its own loops
    CONTROL = "control"  # has regions


class Trait(Enum):
    PURE = "pure"
    COMMUTATIVE = "commutative"
    IDEMPOTENT = "idempotent"  # f(f(x)) == f(x)
    VIEW = "view"  # the result can be the operand's memory under other strides
    UPDATES = "updates"  # the result is the first operand with some elements replaced
    WIDENS = "widens"  # makes wide numbers of narrow ones, which readers may do as they load
    STORED = "stored"  # the result is known before a run: data, not computed
    DIMS = "dims"  # `ref` also works on object arrays of symbolic dims


class TypeRefusal(ValueError):
    """Operand types or attributes that an op does not take; the message says why."""


def require(condition: bool, message: str) -> None:
    """Refuse with `message` unless `condition`."""
    if not condition:
        raise TypeRefusal(message)


@dataclass(frozen=True, slots=True)
class NoAttrs:
    """No attributes."""


@dataclass(frozen=True)
class Sample:
    """Example operands (numpy arrays) and attributes that an op takes."""

    operands: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    grad: bool = True


@dataclass(frozen=True)
class Reject:
    """Operand types and attributes that an op must refuse, and a part of the message."""

    types: tuple[TensorType, ...]
    attrs: dict[str, Any]
    message: str


@dataclass(frozen=True, slots=True)
class Assumption:
    """What an op takes for granted of symbolic dims: `zero` is 0. Checked when a program runs.

    broadcast: the two dims that the assumption says are equal, or one of which is 1.
    """

    zero: DimLike
    message: str
    broadcast: tuple[DimLike, DimLike] | None = None


@dataclass(frozen=True)
class NoGrad:
    """Why an op has no gradient."""

    reason: str


Assumes = Callable[[Sequence[TensorType], Any], Sequence[Assumption]]
Infer = Callable[[Sequence[TensorType], Any], Sequence[TensorType]]
InferRegions = Callable[[Sequence[TensorType], Any, Sequence[Block]], Sequence[TensorType]]
Body = Callable[[ExprBuilder, Op, int, tuple[Index, ...]], Expr]
Decompose = Callable[["GraphBuilder", Op], Sequence[Value]]
Loops = Callable[["KernelWriter"], None]
Grad = Callable[["GraphBuilder", Op, Sequence[Value]], Sequence[Value | None]]


@dataclass(frozen=True, eq=False)
class OpDef:
    """One graph op.

    infer: operand types and attrs to result types; raises TypeRefusal.
    infer_regions: the same of an op whose regions take part, as a third argument.
    ref: `ref(attrs, *arrays)` in numpy, one array or a tuple: the specification. With
    `infer_regions` it is also given `regions`: functions of arrays, which are in memory form.
    body: `body(b, op, result, index)`, the element of that result at `index`.
    decompose: `decompose(b, op)`, values of simpler ops that replace the results.
    loops: `loops(k)`, writes a kernel over whole operands and results; never fused with others.
    grad: `grad(b, op, result_gradients)`, one gradient or None per operand, and of an op with
    regions for each value that they capture (`ir.reverse`); or NoGrad(reason).
    assumes: what `infer` accepted of symbolic dims without proof; None where it accepts nothing.
    tol: relative tolerance by dtype name of compiled code against `ref`, where not exact.
    """

    name: str
    infer: Infer
    ref: Callable[..., Any]
    kind: Kind
    doc: str
    operands: tuple[int, int | None] = (1, 1)
    attrs: type = NoAttrs
    regions: int = 0
    infer_regions: InferRegions | None = None
    body: Body | None = None
    decompose: Decompose | None = None
    loops: Loops | None = None
    grad: Grad | NoGrad = NoGrad("not differentiable")
    assumes: Assumes | None = None
    traits: frozenset[Trait] = frozenset({Trait.PURE})
    samples: Callable[[], Sequence[Sample]] = tuple
    rejects: Callable[[], Sequence[Reject]] = tuple
    tol: dict[str, float] = field(default_factory=dict)
    terminator: bool = False

    def check(
        self, types: Sequence[TensorType], attrs: Any, regions: Sequence[Block] = ()
    ) -> tuple[TensorType, ...]:
        """Return the result types, after checking the number of operands.

        Raises TypeRefusal with the reason.
        """
        low, high = self.operands
        if len(types) < low or (high is not None and len(types) > high):
            wanted = str(low) if low == high else f"{low} to {'any' if high is None else high}"
            raise TypeRefusal(f"takes {wanted} operands, not {len(types)}")
        if self.infer_regions is not None:
            return tuple(self.infer_regions(types, attrs, regions))
        return tuple(self.infer(types, attrs))


OPS: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Add an op to the registry. Names are unique. Composites decompose, opaque ops
    have loops, others bodies."""
    if op.name in OPS:
        raise ValueError(f"op {op.name} is registered twice")
    OPS[op.name] = op
    return op
