"""What image processors do, said as a bundle says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from moderate.errors import WeightsError
from moderate.weights.convert.processor import read_processor
from tests.support.convert_sources import pictures, write_processor


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ViTImageProcessor", {}),
        ("ViTImageProcessor", {"do_normalize": False}),
        ("ViTImageProcessor", {"do_rescale": False, "image_mean": [127.5] * 3}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
        ("SiglipImageProcessor", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
        ("CLIPImageProcessor", {"size": 32, "crop_size": 32}),
        ("EfficientNetImageProcessor", {"include_top": True}),
        ("EfficientNetImageProcessor", {"include_top": False}),
        ("EfficientNetImageProcessor", {}),
        ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("EfficientNetImageProcessor", {"do_normalize": False, "include_top": True}),
    ],
)
def test_normalisation_is_that_of_transformers(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    write_processor(tmp_path, kind, 32, **changes)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path)
    picture = pictures((32, 32), 1)[0]  # of the right size already: resizing changes nothing
    expected = np.asarray(theirs(picture, return_tensors="np")["pixel_values"])[0]
    ours = read_processor(tmp_path)
    values = (picture / 255 - np.array(ours.mean)) / np.array(ours.std)
    assert np.abs(values.transpose(2, 0, 1) - expected).max() <= 1e-5 * max(1, expected.max())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"size": (224, 224), "resize": "squash", "crop_pct": 1.0, "mean": (0.5, 0.5, 0.5)}),
        ({"size": 384}, {"size": (384, 384), "resize": "squash"}),
        ({"size": {"height": 64, "width": 96}}, {"size": (64, 96)}),
        ({"resample": 0}, {"interpolation": "nearest"}),
        ({"resample": 1}, {"interpolation": "lanczos"}),
        ({"resample": 2}, {"interpolation": "bilinear", "antialias": True}),
        ({"resample": 3}, {"interpolation": "bicubic"}),
        ({"resample": None, "image_mean": None}, {"interpolation": "bilinear"}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            {"size": (224, 224), "resize": "crop", "crop_pct": 0.875},
        ),
        ({"image_processor_type": "ViTImageProcessorFast"}, {"resize": "squash"}),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": None, "resample": None},
            {"size": (224, 224), "resize": "crop", "crop_pct": 1.0, "interpolation": "bicubic"},
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": 256, "crop_size": 224},
            {"size": (224, 224), "resize": "crop", "crop_pct": 0.875},
        ),
        (
            {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"},
            {"resize": "squash"},
        ),
    ],
)
def test_geometry(tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    write_processor(tmp_path, "ViTImageProcessor", 224, **changes)
    found = read_processor(tmp_path).model_dump()
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_processor_type": "BlipImageProcessor"}, "'BlipImageProcessor' is not known"),
        ({"do_resize": False}, "do_resize = false"),
        ({"do_pad": True}, "do_pad"),
        ({"resample": 9}, "resample 9 is not known"),
        ({"resample": "bilinear"}, "resample 'bilinear' is not known"),
        ({"do_center_crop": True, "crop_size": 200}, "cannot be expressed"),
        ({"size": {"shortest_edge": 224}}, "is not supported"),
        ({"size": {"longest_edge": 224}}, "is not supported"),
        ({"size": 10**9}, "is not supported"),
        ({"size": 5000}, "size"),
        ({"do_normalize": "yes"}, "do_normalize must be true or false"),
        ({"image_mean": 0.5}, "image_mean must be three numbers"),
        ({"image_std": [0.5, 0.5, "x"]}, "image_std"),
        ({"image_std": [0, 0.5, 0.5]}, "std must be above 0"),
        ({"rescale_factor": 0}, "rescale_factor must be above 0"),
    ],
)
def test_what_cannot_be_expressed(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write_processor(tmp_path, "ViTImageProcessor", 224, **changes)
    with pytest.raises(WeightsError, match=words):
        read_processor(tmp_path)


def test_no_processor(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"preprocessor_config.json: no such file"):
        read_processor(tmp_path)
