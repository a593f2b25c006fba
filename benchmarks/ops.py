"""Single ops with their sizes, which the sweeps of `micro` measure, and models that hold one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from benchmarks.models import Array

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A matrix product: m x n sums of k products, for each entry of `batch`.

    fixed: the right side is a constant of the model. turned: which sides are stored transposed.
    """

    m: int
    n: int
    k: int
    batch: Shape = ()
    fixed: bool = True
    turned: str = ""

    @property
    def name(self) -> str:
        lead = "".join(f"{size}x" for size in self.batch)
        turned = f" {self.turned}" if self.turned else ""
        return f"{lead}{self.m}x{self.n}x{self.k}{turned}{'' if self.fixed else ' both'}"

    @property
    def x(self) -> Shape:
        return (*self.batch, *((self.k, self.m) if "A" in self.turned else (self.m, self.k)))

    @property
    def weight(self) -> Shape:
        lead = () if self.fixed else self.batch
        return (*lead, *((self.n, self.k) if "B" in self.turned else (self.k, self.n)))

    @property
    def out(self) -> Shape:
        return (*self.batch, self.m, self.n)

    @property
    def flops(self) -> int:
        return 2 * prod(self.out) * self.k

    @property
    def operator(self) -> str:
        return "Gemm" if self.turned else "MatMul"

    @property
    def attributes(self) -> dict[str, object]:
        return {f"trans{side}": 1 for side in self.turned}


@dataclass(frozen=True)
class Convolution:
    """A convolution by constants of `c` channels to `oc`, over pictures of one to three axes.

    It keeps size / stride; transposed ones make size * stride.
    """

    size: Shape
    c: int
    oc: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    batch: int = 1
    fixed: bool = True

    @property
    def name(self) -> str:
        extras = [("s", self.stride), ("d", self.dilation), ("g", self.groups)]
        notes = "".join(f" {letter}{value}" for letter, value in extras if value > 1)
        kind = "T" if self.transposed else ""
        lead = f"{self.batch}x" if self.batch > 1 else ""
        size = "x".join(map(str, self.size))
        return f"{lead}{size} {self.c}->{self.oc} k{self.kernel}{kind}{notes}"

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def pad(self) -> int:
        return self.dilation * (self.kernel - 1) // 2

    @property
    def extra(self) -> int:
        """What a transposed convolution adds at the end to make exactly size * stride."""
        return self.stride - self.kernel + 2 * self.pad

    @property
    def x(self) -> Shape:
        return (self.batch, self.c, *self.size)

    @property
    def weight(self) -> Shape:
        across = (self.c, self.oc) if self.transposed else (self.oc, self.c)
        return (across[0], across[1] // self.groups, *[self.kernel] * self.axes)

    @property
    def out(self) -> Shape:
        scale = self.stride
        spatial = [n * scale if self.transposed else -(-n // scale) for n in self.size]
        return (self.batch, self.oc, *spatial)

    @property
    def flops(self) -> int:
        places = prod(self.size) if self.transposed else prod(self.out[2:])
        return 2 * self.batch * places * prod(self.weight)

    @property
    def operator(self) -> str:
        return "ConvTranspose" if self.transposed else "Conv"

    @property
    def attributes(self) -> dict[str, object]:
        found: dict[str, object] = {
            "pads": [self.pad] * (2 * self.axes),
            "strides": [self.stride] * self.axes,
            "dilations": [self.dilation] * self.axes,
            "group": self.groups,
        }
        if self.transposed:
            found["output_padding"] = [self.extra] * self.axes
        return found


Op = Product | Convolution


def traffic(op: Op) -> int:
    """Return the bytes of what an f32 op reads and writes at least."""
    return 4 * (prod(op.x) + prod(op.weight) + prod(op.out))


def write_model(op: Op, weight: Array, path: Path) -> None:
    """Write the op as an ONNX model with input x, input w unless it is fixed, and output y."""
    import onnx
    from onnx import helper

    def described(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = [described("x", op.x)]
    if not op.fixed:
        inputs.append(described("w", op.weight))
    graph = helper.make_graph(
        [helper.make_node(op.operator, ["x", "w"], ["y"], name="op", **op.attributes)],
        "micro",
        inputs,
        [described("y", op.out)],
        [onnx.numpy_helper.from_array(weight, "w")] if op.fixed else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
