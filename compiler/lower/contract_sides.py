"""Both sides of a sum of products: what is loaded, and what is done to it before it counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tfc.ir.body import Apply, Expr, Load, Reduce
from tfc.ir.dims import Dim, DimLike
from tfc.ir.types import I8, U8, DType

BYTES = (U8, I8)


@dataclass(frozen=True)
class Factor:
    """One side of the product: a load, and the cast from its element type.

    blocks: what widened bytes are changed by then; of the right side alone.
    """

    load: Load
    dtype: DType
    blocks: Blocks | None = None

    @property
    def address(self) -> DimLike:
        address = self.load.index[0]
        assert isinstance(address, (int, Dim))
        return address

    @property
    def parts(self) -> tuple[Factor, ...]:
        """The side without its blocks, and these."""
        return (self, *self.blocks.factors) if self.blocks is not None else (self,)


@dataclass(frozen=True)
class Blocks:
    """Numbers that blocks of steps share: `zero` is taken off, then `scale` multiplied by."""

    scale: Factor
    zero: Factor | None

    @property
    def factors(self) -> tuple[Factor, ...]:
        return (self.scale,) if self.zero is None else (self.scale, self.zero)


def factors(reduce: Reduce) -> tuple[Factor, Factor] | None:
    """Both sides of a sum of products of two loads."""
    body = reduce.body
    if not isinstance(body, Apply) or body.name != "mul":
        return None
    left, right = (_plain(arg) or _in_blocks(arg) for arg in body.args)
    return None if left is None or right is None else (left, right)


def _in_blocks(expr: Expr) -> Factor | None:
    """Bytes that are widened, less a zero that may be there, times a scale."""
    if not isinstance(expr, Apply) or expr.name != "mul" or not expr.dtype.is_float:
        return None
    wide, scale = expr.args[0], _plain(expr.args[1])
    zero = None
    if isinstance(wide, Apply) and wide.name == "sub":
        zero = _plain(wide.args[1])
        if zero is None:
            return None
        wide = wide.args[0]
    whole = _plain(wide)
    if whole is None or scale is None or whole.load.dtype not in BYTES:
        return None
    return replace(whole, blocks=Blocks(scale, zero))


def _plain(expr: Expr) -> Factor | None:
    dtype = expr.dtype
    if isinstance(expr, Apply) and expr.name == "cast":
        expr = expr.args[0]
    if isinstance(expr, Load) and len(expr.index) == 1:
        return Factor(expr, dtype)
    return None
