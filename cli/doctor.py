"""`tfc doctor`: what tfc finds on this machine, and how fast its code can be here at most."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from tfc.cli.options import output_options
from tfc.cli.report import emit_json, size_text, table

_PACKAGES = ("numpy", "llvmlite", "onnx", "pillow", "ml_dtypes", "onnxruntime")


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
        from tfc.peak import peak

        facts["peak"] = peak()
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
