"""Train the digit reader with numpy alone and write digits.onnx and the sample pictures.

Needs scikit-learn (for its bundled 8x8 digits), onnx and pillow: `python examples/digits/train.py`.
It is an example of a model file, not a training library.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

Array = NDArray[np.float32]
Params = dict[str, Array]

HERE = Path(__file__).resolve().parent
SIZE = 28
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STRIP = "314159"
# (name, input channels, output channels) of the three 3x3 convolutions; the first two are pooled.
CONVS = (("conv1", 1, 16), ("conv2", 16, 32), ("conv3", 32, 32))
FEATURES = 32 * (SIZE // 4) ** 2


# ---- data -------------------------------------------------------------------------------------


def load_pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits as 28x28 grey pictures, bright on black, and their labels."""
    data = load_digits()
    pictures = np.zeros((len(data.images), SIZE, SIZE), np.uint8)
    for picture, image in zip(pictures, data.images, strict=True):
        small = Image.fromarray(np.minimum(image * 16, 255).astype(np.uint8))
        picture[2:-2, 2:-2] = np.asarray(small.resize((24, 24), Image.Resampling.BICUBIC))
    return pictures, data.target.astype(np.int64)


def augment(x: Array, rng: np.random.Generator) -> Array:
    """Rotate, scale and shift each picture of [n, 28, 28] a little, sampling bilinearly."""
    n = len(x)
    angle = rng.uniform(-0.2, 0.2, n)
    zoom = rng.uniform(0.9, 1.15, n)
    shift = rng.uniform(-2.0, 2.0, (2, n, 1, 1))
    cos, sin = (np.cos(angle) / zoom)[:, None, None], (np.sin(angle) / zoom)[:, None, None]
    rows, cols = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    from_row = np.clip(cos * rows - sin * cols + shift[0] + (SIZE - 1) / 2, 0, SIZE - 1.001)
    from_col = np.clip(sin * rows + cos * cols + shift[1] + (SIZE - 1) / 2, 0, SIZE - 1.001)
    r, c = from_row.astype(np.int64), from_col.astype(np.int64)
    fr, fc = from_row - r, from_col - c
    i = np.arange(n)[:, None, None]
    top = x[i, r, c] * (1 - fc) + x[i, r, c + 1] * fc
    bottom = x[i, r + 1, c] * (1 - fc) + x[i, r + 1, c + 1] * fc
    mixed: Array = (top * (1 - fr) + bottom * fr).astype(np.float32)
    return mixed


# ---- layers: each forward returns what its backward needs. Activations are [n, h, w, c]. ------


def patches(x: Array) -> Array:
    """Return the 3x3 neighbourhoods of a zero-padded x as [n, h, w, 9 * c], tap major."""
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.concatenate(taps, axis=-1)


def patches_grad(g: Array) -> Array:
    """Add the gradient of `patches` back onto the pixels it came from."""
    n, h, w, k = g.shape
    c = k // 9
    padded = np.zeros((n, h + 2, w + 2, c), np.float32)
    for tap in range(9):
        i, j = divmod(tap, 3)
        padded[:, i : i + h, j : j + w] += g[..., tap * c : (tap + 1) * c]
    return padded[:, 1:-1, 1:-1]


def pool(x: Array) -> tuple[Array, Array]:
    """Return the 2x2 maxima and each input pixel's share of its window's gradient."""
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c)
    y = windows.max(axis=(2, 4), keepdims=True)
    share = (windows == y).astype(np.float32)
    share /= share.sum(axis=(2, 4), keepdims=True)
    return y.reshape(n, h // 2, w // 2, c), share


def forward(p: Params, x: Array) -> tuple[Array, list[tuple[Array, Array, Array | None]], Array]:
    """Return logits, what each convolution's backward needs, and the flat features."""
    kept: list[tuple[Array, Array, Array | None]] = []
    for name, _, _ in CONVS:
        cols = patches(x)
        x = np.maximum(cols @ p[f"{name}.w"] + p[f"{name}.b"], np.float32(0))
        active, share = x, None
        if name != "conv3":
            x, share = pool(x)
        kept.append((cols, active, share))
    flat = x.reshape(len(x), FEATURES)
    return flat @ p["fc.w"] + p["fc.b"], kept, flat


def gradients(p: Params, x: Array, labels: NDArray[np.int64]) -> tuple[float, Params]:
    """Return the mean cross-entropy and its gradient by every parameter."""
    logits, kept, flat = forward(p, x)
    logits -= logits.max(axis=1, keepdims=True)
    probs = np.exp(logits)
    probs /= probs.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    loss = float(-np.log(probs[rows, labels] + 1e-12).mean())
    probs[rows, labels] -= 1
    g = probs / np.float32(len(x))
    grads: Params = {"fc.w": flat.T @ g, "fc.b": g.sum(axis=0)}
    g = (g @ p["fc.w"].T).reshape(len(x), SIZE // 4, SIZE // 4, -1)
    for (name, _, _), (cols, active, share) in zip(CONVS[::-1], kept[::-1], strict=True):
        if share is not None:
            g = (g[:, :, None, :, None, :] * share).reshape(active.shape)
        g = g * (active > 0)
        grads[f"{name}.w"] = cols.reshape(-1, cols.shape[-1]).T @ g.reshape(-1, g.shape[-1])
        grads[f"{name}.b"] = g.sum(axis=(0, 1, 2))
        if name != "conv1":
            g = patches_grad(g @ p[f"{name}.w"].T)
    return loss, grads


# ---- training ---------------------------------------------------------------------------------


def initial_parameters(rng: np.random.Generator) -> Params:
    shapes = {name: (9 * c_in, c_out) for name, c_in, c_out in CONVS} | {"fc": (FEATURES, 10)}
    p: Params = {}
    for name, (fan_in, out) in shapes.items():
        p[f"{name}.w"] = (rng.standard_normal((fan_in, out)) * (2 / fan_in) ** 0.5).astype("f4")
        p[f"{name}.b"] = np.zeros(out, np.float32)
    return p


def train(x: Array, labels: NDArray[np.int64], normal: tuple[float, float], epochs: int) -> Params:
    """Fit by Adam with a rate that falls along half a cosine; x holds pixels 0 to 255."""
    rng = np.random.default_rng(0)
    p = initial_parameters(rng)
    m, v = ({k: np.zeros_like(a) for k, a in p.items()} for _ in range(2))
    batch, step = 64, 0
    steps = epochs * (len(x) // batch)
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(len(x))[: len(x) // batch * batch]
        for rows in order.reshape(-1, batch):
            step += 1
            inputs = (augment(x[rows], rng) - normal[0]) / normal[1]
            loss, grads = gradients(p, inputs[..., None].astype(np.float32), labels[rows])
            losses.append(loss)
            rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, g in grads.items():
                m[k] += np.float32(0.1) * (g - m[k])
                v[k] += np.float32(0.001) * (g * g - v[k])
                unbiased = np.sqrt(v[k] / (1 - 0.999**step)) + 1e-8
                p[k] -= (rate / (1 - 0.9**step) * m[k] / unbiased).astype(np.float32)
        print(f"epoch {epoch + 1:2d}: loss {np.mean(losses):.4f}", flush=True)
    return p


# ---- files ------------------------------------------------------------------------------------


def export(p: Params, normal: tuple[float, float], path: Path) -> None:
    """Write the model; its input is (pixel - mean) / scale of pixels 0 to 255."""
    weights: Params = {"fc.bias": p["fc.b"]}
    for name, c_in, c_out in CONVS:
        taps = p[f"{name}.w"].reshape(3, 3, c_in, c_out)
        weights[f"{name}.weight"] = taps.transpose(3, 2, 0, 1)
        weights[f"{name}.bias"] = p[f"{name}.b"]
    # ONNX flattens [channel, row, column]; the training above flattened channels last.
    last = p["fc.w"].reshape(SIZE // 4, SIZE // 4, 32, 10)
    weights["fc.weight"] = last.transpose(3, 2, 0, 1).reshape(10, FEATURES)

    nodes, value = [], "image"
    for name, _, _ in CONVS:
        inputs = [value, f"{name}.weight", f"{name}.bias"]
        conv = helper.make_node("Conv", inputs, [f"{name}.out"], name=name, pads=[1, 1, 1, 1])
        relu = helper.make_node("Relu", [f"{name}.out"], [f"{name}.relu"], name=f"{name}_relu")
        nodes += [conv, relu]
        value = f"{name}.relu"
        if name != "conv3":
            shape = {"kernel_shape": [2, 2], "strides": [2, 2]}
            pooled, node = f"{name}.pool", f"{name}_pool"
            nodes.append(helper.make_node("MaxPool", [value], [pooled], name=node, **shape))
            value = pooled
    gemm = ["flat", "fc.weight", "fc.bias"]
    nodes += [
        helper.make_node("Flatten", [value], ["flat"], name="flatten"),
        helper.make_node("Gemm", gemm, ["logits"], name="fc", transB=1),
        helper.make_node("Softmax", ["logits"], ["probability"], name="softmax", axis=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])
    output = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 10])
    stored = [numpy_helper.from_array(np.ascontiguousarray(w), k) for k, w in weights.items()]
    graph = helper.make_graph(nodes, "digits", [image], [output], stored)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], producer_name="digits-example")
    model.ir_version = 8
    facts = {"labels": list("0123456789"), "mean": [normal[0]], "scale": [normal[1]]}
    helper.set_model_props(model, {k: json.dumps(v) for k, v in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def save_pictures(pictures: NDArray[np.uint8], labels: NDArray[np.int64], folder: Path) -> None:
    """Save the first held-out picture of each digit, and a strip of others forming a number."""
    by_digit = {d: list(pictures[labels == d]) for d in range(10)}
    for digit, name in enumerate(NAMES):
        Image.fromarray(by_digit[digit].pop(0)).save(folder / f"{name}.png")
    strip = np.concatenate([by_digit[int(d)].pop(0) for d in STRIP], axis=1)
    Image.fromarray(strip).save(folder / "strip.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the files")
    args = parser.parse_args()

    pictures, labels = load_pictures()
    order = np.random.default_rng(1).permutation(len(pictures))
    held, rest = np.split(order, [len(order) // 5])
    x = pictures[rest].astype(np.float32)
    normal = (round(float(x.mean()), 2), round(float(x.std()), 2))
    p = train(x, labels[rest], normal, args.epochs)

    test = (pictures[held].astype(np.float32)[..., None] - normal[0]) / normal[1]
    right = forward(p, test.astype(np.float32))[0].argmax(axis=1) == labels[held]
    print(f"{right.sum()} of {len(held)} held-out digits read correctly ({right.mean():.2%})")
    export(p, normal, args.out / "digits.onnx")
    save_pictures(pictures[held], labels[held], args.out)


if __name__ == "__main__":
    main()
