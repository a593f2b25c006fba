"""LLVM text to machine code: one target machine per thread and target, and no optimisation pass.

The text of `kernel.py` is in its final form; passes were measured to cost time and gain nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from tfc.compiler.target import Target
from tfc.ir.errors import CompileError, TargetError

_lock = threading.Lock()
_started = False
_machines = threading.local()

CODEGEN_VERSION = "1"
"""Part of every kernel's key: to be raised when the same loop IR gives other machine code."""


def initialise() -> None:
    """Make LLVM's code generators known; harmless to repeat, from any thread."""
    global _started
    with _lock:
        if not _started:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            llvm.initialize_native_asmparser()
            _started = True


@cache
def _code_generator(triple: str) -> Any:
    """Return LLVM's code generator of a triple. Those of other machines are seldom asked for."""
    initialise()
    try:
        return llvm.Target.from_triple(triple)
    except RuntimeError:
        with _lock:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
    try:
        return llvm.Target.from_triple(triple)
    except RuntimeError as error:
        raise TargetError(f"LLVM has no code generator for {triple}") from error


def target_machine(target: Target, opt: int = 2) -> Any:
    """Return this thread's target machine."""
    machines = _machines.__dict__.setdefault("machines", {})
    key = target.triple, target.cpu, target.features, opt
    if key not in machines:
        machines[key] = _code_generator(target.triple).create_target_machine(
            cpu=target.cpu,
            features=",".join(f"+{name}" for name in target.feature_list),
            opt=opt,
            reloc="pic",
            codemodel="small",
        )
    return machines[key]


def _parse(text: str, machine: Any) -> Any:
    # A context of its own: parsing in the global one is not safe from several threads.
    module = llvm.parse_assembly(text, llvm.create_context())
    module.data_layout = str(machine.target_data)
    return module


def emit_object(text: str, target: Target, opt: int = 2) -> bytes:
    """Return the object file of a module; raises CompileError with the text's dump."""
    try:
        machine = target_machine(target, opt)
        object: bytes = machine.emit_object(_parse(text, machine))
    except RuntimeError as error:
        raise _failed(text, error) from error
    return object


def emit_assembly(text: str, target: Target, opt: int = 2) -> str:
    """Return the assembly of a module."""
    try:
        machine = target_machine(target, opt)
        assembly: str = machine.emit_assembly(_parse(text, machine))
    except RuntimeError as error:
        raise _failed(text, error) from error
    return assembly


def _failed(text: str, error: RuntimeError) -> CompileError:
    with tempfile.NamedTemporaryFile(
        "w", prefix="tfc-", suffix=".ll", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    reason = str(error).strip().splitlines()
    return CompileError(
        f"LLVM refuses the generated code: {' '.join(reason)}; please report this with the file",
        where=str(Path(file.name)),
    )


def text_key(text: str, target: Target, opt: int = 2) -> str:
    """Return the cache key of a module's machine code: 32 hex digits."""
    parts = (
        CODEGEN_VERSION,
        llvmlite.__version__,
        ".".join(map(str, llvm.llvm_version_info)),
        target.triple,
        target.cpu,
        ",".join(target.feature_list),
        str(target.vector_bits),
        str(opt),
        text,
    )
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
