"""What befalls decoders and models in the middle of a run costs the image concerned, no other."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import moderate
from moderate import ErrorCode, Row
from moderate.decode.decoder import Decoder
from moderate.decode.scheduler import Scheduler
from tests.support.pictures import encode, scene


def many(folder: Path, count: int, size: tuple[int, int] = (300, 200)) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.png").write_bytes(encode(scene(size, seed=number), "PNG"))
    return folder


def scan(folder: Path, bundle: Path, **options: Any) -> dict[str, Row]:
    rows = list(moderate.scan(folder, weights=str(bundle), device="cpu", **options))
    names = [os.fsdecode(row.ref.name) for row in rows]
    assert names == sorted(os.listdir(folder)), "one row each, in order"
    return {
        name: replace(row, run_id="", scored_at=None) for name, row in zip(names, rows, strict=True)
    }


@pytest.mark.parametrize("fate", [signal.SIGSEGV, signal.SIGKILL])
def test_files_that_kill_decoders_leave_the_other_scores_as_they_are_to_the_bit(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, fate: signal.Signals
) -> None:
    folder = many(tmp_path / "in", 40)
    alone = scan(folder, bundle, batch_size=7)
    killers = {f"{number:04}x.png" for number in (0, 3, 4, 5, 20, 39)}
    for seed, name in enumerate(killers):
        slow = encode(scene((3000, 3000), seed=seed), "PNG", compress_level=1)
        (folder / name).write_bytes(slow)
    assign = Scheduler._assign

    def deadly(self: Scheduler[Any], decoder: Decoder, task: Any) -> None:
        assign(self, decoder, task)
        if os.fsdecode(task.entry.item.ref.name) in killers:
            assert decoder.pid is not None
            os.kill(decoder.pid, fate)

    monkeypatch.setattr(Scheduler, "_assign", deadly)
    rows = scan(folder, bundle, batch_size=7)
    for name, row in rows.items():
        if name in killers:
            assert row.error is not None
            assert row.error.code is ErrorCode.DECODER_CRASHED
            assert row.decision is moderate.Decision.REVIEW
        else:
            assert row.scores == alone[name].scores
            assert row == alone[name]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> tuple[Path, dict[str, Row]]:
    """A folder that takes a while to decode, and its rows when nobody disturbs."""
    folder = many(tmp_path_factory.mktemp("large") / "in", 100, (900, 700))
    return folder, scan(folder, bundle)


@pytest.mark.parametrize("victims", ["decoders", "the fork server"])
def test_a_run_whose_decoders_are_killed_again_and_again_is_complete(
    tmp_path: Path, bundle: Path, large: tuple[Path, dict[str, Row]], victims: str
) -> None:
    folder, expected = large
    process = subprocess.Popen(
        [sys.executable, "-m", "moderate", "scan", str(folder), "--weights", str(bundle),
         "--device", "cpu", "--out", str(tmp_path / "out.csv"), "-q"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed = 0
    number = signal.SIGKILL
    while process.poll() is None:
        time.sleep(0.4 if victims == "decoders" else 0.02)
        decoders = decoders_of(process.pid)
        found = decoders if victims == "decoders" else server_of(process.pid)
        if killed == (12 if victims == "decoders" else 3) or not decoders:
            continue  # a new one needs time to get ready
        for pid in found[:1]:
            number = signal.SIGSEGV if number is signal.SIGKILL else signal.SIGKILL
            try:
                os.kill(pid, number)
                killed += 1
            except ProcessLookupError:
                pass
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert killed > (2 if victims == "decoders" else 0)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert rows.keys() == expected.keys()
    # One that was hit twice, by chance, is an error row; every other has its score.
    assert sum(row["status"] == "error" for row in rows.values()) <= killed // 2
    for name, row in rows.items():
        if row["status"] == "ok":
            assert float(row["nudity"]) == pytest.approx(
                expected[name].scores[moderate.Category.NUDITY], abs=1e-6
            )
        else:
            assert row["error_code"] == "decoder_crashed"


def server_of(pid: int) -> list[int]:
    """The process's fork server, once it has forked."""
    return [child for child in children_of(pid) if children_of(child)]


def decoders_of(pid: int) -> list[int]:
    """The forks of the process's fork server."""
    return [decoder for server in server_of(pid) for decoder in children_of(server)]


def children_of(pid: int) -> list[int]:
    """The process's children, whichever of its threads started them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return sorted(found)
