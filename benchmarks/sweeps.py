"""Which single ops `micro` measures: sweeps by name."""

from __future__ import annotations

from benchmarks.ops import Convolution, Op, Product

SIZES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
ODD = (63, 65, 100, 127, 129, 255, 257, 511, 513, 1000, 1023, 1025)


def _square(size: int, **options: object) -> Product:
    return Product(size, size, size, **options)  # type: ignore[arg-type]


def _picture(size: int, c: int, oc: int, kernel: int, **options: object) -> Convolution:
    return Convolution((size, size), c, oc, kernel, **options)  # type: ignore[arg-type]


def _depthwise(size: int, c: int, kernel: int, stride: int = 1) -> Convolution:
    return _picture(size, c, c, kernel, stride=stride, groups=c)


SWEEPS: dict[str, tuple[Op, ...]] = {
    "matmul": tuple(_square(size) for size in SIZES),
    "matmul-both": tuple(_square(size, fixed=False) for size in SIZES),
    "odd": tuple(_square(size) for size in ODD),
    "odd-both": tuple(_square(size, fixed=False) for size in ODD),
    "shapes": (
        *(Product(m, 768, 768) for m in (2, 3, 4, 8, 12, 17, 37, 128)),
        *(Product(m, 4096, 4096) for m in (4, 16, 64)),
        Product(128, 3072, 768),
        Product(128, 768, 3072),
        Product(49, 2048, 512),
        Product(3136, 64, 256),
        Product(4096, 64, 64),
        Product(4096, 64, 4096),
        Product(64, 4096, 64),
        Product(64, 64, 4096),
        Product(4096, 4096, 64),
        Product(4096, 3, 64),
        Product(4096, 17, 256),
        Product(1000, 10, 1000),
    ),
    "shapes-both": tuple(
        Product(m, n, k, fixed=False)
        for m, n, k in (
            (4, 768, 768),
            (17, 768, 768),
            (128, 768, 768),
            (128, 3072, 768),
            (128, 768, 3072),
            (4096, 64, 64),
            (4096, 64, 4096),
            (64, 4096, 64),
            (64, 64, 4096),
            (64, 4096, 4096),
            (4096, 4096, 64),
            (4096, 17, 256),
        )
    ),
    "vector": (
        *(Product(1, size, size) for size in (64, 256, 512, 768, 1024, 2048, 4096)),
        Product(1, 3072, 768),
        Product(1, 768, 3072),
        Product(1, 50257, 768),
        Product(1, 1000, 2048),
        Product(1, 4096, 4096, turned="B"),
        *(Product(1, size, size, fixed=False) for size in (512, 1024, 4096)),
        *(Product(1, size, size, fixed=False, turned="B") for size in (512, 1024, 4096)),
        *(Product(size, 1, size) for size in (512, 1024, 4096)),
        *(Product(size, 1, size, fixed=False) for size in (512, 1024, 4096)),
    ),
    "batched": (
        Product(128, 128, 64, (12,), fixed=False),
        Product(128, 64, 128, (12,), fixed=False),
        Product(384, 384, 64, (12,), fixed=False),
        Product(1, 512, 64, (12,), fixed=False),
        Product(1, 64, 512, (12,), fixed=False),
        Product(32, 32, 32, (64,), fixed=False),
        Product(7, 13, 5, (256,), fixed=False),
        Product(64, 64, 64, (64,), fixed=False),
        Product(256, 256, 256, (8,), fixed=False),
        Product(64, 768, 768, (8,)),
    ),
    "turned": tuple(
        _square(size, turned=turned, fixed=fixed)
        for size in (256, 1000, 1024)
        for fixed in (True, False)
        for turned in ("A", "B", "AB")
    ),
    "conv": (
        _picture(224, 3, 64, 7, stride=2),
        _picture(224, 3, 32, 3, stride=2),
        _picture(224, 3, 64, 3),
        *(_picture(size, c, c, 3) for size, c in ((112, 64), (56, 64), (28, 128), (14, 256))),
        _picture(7, 512, 512, 3),
        _picture(56, 24, 24, 3),
        _picture(57, 33, 65, 3),
        *(_picture(size, c, c, 3, stride=2) for size, c in ((56, 128), (28, 256), (14, 512))),
        _picture(56, 64, 256, 1),
        _picture(56, 256, 64, 1),
        _picture(28, 512, 128, 1),
        _picture(14, 1024, 256, 1),
        _picture(7, 512, 2048, 1),
        _picture(56, 256, 512, 1, stride=2),
        _picture(112, 32, 16, 1),
        _picture(56, 144, 24, 1),
        _picture(1, 1280, 1000, 1),
        _picture(28, 128, 128, 3, batch=8),
    ),
    "conv-other": (
        _picture(28, 64, 64, 5),
        _picture(14, 128, 128, 7),
        _picture(28, 128, 128, 3, dilation=2),
        _picture(33, 256, 256, 3, dilation=4),
        _picture(56, 128, 128, 3, groups=32),
        _picture(28, 256, 256, 3, groups=4),
        _picture(14, 512, 512, 1, groups=8),
        _picture(28, 128, 64, 2, stride=2, transposed=True),
        _picture(28, 128, 64, 4, stride=2, transposed=True),
        _picture(16, 256, 128, 3, stride=2, transposed=True),
        Convolution((400,), 80, 512, 3),
        Convolution((1500,), 384, 384, 3, stride=2),
        Convolution((2000,), 64, 64, 7),
        Convolution((16, 16, 16), 32, 32, 3),
        Convolution((8, 28, 28), 64, 64, 3),
        Convolution((16, 56, 56), 3, 64, 3, stride=2),
    ),
    "depthwise": (
        *(
            _depthwise(size, c, kernel)
            for kernel in (3, 5, 7)
            for size, c in ((112, 64), (56, 128), (28, 240), (14, 512), (7, 960))
        ),
        _depthwise(112, 96, 3, stride=2),
        _depthwise(56, 144, 3, stride=2),
        _depthwise(28, 240, 5, stride=2),
        Convolution((256,), 512, 512, 31, groups=512),
        Convolution((16, 28, 28), 64, 64, 3, groups=64),
    ),
}
