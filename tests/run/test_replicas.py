"""Runs with several models: the same bytes as with one, and what ends them."""

from __future__ import annotations

import itertools
import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from moderate.classify.classifier import Batch, Classifier, Pending
from moderate.cli.main import run
from moderate.run import dry_run
from moderate.run.options import ScanOptions, StateOptions
from moderate.run.scan import plan
from moderate.run.scopes import scopes
from tests.support.patience import PATIENCE
from tests.support.scans import COMMAND, Place, Written, assert_same, make_corpus, scored, wait_for

BATCH = 4
TORCH = ("--backend", "torch", "--batch-size", str(BATCH))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """80 files of all formats, some of them broken, some copies."""
    folder = tmp_path_factory.mktemp("replicas") / "corpus"
    return folder, make_corpus(folder, 80)


@pytest.fixture(scope="module")
def expected(
    corpus: tuple[Path, list[str]], bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    """What a run with one model writes."""
    place = Place(tmp_path_factory.mktemp("one"), *corpus, str(bundle), TORCH)
    done = place.run(place.scan())
    assert (done.returncode, done.stderr) == (0, "")
    return Written.by(place)


@pytest.fixture
def place(tmp_path: Path, corpus: tuple[Path, list[str]], bundle: Path) -> Place:
    """Where the same is done by two."""
    return Place(tmp_path / "two", *corpus, str(bundle), (*TORCH, "--device", "cpu,cpu"))


def on_two(expected: Written) -> Written:
    """The same rows and facts, of two devices."""
    facts = {
        name: {key: "cpu, cpu" if key == "device" else value for key, value in each.items()}
        for name, each in expected.facts.items()
    }
    return replace(expected, facts=facts)


def scan_here(place: Place, monkeypatch: pytest.MonkeyPatch) -> int:
    """The same command in this process."""
    monkeypatch.chdir(place.cwd)
    return run(place.scan()[len(COMMAND) :])


def origins(place: Place) -> set[str]:
    """Where rows came from."""
    with (place.out / "rows.jsonl").open() as file:
        return {json.loads(line)["origin"] for line in file}


def before_batches(monkeypatch: pytest.MonkeyPatch, do: object) -> list[int]:
    """Call `do` with the replica's number and that of its batch; the numbers as they came."""
    submit = Classifier.submit
    numbers: dict[int, itertools.count[int]] = {}
    replicas: list[Classifier] = []
    came: list[int] = []
    build = Classifier.__init__

    def built(self: Classifier, *arguments: object, **options: object) -> None:
        build(self, *arguments, **options)  # type: ignore[arg-type]
        replicas.append(self)
        numbers[id(self)] = itertools.count()

    def later(self: Classifier, batch: Batch) -> Pending:
        which = replicas.index(self)
        came.append(which)
        do(which, next(numbers[id(self)]))  # type: ignore[operator]
        return submit(self, batch)

    monkeypatch.setattr(Classifier, "__init__", built)
    monkeypatch.setattr(Classifier, "submit", later)
    return came


def test_two_write_what_one_writes(place: Place, expected: Written) -> None:
    done = place.run(place.scan())
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(place, on_two(expected))


def test_a_slow_one_changes_nothing(
    place: Place, expected: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = before_batches(monkeypatch, lambda which, number: time.sleep(0.2 * which))
    assert scan_here(place, monkeypatch) == 0
    assert_same(place, on_two(expected))
    assert set(came) == {0, 1}


def test_one_that_fails_ends_the_run_and_what_was_scored_is_kept(
    place: Place,
    expected: Written,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(which: int, number: int) -> None:
        if which == 1 and number == 3:
            wait_for(lambda: scored(place), PATIENCE)
            raise RuntimeError("unspecified launch failure")

    with monkeypatch.context() as patch:
        # The other one is slow, so that this one has its turn.
        before_batches(patch, lambda w, n: time.sleep(0.05) if w == 0 else fail(w, n))
        assert scan_here(place, patch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    start = (
        "moderate: error: --device cpu: the model failed: RuntimeError: unspecified launch failure"
    )
    assert line.startswith(start)
    assert line.endswith("are scored and kept: run the same command again to go on from there")
    kept = scored(place)
    assert kept
    assert not any(target.exists() for target in place.targets)
    assert scan_here(place, monkeypatch) == 0
    assert_same(place, on_two(expected))
    assert "reused" in origins(place)


def test_ctrl_c_ends_both_and_the_next_run_goes_on(place: Place, expected: Written) -> None:
    process = place.start(place.scan())
    wait_for(lambda: scored(place) or process.poll() is not None, PATIENCE)
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, complained
    assert "Traceback" not in complained
    assert scored(place)
    done = place.run(place.scan())
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(place, on_two(expected))
    assert "reused" in origins(place)
    assert place.left_behind() == []


def test_scores_are_shared_with_runs_on_one(bundle: Path, tmp_path: Path) -> None:
    job = plan(ScanOptions(inputs=[str(tmp_path)], weights=str(bundle)))
    found = set()
    for device in ("cpu", "cpu,cpu", "cpu,cpu,cpu"):
        placement = dry_run.place(device, "fp32", "torch", job.bundle.kinds)
        found.add(scopes(job, placement).scores)
    assert len(found) == 1


def test_a_dry_run_names_both_and_uses_the_speed_of_both_alone(
    place: Place, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateOptions(place.state, required=True)
    monkeypatch.chdir(place.cwd)
    options = ScanOptions(
        inputs=["first"], weights=str(bundle), backend="torch", device="cpu,cpu", state=state
    )
    bench = [*COMMAND, "bench", "first", "--weights", str(bundle), "--backend", "torch"]
    speed = ("--images", "64", "--repeat", "1", "--state", str(place.state))
    done = place.run([*bench, *speed, "--device", "cpu,cpu"])
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["device", "cpu, cpu, fp32, torch"] in lines
    assert "the 2 models alone" in done.stdout
    seen = dry_run.look_ahead(plan(options))
    assert seen.placement.shown == "cpu, cpu"
    assert seen.estimate is not None
    assert seen.estimate.basis.device == "cpu, cpu"
    alone = dry_run.look_ahead(plan(replace(options, device="cpu")))
    assert alone.estimate is None


def test_doctor_and_verify_look_at_each(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "verify", str(bundle), "--device", "cpu,cpu"]) == 0
    assert "(cpu, cpu, fp32, " in capsys.readouterr().out
    run(["doctor", "--weights", str(bundle), "--device", "cpu,cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["device", "cpu,", "cpu,", "fp32"] for line in lines)
    assert run(["weights", "verify", str(bundle), "--device", "cpu,cuda:0"]) == 2
    assert "devices of one kind" in capsys.readouterr().err
