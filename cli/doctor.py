"""`tfc doctor`: what tfc finds on this machine, and how fast its code can be here at most."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.options import output_options
from tfc.cli.report import emit_json, size_text, table

if TYPE_CHECKING:
    from tfc.compiler.target import Target
    from tfc.ir.core import Module

_PACKAGES = ("numpy", "llvmlite", "onnx", "pillow", "ml_dtypes", "onnxruntime")
_CHAINS = 10  # more than latency times throughput of a multiply-add on any x86-64 of today
_ROUNDS = 2_000_000
_COPY_BYTES = 256 << 20


@click.command("doctor")
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Measure the peak of arithmetic and memory (takes a second).",
)
@output_options
def command(measure: bool, as_json: bool) -> None:
    """Show cores, instruction sets, libraries, the cache and the measured peak."""
    facts = _facts()
    if measure:
        facts["peak"] = _peak()
    if as_json:
        emit_json(facts)
        return
    click.echo(table([[name, text] for name, text in _rows(facts)]))


def _facts() -> dict[str, Any]:
    from tfc.cachedir import default_directory
    from tfc.compiler.codegen.host import cache_sizes, host_target
    from tfc.compiler.version import VERSION
    from tfc.runtime.cores import affinity_cores, cgroup_quota, usable_cores

    target = host_target()
    folder = default_directory()
    files = list(folder.glob("*.o")) if folder is not None and folder.is_dir() else []
    return {
        "tfc": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": usable_cores(),
        "affinity": affinity_cores(),
        "cgroup_quota": cgroup_quota(),
        "features": list(target.feature_list),
        "vector_bits": target.vector_bits,
        "caches": {f"L{level}": size for level, size in sorted(cache_sizes().items())},
        "cache_directory": str(folder) if folder is not None else None,
        "cache_entries": len(files),
        "cache_bytes": sum(file.stat().st_size for file in files),
        "tools": {name: shutil.which(name) for name in ("cc", "ld", "nm")},
        "runs_here": sys.platform == "linux",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    quota = facts["cgroup_quota"]
    packages = ", ".join(f"{name} {number or '-'}" for name, number in facts["packages"].items())
    rows = [
        ("tfc", f"{facts['tfc']} on Python {facts['python']}, {facts['system']}"),
        ("packages", packages),
        ("cores", f"{facts['cores']} (affinity {facts['affinity']}, cgroup {quota or 'no limit'})"),
        ("vectors", f"{facts['vector_bits']} bits"),
        ("features", " ".join(facts["features"])),
        ("caches", ", ".join(f"{k} {size_text(v)}" for k, v in facts["caches"].items())),
        ("code cache", f"{facts['cache_directory'] or 'off'}, {facts['cache_entries']} entries, "
                       f"{size_text(facts['cache_bytes'])}"),
        ("tools (none needed)", ", ".join(f"{k} {v or '-'}" for k, v in facts["tools"].items())),
    ]  # fmt: skip
    for name, text in facts.get("peak", {}).items():
        rows.append((name.replace("_", " "), f"{text:.1f}"))
    return rows


def _peak() -> dict[str, float]:
    """Return GFLOP/s of f32 multiply-adds on one core, and GB/s read and written by one copy."""
    import numpy as np

    from tfc.compiler.build import Options
    from tfc.compiler.codegen.host import host_target
    from tfc.inprocess import compile_in_process

    target = host_target()
    program = _multiply_adds(target)
    run = compile_in_process(lambda: program, Options(target, name="peak", threads=False), 1)
    seconds = min(_timed(run) for _ in range(3))
    flops = 2.0 * _ROUNDS * _CHAINS * _lanes(target)
    source = np.ones(_COPY_BYTES, np.uint8)
    sink = np.ones_like(source)
    copy = min(_timed(lambda: np.copyto(sink, source)) for _ in range(3))
    return {"one_core_gflops": flops / seconds / 1e9, "copy_gbytes": 2 * _COPY_BYTES / copy / 1e9}


def _timed(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _lanes(target: Target) -> int:
    from tfc.ir.types import F32

    return target.lanes(F32)


def _multiply_adds(target: Target) -> Module:
    """Return a program of independent chains of vector multiply-adds, and their sum."""
    from tfc.ir.constants import ConstantStore
    from tfc.ir.core import Block, Function, Module
    from tfc.ir.loop.build import LoopBuilder
    from tfc.ir.loop.nodes import CallAttrs
    from tfc.ir.types import F32, TensorType, VectorType, buffer

    lanes = _lanes(target)
    type = buffer(F32, lanes)
    block = Block([type], ["y"])
    b = LoopBuilder(block)
    like = VectorType(F32, lanes)
    factor = b.const(0.999, like)
    with b.for_(0, _ROUNDS, [b.const(float(i), like) for i in range(_CHAINS)]) as loop:
        loop.yields = [b.fma(value, factor, factor) for value in loop.carried]
    total = loop.results[0]
    for value in loop.results[1:]:
        total = b.add(total, value)
    b.vstore(total, block.args[0], [0])
    b.emit("return")
    module = Module("loop", constants=ConstantStore())
    module.add(Function("chains", block, "kernel"))
    body = Block([type], ["y"])
    b = LoopBuilder(body)
    b.emit("call", [body.args[0]], CallAttrs("chains"))
    b.emit("return")
    outputs = (("y", TensorType(F32, (lanes,))),)
    attrs = {"inputs": (), "outputs": outputs, "workspace": 0}
    module.add(Function("main", body, "main", attrs=attrs))
    return module
