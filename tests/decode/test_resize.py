"""Resizing gives what timm's own evaluation transform gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from moderate.decode import resize as module
from moderate.decode.resize import PixelSpec, draft_size, resize
from tests.support.pictures import scene

SIZES = [(640, 480), (480, 640), (333, 517), (64, 64), (50, 40), (1000, 70)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.875])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_timms_transform(
    size: tuple[int, int], mode: str, crop_pct: float, interpolation: str
) -> None:
    picture = scene(size)
    transform = create_transform(
        (3, 96, 96),
        is_training=False,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode="center" if mode == "crop" else "squash",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    expected = (transform(picture) * 255).round().permute(1, 2, 0).numpy()
    spec = PixelSpec(96, 96, mode, crop_pct, interpolation)
    # One intermediate rounding fewer: at most a step or two of 255 apart.
    assert np.abs(resize(picture, spec).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_without_antialias_equals_torch(size: tuple[int, int], align_corners: bool) -> None:
    picture = scene(size)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        tensor, (96, 96), mode="bilinear", align_corners=align_corners, antialias=False
    )
    spec = PixelSpec(96, 96, antialias=False, align_corners=align_corners)
    got = resize(picture, spec)
    assert got.dtype == np.float32
    assert np.abs(got - expected[0].permute(1, 2, 0).numpy()).max() < 2e-3


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 900), (900, 1), (40, 2000), (2000, 1500), (1500, 2000)])
def test_without_antialias_a_large_image_is_never_made_an_array(
    size: tuple[int, int], align_corners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = scene(size)
    spec = PixelSpec(96, 96, antialias=False, align_corners=align_corners)
    boxes = [None, (size[0] * 0.1, size[1] * 0.2, size[0] * 0.7, size[1] * 0.9)]
    for box in boxes:
        # With all rows in one array, the same to the bit.
        monkeypatch.setattr(module, "_FEW_ROWS", 10_000)
        expected = resize(picture, spec, box=box)
        monkeypatch.undo()
        arrays: list[int] = []
        asarray = np.asarray

        def noted(image: Any, asarray: Any = asarray, arrays: list[int] = arrays) -> Any:
            arrays.append(image.height)
            return asarray(image)

        monkeypatch.setattr(module.np, "asarray", noted)
        got = resize(picture, spec, box=box)
        monkeypatch.undo()
        assert (got == expected).all()
        assert max(arrays) < 4 * 96


def test_a_crop_of_a_ribbon_is_made_without_the_whole_ribbon() -> None:
    # Resizing the short side of 60000 x 20 to 96 would first make 288,000 x 96 pixels.
    got = resize(scene((60_000, 20)), PixelSpec(96, 96, "crop"))
    assert got.shape == (96, 96, 3)


def test_draft_size_keeps_several_times_what_the_model_sees() -> None:
    assert draft_size((PixelSpec(100, 100),), (3000, 2500)) == (600, 500)
    assert draft_size((PixelSpec(100, 100),), (12000, 10000)) == (600, 500)
    assert draft_size((PixelSpec(100, 100),), (600, 490)) is None
    # Photographs of 12 megapixels are decoded at half for what most models of 224 pixels see.
    crop = PixelSpec(224, 224, "crop", 0.875, "bicubic")
    for size in [(4032, 3024), (4000, 3000)]:
        assert 2 * max(draft_size((crop,), size) or (9999,)) <= max(size)
    assert draft_size((PixelSpec(100, 100, antialias=False),), (4000, 3000)) is None
    assert draft_size((PixelSpec(100, 100, exact=True),), (4000, 3000)) is None
    two = (PixelSpec(100, 100), PixelSpec(200, 200))
    assert draft_size(two, (4000, 3000)) == draft_size((two[1],), (4000, 3000))


@pytest.mark.parametrize("size", [(1999, 1501), (1235, 2477), (3001, 1003)])
@pytest.mark.parametrize("spec", [PixelSpec(96, 96, "crop", 0.9), PixelSpec(90, 120)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_reduced_picture_is_cut_where_the_full_one_is(
    size: tuple[int, int], spec: PixelSpec, scale: int
) -> None:
    # A ramp: where a cut is off by a pixel, every value is.
    ramp = np.linspace(0, 255, size[0], dtype=np.float32)[None].repeat(size[1], 0)
    full = Image.fromarray(ramp.round().astype(np.uint8)).convert("RGB")
    # Rounded up, as libjpeg does it: the last column stands for fewer pixels.
    reduced = full.reduce(scale)
    assert reduced.size == tuple(-(-side // scale) for side in size)
    expected = resize(full, spec).astype(int)
    assert np.abs(resize(reduced, spec, size).astype(int) - expected).max() <= 1
