"""The C entry points around `main`, as LLVM text: run, shapes, workspace_size and info.

Layouts and codes are those that `header.py` writes down for C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfc.compiler.codegen.builder import THREADS, Builder
from tfc.compiler.codegen.codes import (
    BAD_SHAPE,
    OUT_OF_BOUNDS,
    SMALL_OUTPUT,
    SMALL_WORKSPACE,
)
from tfc.compiler.codegen.cpu_check import cpu_check
from tfc.compiler.codegen.main import main_signature, told_symbols
from tfc.compiler.codegen.values import (
    CTX_BYTES,
    CTX_CONSTANTS,
    CTX_PARALLEL_FOR,
    CTX_THREADS,
    CTX_WORKSPACE,
    CTX_WORKSPACE_BYTES,
)
from tfc.compiler.target import Target
from tfc.ir.core import Element, Function
from tfc.ir.dims import Call, Dim, DimLike, Symbol, bounds, symbols_of, terms_of
from tfc.ir.errors import CompileError, UnsupportedError
from tfc.ir.extent import highest, most, room
from tfc.ir.inplace import Shared, shared_memory
from tfc.ir.symbols import start_symbols
from tfc.ir.types import TensorType

MAX_RANK = 8
MOST_BYTES, MOST_THREADS = f"{2.0**62:e}", 2**16
TENSOR_DATA, TENSOR_CAPACITY, TENSOR_DIMS = 0, 8, 16
TENSOR_BYTES = TENSOR_DIMS + 8 * MAX_RANK


@dataclass(frozen=True)
class Signature:
    """What the entry points know of a program; `of_main` reads it from main's attributes."""

    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    symbols: tuple[str, ...]
    workspace: DimLike
    # The symbols in outputs' dims that a run tells, and the bounds of all that it binds.
    told: tuple[str, ...]
    limits: dict[str, DimLike]
    # The outputs in the memory of inputs, by their positions.
    shared: dict[int, Shared]

    @classmethod
    def of_main(cls, main: Function) -> Signature:
        attrs = main.attrs
        return cls(
            tuple(attrs["inputs"]),
            tuple(attrs["outputs"]),
            tuple(start_symbols(main)),
            attrs.get("workspace", 0),
            told_symbols(main),
            highest(main),
            {one.output: one for one in shared_memory(main)},
        )

    def memory(self, output: int) -> TensorType:
        """The tensor whose memory an output lies in: itself, or one with room for more."""
        _, type = self.outputs[output]
        shared = self.shared.get(output)
        return type if shared is None else TensorType(type.dtype, shared.shape(type.shape))

    def is_told(self, dim: DimLike) -> bool:
        """Whether only a run tells what an output's dim is."""
        return not symbols_of(dim).isdisjoint(self.told)


def abi_text(
    main: Function,
    target: Target,
    prefix: str,
    manifest: bytes,
    *,
    has_constants: bool,
    has_tiles: bool = False,
) -> str:
    """Return the module of entry points.

    manifest: the JSON that `PREFIX_info` returns. has_tiles: kernels use tile registers.
    """
    return _Abi(main, target, prefix).text(manifest, has_constants, has_tiles)


class _Abi:
    def __init__(self, main: Function, target: Target, prefix: str) -> None:
        self.main = main
        self.signature = Signature.of_main(main)
        self.target = target
        self.prefix = prefix
        self.b = Builder(target)
        for name, type in (*self.signature.inputs, *self.signature.outputs):
            if type.rank > MAX_RANK:
                raise UnsupportedError(
                    f"{name} has rank {type.rank}; the C interface carries up to {MAX_RANK} dims"
                )

    def text(self, manifest: bytes, has_constants: bool, has_tiles: bool) -> str:
        p = self.prefix
        b = self.b
        data = manifest + b"\0"
        escaped = "".join(
            chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\{c:02X}" for c in data
        )
        b.globals += [
            f'@{p}_manifest = internal constant [{len(data)} x i8] c"{escaped}"',
            f"@{p}_default_ctx = internal constant [{CTX_BYTES} x i8] zeroinitializer, align 8",
        ]
        if has_constants:
            # The data may lie further away than 2 GiB, so its address is loaded from memory; the
            # variable is not `constant`, or LLVM would see through it.
            b.globals += [
                f"@{p}_constants = external hidden global i8",
                f"@{p}_constants_at = internal global ptr @{p}_constants, "
                'section ".data.rel.ro", align 8',
            ]
        self._bind()
        self._shapes()
        self._workspace_size()
        if self.target.arch == "x86_64":
            b.globals.append(f"@{p}_cpu_state = internal global i32 0, align 4")
            b.functions.append(cpu_check(p, self.target, has_tiles))
        self._run(has_constants)
        b.functions.append(f"define ptr @{p}_info() #0 {{\n  ret ptr @{p}_manifest\n}}")
        return b.module()

    # -- pieces ---------------------------------------------------------------------------------

    def _field(self, base: str, offset: int) -> str:
        return self.b.let("ptr", f"getelementptr i8, ptr {base}, i64 {offset}", base)

    def _load(self, type: str, base: str, offset: int) -> str:
        return self.b.effect(type, f"load {type}, ptr {self._field(base, offset)}, align 8")

    def _store(self, value: str, base: str, offset: int) -> None:
        self.b.line(f"store i64 {value}, ptr {self._field(base, offset)}, align 8")

    def _require(self, condition: str, code: int) -> None:
        """Return `code` from the function being written unless the condition holds."""
        failed, passed = self.b.new_block("failed"), self.b.new_block("passed")
        self.b.branch(condition, passed, failed)
        failed.terminator = f"ret i32 {code}"
        self.b.scope.function.blocks.append(failed)
        self.b.enter(passed)

    def _define(self, head: str, body: str) -> None:
        self.b.functions.append(f"define {head} #0 {{\n{body}\n}}")

    def _new_function(self) -> None:
        """Forget what names stood for: names are free again in the next function."""
        self.b.symbols.clear()

    def _load_symbols(self, source: str) -> None:
        for i, name in enumerate(self.signature.symbols):
            self.b.symbols[name] = self._load("i64", source, 8 * i)

    # -- functions ------------------------------------------------------------------------------

    def _bind(self) -> None:
        """`i32 bind(inputs, symbols)`: read the symbols from the dims and check all dims."""
        b = self.b
        self._new_function()
        with b.function() as text:
            b.param("%inputs", "ptr")
            b.param("%symbols", "ptr")
            self._read_elements()
            rest = self._bind_symbols()
            for value, expected in rest:
                self._require(b.compare("icmp eq", "i64", value, b.dim(expected)), BAD_SHAPE)
            self._define_symbols()
            self._check_bounds()
            self._check_sizes()
            b.ret("i32 0")
        self._define(f"internal i32 @{self.prefix}_bind(ptr %inputs, ptr %symbols)", text.body())

    def _sources(self) -> Iterator[tuple[str, Element]]:
        """The symbols that come from inputs' contents."""
        for name in self.signature.symbols:
            source = self.main.symbols[name].source
            if isinstance(source, Element):
                yield name, source

    def _read_elements(self) -> None:
        """Store each symbol that is an element of an input, once the input's shape is checked."""
        b = self.b
        positions = {name: i for i, (name, _) in enumerate(self.signature.inputs)}
        known: dict[int, str] = {}
        for name, source in self._sources():
            position = positions[source.input]
            _, type = self.signature.inputs[position]
            if position not in known:
                known[position] = self._checked_data(position, type)
            bits = f"i{type.dtype.bits}"
            element = self._load_element(bits, known[position], source.index)
            sign = "sext" if type.dtype.kind == "i" else "zext"
            number = element if bits == "i64" else b.convert(sign, bits, element, "i64")
            value = self._part(number, source.part)
            b.symbols[name] = value
            self._store(value, "%symbols", 8 * self.signature.symbols.index(name))

    def _checked_data(self, position: int, type: TensorType) -> str:
        """The data of an input whose shape is fixed."""
        b = self.b
        for axis, dim in enumerate(type.shape):
            size = self._load("i64", "%inputs", position * TENSOR_BYTES + TENSOR_DIMS + 8 * axis)
            self._require(b.compare("icmp eq", "i64", size, b.dim(dim)), BAD_SHAPE)
        data = self._load("ptr", "%inputs", position * TENSOR_BYTES + TENSOR_DATA)
        self._require(b.compare("icmp ne", "ptr", data, "null"), BAD_SHAPE)
        return data

    def _load_element(self, bits: str, data: str, index: int) -> str:
        at = self.b.let("ptr", f"getelementptr {bits}, ptr {data}, i64 {index}", data)
        return self.b.effect(bits, f"load {bits}, ptr {at}, align 1")

    def _part(self, number: str, part: str) -> str:
        b = self.b
        if part == "element":
            return number
        if part == "negative":
            # The least number has no opposite.
            number = b.intrinsic("smax", "i64", ("i64", number), ("i64", str(-(2**63) + 1)))
            number = b.op("sub", "i64", "0", number)
        return b.intrinsic("smax", "i64", ("i64", number), ("i64", "0"))

    def _define_symbols(self) -> None:
        """Store the symbols that are expressions over others."""
        for i, name in enumerate(self.signature.symbols):
            source = self.main.symbols[name].source
            if isinstance(source, (int, Dim)):
                value = self.b.symbols[name] = self.b.dim(source)
                self._store(value, "%symbols", 8 * i)

    def _check_sizes(self) -> None:
        """Refuse numbers that make tensors too large, where they do not come from tensors' dims.

        Sizes are computed again as floats, which show what 64 bits do not hold.
        """
        sizes: tuple[DimLike, ...] = self.main.attrs.get("sizes", ())
        for size in (self.signature.workspace, *sizes) if sizes else ():
            if isinstance(size, Dim):
                small = self.b.compare("fcmp olt", "double", self._magnitude(size), MOST_BYTES)
                self._require(small, OUT_OF_BOUNDS)

    def _magnitude(self, dim: DimLike) -> str:
        """At least the size of every number on the way to the value of an expression."""
        b = self.b
        total = "0.0"
        for mono, coeff in terms_of(dim):
            part = f"{float(abs(coeff)):e}"
            for atom in mono:
                part = b.op("fmul", "double", part, self._atom_magnitude(atom))
            total = b.op("fadd", "double", total, part)
        return total

    def _atom_magnitude(self, atom: Symbol | Call) -> str:
        b = self.b
        if isinstance(atom, Symbol):
            if atom.name == THREADS:
                return f"{float(MOST_THREADS):e}"
            return b.convert("sitofp", "i64", b.symbols[atom.name], "double")
        parts = [self._magnitude(arg) for arg in atom.args]
        if atom.fn == "floordiv":
            return parts[0]
        total = parts[0]
        for part in parts[1:]:
            total = b.op("fadd", "double", total, part)
        return total

    def _bind_symbols(self) -> list[tuple[str, DimLike]]:
        """Store each symbol; return the dims that are left to compare."""
        rest: list[tuple[str, DimLike]] = []
        for position, (_, type) in enumerate(self.signature.inputs):
            for axis, dim in enumerate(type.shape):
                offset = position * TENSOR_BYTES + TENSOR_DIMS + 8 * axis
                value = self._load("i64", "%inputs", offset)
                name = _bare_symbol(dim)
                if name is None or name in self.b.symbols:
                    rest.append((value, dim))
                    continue
                self.b.symbols[name] = value
                self._require(self.b.compare("icmp sge", "i64", value, "0"), BAD_SHAPE)
                if name in self.signature.symbols:
                    self._store(value, "%symbols", 8 * self.signature.symbols.index(name))
        used = set(self.signature.symbols)
        for _, type in (*self.signature.inputs, *self.signature.outputs):
            used |= {name for dim in type.shape for name in symbols_of(dim)}
        used -= self.signature.limits.keys()
        used -= {name for name, info in self.main.symbols.items() if info.source is not None}
        for name in sorted(used - set(self.b.symbols)):
            raise CompileError(f"no input has a dim that is just the symbol {name}")
        return rest

    def _check_bounds(self) -> None:
        for name in self.signature.symbols:
            info = self.main.symbols[name]
            value = self.b.symbols[name]
            if info.lo > 0 or info.source is not None:
                low = self.b.compare("icmp sge", "i64", value, str(info.lo))
                self._require(low, OUT_OF_BOUNDS)
            if info.hi is not None:
                high = self.b.compare("icmp sle", "i64", value, str(info.hi))
                self._require(high, OUT_OF_BOUNDS)

    def _output_dims(self) -> list[str]:
        """Write the dims of all outputs and return the bytes that each needs.

        A dim that only the run tells is written as the most that it can be.
        """
        sizes = []
        limits = self.signature.limits
        for position, (_, type) in enumerate(self.signature.outputs):
            for axis, dim in enumerate(type.shape):
                size = most(dim, limits)
                low, _ = bounds(size, {})
                if low is None or low < 0:
                    fits = self.b.compare("icmp sge", "i64", self.b.dim(size), "0")
                    self._require(fits, BAD_SHAPE)
                self._store_dim(position, axis, size)
            memory = self.signature.memory(position)
            sizes.append(self.b.dim(room(memory.shape, limits) * memory.dtype.bytes))
        return sizes

    def _store_dim(self, position: int, axis: int, dim: DimLike) -> None:
        offset = position * TENSOR_BYTES + TENSOR_DIMS + 8 * axis
        self._store(self.b.dim(dim), "%outputs", offset)

    def _tell_dims(self, told: str) -> None:
        """Write the dims of outputs that the run has told."""
        for i, name in enumerate(self.signature.told):
            self.b.symbols[name] = self._load("i64", told, 8 * i)
        for position, (_, type) in enumerate(self.signature.outputs):
            for axis, dim in enumerate(type.shape):
                if self.signature.is_told(dim):
                    self._store_dim(position, axis, dim)

    def _call_bind(self, symbols: str) -> None:
        status = self.b.effect("i32", f"call i32 @{self.prefix}_bind(ptr %inputs, ptr {symbols})")
        self._go_on_after(status)
        self._load_symbols(symbols)

    def _go_on_after(self, status: str) -> None:
        """Return a call's status unless it is 0."""
        good, bad = self.b.new_block("done"), self.b.new_block("broken")
        self.b.branch(self.b.compare("icmp eq", "i32", status, "0"), good, bad)
        bad.terminator = f"ret i32 {status}"
        self.b.scope.function.blocks.append(bad)
        self.b.enter(good)

    def _numbers(self, count: int, text_head: list[str]) -> str:
        """Memory for as many numbers, at least one."""
        name = self.b.name("ptr", self.b.scope.depth)
        text_head.append(f"  {name} = alloca [{max(count, 1)} x i64], align 8")
        return name

    def _shapes(self) -> None:
        b = self.b
        self._new_function()
        with b.function() as text:
            for name in ("%inputs", "%outputs", "%symbols"):
                b.param(name, "ptr")
            local = self._numbers(len(self.signature.symbols), text.head)
            absent = b.compare("icmp eq", "ptr", "%symbols", "null")
            self._call_bind(b.select(absent, "ptr", local, "%symbols"))
            for position, size in enumerate(self._output_dims()):
                self._store(size, "%outputs", position * TENSOR_BYTES + TENSOR_CAPACITY)
            b.ret("i32 0")
        self._define(
            f"i32 @{self.prefix}_shapes(ptr %inputs, ptr %outputs, ptr %symbols)", text.body()
        )

    def _workspace_size(self) -> None:
        b = self.b
        self._new_function()
        with b.function() as text:
            b.param("%symbols", "ptr")
            b.param("%threads", "i32")
            self._load_symbols("%symbols")
            several = b.compare("icmp sgt", "i32", "%threads", "1")
            threads = b.select(several, "i32", "%threads", "1")
            b.symbols[THREADS] = b.convert("sext", "i32", threads, "i64")
            b.ret(f"i64 {b.dim(self.signature.workspace)}")
        self._define(f"i64 @{self.prefix}_workspace_size(ptr %symbols, i32 %threads)", text.body())

    def _run(self, has_constants: bool) -> None:
        b, p = self.b, self.prefix
        self._new_function()
        with b.function() as text:
            for name in ("%context", "%inputs", "%outputs"):
                b.param(name, "ptr")
            local = self._numbers(len(self.signature.symbols), text.head)
            if self.target.arch == "x86_64":
                self._go_on_after(b.effect("i32", f"call i32 @{p}_cpu_ready()"))
            absent = b.compare("icmp eq", "ptr", "%context", "null")
            ctx = b.select(absent, "ptr", f"@{p}_default_ctx", "%context")
            self._call_bind(local)
            self._check_capacities(self._output_dims())
            workspace = self._checked_workspace(ctx)
            constants = self._constants(ctx) if has_constants else "null"
            args = [f"ptr {value}" for value in (ctx, workspace, constants)]
            self._place_outputs()
            args += self._data_pointers("%inputs", len(self.signature.inputs))
            args += self._data_pointers("%outputs", len(self.signature.outputs))
            args += [f"i64 {b.symbols[name]}" for name in self.signature.symbols]
            told = self._numbers(len(self.signature.told), text.head)
            args += [f"ptr {told}"] if self.signature.told else []
            b.declarations[
                f"declare hidden i32 @{p}_main({', '.join(main_signature(self.main))})"
            ] = None
            status = b.effect("i32", f"call i32 @{p}_main({', '.join(args)})")
            if self.signature.told:
                self._go_on_after(status)
                self._tell_dims(told)
            b.ret(f"i32 {'0' if self.signature.told else status}")
        self._define(f"i32 @{p}_run(ptr %context, ptr %inputs, ptr %outputs)", text.body())

    def _check_capacities(self, sizes: Sequence[str]) -> None:
        for position, size in enumerate(sizes):
            base, at = "%outputs", position
            if position in self.signature.shared:
                base, at = "%inputs", self.signature.shared[position].input
            capacity = self._load("i64", base, at * TENSOR_BYTES + TENSOR_CAPACITY)
            self._require(self.b.compare("icmp sge", "i64", capacity, size), SMALL_OUTPUT)

    def _place_outputs(self) -> None:
        """Write where the outputs in the memory of inputs are."""
        for position, shared in self.signature.shared.items():
            data = self._load("ptr", "%inputs", shared.input * TENSOR_BYTES + TENSOR_DATA)
            field = self._field("%outputs", position * TENSOR_BYTES + TENSOR_DATA)
            self.b.line(f"store ptr {data}, ptr {field}, align 8")

    def _checked_workspace(self, ctx: str) -> str:
        b = self.b
        workspace = self._load("ptr", ctx, CTX_WORKSPACE)
        if self.signature.workspace == 0:
            return workspace
        b.symbols[THREADS] = self._threads(ctx)
        needed = b.dim(self.signature.workspace)
        given = self._load("i64", ctx, CTX_WORKSPACE_BYTES)
        missing = b.compare("icmp eq", "ptr", workspace, "null")
        usable = b.select(missing, "i64", "0", given)
        self._require(b.compare("icmp sge", "i64", usable, needed), SMALL_WORKSPACE)
        return workspace

    def _threads(self, ctx: str) -> str:
        """The number of workers, as kernels see it."""
        b = self.b
        threads = b.effect("i32", f"load i32, ptr {self._field(ctx, CTX_THREADS)}, align 4")
        pool = b.compare("icmp ne", "ptr", self._load("ptr", ctx, CTX_PARALLEL_FOR), "null")
        several = b.compare("icmp sgt", "i32", threads, "1")
        used = b.select(b.op("and", "i1", pool, several), "i32", threads, "1")
        return b.convert("sext", "i32", used, "i64")

    def _constants(self, ctx: str) -> str:
        b = self.b
        given = self._load("ptr", ctx, CTX_CONSTANTS)
        embedded = b.effect("ptr", f"load ptr, ptr @{self.prefix}_constants_at, align 8")
        absent = b.compare("icmp eq", "ptr", given, "null")
        return b.select(absent, "ptr", embedded, given)

    def _data_pointers(self, base: str, count: int) -> list[str]:
        return [
            f"ptr {self._load('ptr', base, i * TENSOR_BYTES + TENSOR_DATA)}" for i in range(count)
        ]


def _bare_symbol(dim: DimLike) -> str | None:
    """Return the name of a dim that is just a symbol."""
    if isinstance(dim, Dim) and len(dim.terms) == 1:
        mono, coeff = dim.terms[0]
        if coeff == 1 and len(mono) == 1 and isinstance(mono[0], Symbol):
            return mono[0].name
    return None
