"""Conversions against transformers itself: the same scores, on models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from moderate.errors import WeightsError
from moderate.weights.convert.folder import convert_folder, write_model
from moderate.weights.convert.transformer import Shape, name_architecture
from tests.support.convert_sources import (
    LABELS,
    NAMES,
    change_config,
    pictures,
    reference,
    scores,
    spread,
    vit_repo,
    write_processor,
)

NEAR = 1e-5
HALF = [0.5, 0.5, 0.5]


def difference(found: np.ndarray, expected: torch.Tensor) -> float:
    # Scores must lie apart, or agreement means nothing.
    assert expected.std(0).max() > 1e-3
    apart = float(np.abs(found - expected.numpy()).max())
    print(f"largest difference of a probability: {apart:.1e}")  # seen with pytest -rP
    return apart


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"qkv_bias": False, "hidden_act": "gelu_new"},
        {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-3},
        {"intermediate_size": 131, "hidden_size": 60},
        {
            "hidden_size": 192,
            "num_hidden_layers": 12,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "image_size": 224,
            "patch_size": 16,
        },
    ],
)
def test_vit(tmp_path: Path, sizes: dict[str, Any]) -> None:
    model = vit_repo(tmp_path / "source", **sizes)
    converted = convert_folder(tmp_path / "source")
    assert (converted.labels, converted.activation) == (LABELS, "softmax")
    batch = pictures(converted.preprocess.size)
    found = scores(converted, tmp_path / "bundle", batch, "torch" if sizes else "openvino")
    apart = difference(found, reference(model, batch, HALF, HALF).softmax(-1))
    assert apart <= NEAR
    if sizes.get("hidden_size") == 192:
        assert converted.architecture == "vit_tiny_patch16_224"
        assert converted.model_args == {"layer_norm_eps": 1e-12}


def test_vit_epsilon_matters(tmp_path: Path) -> None:
    """Without its epsilon the same checkpoint would score otherwise: the argument is needed."""
    model = vit_repo(tmp_path / "source", layer_norm_eps=1e-2)
    converted = convert_folder(tmp_path / "source")
    del converted.model_args["layer_norm_eps"]
    batch = pictures((32, 32))
    found = scores(converted, tmp_path / "bundle", batch)
    assert difference(found, reference(model, batch, HALF, HALF).softmax(-1)) > NEAR


def test_vit_of_many_labels_is_sigmoid(tmp_path: Path) -> None:
    model = vit_repo(tmp_path / "source", problem_type="multi_label_classification")
    converted = convert_folder(tmp_path / "source")
    assert converted.activation == "sigmoid"
    batch = pictures((32, 32))
    found = scores(converted, tmp_path / "bundle", batch)
    apart = difference(found, reference(model, batch, HALF, HALF).sigmoid())
    assert apart <= NEAR


def test_vit_with_timm_names(tmp_path: Path) -> None:
    vit_repo(
        tmp_path,
        hidden_size=192,
        num_hidden_layers=12,
        intermediate_size=768,
        image_size=224,
        patch_size=16,
    )
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    converted = convert_folder(tmp_path)
    assert converted.architecture == "vit_tiny_patch16_224"
    assert converted.model_args == {}
    batch = pictures((224, 224), 2)
    found = scores(converted, tmp_path / "bundle", batch)
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = model((pixels - 0.5) / 0.5).softmax(-1).numpy()
    assert np.abs(found - expected).max() <= 1e-6


def test_vit_pooler_is_left_out(tmp_path: Path) -> None:
    vit_repo(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["vit.pooler.dense.weight"] = torch.zeros(48, 48)
    tensors["vit.pooler.dense.bias"] = torch.zeros(48)
    save_file(tensors, tmp_path / "model.safetensors")
    assert not any("pooler" in name for name in convert_folder(tmp_path).tensors)


def test_vit_in_half_precision(tmp_path: Path) -> None:
    vit_repo(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file)
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "source")
    model = model.float().eval()
    batch = pictures((32, 32))
    found = scores(convert_folder(tmp_path / "source"), tmp_path / "bundle", batch)
    assert difference(found, reference(model, batch, HALF, HALF).softmax(-1)) <= NEAR


def siglip_repo(folder: Path, **sizes: Any) -> torch.nn.Module:
    vision = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 100,
        "image_size": 32,
        "patch_size": 8,
        **sizes,
    }
    config = transformers.SiglipConfig(vision_config=vision, **NAMES)
    model = spread(transformers.SiglipForImageClassification(config))
    model.save_pretrained(folder)
    write_processor(folder, "SiglipImageProcessor", vision["image_size"])
    return model


@pytest.mark.parametrize("sizes", [{}, {"layer_norm_eps": 1e-4, "hidden_act": "gelu"}])
@pytest.mark.parametrize("kind", ["siglip", "siglip_vision_model"])
def test_siglip(tmp_path: Path, sizes: dict[str, Any], kind: str) -> None:
    model = siglip_repo(tmp_path / "source", **sizes)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    if kind == "siglip_vision_model":
        change_config(
            tmp_path / "source",
            **{**config["vision_config"], "model_type": kind},
            vision_config=None,
            text_config=None,
        )
    converted = convert_folder(tmp_path / "source")
    assert converted.labels == LABELS
    batch = pictures((32, 32))
    found = scores(converted, tmp_path / "bundle", batch)
    apart = difference(found, reference(model, batch, HALF, HALF).softmax(-1))
    assert apart <= NEAR


@pytest.mark.slow  # 93 million weights; its short form are the small ones above
def test_siglip_of_real_size(tmp_path: Path) -> None:
    """The catalogue's own: vit_base_patch16_siglip_gap_256."""
    model = siglip_repo(
        tmp_path / "source",
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        image_size=256,
        patch_size=16,
    )
    converted = convert_folder(tmp_path / "source")
    assert converted.architecture == "vit_base_patch16_siglip_gap_256"
    batch = pictures((256, 256), 2)
    found = scores(converted, tmp_path / "bundle", batch)
    apart = difference(found, reference(model, batch, HALF, HALF).softmax(-1))
    assert apart <= NEAR


def efficientnet_repo(folder: Path, width: float, depth: float, **more: Any) -> torch.nn.Module:
    config = transformers.EfficientNetConfig(
        width_coefficient=width,
        depth_coefficient=depth,
        hidden_dim={1.0: 1280, 1.4: 1792}[width],
        **NAMES,
        **more,
    )
    model = spread(transformers.EfficientNetForImageClassification(config))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("width", "depth", "side", "square", "architecture"),
    [
        (1.0, 1.0, 224, [], "tf_efficientnet_b0"),
        pytest.param(1.4, 1.8, 380, [6], "tf_efficientnet_b4", marks=pytest.mark.slow),
    ],
)
def test_efficientnet(
    tmp_path: Path,
    width: float,
    depth: float,
    side: int,
    square: list[int],
    architecture: str,
) -> None:
    model = efficientnet_repo(tmp_path / "source", width, depth, depthwise_padding=square)
    mean, std = [0.485, 0.456, 0.406], [0.478, 0.473, 0.474]
    write_processor(
        tmp_path / "source",
        "EfficientNetImageProcessor",
        side,
        image_mean=mean,
        image_std=std,
        include_top=True,
    )
    converted = convert_folder(tmp_path / "source")
    assert (converted.architecture, converted.model_args) == (architecture, {})
    batch = pictures((side, side), 2)
    found = scores(converted, tmp_path / "bundle", batch)
    apart = difference(found, reference(model, batch, mean, np.square(std)).softmax(-1))
    assert apart <= NEAR


def test_efficientnet_at_a_size_that_pads_otherwise(tmp_path: Path) -> None:
    efficientnet_repo(tmp_path, 1.0, 1.0)
    write_processor(tmp_path, "ViTImageProcessor", 240)  # 240, 120, 60, 30, 15: odd
    with pytest.raises(WeightsError, match="240 pixels transformers pads"):
        convert_folder(tmp_path)


def test_efficientnet_of_another_shape(tmp_path: Path) -> None:
    efficientnet_repo(tmp_path, 1.0, 1.0)
    write_processor(tmp_path, "ViTImageProcessor", 224)
    change_config(tmp_path, kernel_sizes=[3] * 7)
    with pytest.raises(WeightsError, match="kernel_sizes is not that of an EfficientNet"):
        convert_folder(tmp_path)
    change_config(tmp_path, kernel_sizes=None, width_coefficient=1.05)
    with pytest.raises(WeightsError, match=r"coefficients of width and depth: \(1.05, 1.0\)"):
        convert_folder(tmp_path)


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet", "test_resnet"])
def test_timm_wrapper(tmp_path: Path, architecture: str) -> None:
    config = transformers.TimmWrapperConfig(architecture=architecture, **NAMES)
    model = spread(transformers.TimmWrapperForImageClassification(config))
    model.save_pretrained(tmp_path / "source")
    converted = convert_folder(tmp_path / "source")
    assert (converted.architecture, converted.labels) == (architecture, LABELS)
    default = timm.models.get_pretrained_cfg(architecture)
    assert converted.preprocess.size == default.input_size[1:]
    batch = pictures(converted.preprocess.size)
    found = scores(converted, tmp_path / "bundle", batch)
    apart = difference(found, reference(model, batch, default.mean, default.std).softmax(-1))
    assert apart <= NEAR


def test_stock_timm_loads_what_is_written(tmp_path: Path) -> None:
    model = vit_repo(tmp_path / "source")
    write_model(convert_folder(tmp_path / "source"), tmp_path / "bundle")
    stock = timm.create_model(f"local-dir:{tmp_path / 'bundle'}", pretrained=True).eval()
    batch = pictures((32, 32))
    expected = reference(model, batch, HALF, HALF).softmax(-1)
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        found = stock((pixels - 0.5) / 0.5).softmax(-1)
    assert (found - expected).abs().max() < 1e-4  # its epsilon is its own


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Shape(768, 12, 12, 3072, 16, 224), ("vit_base_patch16_224", {})),
        (Shape(768, 12, 12, 3072, 16, 384), ("vit_base_patch16_384", {})),
        (Shape(768, 12, 12, 3072, 16, 448), ("vit_base_patch16_224", {"img_size": 448})),
        (Shape(1024, 24, 16, 4096, 32, 384), ("vit_large_patch32_384", {})),
        (Shape(192, 12, 3, 768, 16, 384), ("vit_tiny_patch16_384", {})),
        (Shape(1280, 32, 16, 5120, 14, 224), ("vit_huge_patch14_224", {})),
    ],
)
def test_names_of_architectures(shape: Shape, expected: tuple[str, dict[str, int]]) -> None:
    from moderate.weights.convert.vit import _FAMILIES

    assert name_architecture(shape, _FAMILIES, "", "vit_base_patch16_224") == expected
