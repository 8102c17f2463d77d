"""`moderate train` from pictures to a bundle that scans, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from moderate.api import scan
from moderate.classify.bundle import load_bundle, user_weights
from moderate.classify.card import Head as HeadCard
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.classify.features import FeatureModel, last_layers
from moderate.classify.model import build_model
from moderate.cli.main import run
from moderate.errors import WeightsError
from moderate.testcards import draw_card, encode_image
from moderate.train.bundle import check_part, trained_part
from moderate.train.head import Head
from moderate.types import Category
from moderate.weights.pull import add_words
from moderate.weights.verify import verify_bundle
from moderate.weights.words.levels import level_group
from moderate.weights.words.prompts import read_prompts
from tests.support import two_towers
from tests.support.bundles import make_bundle, model_table, pixels, write_card, write_model
from tests.support.networks_onnx import SMALL_LABELS, small

Captured = pytest.CaptureFixture[str]
EACH = 72
"""Drawings of each kind: two more than are needed."""


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cards of violence and clean ones, 64 pixels a side, a copy among the latter."""
    folder = tmp_path_factory.mktemp("drawings")
    for name, category, band in (("violence", "violence", "block"), ("safe", None, "clean")):
        (folder / name).mkdir()
        for number in range(EACH):
            card = draw_card(category, band, number, 64)
            (folder / name / f"{number}.jpg").write_bytes(encode_image(card, "JPEG"))
    shutil.copy(folder / "safe/0.jpg", folder / "safe/copy.jpg")
    return folder


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def trained(source: object, base: object, *options: str, name: str = "mine") -> int:
    return run(["train", str(source), "--from", str(base), "--name", name, *options])


def last_error(capsys: Captured) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def weights_of(name: str) -> str:
    return hashlib.sha256((user_weights() / name / "model.safetensors").read_bytes()).hexdigest()


def violence_of(images: Any, backend: str) -> list[float | None]:
    """Scores of pixels by the trained bundle."""
    with Classifier(load_bundle("mine"), place("cpu", "fp32", backend)) as classifier:
        assert classifier.placement.backend == backend
        return [outcome[Category.VIOLENCE] for outcome in classifier.submit((images,)).result()]


def test_a_bundle_is_trained_scans_alike_everywhere_and_needs_nothing_of_its_base(
    drawings: Path, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bundle, base)
    assert trained(drawings, base, "--out", "report.json") == 0
    shutil.rmtree(base)
    out = capsys.readouterr().out
    assert "copies     1 file with the bytes of another one" in out
    assert "use it:   moderate scan DIR --weights mine" in out
    table = out[out.index("held out ") :].split("fitted on")[0]
    assert max(map(len, table.rstrip().splitlines())) <= 60
    report = json.loads(Path("report.json").read_text())
    assert (report["images"], report["duplicates"], report["held_out"]) == (2 * EACH, 1, 43)
    of_head, of_base = (report["categories"]["violence"][key] for key in ("trained", "base"))
    assert of_head["roc_auc"]["value"] > 0.95
    assert of_base["roc_auc"]["value"] < of_head["roc_auc"]["value"]

    rows = list(scan(str(drawings), weights="mine", backend="torch", device="cpu"))
    scores = {row.path: row.scores[Category.VIOLENCE] or 0.0 for row in rows}
    assert np.median([score for path, score in scores.items() if "/violence/" in path]) > 0.8
    assert np.median([score for path, score in scores.items() if "/safe/" in path]) < 0.2
    by_backend = [violence_of(pixels(3), backend) for backend in ("torch", "openvino")]
    np.testing.assert_allclose(*by_backend, atol=1e-4)

    training = load_bundle("mine").card.training
    assert training is not None
    assert training.base == "random"
    assert training.base_sha256 == load_bundle(str(bundle)).sha256
    assert training.labels_sha256 == report["labels_sha256"]
    evidence = training.category["violence"]
    assert evidence.positive + evidence.held_out_positive == EACH
    assert evidence.recall[0] == pytest.approx(of_head["at_review"]["recall"]["value"], abs=1e-5)


def test_a_second_training_is_the_same_and_decodes_nothing(
    drawings: Path, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert trained(drawings, bundle) == 0
    capsys.readouterr()
    moved = tmp_path / "moved"
    shutil.copytree(drawings, moved)
    assert trained(moved, bundle, "--out", "again.json", name="again") == 0
    assert json.loads(Path("again.json").read_text())["extracted"] == 0
    assert weights_of("again") == weights_of("mine")
    assert load_bundle("again").sha256 == load_bundle("mine").sha256
    assert trained(drawings, bundle, "--seed", "1", name="other") == 0
    assert weights_of("other") != weights_of("mine")


@pytest.mark.slow
def test_rows_of_a_scan_with_labels_train_own_categories(
    drawings: Path, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(drawings, folder)
    (folder / "safe/broken.jpg").write_bytes(b"nothing")
    options = ["--weights", str(bundle), "--out", "r.csv", "--device", "cpu"]
    assert run(["scan", str(folder), *options, "--backend", "torch"]) == 0
    lines = ["path,gambling,violence"]
    for file in sorted(folder.rglob("*.jpg")):
        shows = int(file.parent.name == "violence")
        lines.append(f"{file},{shows},{shows}")
    Path("l.csv").write_text("\n".join(lines) + "\n")
    # The features are those of the bytes, wherever they were read.
    (folder / "violence/0.jpg").unlink()
    options = ["--labels", "l.csv", "--category", "gambling", "--category", "violence"]
    assert trained("r.csv", bundle, *options, "--out", "t.json", "--keep") == 0
    out = capsys.readouterr().out
    assert "left out   1 image: not_an_image" in out
    assert "random does not score it" in out
    report = json.loads(Path("t.json").read_text())
    assert list(report["categories"]) == ["gambling", "violence"]
    assert report["kept"] == ["nudity", "sexual_activity", "suggestive", "drug_use"]
    card = load_bundle("mine").card
    assert card.own_categories == ("gambling",)
    assert set(card.categories) == set(Category)
    images = pixels(3)
    scores = []
    for name, count in ((str(bundle), 1), ("mine", 2)):
        with Classifier(load_bundle(name), place("cpu", "fp32", "torch")) as classifier:
            scores.append(classifier.submit((images,) * count).result())
    assert [one[Category.NUDITY] for one in scores[0]] == [
        one[Category.NUDITY] for one in scores[1]
    ]


def test_images_that_are_gone_are_left_out_and_counted(
    drawings: Path, bundle: Path, tmp_path: Path, capsys: Captured, monkeypatch: Any
) -> None:
    from tests.support.scored import write_results

    scores = {Category.VIOLENCE: np.zeros(200, np.float32)}
    write_results(tmp_path / "r.csv", scores)
    lines = ["path,violence", *(f"./{number}.jpg,{number % 2}" for number in range(200))]
    Path("l.csv").write_text("\n".join(lines) + "\n")
    assert trained("r.csv", bundle, "--labels", "l.csv") == 2
    error = last_error(capsys)
    assert "violence: no positive image where 70 are needed" in error
    assert "left out: 200 not_found" in error


def test_labels_that_say_nothing_install_nothing(
    drawings: Path, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    mixed = tmp_path / "mixed"
    for folder in ("gambling", "safe"):
        (mixed / folder).mkdir(parents=True)
    files = [file for file in sorted(drawings.rglob("*.jpg")) if file.name != "copy.jpg"]
    for file in files:
        # By a digest of the name, which nothing to be seen goes by.
        odd = hashlib.sha256(str(file.relative_to(drawings)).encode()).digest()[0] % 2
        shutil.copy(
            file, mixed / ("gambling" if odd else "safe") / f"{file.parent.name}{file.name}"
        )
    for number in range(EACH):
        card = draw_card(None, "clean", 1000 + number, 64)
        name = ("gambling", "safe")[number % 2]
        (mixed / name / f"more{number}.png").write_bytes(encode_image(card, "PNG"))
    assert trained(mixed, bundle) == 2
    error = last_error(capsys)
    assert "gambling: nothing is installed: on images held out, the head does no better" in error
    assert not (user_weights() / "mine").exists()


def refusals(drawings: Path, bundle: Path) -> Sequence[tuple[list[str], str]]:
    source, base = str(drawings), ["--from", str(bundle), "--name", "mine"]
    Path("few/gambling").mkdir(parents=True)
    Path("few/safe").mkdir()
    for number in range(10):
        Path(f"few/gambling/{number}").write_bytes(b"%d" % number)
        Path(f"few/safe/{number}").write_bytes(b"safe %d" % number)
    Path("one/gambling").mkdir(parents=True)
    for number in range(80):
        Path(f"one/gambling/{number}").write_bytes(b"%d" % number)
    return [
        (["few", *base], "gambling: 10 positive images where 70 are needed"),
        (["one", *base], "gambling: no negative image where 70 are needed"),
        (["nowhere", *base], "nowhere"),
        (["few", "--from", "nothing", "--name", "mine"], "no weights 'nothing'"),
        ([source, "--from", str(bundle), "--name", "a/b"], "is no name for weights"),
        ([source, "--from", str(bundle), "--name", "random"], "is the name of the base"),
        ([source, *base, "--holdout", "0.9"], "--holdout 0.9: use 0.1 to 0.5"),
        ([source, *base, "--model", "x"], "--model x is not in it; random holds random"),
        ([source, *base, "--category", "A"], "'A' is no name for a category"),
        ([source, *base, "--id-column", "x"], "--id-column goes with --labels"),
        ([source, *base, "--labels", "l", "--map", "a=b"], "--map is for a folder"),
        ([source, *base, "--labels", "gone.csv"], "is not a results file"),
        (["few/safe/0", *base], "few/safe/0 is a file of results: name its labels with --labels"),
    ]


def test_every_refusal_is_one_clear_line(drawings: Path, bundle: Path, capsys: Captured) -> None:
    for arguments, message in refusals(drawings, bundle):
        assert run(["train", *arguments]) == 2, arguments
        assert message in last_error(capsys), arguments
    assert not user_weights().exists()


def test_graphs_are_refused_and_several_networks_are_named(
    drawings: Path, tmp_path: Path, capsys: Captured
) -> None:
    Path("model.onnx").write_bytes(small())
    options = ["--mean", "0", "--std", "1", "--activation", "softmax", "--map", "nudity=nude"]
    labels = ["--labels", ",".join(SMALL_LABELS)]
    assert run(["weights", "add", "model.onnx", "--name", "graph", *labels, *options]) == 0
    assert trained(drawings, "graph") == 2
    assert "graph holds ONNX graphs alone, which cannot be taken apart" in last_error(capsys)
    both = tmp_path / "both"
    for folder in ("one", "two"):
        write_model(both / folder)
    write_card(both, [model_table(folder="one"), model_table(folder="two")])
    assert trained(drawings, both) == 2
    assert "both holds several networks: name one with --model: one, two" in last_error(capsys)


@pytest.mark.parametrize("kind", ["convolutions", "attention", "with a head", "distilled"])
def test_the_network_scores_as_the_head_does_on_features(kind: str, tmp_path: Path) -> None:
    if kind == "with a head":
        folder = with_head(tmp_path / "base")
    elif kind == "attention":
        write_model(tmp_path / "base", architecture="test_vit")
        table = model_table()
        table["preprocess"]["size"] = [160, 160]
        write_card(tmp_path / "base", [table])
        folder = tmp_path / "base"
    elif kind == "distilled":
        folder = make_bundle(tmp_path / "base", architecture="swiftformer_xs")
    else:
        folder = make_bundle(tmp_path / "base", architecture="mobilenetv4_conv_small_035")
    files = load_bundle(str(folder)).models[0]
    placement = place("cpu", "fp32", "torch")
    model = FeatureModel(files, placement, 8)
    try:
        images = pixels(3, files.card.preprocess.size[0])
        features = model.features(images)
        assert (model.features(images[1:2]) == features[1:2]).all()
        with Classifier(load_bundle(str(folder)), placement) as classifier:
            wanted = [outcome[Category.NUDITY] for outcome in classifier.submit((images,)).result()]
        column = files.labels.index("nudity")
        np.testing.assert_allclose(model.probabilities(features)[:, column], wanted, atol=1e-6)
        random = np.random.default_rng(0)
        head = Head(
            random.normal(size=features.shape[1]).astype(np.float32), np.float32(0.5), 1.0, ()
        )
        part = trained_part(files, {"gambling": head}, ".")
        assert part.own == {"gambling": ["gambling"]}
        assert not part.categories
        check_part(part, model, {"gambling": head})
        other = Head(-head.weight, head.bias, 1.0, ())
        with pytest.raises(WeightsError, match="differ by"):
            check_part(part, model, {"gambling": other})
    finally:
        model.close()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_head_on_the_tower_of_zero_shot_weights(kind: str, tmp_path: Path) -> None:
    """CLIP's tower ends with a projection, and SigLIP's with no linear layer."""
    getattr(two_towers, kind)(tmp_path / "checkpoint")
    (tmp_path / "prompts.toml").write_text(two_towers.PROMPTS)
    add_words(tmp_path / "checkpoint", "base", read_prompts(str(tmp_path / "prompts.toml")))
    base = load_bundle("base")
    files = base.models[0]
    placement = place("cpu", "fp32", "torch")
    images = pixels(3, two_towers.SIDE)
    model = FeatureModel(files, placement, 8)
    try:
        features = model.features(images)
        with Classifier(base, placement) as classifier:
            wanted = [outcome[Category.NUDITY] for outcome in classifier.submit((images,)).result()]
        column = files.labels.index(
            "nudity" if kind == "clip" else "a naked person"  # its best prompt
        )
        found = model.probabilities(features)
        assert found is not None
        if kind == "clip":
            np.testing.assert_allclose(found[:, column], wanted, atol=1e-6)
        else:
            other = files.labels.index("a nude statue come alive")
            highest = np.maximum(found[:, column], found[:, other])
            np.testing.assert_allclose(highest, wanted, atol=1e-6)
        random = np.random.default_rng(0).normal(size=(2, features.shape[1])).astype(np.float32)
        heads = {
            name: Head(weight, np.float32(0.5), 1.0, ())
            for name, weight in zip(("gambling", "nudity"), random, strict=True)
        }
        part = trained_part(files, heads, ".")
        check_part(part, model, heads)
    finally:
        model.close()


def test_zero_shot_weights_keep_their_levels_beside_a_head(drawings: Path, tmp_path: Path) -> None:
    two_towers.clip(tmp_path / "checkpoint")
    (tmp_path / "prompts.toml").write_text(two_towers.PROMPTS)
    levels = level_group([("all", "a picture for everybody"), ("few", "for grown people only")])
    prompts = read_prompts(str(tmp_path / "prompts.toml"))
    add_words(tmp_path / "checkpoint", "base", prompts, levels)
    assert trained(drawings, "base", "--map", "gambling=violence", "--keep") == 0
    base, mine = load_bundle("base"), load_bundle("mine")
    assert mine.card.own_categories == ("gambling", "weapons")
    assert set(mine.card.covers) == {"nudity", "violence", "weapons", "gambling"}
    assert (mine.card.levels, mine.card.prompts) == (base.card.levels, base.card.prompts)
    assert verify_bundle("mine", "cpu", "fp32", "torch").selftest
    images = pixels(3, two_towers.SIDE)
    with Classifier(mine, place("cpu", "fp32", "torch")) as classifier:
        outcomes = classifier.submit((images, images)).result()
    with Classifier(base, place("cpu", "fp32", "torch")) as classifier:
        alone = classifier.submit((images,)).result()
    for kept, wanted in zip(outcomes, alone, strict=True):
        assert kept[Category.VIOLENCE] == pytest.approx(wanted[Category.VIOLENCE], abs=1e-6)
    assert len(mine.level_labels) == 2


def test_a_network_with_two_tokens_has_features_but_no_labels_of_them(tmp_path: Path) -> None:
    """Its two layers are given different tokens, so that their mean is not one layer's."""
    folder = tmp_path / "base"
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32}
    network = build_model("deit_tiny_distilled_patch16_224", 5, small, None)
    write_model(folder)  # for its config
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = "deit_tiny_distilled_patch16_224"
    (folder / "config.json").write_text(json.dumps(config))
    table = model_table(model_args=small)
    table["preprocess"]["size"] = [32, 32]
    write_card(folder, [table])
    files = load_bundle(str(folder)).models[0]
    model = FeatureModel(files, place("cpu", "fp32", "torch"), 8)
    try:
        features = model.features(pixels(2, 32))
        assert model.probabilities(features) is None
        head = Head(np.ones(features.shape[1], np.float32), np.float32(0.5), 1.0, ())
        check_part(trained_part(files, {"gambling": head}, "."), model, {"gambling": head})
    finally:
        model.close()


def test_a_network_that_ends_otherwise_is_refused() -> None:
    with pytest.raises(WeightsError, match="strange does not end with one linear layer"):
        last_layers(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), "strange")


def with_head(folder: Path) -> Path:
    """A bundle whose network has an MLP head."""
    write_model(folder)
    torch.manual_seed(1)
    network = build_model("test_efficientnet", 5, {}, HeadCard(hidden=(16,)))
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    write_card(folder, [model_table(head={"hidden": [16]})])
    return folder
