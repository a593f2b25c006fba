"""Cases of operators whose definition changed between opsets: the record, and how to make one.

Expected values are computed with numpy from the text of the operators' definitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.frontends.support import Array, one_node, value_info

# Whose results have as many elements as the data says: the model must declare it.
COUNTED = ("Compress", "NonMaxSuppression", "NonZero", "Unique")


@dataclass(frozen=True)
class Versioned:
    """One node at one opset. constant: the operands that are initialisers.

    runtime: why ONNX Runtime computes something else, where it does.
    """

    op: str
    opset: int
    arrays: Sequence[Array | None]
    expected: Sequence[Array | None]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constant: Sequence[int] = ()
    runtime: str = ""
    label: str = ""

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{self.label}"

    def model(self) -> tuple[Any, dict[str, Array]]:
        """Return the model, and its inputs."""
        names = len(self.expected)
        model, feeds = one_node(
            self.op, self.arrays, self.attrs, self.opset, self.constant, names
        )  # fmt: skip
        (node,) = model.graph.node
        if self.op in COUNTED:
            for proto, array in zip(model.graph.output, self.expected, strict=True):
                if array is not None:
                    proto.CopyFrom(value_info(proto.name, array))
        for i, array in enumerate(self.expected):
            if array is None:
                node.output[i] = ""
        present = [p for p, array in zip(model.graph.output, self.expected, strict=True)
                   if array is not None]  # fmt: skip
        outputs = [type(p).FromString(p.SerializeToString()) for p in present]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
        return model, feeds


def cases(
    op: str,
    opsets: int | Sequence[int],
    arrays: Sequence[Any],
    expected: Any,
    attrs: Mapping[str, Any] | None = None,
    constant: Sequence[int] = (),
    runtime: str = "",
) -> list[Versioned]:
    """One case for each of the opsets. expected: one array, or a list with None for unused ones."""
    listed = expected if isinstance(expected, list) else [expected]
    operands = [None if a is None else np.asarray(a) for a in arrays]
    wanted = [None if a is None else np.asarray(a) for a in listed]
    label = "-".join(f"{k}={v}" for k, v in (attrs or {}).items() if not hasattr(v, "node"))
    kinds = ",".join(f"{a.dtype.kind}{a.dtype.itemsize}" for a in operands if a is not None)
    label = f"{kinds}-{label}".replace(" ", "")[:60]
    return [
        Versioned(op, opset, operands, wanted, attrs or {}, constant, runtime, label)
        for opset in ([opsets] if isinstance(opsets, int) else opsets)
    ]


def since(*first: int) -> tuple[int, ...]:
    """The opsets to test at of an operator whose definitions are those of the opsets given."""
    return tuple(max(opset, 7) for opset in first)
