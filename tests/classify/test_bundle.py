"""Bundles: what is refused, and with which words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from moderate import regular
from moderate.classify import files
from moderate.classify.bundle import find_bundle, load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.errors import DeviceError, ModerateError, UsageError, WeightsError
from moderate.regular import sha256_of
from moderate.types import Category, ErrorCode, ImageError
from tests.support.bundles import CATEGORY_LABELS, make_bundle, model_table, write_card, write_model

LABELS = ("drawing", "porn", "sexy", "gore")


def images(count: int, size: int = 64, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, (size, size, 3), dtype=np.uint8),) for _ in range(count)]


def bundle_with(folder: Path, **changes: object) -> Path:
    write_model(folder, labels=LABELS)
    table = {"activation": "softmax", "categories": {"nudity": ["porn"], "violence": ["gore"]}}
    write_card(folder, [model_table(**{**table, **changes})])
    return folder


def classifier(folder: Path) -> Classifier:
    return Classifier(load_bundle(str(folder)), place("cpu", "fp32", "torch"))


def usual_classifier(folder: Path) -> Classifier:
    """By the backend that scans take; its conversion takes seconds."""
    return Classifier(load_bundle(str(folder)), place("cpu", "fp32"))


def reference(folder: Path, batch: list[tuple[np.ndarray, ...]]) -> torch.Tensor:
    """Logits by timm's own loading of the folder."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = torch.from_numpy(np.stack([image[0] for image in batch])).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        return model((pixels / 255 - 0.5) / 0.5)


def test_timm_loads_the_bundle_unaided_and_agrees(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b")
    batch = images(5)
    expected = reference(folder, batch).softmax(-1).numpy()
    scored = usual_classifier(folder).score(batch)
    for outcome, probabilities in zip(scored, expected, strict=True):
        assert outcome[Category.NUDITY] == pytest.approx(probabilities[1], abs=1e-6)
        assert outcome[Category.VIOLENCE] == pytest.approx(probabilities[3], abs=1e-6)


def test_a_category_that_nothing_feeds_is_null(tmp_path: Path) -> None:
    outcome = classifier(bundle_with(tmp_path / "b")).score(images(1))[0]
    for category in (Category.SEXUAL_ACTIVITY, Category.SUGGESTIVE, Category.DRUG_USE):
        assert outcome[category] is None


def test_labels_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "a")
    other = tmp_path / "b"
    other.mkdir()
    order = [2, 3, 0, 1]
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][order].contiguous()
    save_file(tensors, other / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["label_names"] = [LABELS[index] for index in order]
    (other / "config.json").write_text(json.dumps(config))
    categories = {"nudity": ["porn"], "violence": ["gore"]}
    write_card(other, [model_table(activation="softmax", categories=categories)])
    batch = images(3)
    for one, two in zip(
        classifier(folder).score(batch), classifier(other).score(batch), strict=True
    ):
        for category in (Category.NUDITY, Category.VIOLENCE):
            assert one[category] == pytest.approx(two[category], abs=1e-6)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_bundle_is_found_by_a_relative_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    bundle_with(tmp_path / "nets" / "mine")
    monkeypatch.chdir(tmp_path)
    (outcome,) = Classifier(load_bundle("nets/mine"), place("cpu", "fp32", backend)).score(
        images(1)
    )
    assert not isinstance(outcome, ImageError)


def test_sums_and_maxima_of_labels(tmp_path: Path) -> None:
    folder = bundle_with(
        tmp_path / "b", categories={"nudity": ["porn", ["sexy", "gore"]], "suggestive": ["sexy"]}
    )
    batch = images(4)
    expected = reference(folder, batch).softmax(-1).numpy()
    for outcome, p in zip(classifier(folder).score(batch), expected, strict=True):
        assert outcome[Category.NUDITY] == pytest.approx(max(p[1], p[2] + p[3]), abs=1e-6)


def test_sigmoid_heads(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b", activation="sigmoid")
    batch = images(3)
    expected = reference(folder, batch).sigmoid().numpy()
    for outcome, p in zip(classifier(folder).score(batch), expected, strict=True):
        assert outcome[Category.NUDITY] == pytest.approx(p[1], abs=1e-6)


def test_a_composite_takes_the_maximum_of_its_models(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    write_model(folder / "one", labels=LABELS, seed=1)
    write_model(folder / "two", labels=("ok", "blood", "porn"), seed=2)
    softmax = {"activation": "softmax"}
    one = model_table(folder="one", categories={"nudity": ["porn"]}, **softmax)
    two = model_table(
        folder="two", categories={"violence": ["blood"], "nudity": ["porn"]}, **softmax
    )
    two["preprocess"] = {**two["preprocess"], "size": [96, 96]}
    write_card(folder, [one, two])
    bundle = load_bundle(str(folder))
    assert [spec.height for spec in bundle.specs] == [64, 96]
    pairs = [(a[0], b[0]) for a, b in zip(images(3), images(3, 96, 1), strict=True)]
    got = Classifier(bundle, place("cpu", "fp32")).score(pairs)
    first = reference(folder / "one", [(a,) for a, _ in pairs]).softmax(-1).numpy()
    second = reference(folder / "two", [(b,) for _, b in pairs]).softmax(-1).numpy()
    for outcome, p, q in zip(got, first, second, strict=True):
        assert outcome[Category.NUDITY] == pytest.approx(max(p[1], q[2]), abs=1e-6)
        assert outcome[Category.VIOLENCE] == pytest.approx(q[1], abs=1e-6)


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        ({"temperature": 2.0}, lambda p: 1 / (1 + np.exp(-np.log(p / (1 - p)) / 2))),
        ({"bias": -1.5}, lambda p: 1 / (1 + np.exp(-(np.log(p / (1 - p)) - 1.5)))),
        ({"table": [[0.0, 0.0], [0.5, 0.1], [1.0, 1.0]]},
         lambda p: np.where(p < 0.5, 0.2 * p, 0.1 + (p - 0.5) * 1.8)),
    ],
)  # fmt: skip
def test_calibration_changes_one_category(
    tmp_path: Path, calibration: dict[str, object], expected: Callable[[float], float]
) -> None:
    plain, calibrated = bundle_with(tmp_path / "a"), bundle_with(tmp_path / "b")
    write_card(
        calibrated,
        [model_table(activation="softmax", categories={"nudity": ["porn"], "violence": ["gore"]})],
        calibration={"nudity": calibration},
    )
    batch = images(6)
    pairs = zip(classifier(plain).score(batch), classifier(calibrated).score(batch), strict=True)
    for raw, got in pairs:
        assert got[Category.NUDITY] == pytest.approx(expected(raw[Category.NUDITY]), abs=1e-5)
        assert got[Category.VIOLENCE] == raw[Category.VIOLENCE]
    assert load_bundle(str(plain)).sha256 != load_bundle(str(calibrated)).sha256


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"table": [[0.0, 0.0]]}, "two points"),
        ({"table": [[0.0, 0.5], [1.0, 0.4]]}, "never fall"),
        ({"table": [[0.0, 0.0], [1.0, 1.0]], "bias": 1.0}, "without temperature"),
    ],
)
def test_a_calibration_that_makes_no_sense(
    tmp_path: Path, calibration: dict[str, object], said: str
) -> None:
    folder = bundle_with(tmp_path / "b")
    table = model_table(activation="softmax", categories={"nudity": ["porn"]})
    write_card(folder, [table], calibration={"nudity": calibration})
    fails(folder, "calibration.nudity", said)


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_scores_do_not_depend_on_batch_size(bundle: Path, size: int) -> None:
    model, batch = classifier(bundle), images(32)
    whole = model.score(batch)
    parts = [o for i in range(0, 32, size) for o in model.score(batch[i : i + size])]
    for one, two in zip(whole, parts, strict=True):
        for category in Category:
            assert one[category] == pytest.approx(two[category], abs=1e-5)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_on_the_cpu_is_close(bundle: Path, backend: str) -> None:
    loaded = load_bundle(str(bundle))
    batch = images(4)
    exact = Classifier(loaded, place("cpu", "fp32", backend)).score(batch)
    rough = Classifier(loaded, place("cpu", "bf16", backend)).score(batch)
    differences = [abs(a[c] - b[c]) for a, b in zip(exact, rough, strict=True) for c in Category]
    assert 0 < max(differences) < 0.1


def test_a_batch_that_fails_is_tried_image_by_image(bundle: Path) -> None:
    whole = classifier(bundle).score(images(20))
    model = classifier(bundle)
    backend = model._members[0].model.backend
    real = backend._model

    class Choking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if (x.mean(dim=(1, 2, 3)) > 0.9).any():
                raise ValueError("a white picture")
            return real(x)

    backend._model = Choking()
    batch = images(20)
    batch[11] = (np.full((64, 64, 3), 255, np.uint8),)
    outcomes = model.score(batch)
    assert isinstance(outcomes[11], ImageError)
    assert outcomes[11].code is ErrorCode.CLASSIFY_FAILED
    assert "a white picture" in outcomes[11].message
    for number in set(range(20)) - {11}:
        assert outcomes[number] == whole[number], "the others are the same to the last bit"


def test_nan_from_the_model_is_an_error_row_for_that_image_alone(bundle: Path) -> None:
    model = classifier(bundle)
    backend = model._members[0].model.backend
    real = backend._model

    class Poisoned(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = real(x).clone()
            logits[x.mean(dim=(1, 2, 3)) > 0.9] = float("nan")
            return logits

    backend._model = Poisoned()
    batch = images(3)
    batch[1] = (np.full((64, 64, 3), 255, np.uint8),)
    outcomes = model.score(batch)
    assert isinstance(outcomes[1], ImageError)
    assert outcomes[1].code is ErrorCode.NON_FINITE_SCORE
    assert not isinstance(outcomes[0], ImageError)
    assert not isinstance(outcomes[2], ImageError)


# What is refused ---------------------------------------------------------------------------------


def fails(folder: Path, *said: str, opened: Callable[[Path], Classifier] = classifier) -> None:
    with pytest.raises(WeightsError) as caught:
        opened(folder)
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message


def edit_card(folder: Path, old: str, new: str) -> None:
    card = folder / "moderation.toml"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_flipped_byte_stops_everything(tmp_path: Path, name: str) -> None:
    folder = bundle_with(tmp_path / "b")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="is not the file that"):
        load_bundle(str(folder))


def test_missing_parts(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b")
    (folder / "model.safetensors").unlink()
    fails(folder, "model.safetensors", "No such file")
    (folder / "moderation.toml").unlink()
    fails(folder, "is not a bundle of weights", "moderation.toml", "moderate weights add")
    with pytest.raises(WeightsError, match="testcard"):
        find_bundle("no-such-weights")
    with pytest.raises(WeightsError):
        find_bundle("../testcard")


def test_a_folder_among_the_uploads_never_passes_for_weights_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none installed"))
    monkeypatch.chdir(tmp_path)
    for name in ("nsfwjs", "mine", "testcard"):
        bundle_with(tmp_path / name)
    with pytest.raises(WeightsError, match=r"nsfwjs are not installed; .* is \./nsfwjs\)"):
        find_bundle("nsfwjs")
    assert find_bundle("./nsfwjs") == "./nsfwjs"
    assert find_bundle("mine") == "mine"
    assert os.path.isabs(find_bundle("testcard"))


def test_installed_weights_are_not_looked_for_among_the_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for data_home in ("data", "~/.local/share"):  # as it is where no home folder is known
        monkeypatch.setenv("XDG_DATA_HOME", data_home)
        bundle_with(tmp_path / data_home / "moderate" / "weights" / "planted")
        with pytest.raises(WeightsError, match="no weights 'planted'"):
            find_bundle("planted")


def test_labels_that_the_model_lacks_are_named_with_those_it_has(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b", categories={"nudity": ["Porn"]})
    fails(folder, "categories.nudity", "'Porn'", "drawing, porn, sexy, gore")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"softmax"', '"softmin"', "activation"),
        ('"squash"', '"stretch"', "preprocess.resize"),
        ('"nudity"', '"nudeness"', "nudeness"),
        ("format = 1", "format = 2", "format"),
        ("licence", "license", "license: unknown key"),
        ('"std" = [0.5', '"std" = [0.0', "std must be above 0"),
        ('"size" = [64, 64]', '"size" = [64]', "preprocess.size"),
        ('"bilinear"', '"bilinear", "antialias" = true, "align_corners" = true', "align_corners"),
    ],
)
def test_a_wrong_card_is_refused_with_its_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    folder = bundle_with(tmp_path / "b")
    edit_card(folder, old, new)
    fails(folder, "moderation.toml", said)


def resealed(folder: Path) -> None:
    """Write the card anew, with the digests of the files as they are now."""
    write_card(
        folder,
        [model_table(activation="softmax", categories={"nudity": ["porn"], "violence": ["gore"]})],
    )


def test_weights_with_nan_wrong_shape_or_no_safetensors(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b")
    file = folder / "model.safetensors"
    good = load_file(file)
    bad = dict(good)
    bad["classifier.weight"] = bad["classifier.weight"].clone()
    bad["classifier.weight"][0, 0] = float("nan")
    save_file(bad, file)
    resealed(folder)
    fails(folder, "classifier.weight", "NaN")
    fails(folder, "classifier.weight", "NaN", opened=usual_classifier)
    save_file({k: v for k, v in good.items() if k != "classifier.bias"}, file)
    resealed(folder)
    fails(folder, "does not fit", "classifier.bias")
    save_file({**good, "extra": torch.zeros(1)}, file)
    resealed(folder)
    fails(folder, "does not fit", "extra")
    file.write_bytes(b"\x80\x04 a pickle, say")
    resealed(folder)
    fails(folder, "no valid safetensors")


def test_a_folder_in_the_way_does_not_take_the_place_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_with(tmp_path / "testcard")
    monkeypatch.chdir(tmp_path)
    assert load_bundle("testcard").card.purpose == "demo"
    assert load_bundle("./testcard").card.purpose == "moderation"


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b")
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + entry + b"," + entry + b"}"
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "model.safetensors").write_bytes(data)
    resealed(folder)
    fails(folder, "'a' stands twice")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", '{"num_classes": 9, ', 1))
    resealed(folder)
    fails(folder, "'num_classes' stands twice")


def test_an_architecture_that_timm_lacks(tmp_path: Path) -> None:
    folder = bundle_with(tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "no_such_net"}))
    resealed(folder)
    fails(folder, "no_such_net", "timm")


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained", "cache_dir", "scriptable"])
def test_a_bundle_can_make_timm_load_nothing_else(tmp_path: Path, key: str) -> None:
    folder = bundle_with(tmp_path / "b", model_args={key: "/tmp/payload.pth"})
    fails(folder, f"model_args: {key} may not be set")


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp", "../x", ""])
def test_an_architecture_is_a_name_not_an_address(tmp_path: Path, name: str) -> None:
    folder = bundle_with(tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architecture": name}))
    resealed(folder)
    fails(folder, "architecture")


def test_devices() -> None:
    assert place("auto", "auto").device in {"cpu", "cuda:0"}
    assert place("cpu", "auto").precision == "fp32"
    with pytest.raises(UsageError):
        place("gpu", "auto")
    with pytest.raises(ModerateError):
        place("cpu", "fp16")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no working CUDA"):
            place("cuda", "auto")


def test_the_test_model_feeds_all_five(bundle: Path) -> None:
    assert tuple(c.value for c in load_bundle(str(bundle)).card.categories) == CATEGORY_LABELS


# Weights that are read once a start ---------------------------------------------------------------


def test_weights_are_read_again_only_where_they_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "weights")
    path = bundle / "model.safetensors"
    digest = load_bundle(str(bundle)).models[0].card.sha256["model.safetensors"]
    # They have only just been written: their times cannot tell what is written now.
    assert load_bundle(str(bundle)).models[0].weights_state is None
    monkeypatch.setattr(regular, "_SETTLED", -60.0)
    state = load_bundle(str(bundle)).models[0].weights_state
    assert state is not None
    seen: list[Path] = []
    monkeypatch.setattr(files, "sha256_of", lambda name: (seen.append(name), sha256_of(name))[1])
    files.check_unchanged(path, digest, state)
    assert not seen
    files.check_unchanged(path, digest, None)
    assert seen == [path]
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    with pytest.raises(WeightsError, match="changed since it was checked"):
        files.check_unchanged(path, digest, state)


def test_labels_feed_categories_of_the_bundles_own(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    write_model(folder, labels=LABELS)
    categories = {"nudity": ["porn"], "own": {"weapons": ["gore", ["drawing", "sexy"]]}}
    write_card(folder, [model_table(activation="softmax", categories=categories)])
    card = load_bundle(str(folder)).card
    assert card.categories == (Category.NUDITY,)
    assert card.own_categories == ("weapons",)
    assert card.model[0].own == {"weapons": ("gore", ("drawing", "sexy"))}


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"Weapons": ["gore"]}, "own.Weapons"),
        ({"weapons": ["guns"]}, "categories.own.weapons names the label 'guns'"),
        ({"weapons": []}, "own.weapons"),
    ],
)
def test_own_categories_that_cannot_be_are_refused(
    tmp_path: Path, own: dict[str, list[str]], why: str
) -> None:
    folder = tmp_path / "b"
    write_model(folder, labels=LABELS)
    write_card(folder, [model_table(activation="softmax", categories={"own": own})])
    with pytest.raises(WeightsError, match=why):
        load_bundle(str(folder))
