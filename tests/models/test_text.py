"""Real models survive as text: it comes back byte for byte and compiles to the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tfc
from tests.models.catalogue import SMALL, Reference, assert_same, marked, names, with_slow
from tests.models.conftest import Compiled
from tfc.compiler.source import constants_beside, open_module
from tfc.ir.constants import ConstantStore
from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_module

pytestmark = pytest.mark.models


@pytest.mark.parametrize("name", marked(names()))
def test_graph_text_comes_back_byte_for_byte(name: str, model_path: Callable[[str], Path]) -> None:
    module = open_module(model_path(name))
    for locations in (True, False):
        text = print_module(module, locations)
        assert print_module(parse_module(text, module.constants), locations) == text


# Sizes of the other small one are symbols, with which kernels take long to make.
QUICK = [name for name in names(SMALL) if name != "ppocr_cls"]


@pytest.mark.parametrize("name", with_slow([*QUICK, "mobilenet_v2", "minilm_l6_fp32"]))
def test_graph_text_compiles_to_the_same_outputs(
    name: str,
    scratch: Path,
    model_path: Callable[[str], Path],
    compiled: Callable[[str], Compiled],
    references: Callable[[str], list[Reference]],
    tfc_command: Callable[..., str],
) -> None:
    text, data, library = scratch / "net.tfc", scratch / "data", scratch / "again.so"
    tfc_command("compile", model_path(name), "-o", text, "--constants", data)
    tfc_command("compile", text, "-o", library, "--constants", data)
    check_outputs(library, compiled(name), references(name))


# Reading the loops of a large network takes longer than compiling it.
SHORT = ("digits_mlp", "digits_cnn", "digits_lstm", "digits_cnn_qdq", "mobilenet_v2",
         "minilm_l6_fp32", "gpt2_kvcache")  # fmt: skip


@pytest.mark.parametrize("name", with_slow([*SHORT]))
def test_loop_text_comes_back_and_compiles_to_the_same_outputs(
    name: str,
    scratch: Path,
    model_path: Callable[[str], Path],
    compiled: Callable[[str], Compiled],
    references: Callable[[str], list[Reference]],
    tfc_command: Callable[..., str],
) -> None:
    path, library = scratch / "net.loops.tfc", scratch / "again.so"
    tfc_command("compile", model_path(name), "-o", path, "--emit", "loops")
    text = path.read_text()
    module = parse_module(text, ConstantStore(constants_beside(path)))
    assert module.level == "loop"
    assert print_module(module, locations=True) == text
    tfc_command("compile", path, "-o", library)
    check_outputs(library, compiled(name), references(name))


def check_outputs(library: Path, wanted: Compiled, references: list[Reference]) -> None:
    executable = tfc.load(library, threads=2)
    for (inputs, _), result in zip(references, wanted.results, strict=True):
        assert_same(executable(inputs), result)
