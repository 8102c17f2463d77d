"""timm's own repositories and house models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf

from moderate.errors import WeightsError
from moderate.weights.convert.folder import convert_folder, convert_state_dict, write_model
from moderate.weights.convert.timm_config import default_cfg, preprocess_of
from tests.support.convert_sources import LABELS, change_config, pictures, scores, spread


def timm_repo(folder: Path, architecture: str = "test_efficientnet", **arguments: Any) -> None:
    model = spread(timm.create_model(architecture, num_classes=3, **arguments))
    config = {"label_names": list(LABELS), "num_classes": 3}
    save_for_hf(model, folder, model_config=config, safe_serialization=True)


def stock(folder: Path, batch: np.ndarray) -> np.ndarray:
    """timm's own loading of the folder, with its own mean and std."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    shape = (1, 3, 1, 1)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(shape) for key in ("mean", "std"))
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return model((pixels - mean) / std).softmax(-1).numpy()


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_vit", "test_resnet"])
def test_a_repo_scores_as_timm_scores_it(tmp_path: Path, architecture: str) -> None:
    timm_repo(tmp_path / "source", architecture)
    converted = convert_folder(tmp_path / "source")
    assert (converted.architecture, converted.labels) == (architecture, LABELS)
    assert (converted.activation, converted.head) == ("softmax", None)
    batch = pictures(converted.preprocess.size)
    expected = stock(tmp_path / "source", batch)
    assert np.abs(scores(converted, tmp_path / "bundle", batch) - expected).max() <= 1e-6
    # And timm, unaided, reads what was written.
    assert np.abs(stock(tmp_path / "bundle", batch) - expected).max() <= 1e-6


def test_label_names_inside_pretrained_cfg(tmp_path: Path) -> None:
    timm_repo(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["label_names"] = config.pop("label_names", None) or list(LABELS)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert convert_folder(tmp_path).labels == LABELS


def test_a_fixed_size_goes_only_to_models_that_have_one(tmp_path: Path) -> None:
    timm_repo(tmp_path / "conv")
    config = json.loads((tmp_path / "conv" / "config.json").read_text())
    config["pretrained_cfg"].update(fixed_input_size=True, input_size=[3, 96, 96])
    (tmp_path / "conv" / "config.json").write_text(json.dumps(config))
    change_config(tmp_path / "conv", model_args=None)
    converted = convert_folder(tmp_path / "conv")
    assert (converted.model_args, converted.preprocess.size) == ({}, (96, 96))

    timm_repo(tmp_path / "vit", "test_vit", img_size=96)
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["pretrained_cfg"].update(fixed_input_size=True, input_size=[3, 96, 96])
    change_config(tmp_path / "vit", model_args=None, pretrained_cfg=config["pretrained_cfg"])
    converted = convert_folder(tmp_path / "vit")
    assert (converted.model_args, converted.preprocess.size) == ({"img_size": 96}, (96, 96))
    batch = pictures((96, 96))
    found = scores(converted, tmp_path / "bundle", batch)
    assert np.abs(found - stock(tmp_path / "vit", batch)).max() <= 1e-6


def test_arguments_of_the_source_are_kept(tmp_path: Path) -> None:
    timm_repo(tmp_path / "source", "test_vit", act_layer="relu", img_size=96)
    change_config(
        tmp_path / "source",
        model_args={"act_layer": "relu", "img_size": [96, 96], "num_classes": 3, "in_chans": 3},
    )
    converted = convert_folder(tmp_path / "source")
    assert converted.model_args["act_layer"] == "relu"
    assert converted.model_args["img_size"] == 96
    # timm says of this one that any size will do, and states another for pictures.
    batch = pictures(converted.preprocess.size)
    found = scores(converted, tmp_path / "bundle", batch)
    assert np.abs(found - stock(tmp_path / "source", batch)).max() <= 1e-6


@pytest.mark.parametrize(
    "key", ["checkpoint_path", "pretrained_cfg", "pretrained", "cache_dir", "num_classes", "a b"]
)
def test_arguments_that_reach_further_are_refused(tmp_path: Path, key: str) -> None:
    timm_repo(tmp_path)
    change_config(tmp_path, model_args={key: "x.pth"})
    with pytest.raises(WeightsError, match=f"model_args may not hold {key}"):
        convert_folder(tmp_path)


@pytest.mark.parametrize(
    "architecture",
    ["hf-hub:a/b", "local-dir:/tmp", "resnet18.hf-hub:a/b", "no_such_model", 7, "resnet18.no_tag"],
)
def test_only_timms_own_architectures(tmp_path: Path, architecture: object) -> None:
    timm_repo(tmp_path)
    change_config(tmp_path, architecture=architecture)
    with pytest.raises(WeightsError):
        convert_folder(tmp_path)


def test_arguments_that_timm_cannot_build(tmp_path: Path) -> None:
    timm_repo(tmp_path, "test_vit")
    for arguments in ({"depth": "x"}, {"patch_size": 0}, {"act_layer": "no_such"}):
        change_config(tmp_path, model_args=arguments)
        with pytest.raises(WeightsError, match="cannot build"):
            convert_folder(tmp_path)
    change_config(tmp_path, model_args={"nope": 1})
    with pytest.raises(WeightsError, match="may not hold nope"):
        convert_folder(tmp_path)


def test_arguments_that_would_take_for_ever(tmp_path: Path) -> None:
    timm_repo(tmp_path, "test_vit")
    change_config(tmp_path, model_args={"depth": 10**9})
    with pytest.raises(WeightsError, match=r"model_args\.depth is too large"):
        convert_folder(tmp_path)


def test_a_vast_model_costs_no_memory(tmp_path: Path) -> None:
    timm_repo(tmp_path)
    change_config(tmp_path, architecture="vit_7b_patch16_dinov3", model_args=None)
    with pytest.raises(WeightsError, match="does not fit vit_7b_patch16_dinov3"):
        convert_folder(tmp_path)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, {"size": (224, 224), "resize": "crop", "interpolation": "bicubic"}),
        ({"crop_pct": 0.9}, {"crop_pct": 0.9}),
        ({"crop_mode": "squash", "crop_pct": 1.0}, {"resize": "squash", "crop_pct": 1.0}),
        ({"input_size": [3, 64, 96], "interpolation": "bilinear"}, {"size": (64, 96)}),
        ({"mean": [0, 0, 0], "std": [1, 1, 1]}, {"mean": (0, 0, 0), "std": (1, 1, 1)}),
    ],
)
def test_pretrained_cfg(stated: dict[str, Any], expected: dict[str, Any]) -> None:
    found = preprocess_of(stated, "x").model_dump()
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"crop_mode": "border"}, "'border' cannot be expressed"),
        ({"crop_mode": ["center"]}, "cannot be expressed"),
        ({"interpolation": "random"}, "interpolation"),
        ({"input_size": [1, 28, 28]}, "not 3 x H x W"),
        ({"input_size": [3, 1e9, 8]}, "size"),
        ({"mean": [0.5]}, "mean must be three numbers"),
        ({"std": [0.5, 0.5, 0]}, "std must be above 0"),
        ({"crop_pct": 1.5}, "crop_pct"),
    ],
)
def test_pretrained_cfg_that_is_refused(stated: dict[str, Any], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        preprocess_of(stated, "x")


def test_defaults_of_the_catalogues_architectures() -> None:
    freepik = preprocess_of(default_cfg("eva02_base_patch14_448", "x"), "x")
    assert (freepik.size, freepik.resize) == ((448, 448), "squash")
    assert freepik.interpolation == "bicubic"
    assert freepik.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_a_repo_without_preprocessing_is_refused(tmp_path: Path) -> None:
    timm_repo(tmp_path)
    change_config(tmp_path, pretrained_cfg=None)
    with pytest.raises(WeightsError, match="no pretrained_cfg"):
        convert_folder(tmp_path)


def test_a_house_model(tmp_path: Path) -> None:
    model = spread(timm.create_model("test_vit", num_classes=3))
    save_file(model.state_dict(), tmp_path / "house.safetensors")
    converted = convert_state_dict(
        tmp_path / "house.safetensors", "test_vit", LABELS, activation="sigmoid"
    )
    assert (converted.labels, converted.activation) == (LABELS, "sigmoid")
    batch = pictures(converted.preprocess.size)
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    cfg = timm.models.get_pretrained_cfg("test_vit")
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (cfg.mean, cfg.std))
    with torch.inference_mode():
        expected = model((pixels - mean) / std).sigmoid().numpy()
    assert np.abs(scores(converted, tmp_path / "bundle", batch) - expected).max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "architecture", "labels", "words"),
    [
        ("house.safetensors", "test_vit", ("a", "b"), r"head.weight has shape \(3, 64\), not"),
        ("house.safetensors", "test_resnet", LABELS, "has no use"),
        ("house.safetensors", "hf-hub:a/b", LABELS, "names no timm architecture"),
        ("house.safetensors", "test_vit", ("a", "b", "b"), "same name"),
        ("house.safetensors", "test_vit", ("a", "b", "LABEL\n"), "no name for a label"),
        ("house.safetensors", "test_vit", (), "0 is no number of classes"),
        ("house.pth", "test_vit", LABELS, "pickle"),
        ("none.safetensors", "test_vit", LABELS, "no such file"),
    ],
)
def test_a_house_model_that_is_refused(
    tmp_path: Path, name: str, architecture: str, labels: tuple[str, ...], words: str
) -> None:
    model = timm.create_model("test_vit", num_classes=3)
    save_file(model.state_dict(), tmp_path / "house.safetensors")
    (tmp_path / "house.pth").write_bytes(b"\x80\x02.")
    with pytest.raises(WeightsError, match=words):
        convert_state_dict(tmp_path / name, architecture, labels)


def test_counters_of_training_may_be_missing(tmp_path: Path) -> None:
    timm_repo(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    kept = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert len(kept) < len(tensors)
    save_file(kept, file)
    converted = convert_folder(tmp_path)
    assert set(converted.tensors) == set(tensors)
    write_model(converted, tmp_path / "bundle")
    assert set(load_file(tmp_path / "bundle" / "model.safetensors")) == set(tensors)
