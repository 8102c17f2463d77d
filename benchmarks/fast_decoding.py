"""What the faster ways of decoding save: each against the one that it falls back to, in pairs.

    python benchmarks/fast_decoding.py [--count 8] [--repeat 3] [--side 224] [--json FILE]

CPU time of decoding alone, in this process. README.md here says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from corpora import draw_photograph, encode
from reporting import machine, print_table, write_json

from moderate.decode import hevc, inflate, resample, webp
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import Limits

SIZES = {"small": (640, 480), "web": (1600, 1200), "phone": (4032, 3024)}
FAST: dict[str, tuple[Any, str]] = {
    "resize": (resample, "_one_pass"),
    "png": (inflate, "isal_zlib"),
    "webp": (webp, "libwebp"),
    "heic": (hevc, "ffmpeg"),
}
"""The function that gives each library, or None where Pillow and libheif do the work."""

CASES = (
    *((size, "jpg", "resize") for size in SIZES),
    *((size, "png", "png") for size in SIZES),
    *((size, "webp", "webp") for size in SIZES),
    *((size, "heic", "heic") for size in ("web", "phone")),
)
INTERPOLATIONS = ("bilinear", "bicubic")
MILLISECONDS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8, help="images of each kind")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", type=int, default=224, help="of the model's input, in pixels")
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prepare()
    missing = [name for name, (module, library) in FAST.items() if not getattr(module, library)()]
    if missing:
        raise SystemExit(f"without the faster way for {', '.join(missing)} nothing is compared")
    result: dict[str, Any] = {"machine": machine(), "count": options.count, "cases": {}}
    for size, suffix, name in CASES:
        if size not in options.sizes:
            continue
        images = [
            encode(draw_photograph(seed, SIZES[size]), suffix, 80) for seed in range(options.count)
        ]
        for interpolation in INTERPOLATIONS if name == "resize" else INTERPOLATIONS[:1]:
            spec = PixelSpec(options.side, options.side, interpolation=interpolation)
            case = f"{size} {suffix} {interpolation}"
            result["cases"][case] = compare(images, spec, name, options.repeat)
    print_table(
        f"CPU milliseconds per image: medians, {options.count} images, {options.repeat} repeats",
        ["case", "without", "with", "ratio", "most levels apart"],
        [
            [case, *(f"{each[key]:.2f}" for key in ("without_ms", "with_ms", "ratio", "levels"))]
            for case, each in result["cases"].items()
        ],
    )
    write_json(options.json, result)


def compare(images: Sequence[bytes], spec: PixelSpec, name: str, repeat: int) -> dict[str, Any]:
    """CPU milliseconds with and without one of FAST, their ratio, how far pixels are apart."""
    before, after, ratios, levels = [], [], [], 0
    for data in images:
        slow: list[float] = []
        fast: list[float] = []
        for _ in range(repeat):
            with without(name):
                expected = timed(data, spec, slow)
            found = timed(data, spec, fast)
        levels = max(levels, int(np.abs(expected.astype(int) - found).max()))
        before.append(statistics.median(slow))
        after.append(statistics.median(fast))
        ratios.append(after[-1] / before[-1])
    return {
        "without_ms": MILLISECONDS * statistics.median(before),
        "with_ms": MILLISECONDS * statistics.median(after),
        "ratio": statistics.median(ratios),
        "levels": levels,
    }


def timed(data: bytes, spec: PixelSpec, seconds: list[float]) -> Any:
    """The pixels of an image; the CPU seconds of decoding it are added to the list."""
    begun = time.process_time()
    decoded = decode(data, (spec,), Limits())
    seconds.append(time.process_time() - begun)
    assert isinstance(decoded, Decoded), decoded
    return decoded.pixels[0]


@contextmanager
def without(name: str) -> Iterator[None]:
    """One of FAST out of reach, as where its library is not installed."""
    module, library = FAST[name]
    with patch.object(module, library, return_value=None):
        yield


if __name__ == "__main__":
    main()
