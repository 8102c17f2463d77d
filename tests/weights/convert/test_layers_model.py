"""TensorFlow.js layers models: what is refused. That scores are right, test_nsfwjs.py proves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.errors import WeightsError
from moderate.weights.convert.folder import convert_folder
from tests.support.nsfwjs import CHECKPOINT, LABELS

pytestmark = pytest.mark.skipif(
    not CHECKPOINT.is_dir(), reason=f"THE REAL CHECKPOINT IS MISSING: no {CHECKPOINT}"
)

SHARD = "group1-shard1of1"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name in ("model.json", SHARD):
        shutil.copyfile(CHECKPOINT / name, tmp_path / name)
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    model = json.loads((CHECKPOINT / "model.json").read_text())
    edit(model)
    (folder / "model.json").write_text(json.dumps(model))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        convert_folder(folder, labels=LABELS)
    assert "\n" not in str(caught.value)


def layers(model: dict[str, Any]) -> list[dict[str, Any]]:
    return model["modelTopology"]["model_config"]["config"]["layers"]


def layer(model: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry["config"] for entry in layers(model) if entry["config"]["name"] == name)


def weights(model: dict[str, Any]) -> list[dict[str, Any]]:
    return model["weightsManifest"][0]["weights"]


def test_nsfwjs_is_known_by_its_digest(model: Path) -> None:
    converted = convert_folder(model)
    assert (converted.labels, converted.architecture) == (LABELS, "mobilenetv2_100")
    assert converted.head is not None
    assert converted.head.hidden == (256, 128)
    assert converted.preprocess.align_corners
    assert not converted.preprocess.antialias
    assert convert_folder(model, labels=tuple("abcde")).labels == tuple("abcde")
    change(model, lambda m: m.update(format="layers-model"))
    with pytest.raises(WeightsError, match="names no labels; it has 5 classes"):
        convert_folder(model)
    assert convert_folder(model, labels=LABELS).labels == LABELS


def test_several_shards_are_one(model: Path) -> None:
    whole = convert_folder(model).tensors
    data = (model / SHARD).read_bytes()
    (model / "a").write_bytes(data[:1001])
    (model / "b").write_bytes(data[1001:])
    change(model, lambda m: m["weightsManifest"][0].update(paths=["a", "b"]))
    found = convert_folder(model, labels=LABELS).tensors
    assert all((found[name] == whole[name]).all() for name in whole)


@pytest.mark.parametrize("last", ["softmax", "sigmoid"])
def test_one_dense_layer_is_timms_own_head(model: Path, last: str) -> None:
    def edit(m: dict[str, Any]) -> None:
        kept = [e for e in layers(m) if e["config"]["name"] not in ("dense_1", "dense_2")]
        m["modelTopology"]["model_config"]["config"]["layers"] = kept
        layer(m, "dense_3")["activation"] = last
        entries = [
            e for e in weights(m) if not e["name"].startswith(("dense_1", "dense_2", "dense_3/k"))
        ]
        kernel = {"name": "dense_3/kernel", "shape": [1280, 5], "dtype": "float32"}
        m["weightsManifest"] = [
            {"paths": ["a"], "weights": entries},
            {"paths": ["b"], "weights": [kernel]},
        ]

    change(model, edit)
    read = json.loads((model / "model.json").read_text())
    size = sum(int(np.prod(e["shape"])) for e in read["weightsManifest"][0]["weights"])
    (model / "a").write_bytes((model / SHARD).read_bytes()[:size])
    kernel = np.linspace(-1, 1, 6400, dtype="<f4").reshape(1280, 5)
    (model / "b").write_bytes(kernel.tobytes())
    converted = convert_folder(model, labels=LABELS)
    assert (converted.head, converted.activation) == (None, last)
    assert np.array_equal(converted.tensors["classifier.weight"].numpy(), kernel.T)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["weightsManifest"][0].update(paths=["../x"]), "not the name of a file"),
        (lambda m: m["weightsManifest"][0].update(paths=[SHARD, SHARD]), "the manifest speaks of"),
        (lambda m: m["weightsManifest"][0].update(paths=["none"]), "none: no such file"),
        (lambda m: m["weightsManifest"][0].update(paths="x"), "names no files"),
        (lambda m: m.update(weightsManifest=[]), "no weightsManifest"),
        (lambda m: weights(m)[0].update(shape=[2**30] * 4), "the manifest speaks of"),
        (lambda m: weights(m)[0].update(shape=[-3, 3, 3, 32]), "without name or shape"),
        (lambda m: weights(m)[0].update(shape=[3, 3, 96]), "4 dimensions"),
        (lambda m: weights(m)[0].update(dtype="int32"), "not of type float32"),
        (lambda m: weights(m)[0].pop("quantization"), "the manifest speaks of"),
        (lambda m: weights(m)[0]["quantization"].update(dtype="int4"), "unknown way"),
        (lambda m: weights(m)[0]["quantization"].update(dtype=["uint8"]), "unknown way"),
        (lambda m: weights(m)[0]["quantization"].update(scale=1e308), "NaN or infinity"),
        (lambda m: weights(m)[0]["quantization"].update(scale="1"), "unknown way"),
        (lambda m: weights(m)[1].update(name="Conv1/kernel"), "stands twice"),
        (lambda m: weights(m)[0].update(name="Conv9/kernel"), "Conv1/kernel is missing"),
        (lambda m: layer(m, "bn_Conv1").update(epsilon=1e-5), "epsilon is not 0.001"),
        (lambda m: layer(m, "Conv1_relu").update(max_value=None), "does not end at 6"),
        (lambda m: layer(m, "dense_1").update(activation="selu"), "must be relu or tanh"),
        (lambda m: layer(m, "dense_3").update(activation="linear"), "softmax or sigmoid at"),
        (lambda m: layer(m, "dense_3").update(units=6), "label names for 6"),
        (lambda m: layer(m, "dense_2").update(units=64), r"head.2.weight has shape"),
        (lambda m: layer(m, "average_pooling2d_1").update(pool_size=[2, 2]), "whole picture"),
        (lambda m: layer(m, "input_1").update(batch_input_shape=[None, 224, 224, 1]), "no picture"),
        (lambda m: layer(m, "input_1").update(batch_input_shape=[None, 224, 192, 3]), "square"),
        (lambda m: layers(m).append({"class_name": "Lambda", "config": {}}), "'Lambda' is not"),
        (lambda m: layers(m).append(7), "layer None is not supported"),
        (lambda m: m.update(format="graph-model"), "no TensorFlow.js layers model"),
        (lambda m: m.pop("modelTopology"), "no TensorFlow.js layers model"),
    ],
)
def test_what_is_refused(model: Path, edit: Callable[[dict[str, Any]], object], words: str) -> None:
    change(model, edit)
    refused(model, words)


def test_a_shard_of_another_length(model: Path) -> None:
    for data in (b"", (model / SHARD).read_bytes() + b"x"):
        (model / SHARD).write_bytes(data)
        refused(model, "the manifest speaks of")
    with (model / SHARD).open("wb") as file:
        file.truncate(10**12)  # sparse
    refused(model, "the manifest speaks of")
