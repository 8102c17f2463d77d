"""Submitting batches: order, bits that depend on no neighbour, and what is undone at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier, Outcome
from moderate.classify.device import place
from moderate.classify.labels import activate
from tests.support.bundles import NETWORK_KINDS, make_network, pixels
from tests.support.patience import PATIENCE

BACKENDS = ("torch", "openvino")
Scored = list[Outcome]


def open_classifier(folder: Path | str, backend: str, **options: object) -> Classifier:
    return Classifier(load_bundle(str(folder)), place("cpu", "fp32", backend), **options)


@pytest.fixture(scope="module", params=NETWORK_KINDS)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_network(tmp_path_factory.mktemp("nets"), request.param)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_s_bits_do_not_depend_on_its_neighbours(net: Path, backend: str) -> None:
    side = load_bundle(str(net)).specs[0].height
    batch = pixels(32, side)
    with open_classifier(net, backend) as model:

        def scored(array: np.ndarray) -> Scored:
            return model.submit((array,)).result()

        whole = scored(batch)
        assert len({tuple(o.values()) for o in whole}) == 32, "the scores tell images apart"
        for gone in (0, 21):
            kept = np.delete(batch, gone, axis=0)
            assert scored(kept) == whole[:gone] + whole[gone + 1 :]
        order = np.random.default_rng(1).permutation(32)
        assert scored(np.ascontiguousarray(batch[order])) == [whole[i] for i in order]
        for count in (1, 2, 5, 9):
            assert scored(batch[:count]) == whole[:count]
        for first in (3, 7, 31):
            assert scored(batch[first : first + 7]) == whole[first : first + 7]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_do_not_depend_on_the_batch_size_from_eight_on(net: Path, backend: str) -> None:
    batch = pixels(33, load_bundle(str(net)).specs[0].height)
    results = []
    for size in (8, 11, 64):
        with open_classifier(net, backend, batch_size=size) as model:
            results.append(model.score([(image,) for image in batch]))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_do_not_depend_on_the_threads(net: Path, backend: str) -> None:
    batch = pixels(20, load_bundle(str(net)).specs[0].height)
    results = []
    for threads in (1, 2, 3):
        with open_classifier(net, backend, inference_threads=threads) as model:
            results.append(model.submit((batch,)).result())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 3])
def test_small_batches_agree_with_large_ones(net: Path, backend: str, size: int) -> None:
    batch = pixels(9, load_bundle(str(net)).specs[0].height)
    with (
        open_classifier(net, backend) as large,
        open_classifier(net, backend, batch_size=size) as small,
    ):
        images = [(image,) for image in batch]
        for a, b in zip(large.score(images), small.score(images), strict=True):
            assert list(a.values()) == pytest.approx(list(b.values()), abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_batches_under_way_give_each_its_own_result(net: Path, backend: str) -> None:
    side = load_bundle(str(net)).specs[0].height
    batches = [pixels(13, side, seed) for seed in range(4)]
    with open_classifier(net, backend) as model:
        alone = [model.submit((batch,)).result() for batch in batches]
        # Arrays of their own, which nothing but the classifier holds on to.
        pending = [model.submit((batch.copy(),)) for batch in batches]
        assert [p.result() for p in pending] == alone
        assert alone[0] != alone[1]
        assert model.depth >= 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_result_nobody_takes_harms_nothing(net: Path, backend: str) -> None:
    batch = pixels(20, load_bundle(str(net)).specs[0].height)
    with open_classifier(net, backend) as model:
        expected = model.submit((batch,)).result()
        model.submit((batch[::-1].copy(),))
        assert model.submit((batch,)).result() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_array_laid_out_otherwise_is_the_same_pictures(bundle: Path, backend: str) -> None:
    batch = pixels(8)
    with open_classifier(bundle, backend) as model:
        expected = model.submit((batch,)).result()
        assert model.submit((np.asfortranarray(batch),)).result() == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error")
def test_an_array_that_is_read_only_is_scored_at_once(
    bundle: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = pixels(8)
    with open_classifier(bundle, backend) as model:
        expected = model.submit((batch,)).result()
        batch.setflags(write=False)
        assert model.submit((batch,)).result() == expected
    assert "image by image" not in caplog.text


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_equal_torch_s_and_no_row_depends_on_another(activation: str) -> None:
    rng = np.random.default_rng(0)
    for labels in (1, 2, 5, 9, 40):
        logits = (rng.standard_normal((64, labels)) * 20).astype(np.float32)
        got = activate(logits, activation)
        tensor = torch.from_numpy(logits)
        expected = tensor.softmax(-1) if activation == "softmax" else tensor.sigmoid()
        assert got == pytest.approx(expected.numpy(), abs=1e-6)
        for count in range(1, 64):
            assert np.array_equal(activate(logits[:count], activation), got[:count])


def test_pinning_on_a_cpu_does_nothing(bundle: Path) -> None:
    buffer = pixels(8)
    before = buffer.copy()
    for backend in BACKENDS:
        with open_classifier(bundle, backend) as model:
            model.pin([buffer, buffer[:2]])
            assert model.submit((buffer,)).result()
        model.close()
    assert np.array_equal(buffer, before)


def test_torch_s_threads_are_set_and_given_back(bundle: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with open_classifier(bundle, "torch", inference_threads=2) as model:
            assert torch.get_num_threads() == 1  # for each of two batches at once
            model.submit((pixels(2),)).result()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


COMPILED = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout, level=logging.WARNING)
import numpy as np
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
with Classifier(load_bundle(sys.argv[1]), place("cpu", "fp32", "torch"), compile=True) as model:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    for outcome in model.submit((pixels,)).result():
        print(*(score.hex() for score in outcome.values()))
"""


def compiled(bundle: Path, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(bundle)],
        env={**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_compiler_that_is_not_there_costs_a_warning(bundle: Path) -> None:
    expected = open_classifier(bundle, "torch").submit((pixels(9),)).result()
    warning, *scores = compiled(bundle, CXX="/nonexistent/c++")
    assert warning.startswith("WARNING torch.compile failed (")
    assert scores == [" ".join(score.hex() for score in o.values()) for o in expected]


@pytest.mark.slow  # compiling takes most of a minute
def test_a_compiled_model_gives_the_same_scores(bundle: Path) -> None:
    # Where the machine has no C++ compiler this is the test above.
    expected = open_classifier(bundle, "torch").submit((pixels(9),)).result()
    scores = compiled(bundle)[-9:]
    for line, outcome in zip(scores, expected, strict=True):
        got = [float.fromhex(score) for score in line.split()]
        assert got == pytest.approx(list(outcome.values()), abs=1e-4)
