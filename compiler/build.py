"""From a loop-level program to files: code generation with its cache, and linking; see `build`.

What comes before, from a graph on, is in `compiler.driver`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from tfc.cachedir import default_directory
from tfc.compiler.cache import Cache
from tfc.compiler.codegen.abi import Signature, abi_text
from tfc.compiler.codegen.amx import has_tiles
from tfc.compiler.codegen.codes import MESSAGES
from tfc.compiler.codegen.emit import text_key
from tfc.compiler.codegen.header import header_text
from tfc.compiler.codegen.main import main_text
from tfc.compiler.codegen.pool import POOL_LIBC_SYMBOLS, pool_module
from tfc.compiler.codegen.pycall import PYTHON_ENTRIES, pycall_module
from tfc.compiler.codegen.support import SUPPORT_FUNCTIONS, support_module
from tfc.compiler.codegen.whole import LLVMLITE_VERSION, whole_assembly, whole_text
from tfc.compiler.constants import table_blob, table_of
from tfc.compiler.cost.choice import Choices
from tfc.compiler.emission import Emission
from tfc.compiler.link.archive import write_archive
from tfc.compiler.link.elf import SHF_EXECINSTR, SHN_UNDEF, ObjectFile
from tfc.compiler.link.files import write_atomically
from tfc.compiler.link.relocatable import write_relocatable
from tfc.compiler.link.shared import write_shared
from tfc.compiler.target import Target
from tfc.compiler.version import VERSION
from tfc.ir.core import Element, Module, SymbolInfo, ops_of
from tfc.ir.dims import DimLike
from tfc.ir.errors import UsageError
from tfc.ir.symbols import start_symbols
from tfc.ir.types import BF16, F32, DType
from tfc.runtime.artifact import FORMAT_VERSION
from tfc.runtime.pylayout import PYCALL_VERSION

LIBRARY_SUFFIXES = (".so", ".o", ".a")
_PROFILE_ENTRIES = ("profile", "cycles")
_POOL_ENTRIES = ("pool_create", "pool_destroy", "pool_threads", "parallel_for")
_ENTRIES = ("run", "shapes", "workspace_size", "info")

Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    pass


# What operands of matrix products and convolutions may be rounded to.
PRECISIONS = {dtype.name: dtype for dtype in (F32, BF16)}


def precision(name: str) -> DType:
    """Return the element type that `Options.dtype` may be by its name."""
    if name not in PRECISIONS:
        raise UsageError(f"dtype is {name!r}: it must be {' or '.join(PRECISIONS)}")
    return PRECISIONS[name]


@dataclass(frozen=True)
class Options:
    """How to compile.

    name: what the artifact is called; C names begin with `prefix`. threads: with a thread pool.
    dtype: what operands of matrix products and convolutions are rounded to.
    profile: calls of kernels are timed. jobs: processes that generate code. passes: further
    settings of the pass context. tuned: choices by the key of a kernel, see
    `tuning`. cache: where objects are kept, or None. progress: told (stage, done, total).
    """

    target: Target
    name: str = "model"
    opt: int = 2
    dtype: DType = F32
    threads: bool = True
    profile: bool = False
    jobs: int = 1
    passes: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Choices] = field(default_factory=dict)
    cache: Path | None = field(default_factory=default_directory)
    verify: bool = True
    progress: Progress = _silent

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.target.for_precision(self.dtype))

    @property
    def prefix(self) -> str:
        return c_identifier(self.name)


def c_identifier(name: str) -> str:
    """Return what names of C can begin with, made from `name`."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "model"
    return f"m_{text}" if text[0].isdigit() else text


@dataclass(frozen=True)
class Build:
    """A compiled program: LLVM texts by name and objects in the same order, ready to be linked."""

    program: Module
    options: Options
    texts: dict[str, str]
    objects: list[bytes]
    python_object: bytes
    manifest: dict[str, Any]

    def exports(self, *extra: str) -> list[str]:
        """Return the names that a library shows, and those of `extra`, all with the prefix."""
        names = list(_ENTRIES)
        names += _POOL_ENTRIES if self.options.threads else ()
        names += _PROFILE_ENTRIES if self.options.profile else ()
        names += extra
        return [f"{self.options.prefix}_{name}" for name in names]

    @cached_property
    def manifest_bytes(self) -> bytes:
        return _encoded(self.manifest)

    def header(self) -> str:
        options = self.options
        return header_text(
            self.program.main, options.prefix, title=options.name, has_pool=options.threads
        )

    def llvm(self) -> str:
        return whole_text(list(self.texts.values()))

    def assembly(self) -> str:
        return whole_assembly(list(self.texts.values()), self.options.target)

    def code_bytes(self) -> dict[str, int]:
        """Return the bytes of machine code of each module by name."""
        return {
            name: _code_bytes(data) for name, data in zip(self.texts, self.objects, strict=True)
        }

    def write_shared(self, out: BinaryIO) -> None:
        """Write the shared object to a binary file.

        It has no soname, so that a program linked to a path finds it by this path. It alone has
        the functions for Python.
        """
        objects = [*self.objects, self.python_object]
        write_shared(out, objects, exports=self.exports(*PYTHON_ENTRIES), **self._link_arguments())

    def write_relocatable(self, out: BinaryIO) -> None:
        write_relocatable(out, self.objects, exports=self.exports(), **self._link_arguments())

    def write(self, path: Path) -> None:
        """Write a library of the kind that the suffix says."""
        self.options.progress("link", 0, 1)
        match path.suffix:
            case ".so":
                write_atomically(path, self.write_shared)
            case ".o":
                write_atomically(path, self.write_relocatable)
            case ".a":
                self._write_archive(path)
            case _:
                raise UsageError(f"{path.name}: a library ends in {', '.join(LIBRARY_SUFFIXES)}")

    @staticmethod
    def write_text(path: Path, text: str) -> None:
        write_atomically(path, lambda out: out.write(text.encode()))

    def _write_archive(self, path: Path) -> None:
        # As one member, since the objects' names are hidden outside of it.
        member = path.with_name(f".{path.name}.member.o")
        try:
            write_atomically(member, self.write_relocatable)
            write_atomically(
                path, lambda out: write_archive(out, [(f"{self.options.prefix}.o", member)])
            )
        finally:
            member.unlink(missing_ok=True)

    def _link_arguments(self) -> dict[str, Any]:
        blobs = []
        if self.program.data:
            blobs.append(table_blob(self.program, f"{self.options.prefix}_constants"))
        return {
            "blobs": blobs,
            "manifest": self.manifest_bytes,
            "libc": POOL_LIBC_SYMBOLS if self.options.threads else (),
        }


def start(options: Options) -> Emission:
    """Begin with the code that does not depend on the program."""
    emission = Emission(options.target, min(options.opt, 2), options.jobs, Cache(options.cache))
    for text in (*_pool_text(options).values(), _python_text(options)):
        emission.add_quick(text)
    return emission


def _python_text(options: Options) -> str:
    return pycall_module(options.prefix, options.target.triple)


def _pool_text(options: Options) -> dict[str, str]:
    if not options.threads:
        return {}
    return {"pool": pool_module(options.prefix, options.target.triple)}


def build(program: Module, options: Options) -> Build:
    """Generate the code of a loop-level program."""
    with start(options) as emission:
        return finish(program, options, emission)


def finish(program: Module, options: Options, emission: Emission) -> Build:
    """Generate what code of a program is not under way, and wait for the rest."""
    target, prefix = options.target, options.prefix
    table = table_of(program)
    kernels = [f for f in program.functions.values() if f.kind == "kernel"]
    texts = {kernel.name: emission.kernel(kernel) for kernel in kernels}
    texts[f"{prefix}_main"] = main_text(
        program, target, prefix, table.offsets, profile=options.profile
    )
    texts |= _pool_text(options)
    progress = partial(options.progress, "generate code")
    objects = emission.objects(texts.values(), progress)
    if any(map(_calls_support, objects)):
        texts["support"] = support_module(target.triple)
        objects += emission.objects([texts["support"]], progress)
    manifest = _manifest(program, options, texts, table.size)
    if options.profile:
        manifest["profile"] = [
            {"kernel": op.attrs.callee, "nodes": list(op.loc.nodes)}
            for op in ops_of([program.main])
            if op.name == "call"
        ]
    manifest["memory"] = {"constants": table.size, "code": sum(map(_code_bytes, objects))}
    texts["abi"] = abi_text(
        program.main,
        target,
        prefix,
        _encoded(manifest),
        has_constants=bool(program.data),
        has_tiles=any(map(has_tiles, texts.values())),
    )
    emission.add_quick(texts["abi"])
    objects += emission.objects([texts["abi"]], progress)
    (python_object,) = emission.objects([_python_text(options)], progress)
    return Build(program, options, texts, objects, python_object, manifest)


def _encoded(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=True).encode()


def _calls_support(data: bytes) -> bool:
    """Whether an object calls what `support` defines: LLVM may do so by itself."""
    return any(
        symbol.shndx == SHN_UNDEF and symbol.name in SUPPORT_FUNCTIONS
        for symbol in ObjectFile.parse(data).symbols
    )


def _code_bytes(data: bytes) -> int:
    sections = ObjectFile.parse(data).sections
    return sum(section.size for section in sections if section.flags & SHF_EXECINSTR)


def _manifest(
    program: Module, options: Options, texts: Mapping[str, str], constants: int
) -> dict[str, Any]:
    main, target = program.main, options.target
    signature = Signature.of_main(main)
    messages = dict(MESSAGES)
    for op in ops_of([main]):
        if op.name == "check":
            messages[op.attrs.code] = op.attrs.message
    digest = hashlib.blake2b(digest_size=16)
    for name in texts:
        digest.update(text_key(texts[name], target, options.opt).encode())
    for entry in program.data.values():
        digest.update(entry.ref.hash.encode())
    return {
        "format_version": FORMAT_VERSION,
        "pycall_version": PYCALL_VERSION,
        "name": options.name,
        "prefix": options.prefix,
        "threads": options.threads,
        "symbols": [
            {"name": name, "lo": info.lo, "hi": info.hi, **_source(info)}
            for name, info in start_symbols(main).items()
        ],
        "run_time": [{"name": name, "hi": _dim(signature.limits[name])} for name in signature.told],
        "inputs": [_port(name, type) for name, type in signature.inputs],
        "outputs": [_port(name, type) for name, type in signature.outputs],
        "in_place": [
            {
                "input": signature.inputs[one.input][0],
                "output": signature.outputs[one.output][0],
                **({"axis": one.axis, "room": one.room} if one.axis >= 0 else {}),
            }
            for one in signature.shared.values()
        ],
        "isa": {"arch": target.arch, "features": list(target.feature_list)},
        "build": digest.hexdigest(),
        "versions": {"tfc": VERSION, "llvmlite": LLVMLITE_VERSION},
        "messages": {str(code): text for code, text in messages.items()},
    }


def _source(info: SymbolInfo) -> dict[str, Any]:
    """What the manifest says of where a symbol's value comes from, if not from a shape."""
    if info.source is None:
        return {}
    if isinstance(info.source, Element):
        return {"input": info.source.input, "element": info.source.index, "part": info.source.part}
    return {"value": _dim(info.source)}


def _port(name: str, type: Any) -> dict[str, Any]:
    return {"name": name, "dtype": str(type.dtype), "shape": [_dim(dim) for dim in type.shape]}


def _dim(dim: DimLike) -> int | str:
    return dim if isinstance(dim, int) else str(dim)
