"""Networks as lists of operations: the same scores to the last bit, and none that are not right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from moderate.classify.backends import ir_cache, program_cache, torch_program
from moderate.classify.backends.program_cache import find_program
from moderate.classify.backends.torch_backend import TorchBackend
from moderate.classify.backends.torch_export import export
from moderate.classify.backends.torch_program import Program, UnusableError
from moderate.classify.bundle import ModelFiles, load_bundle
from moderate.classify.device import place
from moderate.errors import WeightsError
from tests.support.bundles import NETWORK_KINDS, make_network, pixels

PLACEMENT = place("cpu", "fp32", "torch")


@pytest.fixture(scope="module", params=NETWORK_KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = make_network(tmp_path_factory.mktemp("nets"), request.param)
    return load_bundle(str(folder)).models[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = make_network(tmp_path_factory.mktemp("nets"), NETWORK_KINDS[0])
    return load_bundle(str(folder)).models[0]


@pytest.fixture(scope="module")
def exported(small: ModelFiles) -> bytes:
    return export(small)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(ir_cache.cache_folder() or "")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, exported: bytes) -> list[str]:
    """The architectures that a program was made of; making, which takes seconds, is a copy."""
    seen: list[str] = []

    def copy(files: ModelFiles) -> bytes:
        seen.append(files.architecture)
        return exported

    monkeypatch.setattr(program_cache, "_make", copy)
    return seen


def logits(files: ModelFiles, batch: np.ndarray, **options: Any) -> tuple[np.ndarray, bool]:
    """The answers of the backend, and whether a program gave them."""
    backend = TorchBackend(files, PLACEMENT, batch_size=8, threads=1, **options)
    try:
        return backend.start(batch)(), isinstance(backend._model, Program)
    finally:
        backend.close()


def weights(files: ModelFiles) -> dict[str, torch.Tensor]:
    return load_file(Path(files.folder) / "model.safetensors")


def rewritten(data: bytes, **changes: Any) -> bytes:
    """A program with other contents."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    program = {**json.loads(header["__metadata__"]["program"]), **changes}
    constants = {"logits": torch.zeros(1, 5)}
    return save(constants, {"program": json.dumps(program)})


def test_a_program_gives_the_same_scores_to_the_last_bit(cache: Path, model: ModelFiles) -> None:
    side = model.card.preprocess.pixel_spec().height
    batches = [pixels(count, side, seed=count) for count in (1, 3, 8)]
    # It is made by a process of its own at the second start, and read at the third.
    starts = [[logits(model, batch) for batch in batches] for _ in range(2)]
    assert [by_program for _, by_program in starts[0]] == [False, True, True]
    with ir_cache.kept_in(None):
        built = [logits(model, batch) for batch in batches]
    assert not any(by_program for _, by_program in built)
    for start in starts:
        for (ours, _), (expected, _) in zip(start, built, strict=True):
            assert np.array_equal(ours, expected)
    assert np.ptp(np.concatenate([each for each, _ in built]), axis=0).max() > 0


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_program_is_made_anew(
    cache: Path, small: ModelFiles, made: list[str], damage: str
) -> None:
    assert find_program(small) is None
    assert find_program(small) is not None
    (file,) = cache.glob("*.program")
    kept = file.read_bytes()
    changed = kept.replace(b"conv2d", b"linear", 1)
    assert changed != kept
    file.write_bytes({"cut": kept[:-9], "changed": changed, "empty": b""}[damage])
    assert find_program(small) is not None
    assert len(made) == 2
    assert find_program(small) is not None
    assert len(made) == 2


def test_a_folder_that_others_may_write_to_is_not_used(
    cache: Path, small: ModelFiles, made: list[str]
) -> None:
    assert find_program(small) is None
    assert find_program(small) is not None
    os.chmod(cache, 0o777)
    assert find_program(small) is None


def test_a_program_that_fails_its_self_test_is_not_used(
    cache: Path, small: ModelFiles, monkeypatch: pytest.MonkeyPatch, exported: bytes
) -> None:
    header = json.loads(exported[8 : 8 + int.from_bytes(exported[:8], "little")])
    program = Program(exported, weights(small))
    other = save({"logits": torch.from_numpy(program.logits + 1)}, header["__metadata__"])
    monkeypatch.setattr(program_cache, "_make", lambda files: other)
    batch = pixels(2, small.card.preprocess.pixel_spec().height)
    expected, _ = logits(small, batch)
    got, by_program = logits(small, batch)
    assert np.array_equal(got, expected)
    assert not by_program
    monkeypatch.setattr(program_cache, "_make", lambda files: pytest.fail("made once more"))
    assert not logits(small, batch)[1]


def test_weights_that_were_replaced_stop_a_start_as_ever(
    cache: Path, tmp_path: Path, made: list[str]
) -> None:
    bundle = make_network(tmp_path, NETWORK_KINDS[0])
    files = load_bundle(str(bundle)).models[0]
    batch = pixels(1, files.card.preprocess.pixel_spec().height)
    assert [logits(files, batch)[1] for _ in range(2)] == [False, True]
    with (bundle / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    with pytest.raises(WeightsError, match="changed since it was checked"):
        logits(files, batch)


def test_compiled_models_and_other_precisions_are_built(
    cache: Path, small: ModelFiles, made: list[str]
) -> None:
    batch = pixels(1, small.card.preprocess.pixel_spec().height)
    for _ in range(3):
        backend = TorchBackend(small, place("cpu", "bf16", "torch"), batch_size=8, threads=1)
        backend.start(batch)()
        backend.close()
        assert not isinstance(backend._model, Program)
    assert not made


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [["from_file.default", ["/etc/hostname"], {}]]},
        {"steps": [["relu", [], {}]]},
        {"steps": [["system", ["true"], {}]]},
        {"steps": [["relu.nonsense", [], {}]]},
        {"steps": [["relu.default", [{"value": 10**6}], {}]]},
        {"steps": [["relu.default", [{"torch": "load"}], {}]]},
        {"output": -1},
        {"format": 0},
        {"state": {}},
        {"inputs": []},
        {"steps": 3},
    ],
)
def test_what_is_no_program_for_these_weights_is_refused(
    small: ModelFiles, exported: bytes, changes: dict[str, Any]
) -> None:
    Program(rewritten(exported), weights(small))
    with pytest.raises(UnusableError):
        Program(rewritten(exported, **changes), weights(small))


def test_every_operation_that_a_program_may_have_is_torchs_own() -> None:
    assert all(hasattr(torch.ops.aten, name) for name in torch_program.OPERATIONS)


def test_a_start_with_a_program_imports_neither_timm_nor_torchvision(
    cache: Path, small: ModelFiles, made: list[str]
) -> None:
    assert find_program(small) is None
    assert find_program(small) is not None
    code = (
        "import sys; from moderate.classify.bundle import load_bundle;"
        "from moderate.classify.classifier import Classifier;"
        "from moderate.classify.device import place;"
        "Classifier(load_bundle(sys.argv[1]), place('cpu', 'fp32', 'torch')).close();"
        "heavy = {'timm', 'torchvision', 'sympy', 'torch._dynamo', 'pandas'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, small.folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
