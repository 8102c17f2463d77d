"""Several models at once: the scores and the order of one, and what befalls one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moderate.classify import device as devices
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Batch, Classifier, Pending
from moderate.classify.device import Placement, check_device, most_replicas, place
from moderate.classify.replicas import Replicas, open_scorer
from moderate.decode.ring import layout
from moderate.errors import DeviceError, UsageError
from moderate.types import ErrorCode, ImageError
from moderate.weights.verify import verify_bundle
from tests.support.bundles import pixels
from tests.support.patience import PATIENCE

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"


def batches(count: int) -> list[Batch]:
    """Of different sizes."""
    return [(pixels(3 + number % 6, seed=number),) for number in range(count)]


def open_replicas(bundle: Path, device: str = "cpu,cpu", backend: str = "torch") -> Replicas:
    scorer = open_scorer(load_bundle(str(bundle)), place(device, "fp32", backend), batch_size=8)
    assert isinstance(scorer, Replicas)
    return scorer


def open_one(bundle: Path, backend: str = "torch") -> Classifier:
    return Classifier(load_bundle(str(bundle)), place("cpu", "fp32", backend), batch_size=8)


def before_each_batch(classifier: Classifier, do: Callable[[int], None]) -> None:
    """Call `do` with the number of each batch that this replica gets."""
    submit = classifier.submit
    count = iter(range(10**6))

    def submit_later(batch: Batch) -> Pending:
        do(next(count))
        return submit(batch)

    classifier.submit = submit_later  # type: ignore[method-assign]


def with_model(classifier: Classifier, wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    backend = classifier._members[0].model.backend
    backend._model = wrap(backend._model)  # type: ignore[attr-defined]


class Broken(torch.nn.Module):
    """A model that fails whatever it is given, or only with more images than it has room for."""

    def __init__(self, real: torch.nn.Module, error: Exception, room: int = 0) -> None:
        super().__init__()
        self.real, self.error, self.room = real, error, room

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.room:
            raise self.error
        return self.real(images)


# Scores


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("device", ["cpu,cpu", "cpu, cpu, cpu"])
def test_scores_are_those_of_one_to_the_bit_and_in_its_order(
    bundle: Path, backend: str, device: str
) -> None:
    given = batches(30)
    with open_one(bundle, backend) as one:
        expected = [one.submit(batch).scored() for batch in given]
    with open_replicas(bundle, device, backend) as several:
        count = len(several.placement.replicas)
        together = threading.Barrier(count)
        # All of them have a first batch before any goes on.
        for classifier in several._classifiers:
            before_each_batch(classifier, lambda n: n or together.wait(PATIENCE))  # type: ignore[func-returns-value]
        pending = [several.submit(batch) for batch in given]
        assert [each.scored() for each in pending] == expected
        assert several.depth >= count
        assert several.placement.backend == backend
        submitted = several.submit(given[0])
        end = time.monotonic() + PATIENCE
        while not submitted.is_ready() and time.monotonic() < end:
            time.sleep(0.01)
        assert submitted.is_ready()
        assert submitted.scored() == expected[0]


def test_a_slow_one_gets_fewer_batches_and_holds_nobody_up(bundle: Path) -> None:
    given = batches(20)
    with open_one(bundle) as one:
        expected = [one.submit(batch).result() for batch in given]
    with open_replicas(bundle) as several:
        counts = [0, 0]
        others_done = threading.Event()
        has_begun = threading.Event()

        def slow(number: int) -> None:
            counts[0] += 1
            has_begun.set()
            assert others_done.wait(PATIENCE)

        def fast(number: int) -> None:
            assert has_begun.wait(PATIENCE)
            counts[1] += 1
            if counts[1] == 15:
                others_done.set()

        before_each_batch(several._classifiers[0], slow)
        before_each_batch(several._classifiers[1], fast)
        pending = [several.submit(batch) for batch in given]
        assert [each.result() for each in pending] == expected
    assert sum(counts) == 20
    assert counts[1] >= 15, "it does not wait for the slow one"


def test_memory_that_runs_out_on_one_makes_its_batches_smaller_alone(bundle: Path) -> None:
    with open_replicas(bundle) as several:
        first, second = several._classifiers
        with_model(first, lambda real: Broken(real, torch.OutOfMemoryError("out of memory"), 4))
        together = threading.Barrier(2)
        for classifier in (first, second):
            before_each_batch(classifier, lambda n: n or together.wait(PATIENCE))  # type: ignore[func-returns-value]
        assert several.batch_limit is None
        pending = [several.submit((pixels(8, seed=n),)) for n in range(8)]
        assert all(isinstance(outcome, dict) for each in pending for outcome in each.result())
        assert (first.batch_limit, second.batch_limit) == (4, None)
        assert several.batch_limit == 4


# Failures


def test_one_that_fails_ends_the_run_by_name_after_what_came_before(bundle: Path) -> None:
    with open_one(bundle) as one:
        expected = one.submit((pixels(2),)).result()
    with open_replicas(bundle) as several:

        def fail(number: int) -> None:
            if number == 2:
                raise RuntimeError("no such\nkernel")

        for classifier in several._classifiers:
            before_each_batch(classifier, fail)
        pending = [several.submit((pixels(2),)) for _ in range(9)]
        got = []
        with pytest.raises(DeviceError) as caught:
            for each in pending:
                got.append(each.result())
        assert str(caught.value) == "--device cpu: the model failed: RuntimeError: no such kernel"
        assert got
        assert got == [expected] * len(got)
        with pytest.raises(DeviceError):
            several.submit((pixels(2),)).result()


def test_a_device_that_is_lost_is_an_error_not_a_row_for_each_image(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise DeviceError("--device cuda:1: CUDA no longer works: unspecified launch failure")

    for scorer in (open_one(bundle), open_replicas(bundle)):
        with scorer:
            each = scorer._classifiers if isinstance(scorer, Replicas) else [scorer]
            for classifier in each:
                backend = classifier._members[0].model.backend
                monkeypatch.setattr(backend, "check", lost)
            assert scorer.submit((pixels(3),)).result(), "nobody asks while all is well"
            for classifier in each:
                with_model(classifier, lambda real: Broken(real, RuntimeError("launch failure")))
            with pytest.raises(DeviceError, match="cuda:1: CUDA no longer works"):
                scorer.submit((pixels(3),)).result()


def test_a_model_that_fails_on_a_device_that_works_is_a_row_for_each_image(bundle: Path) -> None:
    with open_replicas(bundle) as several:
        for classifier in several._classifiers:
            with_model(classifier, lambda real: Broken(real, RuntimeError("a kernel is missing")))
        for _ in range(5):
            for outcome in several.submit((pixels(3),)).result():
                assert isinstance(outcome, ImageError)
                assert outcome.code is ErrorCode.CLASSIFY_FAILED


def test_one_that_does_not_load_names_its_device_and_leaves_no_thread(bundle: Path) -> None:
    before = threading.active_count()
    placement = replace(place("cpu", "fp32", "torch"), others=(("cuda:63", "cuda:63"),))
    with pytest.raises(DeviceError, match=r"^--device cuda:63: the model does not load: "):
        open_scorer(load_bundle(str(bundle)), placement)
    assert threading.active_count() == before


def test_closing_ends_the_threads_whatever_waits(bundle: Path) -> None:
    before = torch.get_num_threads()
    threads = threading.active_count()
    several = open_replicas(bundle)
    waiting = [several.submit((pixels(8, seed=n),)) for n in range(50)]
    several.close()
    several.close()
    assert threading.active_count() == threads
    assert torch.get_num_threads() == before
    assert len(waiting) == 50


# Devices


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("gpu", "use auto, cpu, cuda"),
        ("", "use auto, cpu, cuda"),
        ("cuda:0,", "use auto, cpu, cuda"),
        ("cuda:0;cuda:1", "use auto, cpu, cuda"),
        ("cuda:all,cuda:0", "stand for themselves"),
        ("auto,auto", "stand for themselves"),
        ("cpu,cuda:0", "devices of one kind"),
        (",".join(["cpu"] * 65), "use 64 at most"),
    ],
)
def test_devices_that_make_no_sense(device: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_device(device)


def test_how_many_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [most_replicas(name) for name in ("auto", "cuda:5", "cuda:0,cuda:2", "cpu, cpu,cpu")]
    assert counted == [1, 1, 2, 3]
    monkeypatch.setattr(devices, "_gpu_count", lambda: 8)
    assert most_replicas("cuda:all") == 8
    monkeypatch.setattr(devices, "_gpu_count", lambda: 0)
    assert most_replicas("cuda:all") == 1


def test_gpus_are_not_counted_by_what_lies_among_the_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "libcuda.so.1").write_bytes(b"planted")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib:")  # the empty entry is the working directory
    monkeypatch.setattr("moderate.native._leave", lambda: False)  # as in a container
    with pytest.raises(DeviceError, match=r"holds libcuda\.so\.1"):
        most_replicas("cuda:all")


def test_the_ring_has_batches_for_each(bundle: Path) -> None:
    specs = load_bundle(str(bundle)).specs
    one = layout(specs, 1024).batches
    assert layout(specs, 1024, 1).batches == one
    with open_replicas(bundle, "cpu,cpu,cpu") as several:
        assert layout(specs, 1024, 3).batches >= one + 8 > several.depth


def test_placements_are_shown_with_all_their_devices() -> None:
    two = Placement("cuda:0", "bf16", H100, others=(("cuda:2", H100),))
    assert two.shown == f"cuda:0, cuda:2 (2 x {H100})"
    mixed = replace(two, others=(("cuda:2", A100),))
    assert mixed.shown == f"cuda:0 {H100}, cuda:2 {A100}"
    assert place("cpu,cpu", "auto", "torch").shown == "cpu, cpu"
    assert Placement("cuda:0", "fp32", "cuda:0", others=(("cuda:1", "cuda:1"),)).shown == (
        "cuda:0, cuda:1"
    )
    assert [each.shown for each in two.replicas] == [f"cuda:0 {H100}", f"cuda:2 {H100}"]


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs, as far as `place` can tell: the last has no bf16."""
    names = [H100, H100, A100]

    def with_torch(device: str, precision: str, backend: str, kinds: object) -> Placement:
        index = int(devices._index(device) or 0)
        if index >= len(names):
            raise DeviceError(f"--device {device}: there are 3 CUDA devices")
        chosen = ("fp32" if index == 2 else "bf16") if precision == "auto" else precision
        return Placement(f"cuda:{index}", chosen, names[index])

    monkeypatch.setattr(devices, "_with_torch", with_torch)
    monkeypatch.setattr(devices, "_visible_gpus", lambda kinds: len(names))


@pytest.mark.usefixtures("three_gpus")
def test_gpus_compute_alike() -> None:
    assert place("cuda:0,cuda:1", "auto").precision == "bf16"
    every = place("cuda:all", "auto")
    assert every.shown == f"cuda:0 {H100}, cuda:1 {H100}, cuda:2 {A100}"
    assert {each.precision for each in every.replicas} == {"fp32"}
    assert place("cuda:all", "fp16").precision == "fp16"
    assert place("cuda:1,cuda:1", "auto").shown == f"cuda:1, cuda:1 (2 x {H100})"
    with pytest.raises(DeviceError, match=r"^--device cuda:3: there are 3"):
        place("cuda:0,cuda:3", "auto")


def test_all_gpus_of_a_machine_without() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=r"^--device cuda:all: this machine has no working"):
            place("cuda:all", "auto")


def test_the_self_test_runs_on_each(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moderate.classify import selftest
    from tests.support.bundles import make_bundle

    recorded = make_bundle(tmp_path / "recorded")
    selftest.record(recorded)
    verified = verify_bundle(str(recorded), "cpu,cpu", backend="torch")
    assert verified.selftest_line().endswith("(cpu, cpu, fp32, torch)")
    assert verified.selftest is not None
    assert verified.selftest.passed
    used: list[str] = []
    check = selftest.check

    def counted(*arguments: object) -> selftest.SelfTestResult:
        used.append("once")
        result = check(*arguments)  # type: ignore[arg-type]
        return result if len(used) == 1 else selftest.SelfTestResult(0.5, 0.001)

    monkeypatch.setattr("moderate.weights.verify.check", counted)
    with pytest.raises(Exception, match=r"largest difference 5\.0e-01"):
        verify_bundle(str(recorded), "cpu,cpu", backend="torch")
    assert len(used) == 2
    assert np.isfinite(verified.selftest.difference)
