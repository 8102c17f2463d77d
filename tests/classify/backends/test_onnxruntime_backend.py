"""ONNX graphs run by onnxruntime, on the CPU as it would be on CUDA, against OpenVINO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moderate.cli.main import run
from tests.support.networks_onnx import SMALL_LABELS, small

SCORE = """
import json, sys
import numpy as np
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
colours = np.random.default_rng(0).integers(0, 256, (7, 1, 1, 3)).astype(np.uint8)
pixels = np.repeat(np.repeat(colours, 64, axis=1), 64, axis=2)
for name in sys.argv[2:]:
    bundle = load_bundle(name)
    with Classifier(bundle, place("cpu", "fp32", sys.argv[1], bundle.kinds)) as model:
        outcomes = model.submit((pixels,)).result()
        alone = model.submit((pixels[2:3],)).result()
    scores = [outcome["nudity"] for outcome in (*outcomes, *alone)]
    print(json.dumps([model.placement.backend, scores]))
"""


@pytest.fixture(scope="module")
def onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with onnxruntime, from the index that pip is configured for."""
    folder = str(tmp_path_factory.mktemp("onnxruntime"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*command, "onnxruntime", "flatbuffers", "protobuf"], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_onnxruntime_gives_openvino_s_scores(
    onnxruntime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    names = []
    for layout, colours, batch in (("nchw", "rgb", "n"), ("nhwc", "bgr", "n"), ("nchw", "bgr", 1)):
        name = f"{layout}-{colours}-{batch}"
        names.append(name)
        (tmp_path / "g.onnx").write_bytes(small(layout=layout, batch=batch))
        assert run([
            "weights", "add", str(tmp_path / "g.onnx"), "--name", name, "--labels",
            ",".join(SMALL_LABELS), "--mean", "0.5,0.4,0.3", "--std", "0.25", "--colours", colours,
            "--activation", "softmax", "--map", "nudity=weapon",
        ]) == 0  # fmt: skip
    paths = os.pathsep.join((onnxruntime, str(Path(__file__).parents[3])))
    found = {}
    for backend in ("openvino", "onnxruntime"):
        done = subprocess.run(
            [sys.executable, "-c", SCORE, backend, *names],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [used for used, _ in lines] == [backend] * 3
        found[backend] = [scores for _, scores in lines]
    for first, second in zip(found["openvino"], found["onnxruntime"], strict=True):
        assert max(first) - min(first) > 0.02, "the scores tell images apart"
        assert second == pytest.approx(first, abs=1e-5)
        assert second[2] == pytest.approx(second[-1], abs=1e-5)
