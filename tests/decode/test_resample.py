"""Resizing by SIMD gives Pillow's pixels, but for rounding."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from moderate.decode import resample as module
from moderate.decode import version
from moderate.decode.resample import Box, Interpolation, resample
from moderate.decode.resize import PixelSpec, resize
from moderate.decode.version import resampler
from moderate.native import child_environment
from tests.support.pictures import scene

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
FILTERED = ("bilinear", "bicubic", "lanczos")
LEVELS = 2
"""Levels of 255 that filtered pixels may be apart, one for each rounding; others are Pillow's."""

SIZES = [(1, 1), (1, 97), (97, 1), (2, 31), (64, 64), (333, 517), (517, 333), (225, 400)]
SIZES += [(500, 96), (96, 500), (3, 20_000), (20_000, 3)]
TARGETS = [(1, 1), (8, 8), (96, 33), (33, 96), (224, 224)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    module._one_pass.cache_clear()
    yield
    module._one_pass.cache_clear()


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """The hardest of images: no pixel is like its neighbours, and filters overshoot."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def by_pillow(
    image: Image.Image, size: tuple[int, int], interpolation: str, box: Box
) -> np.ndarray:
    return np.asarray(image.resize(size, Image.Resampling[interpolation.upper()], box=box))


def boxes(size: tuple[int, int]) -> list[Box]:
    width, height = size
    return [
        (0, 0, width, height),
        (width * 0.1, height * 0.3, width * 0.8, height * 0.7),
        (width / 3, height / 7, width, height),  # thirds do not add up to the width
        (width * 0.4, 0, width * 0.45, height),
    ]


def test_a_development_installation_has_it() -> None:
    # So that none of these tests compares Pillow with itself.
    assert platform.machine() != "x86_64" or resampler() == "simd"
    if platform.machine() == "x86_64":
        image, box = noise((640, 480)), (0.0, 0.0, 640.0, 480.0)
        ours = np.asarray(resample(image, (224, 224), "bilinear", box))
        assert (ours != by_pillow(image, (224, 224), "bilinear", box)).any()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_are_those_of_pillow(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    image = noise(size)
    for box in boxes(size):
        for target in TARGETS:
            ours = resample(image, target, interpolation, box)
            assert (ours.mode, ours.size) == ("RGB", target)
            apart = np.abs(
                np.asarray(ours).astype(int) - by_pillow(image, target, interpolation, box)
            )
            assert apart.max() <= (LEVELS if interpolation in FILTERED else 0), (box, target)


@pytest.mark.parametrize("interpolation", FILTERED)
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1600, 1200), (700, 3000)])
def test_few_pixels_of_a_photograph_differ(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    image = Image.blend(scene(size), noise(size), 0.2)
    whole = (0, 0, *size)
    ours = np.asarray(resample(image, (224, 224), interpolation, whole)).astype(int)
    apart = np.abs(ours - by_pillow(image, (224, 224), interpolation, whole))
    # Filtered in the other order, more than a tenth of them would.
    assert apart.max() <= 1
    assert apart.mean() < 0.01


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_are_left_to_pillow(mode: str) -> None:
    image = scene().convert(mode)
    box = (10.5, 20.0, 300.0, 200.5)
    ours = np.asarray(resample(image, (96, 64), "bilinear", box))
    assert (ours == by_pillow(image, (96, 64), "bilinear", box)).all()


def test_an_unknown_pillow_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library would read and write wherever that version keeps something else.
    monkeypatch.setattr(version, "PILLOW", 99)
    assert resampler() == "pillow"
    ours = resize(noise((640, 480)), PixelSpec(224, 224))
    assert (ours == by_pillow(noise((640, 480)), (224, 224), "bilinear", (0, 0, 640, 480))).all()


def test_without_the_library_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "_LIBRARY", "no_such_module")
    assert resampler() == "pillow"
    ours = resize(noise((640, 480)), PixelSpec(224, 224, interpolation="bicubic"))
    assert (ours == by_pillow(noise((640, 480)), (224, 224), "bicubic", (0, 0, 640, 480))).all()


def test_it_starts_no_thread() -> None:
    # Another thread would keep Landlock from holding, and take a core of another decoder.
    code = """
import os
from PIL import Image
from moderate.decode.image import prepare
from moderate.decode.resample import resample
prepare()
before = len(os.listdir("/proc/self/task"))
resample(Image.new("RGB", (4000, 3000)), (224, 224), "lanczos", (0, 0, 4000, 3000))
print(len(os.listdir("/proc/self/task")) - before)
"""
    environment = {**child_environment(), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "0", done.stderr
