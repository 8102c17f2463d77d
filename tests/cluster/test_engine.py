"""A scan on Ray gives the rows of a scan on one machine, whatever happens to its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from moderate.cluster import engine as engine_module
from moderate.cluster.engine import RayExecutor
from moderate.cluster.options import ClusterOptions
from moderate.cluster.plan import plan_on_ray
from moderate.errors import OutputError, RunError
from moderate.results.read import read_results
from moderate.run.options import ScanOptions, StateOptions
from moderate.run.scan import iterate, plan, run
from moderate.run.summary import Summary, as_json
from moderate.types import ErrorCode, Row
from tests.support.dying_workers import (
    POISON,
    POISON_RED,
    PoisonedModel,
    PoisonedWorker,
    processes,
)
from tests.support.scans import OF_NO_OTHER_RUN, make_corpus, wait_for

WORKER = b"ray::FragmentWorker"
DECODER = b"moderate.decode"
OF_THE_RUN = ["run_id", "scored_at"]
"""Columns that no two runs share."""


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """Ray on this machine, for all tests of the module."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=1 << 28,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 200 images of all formats, with broken ones, copies, an archive and a manifest.

    A list names some of them again, and paths that are missing.
    """
    folder = tmp_path_factory.mktemp("corpus") / "images"
    make_corpus(folder, 200)
    first = sorted((folder / "first").iterdir())[:6]
    names = [f"first/{path.name}" for path in first] + ["first/none.jpg", "FIRST/0000.jpg"]
    (folder / "list.txt").write_text("\n".join(names) + "\n")
    return folder


INPUTS = ("first", "second", "dump.zip", "manifest.parquet", "list.txt")


@dataclass(frozen=True)
class Finished:
    """What a run wrote: the rows without what no two runs share, and the summary."""

    table: pa.Table
    summary: Summary

    @property
    def counts(self) -> dict[str, object]:
        return {k: v for k, v in as_json(self.summary).items() if k not in OF_NO_OTHER_RUN}


def options(out: Path, *inputs: str, **changes: object) -> ScanOptions:
    made = ScanOptions(inputs=inputs or INPUTS, weights="testcard", device="cpu", out=[str(out)])
    return replace(made, **changes)  # type: ignore[arg-type]


def scan_on_ray(out: Path, *inputs: str, per_fragment: int = 24, **changes: object) -> Finished:
    asked = options(out, *inputs, **changes)
    asked = replace(asked, out=[f"{out}/"])
    job, _ = plan_on_ray(asked)
    executor = RayExecutor(ClusterOptions(f"{out}/", images_per_fragment=per_fragment))
    summary = run(job, lambda item: None, lambda summary, target: "", executor=executor)
    return Finished(rows_of(out), summary)


def rows_of(out: Path) -> pa.Table:
    if out.is_dir():
        files = sorted(out.glob("part-*.parquet"))
        table = pa.concat_tables([pq.read_table(file) for file in files])
    else:
        table = pq.read_table(out)
    return table.replace_schema_metadata(None).drop_columns(OF_THE_RUN)


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert found.schema == expected.schema
    for name in expected.column_names:
        pairs = zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True)
        differ = [(row, pair) for row, pair in enumerate(pairs) if pair[0] != pair[1]]
        assert not differ, f"{name} differs in {len(differ)} rows: {differ[:3]}"


@pytest.fixture(scope="module")
def local(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The same images scanned on one machine."""
    out = tmp_path_factory.mktemp("local") / "rows.parquet"
    with contextlib.chdir(corpus):
        job = plan(options(out))
        summary = run(job, lambda item: None, lambda summary, target: "")
    return Finished(rows_of(out), summary)


@pytest.fixture
def _here(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus)


@pytest.mark.usefixtures("_here")
def test_rows_and_summary_are_those_of_a_scan_on_one_machine_and_a_rerun_does_nothing(
    local: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows"
    finished = scan_on_ray(out)
    assert_same(finished.table, local.table)
    assert finished.counts == local.counts
    assert finished.summary.audit.sandbox == local.summary.audit.sandbox
    wait_for(lambda: not processes(WORKER))  # no worker outlives its run

    files = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(files) > 5
    marker = json.loads((out / "_SUCCESS").read_text())
    manifest = [json.loads(line) for line in (out / "_manifest.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in manifest] == sorted(files)
    assert [entry["first_row"] for entry in manifest][:2] == [0, manifest[0]["rows"]]
    assert marker["rows"] == len(local.table) == sum(entry["rows"] for entry in manifest)
    results = read_results(str(out))
    assert results.is_as_written
    assert results.facts["run_id"] == finished.summary.audit.run_id
    paths = [row["path"] for row in results.rows()]
    assert paths == local.table["path"].to_pylist()

    # Nothing is decoded or scored again, and the rows are those of the run that wrote them.
    monkeypatch.setattr(engine_module, "ModelServer", _ModelThatScoresNothing)
    again = scan_on_ray(out)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")} == files
    assert_same(again.table, local.table)
    assert again.counts == local.counts
    assert again.summary.audit.sandbox == local.summary.audit.sandbox


class _ModelThatScoresNothing(engine_module.ModelServer):
    def score(self, *batch: object) -> object:  # type: ignore[override]
        raise RunError("an image was scored again")


def draw(folder: Path, count: int, suffix: str = "png") -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (40, 40), (0, number, 90)).save(folder / f"{number:03}.{suffix}")


def test_a_changed_image_is_scored_again_with_the_others_of_its_fragment_alone(
    tmp_path: Path,
) -> None:
    """A copy of it in another fragment is none any more."""
    images, out = tmp_path / "images", tmp_path / "rows"
    draw(images, 12)
    (images / "011.png").write_bytes((images / "005.png").read_bytes())
    first = scan_on_ray(out, str(images), per_fragment=4)
    assert first.table["duplicate_of"].to_pylist() == [None] * 11 + [f"{images}/005.png"]
    assert first.summary.origins["duplicate"] == 1
    before = sorted(path.name for path in out.glob("part-*"))
    Image.new("RGB", (50, 40), (1, 2, 3)).save(images / "005.png")
    second = scan_on_ray(out, str(images), per_fragment=4)
    after = sorted(path.name for path in out.glob("part-*"))
    assert (before[0], before[2]) == (after[0], after[2])
    assert before[1] != after[1]
    assert second.table["width"].to_pylist() == [40] * 5 + [50] + [40] * 6
    assert second.table["duplicate_of"].to_pylist() == [None] * 12
    assert set(second.table["origin"].to_pylist()) == {"new"}


@pytest.mark.usefixtures("_here")
def test_a_worker_that_is_killed_costs_a_retry_and_leaves_no_decoder(
    local: Finished, tmp_path: Path
) -> None:
    out = tmp_path / "rows"
    job, _ = plan_on_ray(replace(options(out), out=[f"{out}/"]))
    executor = RayExecutor(ClusterOptions(f"{out}/", images_per_fragment=24))
    rows = iterate(job, lambda summary, target: "", executor=executor)
    next(rows)
    victim = wait_for(
        lambda: next((pid for pid in processes(WORKER) if processes(DECODER, pid)), None)
    )
    decoders = processes(DECODER, victim)
    os.kill(victim, signal.SIGKILL)
    assert sum(isinstance(row, Row) for row in rows) == len(local.table) - 1
    assert_same(rows_of(out), local.table)
    wait_for(lambda: not [pid for pid in decoders if os.path.exists(f"/proc/{pid}/exe")])


def test_an_image_that_ends_every_worker_is_one_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "rows"
    draw(images, 6)
    (images / "002.png").rename(images / f"002-{POISON.decode()}.png")
    monkeypatch.setattr(engine_module, "FragmentWorker", PoisonedWorker)
    finished = scan_on_ray(out, str(images), per_fragment=4)
    codes = finished.table["error_code"].to_pylist()
    assert codes == [None, None, "internal_error", None, None, None]
    assert finished.summary.error_codes[ErrorCode.INTERNAL_ERROR] == 1


@pytest.mark.slow
def test_an_image_that_ends_every_model_is_one_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "rows"
    draw(images, 4)
    Image.new("RGB", (40, 40), (POISON_RED, 0, 0)).save(images / "001.png")
    monkeypatch.setattr(engine_module, "ModelServer", PoisonedModel)
    finished = scan_on_ray(out, str(images), per_fragment=2)
    assert finished.table["error_code"].to_pylist() == [None, "internal_error", None, None]


def test_a_run_that_breaks_off_is_not_complete_and_goes_on(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "rows"
    draw(images, 30)
    job, _ = plan_on_ray(replace(options(out, str(images)), out=[f"{out}/"]))
    executor = RayExecutor(ClusterOptions(f"{out}/", images_per_fragment=5))
    rows = iterate(job, lambda summary, target: "", executor=executor)
    next(rows)
    rows.close()
    there = {path.name: path.stat().st_ino for path in out.glob("part-*")}
    assert there
    with pytest.raises(Exception, match="is not complete"):
        read_results(str(out))
    there = {path.name: path.stat().st_ino for path in out.glob("part-*")}  # by then
    finished = scan_on_ray(out, str(images), per_fragment=5)
    assert finished.table.num_rows == 30
    after = {path.name: path.stat().st_ino for path in out.glob("part-*")}
    assert there.items() <= after.items()
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_other_targets_limit_and_ledger_are_as_on_one_machine(tmp_path: Path) -> None:
    images, out, csv = tmp_path / "images", tmp_path / "rows", tmp_path / "rows.csv"
    draw(images, 9)
    state = StateOptions(tmp_path / "state")
    asked = options(out, str(images), limit=7, state=state)
    job, executor = plan_on_ray(replace(asked, out=[f"{out}/", str(csv)]))
    summary = run(job, lambda item: None, lambda summary, target: "", executor=executor)
    assert (summary.rows, summary.limit) == (7, 7)
    assert len(csv.read_text().splitlines()) == 8
    assert [row["path"] for row in read_results(str(csv)).rows()] == [
        row["path"] for row in read_results(str(out)).rows()
    ]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "rows"
    draw(images, 1)
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds what no scan on Ray wrote there: thesis\.txt"):
        scan_on_ray(out, str(images))
    assert os.listdir(out) == ["thesis.txt"]
