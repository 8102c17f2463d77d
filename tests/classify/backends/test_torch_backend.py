"""The model on CUDA: the same scores as on the CPU, batches under way, memory that runs out.

These need a GPU and are skipped elsewhere.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.classify.replicas import open_scorer
from tests.support.bundles import NETWORK_KINDS, make_bundle, make_network, pixels
from tests.support.pictures import encode, scene
from tests.support.scans import COMMAND

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA is needed: this machine has no GPU that torch sees"
)

FP32 = 1e-4
BF16 = 0.05  # a random network's, whose scores lie around 0.5


def scored(bundle: Path, array: np.ndarray, *where: str, **options: object) -> np.ndarray:
    with Classifier(load_bundle(str(bundle)), place(*where), **options) as model:  # type: ignore[arg-type]
        outcomes = model.submit((array,)).result()
    return np.array([list(outcome.values()) for outcome in outcomes], np.float32)


@pytest.fixture(scope="module", params=NETWORK_KINDS)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_network(tmp_path_factory.mktemp("nets"), request.param)


@pytest.mark.parametrize(("precision", "most"), [("fp32", FP32), ("bf16", BF16), ("fp16", BF16)])
def test_scores_are_those_of_the_cpu(net: Path, precision: str, most: float) -> None:
    batch = pixels(70, load_bundle(str(net)).specs[0].height)
    expected = scored(net, batch, "cpu", "fp32", "torch")
    got = scored(net, batch, "cuda", precision)
    assert np.ptp(expected, axis=0).max() > 10 * FP32, "the scores tell images apart"
    assert np.abs(got - expected).max() <= most


def test_batches_under_way_in_registered_memory_keep_to_themselves(net: Path) -> None:
    side = load_bundle(str(net)).specs[0].height
    batches = [pixels(32, side, seed) for seed in range(12)]
    with Classifier(load_bundle(str(net)), place("cuda", "fp32"), batch_size=32) as model:
        alone = [model.submit((batch,)).result() for batch in batches]
        memory = np.empty((model.depth, 32, side, side, 3), np.uint8)
        model.pin([memory])
        pending = []
        results = []
        for number, batch in enumerate(batches):
            slot = number % model.depth
            if len(pending) == model.depth:
                # Only then may its memory be filled again, as the run does.
                results.append(pending.pop(0).result())
            memory[slot] = batch
            pending.append(model.submit((memory[slot],)))
        results += [one.result() for one in pending]
    assert results == alone


def test_batches_are_halved_when_memory_runs_out(tmp_path: Path) -> None:
    """In a process of its own, whose share of the GPU's memory is made small."""
    bundle = make_bundle(tmp_path / "bundle")
    code = (
        "import sys, numpy as np, torch\n"
        "from moderate.classify.bundle import load_bundle\n"
        "from moderate.classify.classifier import Classifier\n"
        "from moderate.classify.device import place\n"
        "total = torch.cuda.get_device_properties(0).total_memory\n"
        "torch.cuda.set_per_process_memory_fraction((192 << 20) / total)\n"
        "array = np.random.default_rng(0).integers(0, 256, (4096, 64, 64, 3), np.uint8)\n"
        "with Classifier(load_bundle(sys.argv[1]), place('cuda', 'fp32'), batch_size=4096) as m:\n"
        "    found = m.submit((array,)).result()\n"
        "    print(m.batch_limit, sum(isinstance(one, dict) for one in found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, cwd=os.getcwd()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    limit, good = map(int, done.stdout.split())
    assert good == 4096
    assert 1 <= limit < 4096


def test_a_scan_on_the_gpu_decides_as_one_on_the_cpu(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:03}.jpg").write_bytes(encode(scene((200, 150), seed=number), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    rows = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.csv"
        flags = ["--device", device, "--precision", "fp32", "--no-state", "--out", str(out), "-q"]
        done = subprocess.run(
            [*COMMAND, "scan", str(folder), "--weights", str(bundle), *flags],
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 1), done.stderr
        with out.open() as file:
            rows[device] = list(csv.DictReader(file))
    assert len(rows["cpu"]) == len(rows["cuda"]) == 101
    for a, b in zip(rows["cpu"], rows["cuda"], strict=True):
        assert (a["path"], a["decision"], a["error_code"]) == (
            b["path"],
            b["decision"],
            b["error_code"],
        )
        if a["nudity"]:
            assert float(a["nudity"]) == pytest.approx(float(b["nudity"]), abs=FP32)


def test_a_compiled_model_scores_the_same(net: Path) -> None:
    batch = pixels(40, load_bundle(str(net)).specs[0].height)
    plain = scored(net, batch, "cuda", "fp32")
    compiled = scored(net, batch, "cuda", "fp32", compile=True)
    assert np.abs(plain - compiled).max() <= FP32


@pytest.mark.parametrize("device", ["cuda:all", "cuda:0,cuda:0", "cuda:0,cuda:0,cuda:0"])
def test_several_models_score_as_one(net: Path, device: str) -> None:
    """On a machine with one GPU, two models on it."""
    side = load_bundle(str(net)).specs[0].height
    batches = [pixels(1 + seed % 32, side, seed) for seed in range(40)]
    with open_scorer(load_bundle(str(net)), place("cuda:0", "fp32")) as one:
        expected = [one.submit((batch,)).result() for batch in batches]
    with open_scorer(load_bundle(str(net)), place(device, "fp32")) as several:
        memory = np.empty((len(batches), 32, side, side, 3), np.uint8)
        several.pin([memory])
        pending = []
        for number, batch in enumerate(batches):
            memory[number, : len(batch)] = batch
            pending.append(several.submit((memory[number, : len(batch)],)))
        assert [each.result() for each in pending] == expected


def test_a_gpu_that_is_lost_is_an_error(tmp_path: Path) -> None:
    """In a process of its own: after a failed assertion in a kernel, CUDA does nothing more."""
    bundle = make_bundle(tmp_path / "bundle")
    code = (
        "import sys, numpy as np, torch\n"
        "from moderate.classify.bundle import load_bundle\n"
        "from moderate.classify.device import place\n"
        "from moderate.classify.replicas import open_scorer\n"
        "from moderate.errors import DeviceError\n"
        "array = np.zeros((8, 64, 64, 3), np.uint8)\n"
        "try:\n"
        "    with open_scorer(load_bundle(sys.argv[1]), place(sys.argv[2], 'fp32')) as scorer:\n"
        "        scorer.submit((array,)).result()\n"
        "        try:\n"
        "            there = torch.zeros(1, device='cuda:0')\n"
        "            there[torch.tensor([9], device='cuda:0')].cpu()\n"
        "        except RuntimeError:\n"
        "            pass\n"
        "        scorer.submit((array,)).result()\n"
        "except DeviceError as error:\n"
        "    print(error)\n"
    )
    for device in ("cuda:0", "cuda:0,cuda:0"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(bundle), device],
            capture_output=True,
            text=True,
            cwd=os.getcwd(),
        )
        assert done.stdout.startswith("--device cuda:0: CUDA no longer works: "), done.stderr[
            -2000:
        ]
