"""Converted models on disk: used when right, made anew when not, whatever the disk does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moderate.classify.backends import conversion, ir_cache, openvino_backend
from moderate.classify.backends.ir_cache import Graph, GraphFacts
from moderate.classify.backends.openvino_backend import cache_key
from moderate.classify.bundle import ModelFiles, load_bundle
from moderate.classify.classifier import Classifier, Outcome
from moderate.classify.device import place
from moderate.errors import DeviceError, WeightsError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(ir_cache.cache_folder())


def score(bundle: Path, backend: str = "openvino") -> list[Outcome]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    with Classifier(load_bundle(str(bundle)), place("cpu", "fp32", backend)) as model:
        return model.submit((pixels,)).result()


@pytest.fixture(scope="module")
def made(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphFacts]:
    """The bundle's model, converted once by a real process."""
    folder = tmp_path_factory.mktemp("made")
    return folder, conversion.convert(load_bundle(str(bundle)).models[0], str(folder))


@pytest.fixture
def conversions(made: tuple[Path, GraphFacts], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures converted from here on; conversion, which takes seconds, is a copy."""
    seen: list[str] = []

    def copy(files: ModelFiles, folder: str) -> GraphFacts:
        seen.append(files.architecture)
        shutil.copytree(made[0], folder, dirs_exist_ok=True)
        return made[1]

    monkeypatch.setattr(openvino_backend, "convert", copy)
    return seen


def only(cache: Path, suffix: str) -> Path:
    (found,) = cache.glob(f"*.{suffix}")
    return found


def test_made_once_kept_private_and_the_scores_are_the_same(
    bundle: Path, cache: Path, conversions: list[str]
) -> None:
    first = score(bundle)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    kept = sorted(path.suffix for path in cache.iterdir())
    assert kept == [".bin", ".json", ".xml"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.iterdir()} == {0o600}
    assert score(bundle) == first
    assert conversions == ["test_efficientnet"]


def test_a_real_conversion_is_kept_and_computes_what_torch_does(bundle: Path, cache: Path) -> None:
    first = score(bundle)
    assert len(list(cache.iterdir())) == 3
    torch = score(bundle, "torch")
    for ours, theirs in zip(first, torch, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def flip(position: int) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return damage


def edit(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("xml", flip(300)),
        ("xml", lambda data: data[:-100]),
        ("xml", lambda data: b""),
        ("bin", flip(0)),
        ("bin", flip(-1)),
        ("bin", lambda data: data[:-100]),
        ("bin", lambda data: b""),
        ("json", lambda data: data[:-1]),
        ("json", lambda data: b"[1]"),
        ("json", edit(key="a" * 64)),
        ("json", edit(network="0" * 64)),
        ("json", edit(constants="0" * 64)),
        ("json", edit(logits=[[0.0] * 5] * 4)),
        ("json", edit(logits=[[0.0] * 5, [0.0]])),
        ("json", edit(logits=[])),
        ("json", edit(made="never")),
        ("json", edit(made=10**400)),
        ("json", edit(made_by="torch 2.5.0, timm 1.0.9")),
    ],
)
def test_a_damaged_file_is_made_anew_silently(
    bundle: Path, cache: Path, conversions: list[str], capfd: pytest.CaptureFixture[str],
    suffix: str, damage: Callable[[bytes], bytes],
) -> None:  # fmt: skip
    first = score(bundle)
    kept = only(cache, suffix)
    good = kept.read_bytes()
    kept.write_bytes(damage(good))
    assert kept.read_bytes() != good
    capfd.readouterr()
    assert score(bundle) == first
    assert len(conversions) == 2
    assert capfd.readouterr() == ("", "")
    assert score(bundle) == first
    assert len(conversions) == 2


def test_other_weights_under_the_right_name_are_noticed_when_they_are_loaded(
    bundle: Path, cache: Path, conversions: list[str]
) -> None:
    """As those were that OpenVINO took from the working directory: of the same size and form."""
    first = score(bundle)
    kept = only(cache, "bin")
    values = np.frombuffer(kept.read_bytes(), np.uint8).copy()
    values[-20:] = np.full(5, -30.0, np.float32).view(np.uint8)
    kept.write_bytes(values.tobytes())
    assert score(bundle) == first
    assert len(conversions) == 2


def test_weights_that_are_other_right_after_their_conversion_are_not_used(
    bundle: Path, cache: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = openvino_backend.convert

    def disturbed(files: ModelFiles, folder: str) -> GraphFacts:
        return dataclasses.replace(real(files, folder), constants="0" * 64)

    monkeypatch.setattr(openvino_backend, "convert", disturbed)
    with pytest.raises(DeviceError, match=r"after its conversion, other weights were loaded"):
        score(bundle)
    assert score(bundle, "auto") == score(bundle, "torch")


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_not_trusted(
    bundle: Path, cache: Path, mode: int, conversions: list[str]
) -> None:
    first = score(bundle)
    cache.chmod(mode)
    assert score(bundle) == first
    assert len(conversions) == 2


@pytest.mark.parametrize("name", ["file", "relative"])
def test_a_cache_that_cannot_be_written_is_none(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    conversions: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name) if name == "file" else name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # which a relative name leaves in charge
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert len(score(bundle)) == 9
    assert [path.name for path in tmp_path.iterdir() if path.name == "relative"] == []
    assert list(temporary.iterdir()) == []
    assert len(conversions) == 1


def test_with_no_folder_at_all_torch_takes_over_and_one_line_says_why(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert score(bundle, "auto") == score(bundle, "torch")
    (record,) = caplog.records
    assert "there is no folder for the converted model: Not a directory" in record.getMessage()


def test_a_conversion_that_is_killed_costs_openvino_only(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        DeviceError, match=r"the conversion was killed by SIGKILL\); --backend torch"
    ):
        score(bundle)
    assert score(bundle, "auto") == score(bundle, "torch")
    assert [kept.suffix for kept in cache.iterdir()] == [".program"], "torch's, nothing else"


def test_a_conversion_whose_process_cannot_be_started_is_one_error(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(DeviceError, match="the process for it cannot be started: No such file"):
        score(bundle)


def test_the_verdict_that_openvino_differs_holds_for_a_day(
    bundle: Path, cache: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = openvino_backend.convert
    monkeypatch.setattr(
        openvino_backend,
        "convert",
        lambda files, folder: conversions.append("differs") or GraphFacts(False, time.time()),
    )
    for _ in range(2):
        with pytest.raises(DeviceError, match="gives other scores than torch"):
            score(bundle)
    assert conversions == ["differs"], "believed meanwhile"
    monkeypatch.setattr(openvino_backend, "convert", real)
    kept = only(cache, "json")
    for made in (
        time.time() - 25 * 3600,
        time.time() + 3600,
    ):  # long ago; by a clock that was wrong
        kept.write_bytes(edit(agrees=False, made=made)(kept.read_bytes()))
        assert len(score(bundle)) == 9
    assert conversions == ["differs", "test_efficientnet", "test_efficientnet"]


def test_files_of_another_model_under_this_name_are_not_used(
    bundle: Path, cache: Path, conversions: list[str]
) -> None:
    score(bundle)
    for path in list(cache.iterdir()):
        path.rename(cache / f"{'b' * 64}{path.suffix}")
    assert ir_cache.load("b" * 64) is None
    assert ir_cache.load("a" * 64) is None


def test_weights_exchanged_after_their_check_are_noticed_with_a_kept_model(
    bundle: Path, cache: Path, tmp_path: Path, conversions: list[str]
) -> None:
    folder = tmp_path / "b"
    shutil.copytree(bundle, folder)
    score(folder)
    loaded = load_bundle(str(folder))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="changed since it was checked"):
        Classifier(loaded, place("cpu", "fp32", "openvino"))


def test_the_key_changes_with_all_that_the_model_depends_on(bundle: Path) -> None:
    files = load_bundle(str(bundle)).models[0]
    card = files.card
    others = [
        dataclasses.replace(files, architecture="test_vit"),
        dataclasses.replace(files, labels=files.labels[:2]),
        *(
            dataclasses.replace(files, card=card.model_copy(update=update))
            for update in (
                {"model_args": {"bn_eps": 0.1}},
                {"sha256": {**card.sha256, "model.safetensors": "0" * 64}},
                {"preprocess": card.preprocess.model_copy(update={"mean": (0.1, 0.5, 0.5)})},
                {"preprocess": card.preprocess.model_copy(update={"antialias": False})},
            )
        ),
    ]
    keys = {cache_key(one) for one in (files, *others)}
    assert len(keys) == 1 + len(others)


def keep(key: str) -> Graph:
    with ir_cache.workspace(0) as folder:
        Path(folder, ir_cache.NETWORK).write_bytes(b"<net/>")
        Path(folder, ir_cache.WEIGHTS).write_bytes(b"weights")
        return ir_cache.keep(key, folder, GraphFacts(True, time.time()))


def test_models_unused_for_a_month_are_let_go(
    bundle: Path, cache: Path, conversions: list[str]
) -> None:
    score(bundle)
    used = only(cache, "json").stem
    keep("a" * 64)
    month = time.time() - 31 * 24 * 3600
    for path in cache.iterdir():
        os.utime(path, (month, month))
    assert ir_cache.load(used) is not None  # counts as used
    keep("c" * 64)
    assert {path.stem for path in cache.iterdir()} == {used, "c" * 64}
    assert len(list(cache.iterdir())) == 6


def test_what_a_killed_process_left_is_removed_a_day_later(cache: Path) -> None:
    keep("a" * 64)
    day = time.time() - 25 * 3600
    for name in (".converting-old", ".converting-now"):
        (cache / name).mkdir()
        (cache / name / "model.bin").write_bytes(b"half")
    os.utime(cache / ".converting-old", (day, day))
    keep("b" * 64)
    assert not (cache / ".converting-old").exists()
    assert (cache / ".converting-now").exists()
