"""The networks that packages carry: converted ones compute what other runtimes compute."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import ConvNormAct
from torch import nn
from torch.nn import functional

from moderate.classify.architectures import NSFWJS_INCEPTION
from moderate.classify.bundle import ModelFiles
from moderate.classify.card import ModelCard
from moderate.classify.device import place
from moderate.classify.labels import LabelModel
from moderate.classify.model import build_model
from moderate.errors import WeightsError
from moderate.weights.convert.efficientnet_lite import convert_efficientnet_lite
from moderate.weights.convert.folder import write_model
from moderate.weights.convert.forms import FORMS
from moderate.weights.convert.imagenet import imagenet_labels
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.nsfwjs_inception import convert_nsfwjs_inception
from moderate.weights.convert.open_nsfw import convert_open_nsfw
from moderate.weights.convert.swiftformer import convert_swiftformer
from moderate.weights.download import digest_of
from tests.support.networks_onnx import (
    Graph,
    open_nsfw,
    open_nsfw_file,
    run_in_openvino,
    swiftformer_file,
    swiftformer_s,
)
from tests.support.packages import port

NSFWJS = ("Drawing", "Hentai", "Neutral", "Porn", "Sexy")


def pixels(side: int, count: int = 3) -> np.ndarray:
    """Coloured squares with noise on them, uint8."""
    random = np.random.default_rng(1)
    squares = random.integers(0, 256, (count, 8, 8, 3)).repeat(side // 8 + 1, 1)
    whole = squares.repeat(side // 8 + 1, 2)[:, :side, :side]
    return (whole * 0.8 + random.integers(0, 52, whole.shape)).astype(np.uint8)


def probabilities(
    converted: Converted, folder: Path, batch: np.ndarray, backend: str
) -> np.ndarray:
    """By the way that a scan takes: written, read again, and run by a backend."""
    write_model(converted, folder)
    card = ModelCard.model_validate(
        {
            "activation": converted.activation,
            "sha256": {n: digest_of(folder / n) for n in ("config.json", "model.safetensors")},
            "preprocess": converted.preprocess.model_dump(),
            "categories": {"nudity": [converted.labels[0]]},
            "head": converted.head and converted.head.model_dump(),
            "model_args": converted.model_args,
        }
    )
    files = ModelFiles(card, str(folder), converted.architecture, converted.labels)
    model = LabelModel(files, place("cpu", "fp32", backend))
    try:
        wanted = batch.astype(converted.preprocess.pixel_spec().dtype)
        return model.probabilities(wanted)
    finally:
        model.backend.close()


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_open_nsfw_computes_what_its_onnx_computes(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "open-nsfw.onnx"
    file.write_bytes(open_nsfw_file(open_nsfw()))
    batch = pixels(224)
    expected = run_in_openvino(file, batch[..., ::-1].astype(np.float32) - [104, 117, 123])
    converted = convert_open_nsfw(file, ("sfw", "nsfw"))
    assert np.ptp(expected[:, 1]) > 0.01
    found = probabilities(converted, tmp_path / "model", batch, backend)
    assert np.abs(found - expected).max() < 2e-5


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_swiftformer_computes_what_its_onnx_computes(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "safety.onnx"
    file.write_bytes(swiftformer_file(swiftformer_s()))
    batch = pixels(224)
    expected = run_in_openvino(file, batch.transpose(0, 3, 1, 2).astype(np.float32))
    converted = convert_swiftformer(file, ("NSFL", "NSFW", "SFW"))
    assert np.ptp(expected[:, 0]) > 1e-3
    found = probabilities(converted, tmp_path / "model", batch, backend)
    assert np.abs(found - expected).max() < 2e-5


def test_pooling_beside_the_border_averages_what_is_there() -> None:
    model = build_model(NSFWJS_INCEPTION, 5, {}, None).eval()
    blocks = [block for block in model.children() if hasattr(block, "branch_pool")]
    assert len(blocks) == 9
    branch = blocks[0].branch_pool
    images = torch.rand(2, 192, 7, 9)
    with torch.inference_mode():
        pooled = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        expected = nn.functional.relu(branch.bn.forward(branch.conv(pooled)))
        found = blocks[0]._forward(images)[-1]
    assert torch.allclose(found, expected, atol=1e-5)


def test_lite0_is_timms_network_under_other_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("tf_efficientnet_lite0", 1000, {}, None).eval()
    state = {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    numbers = {
        f"blocks.{stage}.{block}": number
        for number, (stage, block) in enumerate(
            (s, b) for s, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for b in range(depth)
        )
    }
    old = {}
    for name, tensor in state.items():
        block, _, rest = name.rpartition(".")
        block, _, layer = block.rpartition(".")
        if block:
            first = block == "blocks.0.0"
            layer = {
                "conv_dw": "_depthwise_conv",
                "conv_pw": "_project_conv" if first else "_expand_conv",
                "conv_pwl": "_project_conv",
                "bn1": "_bn1" if first else "_bn0",
                "bn2": "_bn2" if first else "_bn1",
                "bn3": "_bn2",
            }[layer]
            old[f"_blocks.{numbers[block]}.{layer}.{rest}"] = tensor
        else:
            layer = {"classifier": "_fc", "bn1": "_bn0", "bn2": "_bn1"}.get(layer, f"_{layer}")
            old[f"{layer}.{rest}"] = tensor
    file = tmp_path / "lite0.pth"
    torch.save(old, file, _use_new_zipfile_serialization=False)
    labels = imagenet_labels()
    converted = convert_efficientnet_lite(file, labels)
    assert set(converted.tensors) == set(state)
    assert all(torch.equal(converted.tensors[name], tensor) for name, tensor in state.items())
    assert [labels[index] for index in (413, 763, 764)] == ["assault rifle", "revolver", "rifle"]
    assert len(set(labels)) == 1000
    with pytest.raises(WeightsError, match="3 label names for 1000 classes"):
        convert_efficientnet_lite(file, ("a", "b", "c"))
    del old["_conv_head.weight"]
    torch.save(old, file, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"_conv_head.*missing"):
        convert_efficientnet_lite(file, labels)


# nsfwjs's InceptionV3 -----------------------------------------------------------------------------


def module(literal: str) -> str:
    return "!function(a){({1:[function(a,n,i){n.exports=" + literal + "},{}]},{},[1])(1)});"


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's files with random weights, stored as float32."""
    folder = tmp_path_factory.mktemp("inception")
    torch.manual_seed(0)
    with torch.device("meta"):
        model = build_model(NSFWJS_INCEPTION, 0, {}, None)
    layers: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 299, 299, 3]}}
    ]
    weights: list[tuple[str, torch.Tensor]] = []
    convolutions = [part for part in model.modules() if isinstance(part, ConvNormAct)]
    for number, part in enumerate(convolutions, start=1):
        conv, name = part.conv, f"conv2d_{number}"
        config = {
            "name": name,
            "filters": conv.out_channels,
            "kernel_size": list(conv.kernel_size),
            "strides": list(conv.stride),
            "dilation_rate": [1, 1],
            "padding": "same" if any(conv.padding) else "valid",
            "activation": "linear",
            "use_bias": False,
        }
        layers.append({"class_name": "Conv2D", "config": config})
        norm = {"epsilon": 0.001, "scale": False, "name": f"batch_normalization_{number}"}
        layers.append({"class_name": "BatchNormalization", "config": norm})
        weights.append((f"{name}/kernel", torch.rand(conv.weight.shape).permute(2, 3, 1, 0)))
        for value in ("beta", "moving_mean", "moving_variance"):
            weights.append((f"batch_normalization_{number}/{value}", torch.rand(conv.out_channels)))
    features = 2048
    for number, (width, kind) in enumerate(((256, "relu"), (128, "relu"), (5, "softmax")), start=1):
        dense = {"name": f"dense_{number}", "units": width, "activation": kind}
        layers.append({"class_name": "Dense", "config": dense})
        weights.append((f"dense_{number}/kernel", torch.rand(features, width)))
        weights.append((f"dense_{number}/bias", torch.rand(width)))
        features = width
    stated = [
        {"name": name, "shape": list(tensor.shape), "dtype": "float32"} for name, tensor in weights
    ]
    data = b"".join(tensor.contiguous().numpy().tobytes() for _, tensor in weights)
    whole = {
        "modelTopology": {"model_config": {"class_name": "Model", "config": {"layers": layers}}},
        "weightsManifest": [{"paths": ["shard1", "shard2"], "weights": stated}],
    }
    (folder / "model.json").write_text(json.dumps(whole))
    for name, part_data in (("shard1", data[:10001]), ("shard2", data[10001:])):
        text = json.dumps(base64.b64encode(part_data).decode())
        (folder / f"{name}.min.js").write_text(module(text))
    return folder


def changed(
    inception: Path, folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None
) -> Path:
    """The same files in `folder`, the model changed."""
    whole = json.loads((inception / "model.json").read_text())
    change(whole)
    (folder / "model.min.js").write_text(module(json.dumps(whole, separators=(",", ":"))))
    for name in ("shard1", "shard2"):
        (folder / f"{name}.min.js").symlink_to(inception / f"{name}.min.js")
    return folder


def test_inception_is_converted_whole(inception: Path, tmp_path: Path) -> None:
    converted = convert_nsfwjs_inception(changed(inception, tmp_path), NSFWJS)
    assert converted.head is not None
    assert converted.head.hidden == (256, 128)
    name = "backbone.Mixed_7c.branch_pool"
    assert converted.tensors[f"{name}.conv.weight"].shape == (192, 2048, 1, 1)
    assert torch.equal(converted.tensors[f"{name}.bn.weight"], torch.ones(192))
    assert converted.tensors["head.4.weight"].shape == (5, 128)
    assert converted.tensors["backbone.Conv2d_1a_3x3.conv.weight"].std() > 0.1
    with pytest.raises(WeightsError, match="2 label names for 5 classes"):
        convert_nsfwjs_inception(tmp_path, ("a", "b"))
    (tmp_path / "shard2.min.js").unlink()
    with pytest.raises(WeightsError, match=r"shard2.min.js: No such file"):
        convert_nsfwjs_inception(tmp_path, NSFWJS)


def layers_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    return model["modelTopology"]["model_config"]["config"]["layers"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: layers_of(m)[3]["config"].update(strides=[2, 2]), "conv2d_2 is not"),
        (lambda m: layers_of(m)[3]["config"].update(padding="same"), "conv2d_2 is not"),
        (lambda m: layers_of(m).pop(1), "93 convolutions, not 94"),
        (lambda m: layers_of(m)[2]["config"].update(epsilon=1e-5), "BatchNormalization"),
        (lambda m: layers_of(m)[-2]["config"].update(units=64), "dense layers"),
        (lambda m: layers_of(m).append({"class_name": "Lambda", "config": {}}), "'Lambda'"),
        (lambda m: layers_of(m)[0]["config"].update(batch_input_shape=[None, 224, 224, 3]), "299"),
        (lambda m: m["weightsManifest"][0].update(paths=["shard1"]), "the manifest speaks of"),
        (lambda m: m["weightsManifest"][0].update(paths=["../x"]), "not the name of a file"),
    ],
)
def test_another_inception_is_refused(
    inception: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    changed(inception, tmp_path, change)
    with pytest.raises(WeightsError, match=words) as caught:
        convert_nsfwjs_inception(tmp_path, NSFWJS)
    assert "\n" not in str(caught.value)


# Other graphs than the known ones -----------------------------------------------------------------


def nan(graph: Graph, name: str) -> None:
    graph.tensors[name].flat[0] = math.nan


def without(graph: Graph, name: str) -> None:
    del graph.tensors[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: nan(g, "stem.weight"), "NaN or infinity"),
        (lambda g: without(g, "stem.weight"), "stem.weight is not a tensor"),
        (lambda g: g.constant("stem.weight", np.zeros((64, 3, 5, 5))), "has shape"),
        (lambda g: g.add("Relu", "outputs"), "goes on after the softmax"),
        (lambda g: g.nodes.pop(), "ends before Softmax"),
        (lambda g: g.nodes.pop(2), "operation 2 is MaxPool, not the Relu"),
        (lambda g: g.nodes.insert(2, g.nodes[0]), "operation 2 is Transpose, not the Relu"),
    ],
)
def test_another_open_nsfw_is_refused(
    tmp_path: Path, change: Callable[[Graph], object], words: str
) -> None:
    graph = open_nsfw()
    change(graph)
    file = tmp_path / "model.onnx"
    file.write_bytes(open_nsfw_file(graph))
    with pytest.raises(WeightsError, match=words) as caught:
        convert_open_nsfw(file, ("sfw", "nsfw"))
    assert "\n" not in str(caught.value)


def test_labels_and_inputs_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(open_nsfw_file(open_nsfw()))
    with pytest.raises(WeightsError, match="3 label names for 2 classes"):
        convert_open_nsfw(file, ("a", "b", "c"))
    file.write_bytes(open_nsfw().file(port("input", ("n", "h", "w", 3)), port("outputs", (1, 2))))
    with pytest.raises(WeightsError, match="input is not N x 224 x 224 x 3"):
        convert_open_nsfw(file, ("sfw", "nsfw"))
    with pytest.raises(WeightsError, match="0 files"):
        FORMS["open-nsfw-onnx"](tmp_path / "none", ("sfw", "nsfw"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: nan(g, "model.head.bias"), "NaN or infinity"),
        (lambda g: without(g, "model.head.bias"), "head.bias is missing"),
        (lambda g: without(g, "model.norm.bias"), "model.norm.bias is missing"),
        (lambda g: g.constant("model.more", [1.0]), "model.more has no use"),
        (lambda g: g.constant("c255", 256), "divide pixels by 255"),
        (lambda g: g.add("Sigmoid", "probabilities"), "operations Sigmoid"),
        (lambda g: g.add("Relu", "probabilities"), "3 operations Relu, not 2"),
        (lambda g: g.nodes.pop(), "has no Softmax"),
    ],
)
def test_another_swiftformer_is_refused(
    tmp_path: Path, change: Callable[[Graph], object], words: str
) -> None:
    graph = swiftformer_s()
    labels = ("NSFL", "NSFW", "SFW")
    source, result = port("image", ("n", 3, 224, 224)), port("probabilities", ("n", 3))
    change(graph)
    file = tmp_path / "model.onnx"
    file.write_bytes(graph.file(source, result))
    with pytest.raises(WeightsError, match=words) as caught:
        convert_swiftformer(file, labels)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_no_lite0(tmp_path: Path) -> None:
    out = io.BytesIO()
    torch.save({"_fc.bias": torch.ones(1000)}, out)
    (tmp_path / "new.pth").write_bytes(out.getvalue())
    with pytest.raises(WeightsError, match="torch did not write"):
        convert_efficientnet_lite(tmp_path / "new.pth", imagenet_labels())
