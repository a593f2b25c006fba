"""A program of one group alone, to measure it: what other groups would make are its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfc.compiler.cost.choice import Chooser, Site
from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.group import Group
from tfc.compiler.lower.items import Branch, Call, Item, Repeat
from tfc.compiler.lower.kernels import KernelBuilder
from tfc.compiler.lower.main import MainWriter
from tfc.compiler.lower.program import ProgramBuilder, deep_recursion
from tfc.compiler.lower.storage import PARTS, STEP, Place, Root, RootKind
from tfc.ir.core import Block, Function, Module, Op, SymbolInfo
from tfc.ir.dims import DimLike, substitute, symbol, symbols_of
from tfc.ir.loop.verify import THREADS
from tfc.ir.opdef import OPS, NoAttrs
from tfc.ir.types import U8, TensorType


@dataclass(frozen=True)
class Work:
    """A group that a program computes: its op, how often, and what was decided for it."""

    op: Op
    kernels: tuple[str, ...]
    calls: int
    site: Site


def works(builder: ProgramBuilder) -> list[Work]:
    """Return the groups of a built program with a decision to make, equal ones once."""
    found: dict[str, Work] = {}
    steps: dict[Op, list[str]] = {}
    for call in _calls(builder.items):
        # The parts of a concat or pad are copies and no group.
        if call.op is not None and call.op.name not in PARTS:
            steps.setdefault(call.op, []).append(call.kernel)
    for op, kernels in steps.items():
        sites = [
            site for k in kernels if (site := builder.kernels.chooser.sites.get(k)) is not None
        ]
        if not sites or not any(len(d.candidates) > 1 for d in sites[0].decisions):
            continue
        key = sites[0].key
        known = found.get(key)
        if known is None:
            found[key] = Work(op, tuple(kernels), 1, sites[0])
        else:
            found[key] = replace(known, calls=known.calls + 1)
    return list(found.values())


def _calls(items: Sequence[Item]) -> list[Call]:
    found: list[Call] = []
    for item in items:
        match item:
            case Call():
                found.append(item)
            case Branch():
                found += [call for side in item.sides for call in _calls(side)]
            case Repeat():
                found += _calls(item.body)
    return found


def alone(builder: ProgramBuilder, op: Op, chooser: Chooser) -> tuple[Module, Site | None]:
    """Return a program of `op` of a built program, decided by `chooser`, and what was decided.

    Its inputs are what the kernels only read, flat and of the likely sizes, and behind them one
    for each symbol, with as many bytes.
    """
    program = Module("loop", constants=builder.store, source=builder.source.source)
    kernels = KernelBuilder(
        program,
        builder.storage,
        builder.target,
        builder.hints,
        builder.kernels.products.fast,
        chooser,
    )
    with deep_recursion():
        steps = kernels.group(Group.of(op))
    written = {place.root for step in steps for place in step.places[-step.writes :]}
    places = _Places(written, builder.hints)
    items: list[Item] = [
        Call(step.kernel, [places.of(place) for place in step.places], step.writes, op)
        for step in steps
    ]
    names = _symbols(items, program)
    block = Block()
    for i, root in enumerate(places.inputs):
        assert isinstance(root.value.type, TensorType)
        size = max(estimate(root.size, builder.hints), 1)
        block.add_arg(TensorType(root.value.type.dtype, (size,)), f"x{i}")
    known = builder.function.symbols
    symbols = {name: replace(known.get(name, SymbolInfo()), source=None) for name in names}
    for name in names:
        block.add_arg(TensorType(U8, (symbol(name),)), f"size.{name}")
    block.append(Op(OPS["return"], (), NoAttrs(), ()))
    source = Function("main", block, "func", symbols)
    MainWriter(program, source, builder.storage, kernels.maker.data, builder.hints).write(items)
    found = (chooser.sites[step.kernel] for step in steps if step.kernel in chooser.sites)
    return program, next(found, None)


class _Places:
    """Memory of its own for each root: what is written lies in the workspace, the rest comes in."""

    def __init__(self, written: set[Root], hints: Mapping[str, int]) -> None:
        self.written = written
        self.hints = hints
        self.inputs: list[Root] = []
        self._roots: dict[Root, Root] = {}

    def of(self, place: Place) -> Place:
        steps = {name: 0 for name in symbols_of(place.offset) if name.startswith(STEP)}
        return replace(place, root=self._root(place.root), offset=substitute(place.offset, steps))

    def _root(self, root: Root) -> Root:
        if root.kind is RootKind.CONSTANT:
            return root
        if root not in self._roots:
            kind = RootKind.TEMP if root in self.written else RootKind.INPUT
            self._roots[root] = Root(kind, root.value, root.size, len(self.inputs))
            if kind is RootKind.INPUT:
                self.inputs.append(root)
        return self._roots[root]


def _symbols(items: Sequence[Item], program: Module) -> list[str]:
    """The symbols that a run must know."""
    found: set[str] = set()
    for call in _calls(items):
        kernel = program.functions[call.kernel]
        dims: list[DimLike] = [dim for arg in kernel.args for dim in arg.type.shape]  # type: ignore[union-attr]
        dims += [dim for place in call.args for dim in (place.offset, place.root.size)]
        found |= kernel.symbols.keys()
        found = found.union(*(symbols_of(dim) for dim in dims))
    return sorted(found - {THREADS})
