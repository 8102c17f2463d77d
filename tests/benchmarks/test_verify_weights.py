"""A short form of benchmarks/verify_weights.py: what differs is found, what agrees passes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.bundles import write_model
from tests.support.packages import catalogue_with, entry_of, make_wheel, package_of
from tests.support.pictures import encode, scene

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # the script sets it itself
    import verify_weights

    return verify_weights


def test_stored_scores_are_compared(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, packages, images = (tmp_path / name for name in ("source", "packages", "images"))
    packages.mkdir()
    images.mkdir()
    write_model(source, labels=("NSFW", "SFW"))
    files = {f"net/{file.name}": file.read_bytes() for file in source.iterdir()}
    wheel = make_wheel(packages, "small-net", "1.0", files)
    (packages / "notes.txt").write_text("not a package")
    (images / "a.png").write_bytes(encode(scene().resize((160, 160)), "PNG"))

    # The reference, by timm alone.
    config = json.loads((source / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=2).eval()
    model.load_state_dict(load_file(source / "model.safetensors"))
    pixels = np.asarray(Image.open(images / "a.png").convert("RGB"), np.float32).transpose(2, 0, 1)
    with torch.inference_mode():
        batch = (torch.from_numpy(pixels.copy())[None] / 255 - 0.5) / 0.5
        scores = model(batch).softmax(1)[0].tolist()
    preprocess = {"size": [160, 160], "resize": "squash", "interpolation": "bilinear",
                  "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    entry = entry_of("small", package_of(wheel, files), preprocess=preprocess)

    def verdict(stored: list[float], *more: str) -> int:
        references = tmp_path / "references.json"
        content = {"labels": ["NSFW", "SFW"], "scores": {"a.png": stored}}
        references.write_text(json.dumps(content))
        with catalogue_with(entry):
            return script.main(
                ["--packages", str(packages), "--photos", str(images), "--references",
                 str(references), "--reference-images", str(images), *more]
            )  # fmt: skip

    out = tmp_path / "out.json"
    assert verdict(scores, "--json", str(out)) == 0
    compared = json.loads(out.read_text())["compared"]
    assert [(one["entry"], one["backend"]) for one in compared] == [
        ("small", "torch"),
        ("small", "openvino"),
    ]
    assert verdict([scores[0] + 2e-4, scores[1]]) == 1
    wheel.unlink()
    assert verdict(scores) == 2
