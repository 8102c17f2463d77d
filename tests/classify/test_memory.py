"""Out of memory: batches get smaller, the run goes on, and it is said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier, Outcome
from moderate.classify.device import place
from moderate.types import ErrorCode, ImageError


def no_memory_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")


def no_memory_in_python() -> None:
    raise MemoryError


def no_memory_on_the_cpu() -> None:
    torch.empty(2**60)  # bytes that no machine has: torch's own error, with its own words


def no_memory_in_a_library() -> None:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


class Hungry(torch.nn.Module):
    """A real model that has memory for so many images at once."""

    def __init__(self, real: torch.nn.Module, room: int, fail: object) -> None:
        super().__init__()
        self.real, self.room, self.fail, self.sizes = real, room, fail, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            self.fail()
        return self.real(x)


def classifier(bundle: Path) -> Classifier:
    return Classifier(load_bundle(str(bundle)), place("cpu", "fp32", "torch"))


def hungry(bundle: Path, room: int, fail: object = no_memory_on_a_gpu) -> tuple[Classifier, Hungry]:
    model = classifier(bundle)
    backend = model._members[0].model.backend
    backend._model = Hungry(backend._model, room, fail)
    return model, backend._model


def pixels(count: int, seed: int = 0) -> tuple[np.ndarray]:
    return (np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8),)


def close(one: list[Outcome], two: list[Outcome]) -> bool:
    return len(one) == len(two) and all(
        a[c] == pytest.approx(b[c], abs=1e-5) for a, b in zip(one, two, strict=True) for c in a
    )


@pytest.mark.parametrize(
    "fail", [no_memory_on_a_gpu, no_memory_in_python, no_memory_on_the_cpu, no_memory_in_a_library]
)
def test_the_batch_is_halved_until_it_fits_and_stays_so(
    bundle: Path, fail: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model, inner = hungry(bundle, 3, fail)
    assert model.batch_limit is None
    first = model.submit(pixels(32)).result()
    assert model.batch_limit == 2
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "out of memory with 8 images at once: going on with 4",
        "out of memory with 4 images at once: going on with 2",
    ]
    inner.sizes.clear()
    second = model.submit(pixels(32, 1)).result()
    assert set(inner.sizes) == {2}, "what does not fit is not tried again"
    assert len(caplog.records) == 2, "said once for each halving"
    plain = classifier(bundle)
    assert close(first, plain.submit(pixels(32)).result())
    assert close(second, plain.submit(pixels(32, 1)).result())


def test_batches_under_way_when_memory_runs_out_do_not_halve_it_further(bundle: Path) -> None:
    model, _ = hungry(bundle, 4)
    pending = [model.submit(pixels(16, seed)) for seed in range(3)]
    outcomes = [p.result() for p in pending]
    assert model.batch_limit == 4
    plain = classifier(bundle)
    for seed, got in enumerate(outcomes):
        assert close(got, plain.submit(pixels(16, seed)).result())


def test_no_memory_for_one_image_is_a_row_for_each(bundle: Path) -> None:
    model, _ = hungry(bundle, 0)
    outcomes = model.submit(pixels(5)).result()
    assert len(outcomes) == 5
    for outcome in outcomes:
        assert isinstance(outcome, ImageError)
        assert outcome.code is ErrorCode.CLASSIFY_FAILED
        assert "out of memory" in outcome.message
    assert model.batch_limit == 1


def test_another_error_halves_nothing(bundle: Path) -> None:
    def broken() -> None:
        raise RuntimeError("a kernel that this GPU lacks")

    model, _ = hungry(bundle, 0, broken)
    outcomes = model.submit(pixels(3)).result()
    assert [outcome.code for outcome in outcomes] == [ErrorCode.CLASSIFY_FAILED] * 3
    assert model.batch_limit is None


def test_the_failed_attempt_s_memory_is_free_before_the_next(bundle: Path) -> None:
    held: list[int] = []

    class Tracked(Hungry):
        alive = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            import weakref

            held.append(Tracked.alive)
            big = torch.zeros(10)  # a local, as activations are
            Tracked.alive += 1
            weakref.finalize(big, lambda: setattr(Tracked, "alive", Tracked.alive - 1))
            return super().forward(x)

    loaded = load_bundle(str(bundle))
    model = Classifier(loaded, place("cpu", "fp32", "torch"), inference_threads=1)
    backend = model._members[0].model.backend
    backend._model = Tracked(backend._model, 2, no_memory_on_a_gpu)
    model.submit(pixels(8)).result()
    assert model.batch_limit == 2
    assert set(held) == {0}
