"""Files of strangers: what is refused, and with which words. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from moderate.classify.files import read_json
from moderate.errors import WeightsError
from moderate.weights.convert.folder import CONVERTERS, convert_folder
from moderate.weights.convert.interface import Converter
from tests.support.convert_sources import LABELS, change_config, write_processor


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A good timm repository."""
    model = timm.create_model("test_efficientnet", num_classes=3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_efficientnet",
        "num_classes": 3,
        "label_names": list(LABELS),
        "pretrained_cfg": {"input_size": [3, 96, 96]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def refused(folder: Path, words: str, **options: Any) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        convert_folder(folder, **options)
    assert "\n" not in str(caught.value)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_the_good_one(repo: Path) -> None:
    assert convert_folder(repo).labels == LABELS
    assert all(isinstance(converter, Converter) for converter in CONVERTERS)
    assert sum(converter.recognises(repo) for converter in CONVERTERS) == 1


def test_tensors_that_do_not_fit(repo: Path) -> None:
    good = load_file(repo / "model.safetensors")

    def after(change: Callable[[dict[str, torch.Tensor]], object], words: str) -> None:
        save_file(good, repo / "model.safetensors")
        edit(repo, change)
        refused(repo, words)

    name = "classifier.weight"
    after(lambda t: t.pop(name), "tensor classifier.weight is missing")
    after(lambda t: t.update(extra=torch.zeros(1)), "tensor extra has no use")
    after(lambda t: t.update({name: torch.zeros(2, 2)}), r"shape \(2, 2\), not")
    after(lambda t: t.update({name: t[name].to(torch.int8)}), "has type torch.int8")
    after(lambda t: t[name].fill_(float("nan")), "classifier.weight holds NaN or infinity")
    after(lambda t: t[name].fill_(float("-inf")), "classifier.weight holds NaN or infinity")


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "m.pt", "m.pth", "m.ckpt", "tf_model.h5", "m.pkl", "flax_model.msgpack"],
)
def test_pickles_are_refused_with_the_reason(repo: Path, name: str) -> None:
    (repo / "model.safetensors").rename(repo / name)
    refused(repo, rf"{name} is not read, .*can run code.*safetensors")
    # Beside safetensors it does no harm, as nothing reads it.
    (repo / name).rename(repo / "model.safetensors")
    (repo / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    convert_folder(repo)


def test_no_weights_and_no_form(repo: Path, tmp_path: Path) -> None:
    (repo / "model.safetensors").unlink()
    refused(repo, "no model.safetensors")
    (repo / "config.json").unlink()
    refused(repo, "neither config.json")
    refused(repo / "nowhere", "no such folder")
    (repo / "config.json").write_text('{"model_type": "bert"}')
    refused(repo, "type 'bert' cannot be converted")
    (repo / "config.json").unlink()
    os.mkfifo(repo / "config.json")
    refused(repo, "neither config.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' stands twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    ],
)
def test_configs_that_are_no_json(repo: Path, text: bytes, words: str) -> None:
    (repo / "config.json").write_bytes(text)
    refused(repo, words)


def test_a_config_of_gigabytes_is_not_read(repo: Path) -> None:
    with (repo / "config.json").open("wb") as file:
        file.truncate(8 * 1024**3)  # sparse
    refused(repo, "config.json: larger than 32 MiB")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04cos\nsystem\n.",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        # A tensor of a terabyte in a file of a hundred bytes.
        (lambda h: struct.pack("<Q", len(h)) + h)(
            b'{"a":{"dtype":"F32","shape":[500000,500000],"data_offsets":[0,1000000000000]}}'
        ),
    ],
)
def test_files_that_are_no_safetensors(repo: Path, data: bytes) -> None:
    (repo / "model.safetensors").write_bytes(data)
    refused(repo, "no valid safetensors file|holds no tensors")


def shards(repo: Path) -> dict[str, Any]:
    tensors = load_file(repo / "model.safetensors")
    (repo / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, repo / file)
    return {name: file for file, held in files.items() for name in held}


def write_index(repo: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (repo / "model.safetensors.index.json").write_text(text)


def test_shards(repo: Path) -> None:
    whole = load_file(repo / "model.safetensors")
    weight_map = shards(repo)
    write_index(repo, weight_map)
    found = convert_folder(repo).tensors
    assert set(found) == set(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)

    name = sorted(weight_map)[0]
    write_index(repo, {**weight_map, name: "b.safetensors"})
    refused(repo, "unlisted")
    write_index(repo, {**weight_map, "more": "b.safetensors"})
    refused(repo, "tensor more is not in b.safetensors")
    write_index(repo, {k: v for k, v in weight_map.items() if k != name})
    refused(repo, "unlisted")
    write_index(repo, {})
    refused(repo, "no weight_map")


@pytest.mark.parametrize(
    "path", ["../a.safetensors", "/etc/passwd", "x/a.safetensors", "..", "", "a\0", 7, ["a"], None]
)
def test_no_shard_lies_outside(repo: Path, path: object) -> None:
    weight_map = shards(repo)
    write_index(repo, {**weight_map, "more": path})
    refused(repo, "is not the name of a file beside")


def test_labels(repo: Path) -> None:
    assert convert_folder(repo, labels=LABELS).labels == LABELS
    refused(repo, "names its own labels, which are normal, hentai", labels=("a", "b", "c"))
    change_config(repo, label_names=None)
    refused(repo, "names no labels; it has 3 classes")
    assert convert_folder(repo, labels=["a", "b", "c"]).labels == ("a", "b", "c")
    refused(repo, "2 label names for 3 classes", labels=["a", "b"])
    change_config(repo, label_names=["LABEL_0", "LABEL_1", "LABEL_2"])
    refused(repo, "its labels only LABEL_0, LABEL_1, LABEL_2; it has 3 classes")
    assert convert_folder(repo, labels=["a", "b", "c"]).labels == ("a", "b", "c")
    for wrong in ("abc", [1, 2, 3], {"0": "a", "2": "b"}, {"a": "b"}):
        change_config(repo, label_names=wrong)
        refused(repo, "label names must be|has no entry")
    change_config(repo, label_names=["a", "a", "b"])
    refused(repo, "two labels have the same name")
    change_config(repo, label_names=["a", "b", "c\u202e"])
    refused(repo, "no name for a label")
    for wrong in (0, -1, "3", True, 10**9, 3.0):
        change_config(repo, label_names=list(LABELS), num_classes=wrong)
        refused(repo, "is no number of classes|cannot build|label names")


def vit_config(folder: Path, **changes: Any) -> None:
    config = {"model_type": "vit", "id2label": {"0": "a", "1": "b"}, **changes}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": [224, 384]}, "image_size"),
        ({"hidden_size": "768"}, "hidden_size"),
        ({"num_hidden_layers": 10**6}, "no vision transformer"),
        ({"num_attention_heads": 7}, "no vision transformer"),
        ({"num_channels": 1}, "3 channels"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
        ({"qkv_bias": 1}, "qkv_bias"),
        ({"image_size": 384}, "384 x 384 pixels, but its preprocessing gives 224 x 224"),
        ({}, "tensor vit.embeddings.cls_token is missing"),
    ],
)
def test_vit_configs(repo: Path, changes: dict[str, Any], words: str) -> None:
    vit_config(repo, **changes)
    write_processor(repo, "ViTImageProcessor", 224)
    refused(repo, words)


def test_a_problem_without_scores(repo: Path) -> None:
    change_config(repo, model_type="timm_wrapper", problem_type="regression")
    refused(repo, "problem_type 'regression' gives no scores")
    change_config(repo, problem_type="multi_label_classification")
    assert convert_folder(repo).activation == "sigmoid"
    edit(repo, lambda t: [t.update({f"timm_model.{k}": t.pop(k)}) for k in list(t)])
    assert convert_folder(repo).activation == "sigmoid"
    edit(repo, lambda t: t.update(other=torch.zeros(1)))
    refused(repo, "tensor other has no use")


def test_numbers_that_overflow_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1e999}')
    assert read_json(tmp_path / "x.json")["a"] == float("inf")  # so every use checks its range
    (tmp_path / "config.json").write_text(
        '{"architecture": "test_vit", "num_classes": 2, "label_names": ["a", "b"],'
        ' "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [1e999, 0, 0]}}'
    )
    refused(tmp_path, "mean")
