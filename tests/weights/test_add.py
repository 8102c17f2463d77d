"""Adding checkpoints from disk, and the commands around what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderate.classify.bundle import load_bundle, user_weights
from moderate.cli.main import run
from moderate.types import Category
from tests.support.bundles import write_model
from tests.support.nsfwjs import CHECKPOINT

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def last_error(capsys: Captured) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_a_house_model_from_one_file(tmp_path: Path, capsys: Captured) -> None:
    write_model(tmp_path / "src", labels=("ok", "nude", "weapon"))
    file = str(tmp_path / "src" / "model.safetensors")
    command = ["weights", "add", file, "--name", "house"]
    assert run(command) == 2
    assert "--architecture" in last_error(capsys)
    command += ["--architecture", "test_efficientnet", "--labels", "ok, nude, weapon"]
    assert run(command) == 2
    assert "'ok'" in last_error(capsys)
    command += ["--map", "nudity=nude", "--map", "violence=weapon", "--licence", "in-house"]
    assert run(command) == 0
    bundle = load_bundle("house")
    assert bundle.card.categories == (Category.NUDITY, Category.VIOLENCE)
    assert bundle.card.licence == "in-house"
    assert bundle.card.digest == "own"
    assert bundle.card.selftest is not None
    capsys.readouterr()
    assert run(["weights", "show", "house"]) == 0
    assert 'licence = "in-house"' in capsys.readouterr().out
    assert run(["weights", "list", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert listed["house"]["installed"]
    assert listed["testcard"]["verified"] == "made by this project"
    assert run(["weights", "list"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("house "))
    assert line.split() == ["house", "N", ".", ".", "V", ".", "-", "-", "own"]


def test_preprocessing_is_said_and_can_be_set(tmp_path: Path, capsys: Captured) -> None:
    write_model(tmp_path / "src", labels=("SFW", "NSFW"))
    command = ["weights", "add", "src", "--name", "mine"]
    assert run(command) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("images are made 160 x 160 (height x width) by crop, bicubic, 87.5%")
    assert "mean 0.485, 0.456, 0.406" in said
    assert "as its configuration says" in said
    assert "--crop-pct" in said
    options = ["--size", "96x64", "--mean", "0.5", "--std", "1/2", "--crop-pct", "1", "--exact"]
    assert run([*command, "--replace", *options, "--interpolation", "lanczos"]) == 0
    pixels = load_bundle("mine").card.model[0].preprocess
    assert (pixels.size, pixels.mean, pixels.std) == ((96, 64), (0.5,) * 3, (0.5,) * 3)
    assert (pixels.crop_pct, pixels.exact, pixels.interpolation) == (1.0, True, "lanczos")
    assert "but for --size, --crop-pct" in capsys.readouterr().out
    assert run([*command, "--replace", "--no-antialias"]) == 2
    assert "antialias = false goes with interpolation bilinear" in last_error(capsys)


def test_a_timm_folder_maps_itself(tmp_path: Path) -> None:
    write_model(tmp_path / "src", labels=("SFW", "NSFW", "NSFL"))
    assert run(["weights", "add", str(tmp_path / "src"), "--name", "mine"]) == 0
    assert load_bundle("mine").card.categories == (
        Category.NUDITY, Category.SEXUAL_ACTIVITY, Category.SUGGESTIVE, Category.VIOLENCE,
    )  # fmt: skip


def test_a_tensorflow_js_folder() -> None:
    if not CHECKPOINT.is_dir():
        pytest.skip(f"THE REAL CHECKPOINT IS MISSING: no {CHECKPOINT}")
    assert run(["weights", "add", str(CHECKPOINT), "--name", "tfjs"]) == 0
    assert load_bundle("tfjs").models[0].labels == ("Drawing", "Hentai", "Neutral", "Porn", "Sexy")


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "", "with space", "\x1b[31m"])
def test_a_name_is_a_name(tmp_path: Path, capsys: Captured, name: str) -> None:
    write_model(tmp_path / "src", labels=("SFW", "NSFW"))
    assert run(["weights", "add", str(tmp_path / "src"), "--name", name]) == 2
    assert "\x1b" not in last_error(capsys)
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").rglob("*.safetensors"))


def test_a_replacement_that_does_not_work_leaves_the_old(tmp_path: Path, capsys: Captured) -> None:
    write_model(tmp_path / "src", labels=("SFW", "NSFW"))
    assert run(["weights", "add", str(tmp_path / "src"), "--name", "mine"]) == 0
    before = load_bundle("mine").sha256
    (tmp_path / "src" / "model.safetensors").write_bytes(b"broken")
    command = ["weights", "add", str(tmp_path / "src"), "--name", "mine"]
    assert run(command) == 2
    assert "--replace" in last_error(capsys)
    assert run([*command, "--replace"]) == 2
    assert "safetensors" in last_error(capsys)
    assert load_bundle("mine").sha256 == before
    assert not [p for p in user_weights().iterdir() if p.name.startswith(".staging")]


def test_a_broken_installed_card_disturbs_nobody_else(capsys: Captured) -> None:
    broken = user_weights() / "broken"
    broken.mkdir(parents=True)
    (broken / "moderation.toml").write_text("format = ")
    assert run(["weights", "list"]) == 0
    assert "broken" in capsys.readouterr().out
    assert run(["weights", "verify", "testcard", "--device", "cpu"]) == 0
    assert run(["doctor", "--device", "cpu"]) == 2
    out = capsys.readouterr().out
    assert "testcard: self-test" in out
    assert "PROBLEM" in out
    assert run(["weights", "remove", "broken"]) == 0
