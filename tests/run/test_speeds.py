"""Which runs and benches an estimate may come from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moderate.classify.device import Placement
from moderate.run.interface import Job
from moderate.run.options import ScanOptions
from moderate.run.scan import plan
from moderate.run.speeds import estimate, known_speeds, speed_settings
from moderate.state import ledger as ledgers
from moderate.state.ledger import Ledger, RunStatus
from tests.support.ledgers import begin

CPU = Placement("cpu", "fp32", "cpu", "torch")
TODAY = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
def job(bundle: Path, tmp_path: Path) -> Job:
    return plan(ScanOptions(inputs=[str(tmp_path)], weights=str(bundle)))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "state")
    yield opened
    opened.close()


def facts(job: Job, **changes: str) -> dict[str, str]:
    known = {"weights": "w", "weights_sha256": job.bundle.sha256, "device": "cpu"}
    return {**known, "precision": "fp32", "backend": "torch", **changes}


def speed(job: Job, images: int = 1000, seconds: float = 100.0, **changes: Any) -> dict[str, Any]:
    known = {"images": images, "seconds": seconds, "startup_seconds": 4.0, "fetched": False}
    return {**known, "settings": speed_settings(job.options), **changes}


def ran(
    ledger: Ledger,
    measured: object,
    run_facts: dict[str, str],
    status: RunStatus = RunStatus.COMPLETED,
    **settings: Any,
) -> str:
    run = begin(ledger, **settings)
    run.update(facts=run_facts)
    run.end(status, counts={"rows": 1, "speed": measured})
    return run.id


def rates(ledger: Ledger, job: Job, placement: Placement = CPU, fetched: bool = False) -> list[int]:
    speeds = known_speeds(ledger, job, placement, fetched=fetched)
    return [round(each.images_per_second) for each in speeds]


def test_the_newest_comes_first_and_the_others_are_the_spread(ledger: Ledger, job: Job) -> None:
    for images in (2000, 1000, 4000):
        ran(ledger, speed(job, images), facts(job))
    assert rates(ledger, job) == [40, 10, 20]
    about = estimate(known_speeds(ledger, job, CPU, fetched=False), 800)
    assert about
    assert (about.seconds, about.least_seconds, about.most_seconds) == (24, 24, 84)
    assert about.basis.images == 4000
    for _ in range(9):
        ran(ledger, speed(job, 3000), facts(job))
    assert rates(ledger, job) == [30] * 5
    assert estimate((), 800) is None


def test_a_bench_counts_like_a_run(ledger: Ledger, job: Job) -> None:
    ledger.add_bench(facts(job), speed(job, 500, startup_seconds=0.0, megapixels=1.5))
    (known,) = known_speeds(ledger, job, CPU, fetched=False)
    assert (known.run, known.images_per_second, known.megapixels) == (None, 5, 1.5)
    assert ledger.benches(9)[0].host == ledgers.this_host()
    ledger.clear()
    assert ledger.benches(9) == []


def test_other_weights_devices_hosts_settings_and_broken_runs_do_not(
    ledger: Ledger, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(ledger, speed(job), facts(job, weights_sha256="0" * 64))
    ran(ledger, speed(job), facts(job, device="cuda:0 NVIDIA H100"))
    ran(ledger, speed(job, settings={"views": "tiles"}), facts(job))
    ran(ledger, speed(job, fetched=True), facts(job))
    ran(ledger, speed(job), facts(job), RunStatus.INTERRUPTED)
    ran(ledger, speed(job, images=49), facts(job))
    ran(ledger, speed(job, seconds=0.5), facts(job))
    with monkeypatch.context() as patch:
        patch.setattr(ledgers.socket, "gethostname", lambda: "elsewhere")
        ran(ledger, speed(job), facts(job))
        ledger.add_bench(facts(job), speed(job))
    assert rates(ledger, job) == []
    assert rates(ledger, job, fetched=True) == [10]


def test_a_precision_or_backend_that_is_named_has_to_be_the_same(ledger: Ledger, job: Job) -> None:
    ran(ledger, speed(job), facts(job, backend="openvino", precision="bf16"))
    assert rates(ledger, job) == [10]
    for name, value in (("backend", "torch"), ("precision", "fp32")):
        named = dataclasses.replace(job.options, **{name: value})
        assert rates(ledger, dataclasses.replace(job, options=named)) == []


@pytest.mark.parametrize(
    "measured",
    [
        None, "fast", [], {}, {"images": 100},
        {"images": "many", "seconds": 1, "startup_seconds": 0},
        {"images": 100, "seconds": 1e999, "startup_seconds": 0},
        {"images": 100, "seconds": 10, "startup_seconds": -5},
        {"images": 100, "seconds": 10, "startup_seconds": 1, "megapixels": []},
    ],
)  # fmt: skip
def test_records_that_make_no_sense_are_passed_over(
    measured: object, ledger: Ledger, job: Job
) -> None:
    settings = {"settings": speed_settings(job.options), "fetched": False}
    whole = {**measured, **settings} if isinstance(measured, dict) else measured
    ran(ledger, whole, facts(job))
    ran(ledger, speed(job, 2000), facts(job))
    assert rates(ledger, job) == [20]


def test_a_ledger_from_before_benches_can_be_read(tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "old"
    ledger = Ledger(folder)
    ran(ledger, speed(job), facts(job), started=TODAY - timedelta(days=1))
    ledger._database.write(lambda connection: connection.execute("DROP TABLE benches"))
    ledger._database.write(lambda connection: connection.execute("PRAGMA user_version = 1"))
    ledger.close()
    old = Ledger(folder, read_only=True)
    assert rates(old, job) == [10]
    old.close()
    again = Ledger(folder)
    again.add_bench(facts(job), json.loads(json.dumps(speed(job))))
    assert len(again.benches(5)) == 1
    again.close()
