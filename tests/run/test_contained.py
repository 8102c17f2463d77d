"""No exception about one image leaves the pipeline: it costs that image its scores, and no other.

Each stage is made to raise for one image among a hundred, in the place where its real work is done.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moderate.cli.main import run
from moderate.decode.batches import Batch
from moderate.decode.decoder import Decoder
from moderate.fetch import fetcher
from moderate.policy.judge import Judge
from moderate.results.text_writers import CsvWriter
from moderate.run import inputs
from moderate.run.inputs import Reader
from moderate.run.pipeline import LocalEngine
from moderate.run.summary import Summary
from moderate.state.contents import Contents
from moderate.state.run_scores import RunScores
from tests.support import run_columns
from tests.support.pictures import encode, scene

VICTIM = "042.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hundred")
    for number in range(100):
        (folder / f"{number:03}.png").write_bytes(encode(scene((60, 40), seed=number), "PNG"))
    return folder


def scan(folder: Path, bundle: Path, out: Path, *more: str) -> dict[str, dict[str, str]]:
    command = ["scan", str(folder), "--weights", str(bundle), "--device", "cpu", "-q"]
    assert run([*command, "--out", str(out), *more]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [Path(row["path"]).name for row in rows]
    assert names == [f"{number:03}.png" for number in range(100)], "one row each, in order"
    for row in rows:
        for name in run_columns.NAMES:
            del row[name]
    return dict(zip(names, rows, strict=True))


@pytest.fixture(scope="module")
def untouched(
    folder: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    return scan(folder, bundle, tmp_path_factory.mktemp("out") / "rows.csv", "--no-state")


class BoomError(Exception):
    """Of no class that anybody expects."""


def raising_for(hit: Callable[..., bool], original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, but it raises where `hit` says of its arguments that they are the victim's."""

    def function(*arguments: Any, **named: Any) -> Any:
        if hit(*arguments, **named):
            raise BoomError("boom\x1b[31m")
        return original(*arguments, **named)

    return function


def victims_bytes(folder: Path) -> bytes:
    return (folder / VICTIM).read_bytes()


STAGES: dict[str, tuple[object, str, Callable[[bytes], Callable[..., bool]]]] = {
    "reading the file": (
        fetcher, "read_file", lambda data: lambda path, *_, **__: path.endswith(VICTIM.encode()),
    ),
    "looking at its bytes": (inputs, "sha256", lambda data: lambda bytes_: bytes_ == data),
    "looking at its name": (
        inputs, "claimed_format", lambda data: lambda name: name == VICTIM.encode(),
    ),
    "looking it up": (
        Reader, "_unchanged", lambda data: lambda self, ref, local: ref.name == VICTIM.encode(),
    ),
    "looking for copies": (
        Contents, "claim",
        lambda data: lambda self, digest, position, path, **_: path.endswith(VICTIM.encode()),
    ),
    "handing it to a decoder": (Decoder, "give", lambda data: lambda self, bytes_: bytes_ == data),
    "taking its pixels": (
        Batch, "write",
        lambda data: lambda self, index, parts, pixels: (
            self.entries[index].item.ref.name == VICTIM.encode()
        ),
    ),
    "deciding": (
        Judge, "decide", lambda data: lambda self, batch: (
            any(path.endswith(VICTIM.encode()) for path in batch.paths())
        ),
    ),
    "keeping its outcome": (
        RunScores, "add", lambda data: lambda self, file, outcome=None, **_: (
            outcome is not None and outcome[1].facts.bytes == len(data)
            and outcome[0] == inputs.sha256(data).digest()
        ),
    ),
    "counting it": (
        Summary, "count", lambda data: lambda self, row: (
            row.ref.name == VICTIM.encode() and row.error is None
        ),
    ),
    "writing its row": (
        CsvWriter, "prepare", lambda data: lambda self, row: (
            row.ref.name == VICTIM.encode() and row.error is None
        ),
    ),
    "settling its copies": (
        LocalEngine, "_new", lambda data: lambda self, item, *_, **__: (
            item.ref.name == VICTIM.encode()
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_about_one_image_costs_that_image_alone(
    stage: str,
    folder: Path,
    bundle: Path,
    untouched: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner, name, hits = STAGES[stage]
    hit = hits(victims_bytes(folder))
    monkeypatch.setattr(owner, name, raising_for(hit, getattr(owner, name)))
    rows = scan(folder, bundle, tmp_path / "rows.csv", "--state", str(tmp_path / "state"))
    for number, row in rows.items():
        if number != VICTIM or stage == "looking it up":  # which is done without
            assert row == untouched[number]
    if stage == "looking it up":
        return
    lost = rows[VICTIM]
    assert (lost["status"], lost["decision"]) == ("error", "review")
    assert lost["error_code"] == "internal_error"
    assert "BoomError: boom" in lost["error_message"]
    assert all(lost[category] == "" for category in ("nudity", "violence"))
    monkeypatch.undo()
    again = scan(folder, bundle, tmp_path / "again.csv", "--state", str(tmp_path / "state"))
    assert again[VICTIM]["status"] == "ok", "the fault is not kept"


def test_a_fault_is_named_loudly_and_traced_with_debug(
    folder: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hit = STAGES["reading the file"][2](b"")
    monkeypatch.setattr(fetcher, "read_file", raising_for(hit, fetcher.read_file))
    summary = tmp_path / "summary.json"
    with caplog.at_level(logging.DEBUG, "moderate.faults"):
        scan(folder, bundle, tmp_path / "rows.csv", "--no-state", "--summary", str(summary))
    assert "A fault in moderate itself cost 1 image the scores" in summary.read_text()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    said = warnings[0].getMessage()
    assert VICTIM in said
    assert "BoomError" in said
    assert "\x1b" not in said
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.DEBUG)


def test_copies_of_an_image_with_a_fault_get_its_error(
    folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    for number in range(6):
        (copies / f"{number}.png").write_bytes(victims_bytes(folder))
    new = LocalEngine._new

    def failing(self: LocalEngine, item: Any, *arguments: Any, **named: Any) -> Any:
        raise BoomError("boom")

    monkeypatch.setattr(LocalEngine, "_new", failing)
    out = tmp_path / "rows.csv"
    command = ["scan", str(copies), "--weights", str(bundle), "--device", "cpu", "-q"]
    assert run([*command, "--no-state", "--out", str(out)]) == 2, "nothing was scored"
    assert new is not LocalEngine._new
    with out.open(newline="") as file:
        assert [row["error_code"] for row in csv.DictReader(file)] == ["internal_error"] * 6
