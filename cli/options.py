"""Options that commands share, and what they make: a module, compile options, an executable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tfc.compiler.build import Options
    from tfc.compiler.inplace import Wanted
    from tfc.compiler.source import Given
    from tfc.ir.core import Module
    from tfc.runtime.executable import Executable

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.Path(path_type=Path)

INPUT_SYNTAX = """\b
Values of --input are NAME=VALUE; with one input the name may be left out.
  @x.npy, @all.npz:KEY          an array from a file
  @all.npz (without a name)     every input by its name, or as in.NAME
  @a.png[:mean=M,scale=S]       an image: (pixel - mean) / scale of pixels 0 to
                                255; by default what the model's metadata say,
                                or 0 and 1; M and S may be a/b/c, by channel
  1x3x224x224xf32=FILL          a new array
  FILL                          the same, in the input's own type and shape
FILL is rand[:SEED], randn[:SEED], zeros, ones, range, a number or a JSON list."""


@dataclass(frozen=True)
class Settings:
    """The values of the options of `compile_options` and `pass_options`."""

    target: str = "native"
    mcpu: str | None = None
    opt: int = 2
    dtype: str = "f32"
    dims: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    in_place: tuple[str, ...] = ()
    constants: Path | None = None
    tuning: Path | None = None
    rules: tuple[Path, ...] = ()
    print_after: tuple[str, ...] = ()
    print_after_change: bool = False
    dump_dir: Path | None = None
    time_passes: bool = False
    disable: tuple[str, ...] = ()
    bisect: int | None = None
    stop_after: str | None = None
    verify: bool = True


rules_option = click.option(
    "--rules",
    multiple=True,
    metavar="FILE.py",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Run a file of Python first, which adds rules by tfc.onnx_rule.",
)
_COMPILE = [
    click.option("--target", default="native", show_default=True, metavar="TARGET",
                 help="native, or a level such as x86-64-v3, avx512, aarch64; changes may follow: "
                 "avx2,+f16c."),
    click.option("--mcpu", metavar="LEVEL", help="The level within --target's architecture."),
    click.option("-O", "opt", type=click.IntRange(0, 3), default=2, show_default=True,
                 help="Optimisation level."),
    click.option("--dtype", type=click.Choice(("f32", "bf16")), default="f32", show_default=True,
                 help="What operands of matrix products and convolutions are rounded to; sums "
                 "stay f32."),
    click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE|LO..HI",
                 help="Fix or bound a dynamic dim: batch=8, batch=1..64, batch=1.."),
    click.option("--shape", "shapes", multiple=True, metavar="INPUT=1x3x224x224",
                 help="Fix the dims of an input. Of a sequence the shapes, each with a comma "
                 "behind it: 2x3,4x3,; none for an optional without an element."),
    click.option("--in-place", "in_place", multiple=True, metavar="INPUT=OUTPUT[:ROOM]",
                 help="Make an output in the memory of an input. Along an axis in which they "
                 "differ it has ROOM: past_*=present_*:1024."),
    click.option("--constants", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Where the constants of IR text are read or written."),
    click.option("--tuning", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                 help="Use what --tune has found and kept in this file; by default what it has "
                 "kept in the cache."),
    rules_option,
]  # fmt: skip
_PASSES = [
    click.option("--print-ir-after", "print_after", multiple=True, metavar="PASS",
                 help="Print the module after a pass, or after all, on stderr."),
    click.option("--print-ir-after-change", "print_after_change", is_flag=True,
                 help="Print the module after each pass that changed it, on stderr."),
    click.option("--dump-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Write the module after each pass into a directory."),
    click.option("--time-passes", is_flag=True, help="Print the time of each pass on stderr."),
    click.option("--disable-pass", "disable", multiple=True, metavar="NAME",
                 help="Leave out an optional pass or rule."),
    click.option("--bisect", type=click.IntRange(0), metavar="N",
                 help="Stop optional rewriting after N rewrites."),
    click.option("--stop-after", metavar="PASS", help="Run no pass behind this one."),
    click.option("--verify/--no-verify", default=True, show_default=True,
                 help="Verify the IR after every pass."),
]  # fmt: skip
_OUTPUT = [
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors."),
]


def some_inputs(command: Command) -> Command:
    """Add --input (as `inputs`), for commands that make up those which are not given."""
    option = click.option(
        "--input", "inputs", multiple=True, metavar="NAME=VALUE",
        help="An input as for run; inputs that are not given are random.",
    )  # fmt: skip
    return option(command)


def output_options(command: Command) -> Command:
    """Add --json (as `as_json`) and --debug."""
    for option in reversed(_OUTPUT):
        command = option(command)
    return command


def compile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says how to compile; the command gets a `settings`."""
    options = [*_COMPILE, *_PASSES]
    names = Settings.__dataclass_fields__

    def collected(**values: Any) -> Any:
        own = {name: values.pop(name) for name in names}
        return command(settings=Settings(**own), **values)

    collected.__doc__ = command.__doc__
    # Options that stand closer to the function were noted on it.
    collected.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    result: Callable[..., Any] = collected
    for option in reversed(options):
        result = option(result)
    return result


def named(text: str, what: str) -> tuple[str, str]:
    """Split `NAME=VALUE`; raises a usage error."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"{what} {text!r} is not NAME=VALUE")
    return name, value


def parse_dims(texts: tuple[str, ...]) -> dict[str, Given]:
    """Read --dim options: NAME=SIZE, NAME=LO..HI or NAME=LO.."""
    dims: dict[str, Given] = {}
    for text in texts:
        name, value = named(text, "--dim")
        match = re.fullmatch(r"(\d+)(?:(\.\.)(\d*))?", value)
        if match is None:
            raise click.UsageError(f"--dim {text!r}: {value!r} is not SIZE, LO..HI or LO..")
        low = int(match[1])
        dims[name] = (low, int(match[3]) if match[3] else None) if match[2] else low
    return dims


def parse_in_place(texts: tuple[str, ...]) -> dict[str, Wanted]:
    """Read --in-place options: INPUT=OUTPUT or INPUT=OUTPUT:ROOM."""
    wanted: dict[str, Wanted] = {}
    for text in texts:
        name, value = named(text, "--in-place")
        output, colon, room = value.rpartition(":")
        wanted[name] = (output, int(room)) if colon and room.isdecimal() else value
    return wanted


def parse_shape(text: str) -> tuple[int, ...]:
    """Read `1x3x224x224`; nothing is a scalar."""
    if not re.fullmatch(r"(\d+(x\d+)*)?", text):
        raise click.UsageError(f"shape {text!r} is not like 1x3x224x224")
    return tuple(int(size) for size in text.split("x")) if text else ()


def run_rules(paths: tuple[Path, ...]) -> None:
    """Run files of Python that add rules for operators."""
    import runpy

    from tfc.ir.errors import TfcError, UsageError

    for path in paths:
        try:
            runpy.run_path(str(path))
        except TfcError:
            raise
        except OSError as error:
            raise UsageError(error.strerror or str(error), where=str(path)) from error
        except Exception as error:
            raise UsageError(f"{type(error).__name__}: {error}", where=str(path)) from error


def open_model(path: Path, settings: Settings) -> Module:
    """Open a model with its dims fixed as --dim and --shape say."""
    run_rules(settings.rules)
    from tfc.compiler.source import open_inputs, open_module

    dims, in_place = parse_dims(settings.dims), parse_in_place(settings.in_place)
    if not settings.shapes:
        return open_module(path, dims, settings.constants, in_place=in_place)
    given = dict(named(text, "--shape") for text in settings.shapes)
    left_open = open_inputs(path)
    shapes = {name: _parse_open(text) for name, text in given.items() if name in left_open}
    sizes = {name: parse_shape(text) for name, text in given.items() if name not in left_open}
    if sizes:
        module = open_module(path, dims, settings.constants, shapes=shapes)
        dims |= _sizes_of(module, sizes)
    return open_module(path, dims, settings.constants, shapes=shapes, in_place=in_place)


def _parse_open(text: str) -> Sequence[Any] | None:
    """Read a shape, shapes with a comma behind each, or none."""
    if text == "none":
        return None
    *parts, last = text.split(",")
    if not parts:
        return parse_shape(last)
    return [parse_shape(part) for part in (*parts, *((last,) if last else ()))]


def _sizes_of(module: Module, sizes: dict[str, tuple[int, ...]]) -> dict[str, Given]:
    from tfc.graph import Graph
    from tfc.ir.symbols import bind_shapes

    types = Graph(module).inputs
    for name, shape in sizes.items():
        if name not in types:
            raise click.UsageError(f"--shape: no input {name!r} (inputs: {', '.join(types)})")
        if len(shape) != types[name].rank:
            raise click.UsageError(f"--shape {name}: rank {len(shape)}, the input is {types[name]}")
    found: dict[str, Given] = dict(
        bind_shapes((f"input {name!r}", types[name].shape, shape) for name, shape in sizes.items())
    )
    return found


def pass_settings(settings: Settings) -> dict[str, Any]:
    """Return the fields of the pass context that options set."""
    return {
        "print_after": set(settings.print_after),
        "print_after_change": settings.print_after_change,
        "dump_dir": settings.dump_dir,
        "time_passes": settings.time_passes,
        "disabled": set(settings.disable),
        "bisect": settings.bisect,
        "stop_after": settings.stop_after,
    }


@contextmanager
def options_for(
    settings: Settings, name: str, *, threads: bool, tunes: bool = False
) -> Iterator[Options]:
    """Give the compile options, with a progress line while they are in use.

    tunes: --tuning names a file that may be yet to come.
    """
    from tfc.cli.report import Progress
    from tfc.compiler.build import Options, precision
    from tfc.compiler.codegen.host import resolve_target
    from tfc.runtime.cores import usable_cores

    target = resolve_target(settings.target.replace("native", "host", 1))
    if settings.mcpu is not None:
        narrowed = resolve_target(settings.mcpu.replace("native", "host", 1))
        if narrowed.arch != target.arch and settings.target != "native":
            raise click.UsageError(f"--mcpu {settings.mcpu} is not of {target.arch}")
        target = narrowed
    from tfc.tuned import with_tuning

    progress = Progress()
    try:
        options = Options(
            target,
            name=name,
            opt=settings.opt,
            dtype=precision(settings.dtype),
            threads=threads,
            jobs=usable_cores(),
            passes=pass_settings(settings),
            verify=settings.verify,
            progress=progress,
        )
        yield with_tuning(options, settings.tuning, missing=tunes)
    finally:
        progress.close()


def is_artifact(path: Path) -> bool:
    """Whether a file is an ELF file, so something compiled."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def executable_for(path: Path, settings: Settings, threads: int | None) -> Executable:
    """Load an artifact, or compile a model for this machine."""
    from tfc.runtime.loader import load

    if is_artifact(path):
        if settings != replace(Settings(), dims=settings.dims, shapes=settings.shapes):
            raise click.UsageError(f"{path.name} is compiled: options of the compiler do nothing")
        return load(path, threads=threads)
    from tfc.inprocess import compile_in_process
    from tfc.request import native

    with options_for(settings, path.stem, threads=threads != 1) as options:
        native(options.target)
        return compile_in_process(lambda: open_model(path, settings), options, threads)
