"""Unchanged files that are taken many at once give what they give one by one, to the byte."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from PIL import Image

from moderate.cli.main import run
from moderate.decode.pdq import pdq_hash
from moderate.policy.judge import Judge
from moderate.run import known_rows, scan
from moderate.run.inputs import Reader
from moderate.run.options import ScanOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.row_batch import RowBatch
from moderate.state.contents import Contents
from moderate.state.scores import ScoreStore
from tests.support.pictures import encode, scene

OVERRIDE = """
[[override]]
when = "b/**"
on_warning = { small_image = "block" }
"""


def looks_like(picture: Image.Image) -> str:
    """A list with this picture, and all that it is not too far from, for many to be on it."""
    digits = pdq_hash(picture).bits.hex()
    return f'\n[[block]]\npdq = "{digits}"\ndistance = 126\nquality = 0\nreason = "known"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many sorts, copies, files that are none, and names that are not UTF-8."""
    made = tmp_path_factory.mktemp("in")
    for part in ("a", "b"):
        (made / part).mkdir()
        for number in range(30):
            size = (300, 40) if number % 3 else (90, 60)
            data = encode(scene(size, seed=number + 100 * (part == "b")), "PNG")
            (made / part / f"{number:02}.png").write_bytes(data)
    (made / "b" / 'copy, of "01".png').write_bytes((made / "a" / "01.png").read_bytes())
    (made / "b" / "wrong.jpg").write_bytes((made / "a" / "02.png").read_bytes())
    (made / "b" / "other.gif").write_bytes(encode(scene((80, 80), seed=900), "PNG"))
    Path(os.fsdecode(os.fsencode(made) + b"/a/odd \xff.png")).write_bytes(
        encode(scene((70, 50), seed=901), "PNG")
    )
    (made / "a" / "Ünï.png").write_bytes(encode(scene((70, 50), seed=902), "PNG"))
    (made / "a" / "15.png").write_bytes(b"<html>no image</html>")
    (made / "a" / "16.png").write_bytes((made / "a" / "17.png").read_bytes()[:-40])
    (made / "a" / "notes.txt").write_text("skipped")
    frames = [scene((64, 64), seed=number) for number in range(903, 906)]
    frames[0].save(made / "b" / "moving.gif", save_all=True, append_images=frames[1:])
    time.sleep(0.1)
    return made


@pytest.fixture(scope="module")
def state(folder: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first run keeps."""
    kept = tmp_path_factory.mktemp("kept") / "state"
    command = ["scan", str(folder), "--weights", str(bundle), "--device", "cpu", "-q"]
    out = kept.parent / "rows.csv"
    assert run([*command, "--keep-labels", "--state", str(kept), "--out", str(out)]) == 0
    assert run([*command, "--state", str(kept), "--out", str(out)]) == 0
    assert run([*command, "--near-duplicates", "--state", str(kept), "--out", str(out)]) == 0
    return kept


@pytest.fixture
def second(
    folder: Path, bundle: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """A second run's files, as bytes and tables, and its summary without times."""
    monkeypatch.setattr(scan, "uuid4", lambda: UUID(int=7))

    def second(*more: str) -> dict[str, Any]:
        outs = [str(tmp_path / f"rows.{kind}") for kind in ("csv", "jsonl", "parquet")]
        summary, copy = tmp_path / "summary.json", tmp_path / "state"
        shutil.copytree(state, copy)  # which the run adds to
        command = ["scan", str(folder), "--weights", str(bundle), "--device", "cpu", "-q"]
        command += [part for out in outs for part in ("--out", out)]
        command += ["--summary", str(summary), "--state", str(copy), "--force", *more]
        assert run(command) == 0
        shutil.rmtree(copy)
        told = json.loads(summary.read_text())
        for name in ("generator", "throughput", "cost", "audit"):
            del told[name]
        file = pq.ParquetFile(outs[2])
        groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
        return {
            "csv": Path(outs[0]).read_bytes(),
            "jsonl": Path(outs[1]).read_bytes(),
            "parquet": file.read().replace_schema_metadata(None).to_pylist(),
            "groups": [(each.num_rows, each.total_byte_size) for each in groups],
            "summary": told,
        }

    return second


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--keep-labels"],
        ["--limit", "37"],
        ["--policy", "policy.toml"],
        ["--near-duplicates"],
        ["--policy", "looks.toml", "--near-duplicates"],
        ["--max-megapixels", "0.01"],
        ["--max-file-size", "9KB"],
        ["--only", "reused"],
        ["--retry-errors"],
    ],
    ids=" ".join,
)
def test_at_once_as_one_by_one(
    more: list[str],
    second: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = resources.files("moderate") / "policy/presets/balanced.toml"
    Path("policy.toml").write_text(preset.read_text() + OVERRIDE)
    Path("looks.toml").write_text(preset.read_text() + looks_like(scene((300, 40), seed=1)))
    batches: list[int] = []
    made = RowBatch.own_columns

    def noted(self: RowBatch, *arguments: Any) -> Any:
        batches.append(len(self))
        return made(self, *arguments)

    monkeypatch.setattr(RowBatch, "own_columns", noted)
    at_once = second(*more)
    assert sum(batches) > 20 or "--only" in more, "most rows had columns"
    monkeypatch.setattr(Reader, "_unchanged_runs", lambda *_: {})
    batches.clear()
    assert second(*more) == at_once
    assert not batches


@pytest.mark.parametrize("fault", ["columns", "deciding", "looking"])
def test_a_fault_with_many_at_once_costs_time_alone(
    fault: str, second: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = second()

    def boom(*_: Any, **__: Any) -> Any:
        raise ValueError("boom")

    owner, name = {
        "columns": (RowBatch, "own_columns"),
        "deciding": (known_rows.KnownRows, "batch"),
        "looking": (Reader, "_found_unchanged"),
    }[fault]
    monkeypatch.setattr(owner, name, boom)
    assert second() == rows


def test_one_image_that_cannot_be_decided_is_an_error_row(
    second: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = second()["csv"].splitlines()
    decide = Judge.decide

    def failing(self: Judge, batch: Any) -> Any:
        if any(path.endswith(b"/a/03.png") for path in batch.paths()):
            raise ValueError("boom")
        return decide(self, batch)

    monkeypatch.setattr(Judge, "decide", failing)
    changed = second()["csv"].splitlines()
    different = [new for old, new in zip(rows, changed, strict=True) if old != new]
    assert [b"internal_error" in row and b"/a/03.png" in row for row in different] == [True]


def test_damaged_records_cost_their_files_alone(
    second: Callable[..., dict[str, Any]], state: Path
) -> None:
    rows = second()
    before = state.with_name("before")
    shutil.copytree(state, before)
    database = sqlite3.connect(state / "scores.sqlite3")
    digests = database.execute("SELECT sha256 FROM files ORDER BY path LIMIT 3").fetchall()
    for (digest,), statement in zip(
        digests,
        [
            "UPDATE outcomes SET payload = x'00' || substr(payload, 2) WHERE sha256 = ?",
            "UPDATE outcomes SET payload = 'text' WHERE sha256 = ?",
            "UPDATE files SET stat = substr(stat, 2) WHERE sha256 = ?",
        ],
        strict=True,
    ):
        database.execute(statement, (digest,))
    database.commit()
    database.close()
    again = second()
    shutil.rmtree(state)
    before.rename(state)
    same = {"origin", "scored_at"}
    assert [
        {name: cell for name, cell in row.items() if name not in same} for row in again["parquet"]
    ] == [{name: cell for name, cell in row.items() if name not in same} for row in rows["parquet"]]
    lost = again["summary"]["origins"]["changed"] + again["summary"]["origins"]["new"]
    assert 1 <= lost <= 4


def test_rows_out_of_order_are_put_in_place(
    second: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = second()
    init = Contents.__init__

    def late(self: Contents) -> None:
        init(self)
        self.out_of_order = True

    monkeypatch.setattr(Contents, "__init__", late)
    assert second() == rows


def test_rows_of_an_engine_are_those_of_its_batches(
    folder: Path, bundle: Path, state: Path
) -> None:
    asked = ScanOptions(inputs=[str(folder)], weights=str(bundle), device="cpu")
    store = ScoreStore.open(state)
    with LocalEngine(scan.plan(asked), store, run_id="x") as engine:
        batches = list(engine.batches())
    with LocalEngine(scan.plan(asked), store, run_id="x") as engine:
        rows = list(engine.rows())
    store.close()
    assert any(isinstance(each, RowBatch) for each in batches)
    flat: list[Any] = []
    for each in batches:
        flat += each.one_by_one() if isinstance(each, RowBatch) else [each]
    assert flat == rows


def test_a_known_content_under_another_name_has_its_hash_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, picture = tmp_path / "in", scene((300, 280), seed=1)
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(picture, "PNG"))
    preset = resources.files("moderate") / "policy/presets/permissive.toml"
    Path("looks.toml").write_text(preset.read_text() + looks_like(picture))
    command = ["scan", "in", "--weights", str(bundle), "--device", "cpu", "-q", "--state", "kept"]
    command += ["--policy", "looks.toml"]
    rows = []
    for _ in range(3):
        assert run([*command, "--out", "rows.parquet"]) == 0
        rows += pq.read_table("rows.parquet").to_pylist()
        if (folder / "a.png").exists():
            (folder / "a.png").rename(folder / "b.gif")
    assert [row["origin"] for row in rows] == ["new", "reused", "reused"]
    assert {row["decision"] for row in rows} == {"block"}
    assert len({(row["pdq"], row["pdq_quality"], row["reasons"]) for row in rows}) == 1
