"""The `tfc` command: finds the subcommand, and turns every error into one line and an exit code.

Commands are modules of this package, imported when they run: `tfc --help` must stay quick.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from importlib import import_module

import click

COMMANDS = {
    "compile": "Compile a model to a library, object, header or text.",
    "run": "Run a model on inputs and show its outputs.",
    "bench": "Measure a model's latency, in whole or by kernel.",
    "explain": "Say what each kernel does, should take and takes, and why.",
    "dump": "Show the program at a stage, its interface, memory or kernels.",
    "opt": "Run passes on IR text: text in, text out.",
    "check": "List what tfc cannot compile in a model.",
    "verify": "Compare compiled code with the reference, by output or by op.",
    "doctor": "Show what tfc finds on this machine.",
}
EXIT_CODES = """\b
Exit codes: 0 ok, 1 internal error, 2 usage, 3 unreadable or malformed input,
4 unsupported, 5 verifier, 6 numerical mismatch, 7 missing linker,
8 the target cannot run here."""


class Commands(click.Group):
    """A group that knows its commands' names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"tfc.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"tfc {import_module('tfc.compiler.version').VERSION}")
        ctx.exit()


@click.group(cls=Commands, epilog=EXIT_CODES)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version and exit.",
)  # fmt: skip
def group() -> None:
    """tfc compiles tensor graphs (ONNX models) to native code."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = group.main(list(arguments), "tfc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _failed(arguments, error.format_message(), 2, error)
    except (click.Abort, KeyboardInterrupt):
        return _failed(arguments, "interrupted", 130, None)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing more can be written to it.
        sys.stdout = None
        return 0
    except OSError as error:
        return _failed(arguments, _reason(error), 3, error)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):
            return _failed(arguments, str(error), code, error)
        hint = "" if "--debug" in arguments else "; --debug shows where"
        text = f"internal error: {type(error).__name__}: {error} (please report it{hint})"
        return _failed(arguments, text, 1, error)


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _failed(arguments: Sequence[str], text: str, code: int, error: BaseException | None) -> int:
    if error is not None and "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    click.echo(f"tfc: error: {text}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"error": text, "exit_code": code}))
    return code


def main() -> None:
    """The console script."""
    # A command is over before cycles pile up; looking for them takes a tenth of a compilation.
    gc.disable()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
