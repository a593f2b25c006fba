"""Real models compute what ONNX Runtime computed: at both ends of optimisation, on any threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.models.catalogue import (
    ENTRIES,
    LARGE,
    MID,
    SMALL,
    Arrays,
    Reference,
    assert_same,
    largest_error,
    marked,
    names,
    save_arrays,
    tolerance,
    with_slow,
)
from tests.models.conftest import Compiled, peer_outputs

pytestmark = pytest.mark.models

# basic_pitch takes logarithms of long sums that nearly cancel. Its stored outputs are met only by
# adding in their order with fused multiplications, which not every target has; see
# `test_the_reference_of_basic_pitch_is_as_far_from_the_truth_as_any_order_is`.
OTHER_TARGETS = {"basic_pitch": 2e-3}


def assert_right(
    name: str, path: Path, results: list[Arrays], references: list[Reference], least: float = 0.0
) -> None:
    """Check that results are the expected ones. least: a tolerance that is allowed anyhow."""
    for got, (_, wanted) in zip(results, references, strict=True):
        assert largest_error(got, wanted) <= max(tolerance(name, path, wanted), least)
        if ENTRIES[name].quantised:
            for output, array in wanted.items():
                np.testing.assert_array_equal(got[output].argmax(-1), array.argmax(-1))


@pytest.mark.parametrize("name", marked(names()))
def test_default_level_computes_what_onnx_runtime_did(
    name: str,
    compiled: Callable[[str], Compiled],
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> None:
    assert_right(name, model_path(name), compiled(name).results, references(name))


@pytest.mark.parametrize("name", marked(names()))
def test_default_level_is_the_same_on_any_number_of_threads(
    name: str,
    compiled: Callable[[str], Compiled],
    references: Callable[[str], list[Reference]],
) -> None:
    artifact = compiled(name)
    large = name in names(LARGE)
    for threads in (1, 2) if large else (1, 2, 3, 4):
        executable = tfc.load(artifact.path, threads=threads)
        for (inputs, _), result in zip(references(name), artifact.results, strict=True):
            assert_same(executable(inputs), result)


# Of each kind of network the ones that are compiled and run soon where nothing is optimised.
PLAIN = (
    "digits_mlp",
    "digits_cnn",
    "digits_lstm",
    "digits_cnn_fp16",
    "digits_cnn_qdq",
    "silero_vad__silero_vad_16k_op15",
    "mobilenet_v2",
    "minilm_l6_fp32",
    "gpt2_kvcache",
)


@pytest.mark.parametrize("name", with_slow([*PLAIN]))
def test_without_optimisation_as_well(
    name: str,
    scratch: Path,
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
    tfc_command: Callable[..., str],
) -> None:
    library = scratch / "plain.so"
    tfc_command("compile", model_path(name), "-O0", "-o", library)
    results = []
    for threads in (1, 2):
        executable = tfc.load(library, threads=threads)
        results.append([executable(inputs) for inputs, _ in references(name)])
    for one, two in zip(*results, strict=True):
        assert_same(one, two)
    assert_right(name, model_path(name), results[0], references(name))


@pytest.mark.parametrize("name", with_slow([*PLAIN]))
def test_the_command_line_computes_the_same_on_one_thread(
    name: str,
    scratch: Path,
    compiled: Callable[[str], Compiled],
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
    tfc_command: Callable[..., str],
) -> None:
    (inputs, wanted), result = references(name)[0], compiled(name).results[0]
    stored, output = scratch / "stored.npz", next(iter(wanted))
    save_arrays(stored, inputs | {f"out.{key}": array for key, array in wanted.items()})
    tfc_command(
        "run", model_path(name), "--threads", 1,
        "--rtol", tolerance(name, model_path(name), wanted),
        "--input", f"@{stored}", "--expect", f"@{stored}",
        "--output", f"{output}=@{scratch / 'y.npy'}",
    )  # fmt: skip
    assert np.load(scratch / "y.npy").tobytes() == result[output].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("opt", [1, 3])
@pytest.mark.parametrize("name", marked(names()))
def test_other_levels_compute_it_too(
    name: str,
    opt: int,
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> None:
    executable = tfc.compile(model_path(name), opt=opt, threads=2)
    results = [executable(inputs) for inputs, _ in references(name)]
    assert_right(name, model_path(name), results, references(name))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("name", marked(names(SMALL, MID)))
def test_narrower_vectors_compute_it_too(
    name: str,
    target: str,
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> None:
    try:
        executable = tfc.compile(model_path(name), target=target, threads=2)
    except tfc.TargetError as error:
        pytest.skip(str(error))
    results = [executable(inputs) for inputs, _ in references(name)]
    least = OTHER_TARGETS.get(name, 0.0)
    assert_right(name, model_path(name), results, references(name), least)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (2, 128), (5, 33), (3, 200)])
def test_one_artifact_of_minilm_serves_every_shape(
    batch: int,
    length: int,
    compiled: Callable[[str], Compiled],
    model_path: Callable[[str], Path],
) -> None:
    random = np.random.default_rng(batch * length)
    mask = np.ones((batch, length), np.int64)
    mask[-1, (length + 1) // 2 :] = 0
    inputs = {"input_ids": random.integers(0, 30522, (batch, length)), "attention_mask": mask}
    wanted = peer_outputs(model_path("minilm_l6_fp32"), inputs)
    path = compiled("minilm_l6_fp32").path
    results = [tfc.load(path, threads=threads)(inputs) for threads in (1, 2, 3)]
    assert largest_error(results[0], wanted) <= ENTRIES["minilm_l6_fp32"].tolerance
    for result in results[1:]:
        assert_same(result, results[0])


def test_a_batch_of_pictures_gives_what_each_picture_gives(
    compiled: Callable[[str], Compiled], references: Callable[[str], list[Reference]]
) -> None:
    executable = tfc.load(compiled("ppocr_cls").path, threads=2)
    ((x, wanted),) = [(inputs["x"], outputs) for inputs, outputs in references("ppocr_cls")[1:]]
    alone = np.concatenate([executable(x[i : i + 1]) for i in range(len(x))])
    (whole,) = wanted.values()
    assert np.abs(alone - whole).max() <= ENTRIES["ppocr_cls"].tolerance * np.abs(whole).max()


@pytest.mark.slow
def test_the_reference_of_basic_pitch_is_as_far_from_the_truth_as_any_order_is(
    compiled: Callable[[str], Compiled],
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> None:
    reference = references("basic_pitch")[0]
    truth = evaluated_in_doubles(model_path("basic_pitch"), reference.inputs)
    stored = {name: array.astype(np.float64) for name, array in reference.outputs.items()}
    ours = {
        name: array.astype(np.float64) for name, array in compiled("basic_pitch").results[0].items()
    }
    assert largest_error(stored, truth) > 10 * ENTRIES["basic_pitch"].tolerance
    assert largest_error(ours, truth) < OTHER_TARGETS["basic_pitch"]


def evaluated_in_doubles(path: Path, inputs: Arrays) -> Arrays:
    """Return what an ONNX model gives when all its floats are doubles."""
    import onnx
    from onnx import TensorProto, numpy_helper
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.HasField("t") else []
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.DOUBLE
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del model.graph.value_info[:]
    doubles = {name: array.astype(np.float64) for name, array in inputs.items()}
    results = ReferenceEvaluator(model).run(None, doubles)
    return dict(zip([value.name for value in model.graph.output], results, strict=True))
