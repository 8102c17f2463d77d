"""ONNX graphs as weights: kept as they are, run by OpenVINO, refused where they are not sound."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from moderate.classify.bundle import load_bundle, user_weights
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.cli.main import run
from moderate.errors import DeviceError, UsageError, WeightsError
from tests.support.networks_onnx import SMALL_LABELS, Graph, small
from tests.support.packages import field, onnx_file, port, tensor
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)
NEEDED = ["--mean", "0.5,0.4,0.3", "--std", "0.25,2/10,0.5", "--activation", "softmax"]
MAPPED = ["--map", "nudity=nude", "--map", "violence=weapon"]


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def last_error(capsys: Captured) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def add(data: bytes, *options: str, name: str = "mine") -> int:
    Path("model.onnx").write_bytes(data)
    labels = () if "--labels" in options else ("--labels", ",".join(SMALL_LABELS))
    return run(["weights", "add", "model.onnx", "--name", name, *labels, *MAPPED, *options])


def nothing_installed() -> bool:
    root = user_weights()
    return not root.exists() or not [p for p in root.iterdir() if p.name != ".lock"]


def images(count: int = 9, side: int = 64) -> np.ndarray:
    """From dark to light and from coarse to fine."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(count):
        blobs = rng.integers(0, 256, (2 + number, 2 + number, 3))
        index = np.arange(side) * (2 + number) // side
        found.append(blobs[index[:, None], index])
    return np.stack(found).astype(np.uint8)


def scores(name: str, pixels: np.ndarray, batch_size: int = 32) -> np.ndarray:
    with Classifier(
        load_bundle(name), place("cpu", "fp32", "auto", load_bundle(name).kinds),
        batch_size=batch_size,
    ) as model:  # fmt: skip
        assert model.placement.backend == "openvino"
        outcomes = model.submit((pixels,)).result()
    return np.array([[o["nudity"], o["violence"]] for o in outcomes])


def expected(pixels: np.ndarray, bgr: bool, seed: int = 0) -> np.ndarray:
    """The network of `networks_onnx.small` written out in torch."""
    weights = Graph(seed)
    weights.convolution("image", "stem", (16, 3, 5, 5))
    weights.uniform("fc", (16, 3), 1.0)
    weights.uniform("fc_bias", (3,), 0.5)
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    x = torch.from_numpy(pixels.astype(np.float32) / 255)
    x = (x - torch.tensor(MEAN)) / torch.tensor(STD)
    x = (x.flip(-1) if bgr else x).permute(0, 3, 1, 2)
    x = functional.conv2d(x, tensors["stem.weight"], tensors["stem.bias"], stride=4, padding=2)
    x = x.relu().mean(dim=(2, 3)) @ tensors["fc"] + tensors["fc_bias"]
    return x.softmax(1)[:, :2].numpy()


@pytest.mark.parametrize("colours", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", ["n", 1])
def test_its_scores_are_those_of_the_network(batch: int | str, layout: str, colours: str) -> None:
    graph = small(layout=layout, batch=batch, constants=batch == 1)
    assert add(graph, *NEEDED, "--colours", colours, "--size", "64") == 0
    pixels = images()
    got = scores("mine", pixels)
    assert np.abs(got - expected(pixels, colours == "bgr")).max() < 1e-5
    assert got.std(axis=0).max() > 0.05, "the scores tell images apart"
    for batch_size in (1, 3):
        assert np.abs(scores("mine", pixels, batch_size) - got).max() < 1e-5
    assert np.abs(scores("mine", pixels[::-1].copy())[::-1] - got).max() < 1e-5
    assert np.abs(scores("mine", pixels[4:5]) - got[4]).max() < 1e-5


def test_a_graph_that_gives_probabilities_itself(capsys: Captured) -> None:
    graph = small(end="Softmax")
    assert add(graph, *NEEDED) == 2
    assert "probabilities already: use --activation none" in last_error(capsys)
    assert add(small(), *NEEDED[:-1], "none") == 2
    assert "are not probabilities: use --activation softmax or sigmoid" in last_error(capsys)
    assert nothing_installed()
    assert add(graph, *NEEDED[:-1], "none") == 0
    pixels = images()
    assert np.abs(scores("mine", pixels) - expected(pixels, bgr=False)).max() < 1e-5
    assert add(small(), *NEEDED[:-1], "sigmoid", name="independent") == 0
    assert np.abs(scores("independent", pixels) - expected(pixels, bgr=False)).max() > 0.01


def test_the_bundle_holds_the_graph_as_it_was_and_its_facts(capsys: Captured) -> None:
    graph = small(layout="nhwc")
    options = ["--colours", "bgr", "--resize", "crop", "--crop-pct", "0.9", "--licence", "ours"]
    assert add(graph, *NEEDED, *options, "--interpolation", "bicubic") == 0
    out = capsys.readouterr().out
    assert "images are made 64 x 64 (height x width) by crop, bicubic, 90.0%" in out
    bundle = load_bundle("mine")
    folder = Path(bundle.path)
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "moderation.toml"]
    assert (folder / "model.onnx").read_bytes() == graph
    (files,) = bundle.models
    assert files.labels == SMALL_LABELS
    assert files.card.preprocess.mean == MEAN
    assert files.card.preprocess.std == STD
    assert bundle.card.licence == "ours"
    assert bundle.card.digest == "own"
    assert files.summary() == "ONNX graph: nudity, violence"
    assert run(["weights", "verify", "mine"]) == 0
    out = capsys.readouterr().out
    assert "1 files match" in out
    assert "(cpu, fp32, openvino)" in out
    assert run(["weights", "list", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert listed["mine"]["installed"]
    assert listed["mine"]["categories"] == ["nudity", "violence"]
    assert run(["weights", "show", "mine"]) == 0
    assert 'layout = "nhwc"' in capsys.readouterr().out


def test_other_graphs_and_other_facts_have_other_digests() -> None:
    digests = set()
    for number, (graph, options) in enumerate([
        (small(), ()), (small(seed=1), ()), (small(), ("--colours", "bgr")),
        (small(layout="nhwc"), ()),
    ]):  # fmt: skip
        assert add(graph, *NEEDED, *options, name=f"g{number}") == 0
        digests.add(load_bundle(f"g{number}").sha256)
    assert len(digests) == 4


def broken(kind: str) -> bytes:
    graph = Graph()
    graph.convolution("image", "stem", (3, 3, 64, 64))
    graph.add("Flatten", "v0", output="outputs")
    if kind == "NaN":
        graph.tensors["stem.weight"][0, 0, 0, 0] = np.nan
    ports = ([port("image", ("n", 3, 64, 64))], [port("outputs", ("n", 3))])
    items = [tensor(name, array) for name, array in graph.tensors.items()]
    if kind == "external":
        place = field(13, field(1, "location") + field(2, "/etc/passwd"))
        items[0] = field(1, 3) + field(2, 1) + field(8, "stem.weight") + place + field(14, 1)
    if kind == "two inputs":
        ports[0].append(port("mask", (1,)))
    if kind == "two outputs":
        ports[1].append(port("v0", ("n", 3, 1, 1)))
    if kind == "uint8":
        ports = ([port("image", ("n", 3, 64, 64)).replace(b"\x08\x01", b"\x08\x02", 1)], ports[1])
    if kind == "external constant":
        place = field(13, field(1, "location") + field(2, "/etc/passwd")) + field(14, 1)
        item = field(1, "value") + field(5, field(2, 1) + place) + field(20, 4)
        graph.nodes.append(field(2, "c") + field(4, "Constant") + field(5, item))
    return onnx_file(graph.nodes, items, *ports)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an ONNX model"),
        (b"PK\3\4 a zip archive of something else", "model.onnx: "),
        (small()[:-40], "cut off"),
        (small(2), "it has 2 outputs, but 3 labels are named"),
        (small(2, outputs="k"), "it has 2 outputs, but 3 labels are named"),
        (small(operator="Frobnicate"), "OpenVINO .* cannot run it .*Frobnicate"),
        (small(side="h"), "input is . x 3 x . x ., without a fixed height and width"),
        (small(batch=8), "its input is a batch of 8 images"),
        (small(mixes=True), "an image's scores change by .* with the other images of its batch"),
        (broken("NaN"), "tensor stem.weight holds NaN or infinity"),
        (broken("external"), "external data"),
        (broken("external constant"), "external data"),
        (broken("two inputs"), r"it has 2 inputs \(image, mask\), not one"),
        (broken("two outputs"), r"it has 2 outputs \(outputs, v0\), not one"),
        (broken("uint8"), "its input and output must be float32"),
        (onnx_file([], [tensor("t", np.ones(3, np.float32))], [port("x", ("n", 3))],
                   [port("y", ("n", 3))]), r"its input is \? x 3, not a batch of images"),
    ],
)  # fmt: skip
def test_what_is_not_sound_is_one_line_and_nothing_is_installed(
    data: bytes, words: str, capsys: Captured
) -> None:
    assert add(data, *NEEDED) == 2
    error = last_error(capsys)
    assert re.search(words, error), error
    assert "model.onnx" in error
    assert ".staging" not in error
    assert nothing_installed()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--mean", "0", "--std", "1"],
            "does not say all: add --activation softmax, sigmoid or none",
        ),
        (["--activation", "softmax"], "add --mean and --std, how its pixels are normalised"),
        ([*NEEDED, "--size", "96"], "takes images of 64 x 64, not of 96 x 96"),
        ([*NEEDED, "--size", "wide"], "--size 'wide': use N, or HEIGHTxWIDTH"),
        ([*NEEDED, "--mean", "1,2"], "use one number or three"),
        ([*NEEDED, "--mean", "x"], "'x' is not a number"),
        ([*NEEDED, "--std", "1/0"], "'1/0' is not a number"),
        ([*NEEDED, "--std", "0"], "std must be above 0"),
        ([*NEEDED, "--layout", "nhwc"], "which has not three colours where --layout nhwc"),
        ([*NEEDED, "--labels", "a,a,b"], "two labels have the same name"),
        ([*NEEDED, "--labels", "a,b,c"], "--map names the label 'nude'"),
        ([*NEEDED, "--architecture", "resnet18"], "--architecture goes with .safetensors"),
    ],
)
def test_what_has_to_be_said_and_cannot_be(
    options: list[str], words: str, capsys: Captured
) -> None:
    assert add(small(), *options) == 2
    assert words in last_error(capsys)
    assert nothing_installed()


def test_its_options_are_refused_for_other_files(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "config.json").write_text("{}")
    assert run(["weights", "add", "src", "--name", "x", "--layout", "nchw"]) == 2
    assert "--layout: only of .onnx files" in last_error(capsys)
    assert run(["weights", "add", "src", "--name", "x", "--activation", "none"]) == 2
    assert "--activation none: only of .onnx files" in last_error(capsys)
    assert run(["weights", "add", "x.whl", "--mean", "0"]) == 2
    assert "takes no options but" in last_error(capsys)
    assert run(["weights", "add", "gone.onnx", "--name", "x"]) == 2
    assert "gone.onnx does not exist" in last_error(capsys)


def test_a_layout_that_the_shape_does_not_tell(capsys: Captured) -> None:
    graph = Graph()
    graph.convolution("image", "stem", (3, 3, 8, 3))
    axes = graph.constant("axes", [2, 3], "<i8")
    graph.add("ReduceMean", "v0", axes, output="outputs", keepdims=0)
    data = graph.file(port("image", ("n", 3, 8, 3)), port("outputs", ("n", 3)))
    assert add(data, *NEEDED) == 2
    assert "add --layout nchw or nhwc" in last_error(capsys)


def test_a_changed_graph_stops_a_run_before_its_first_image() -> None:
    assert add(small(), *NEEDED) == 0
    bundle = load_bundle("mine")
    file = Path(bundle.path) / "model.onnx"
    file.write_bytes(small(seed=1))
    with pytest.raises(WeightsError, match=r"is not the file that moderation.toml promises"):
        load_bundle("mine")
    # Exchanged after the check: the very bytes that are run are compared.
    with pytest.raises(WeightsError, match=r"model.onnx: changed since it was checked"):
        Classifier(bundle, place("cpu", "fp32", "auto", bundle.kinds))


def test_other_scores_than_at_install_stop_a_run_at_its_start() -> None:
    assert add(small(), *NEEDED) == 0
    card = user_weights() / "mine" / "moderation.toml"
    text = card.read_text()
    first = text.index("nudity = [", text.index("[selftest.scores]")) + len("nudity = [")
    card.write_text(text[:first] + "0.5" + text[text.index(",", first) :])
    bundle = load_bundle("mine")
    with pytest.raises(WeightsError, match=r"mine: openvino on cpu in fp32 gives scores that diff"):
        Classifier(bundle, place("cpu", "fp32", "auto", bundle.kinds))


def test_where_a_graph_is_run_and_where_not() -> None:
    graph, mixed = frozenset({"onnx"}), frozenset({"onnx", "timm"})
    assert place("cpu", "auto", "auto", graph).backend == "openvino"
    assert place("cpu", "bf16", "auto", mixed).backend == "openvino"
    with pytest.raises(UsageError, match="ONNX graph, which torch cannot run"):
        place("cpu", "fp32", "torch", graph)
    assert place("cpu", "fp32", "torch", mixed).backend == "torch"
    with pytest.raises(UsageError, match="hold no ONNX graph"):
        place("cpu", "fp32", "onnxruntime")
    with pytest.raises(DeviceError, match=r"\[onnx-gpu\]"):
        place("cuda", "auto", "auto", graph)


def test_a_scan_with_a_graph_imports_neither_torch_nor_timm(tmp_path: Path) -> None:
    """In a process that could import them; they take seconds and gigabytes."""
    assert add(small(), *NEEDED) == 0
    (tmp_path / "images").mkdir()
    for number in range(3):
        data = encode(scene((90, 80), seed=number), "PNG")
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    code = """
import sys
from moderate.cli.main import run
code = run(["scan", "images", "--weights", "mine", "--out", "out.csv", "-q", "--device", "cpu"])
print(code, sorted({"torch", "timm", "openvino"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stdout.splitlines() == ["0 ['openvino']"], done.stderr
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert len(rows) == 4
    assert all(",ok," in row for row in rows[1:])
