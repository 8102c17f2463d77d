"""Converted models on disk: used when right, made anew when not, whatever the disk does."""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from moderate.classify.backends import ir_cache
from moderate.classify.backends.ir_cache import Graph
from moderate.classify.backends.openvino_backend import cache_key
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier, Outcome
from moderate.classify.device import place
from moderate.errors import WeightsError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(ir_cache.cache_folder())


def score(bundle: Path) -> list[Outcome]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    with Classifier(load_bundle(str(bundle)), place("cpu", "fp32", "openvino")) as model:
        return model.submit((pixels,)).result()


def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures that were converted from here on."""
    from moderate.classify.backends import openvino_backend

    seen: list[str] = []
    real = openvino_backend._convert

    def counted(files: object, openvino: object) -> Graph:
        seen.append(files.architecture)
        return real(files, openvino)

    monkeypatch.setattr(openvino_backend, "_convert", counted)
    return seen


def test_made_once_kept_private_and_the_scores_are_the_same(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = converted(monkeypatch)
    first = score(bundle)
    (kept,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert score(bundle) == first
    assert made == ["test_efficientnet"]


def damage_first(data: bytearray) -> bytes:
    data[0] ^= 1
    return bytes(data)


def damage_digest(data: bytearray) -> bytes:
    data[20] ^= 1
    return bytes(data)


def damage_xml(data: bytearray) -> bytes:
    data[300] ^= 1
    return bytes(data)


def damage_last_weight(data: bytearray) -> bytes:
    data[-1] ^= 1
    return bytes(data)


def shorten(data: bytearray) -> bytes:
    return bytes(data[:-100])


def lengthen(data: bytearray) -> bytes:
    return bytes(data) + bytes(64)


def empty(data: bytearray) -> bytes:
    return b""


@pytest.mark.parametrize(
    "damage",
    [damage_first, damage_digest, damage_xml, damage_last_weight, shorten, lengthen, empty],
)
def test_a_damaged_file_is_made_anew_silently(
    bundle: Path, cache: Path, damage: object, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = converted(monkeypatch)
    first = score(bundle)
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    kept.write_bytes(damage(bytearray(good)))
    capfd.readouterr()
    assert score(bundle) == first
    assert len(made) == 2
    assert capfd.readouterr() == ("", "")
    (again,) = cache.iterdir()
    assert ir_cache.load(again.stem) is not None
    assert score(bundle) == first
    assert len(made) == 2


def test_a_file_of_another_model_under_this_name_is_not_used(cache: Path) -> None:
    ir_cache.save("a" * 64, Graph(b"<net/>", b"weights"))
    (cache / f"{'a' * 64}.ir").rename(cache / f"{'b' * 64}.ir")
    assert ir_cache.load("b" * 64) is None
    assert ir_cache.load("a" * 64) is None


def test_what_was_kept_comes_back_whole(cache: Path) -> None:
    for weights in (b"", b"w", bytes(range(256)) * 100):
        ir_cache.save("c" * 64, Graph(b"<net/>", weights))
        assert ir_cache.load("c" * 64) == Graph(b"<net/>", weights)


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_not_trusted(
    bundle: Path, cache: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = converted(monkeypatch)
    first = score(bundle)
    cache.chmod(mode)
    assert score(bundle) == first
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_is_none(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(score(bundle)) == 9


def test_weights_exchanged_after_their_check_are_noticed_with_a_kept_model(
    bundle: Path, cache: Path, tmp_path: Path
) -> None:
    import shutil

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


def test_models_unused_for_a_month_are_let_go(cache: Path) -> None:
    ir_cache.save("a" * 64, Graph(b"<old/>", b""))
    ir_cache.save("b" * 64, Graph(b"<used/>", b""))
    month = time.time() - 31 * 24 * 3600
    for name in ("a", "b"):
        os.utime(cache / f"{name * 64}.ir", (month, month))
    assert ir_cache.load("b" * 64) is not None  # counts as used
    ir_cache.save("c" * 64, Graph(b"<new/>", b""))
    assert sorted(path.stem[0] for path in cache.iterdir()) == ["b", "c"]
