"""Whatever the moment at which it is killed: everything can be brought back, or be finished."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.applying import Commands, Snapshot, make_files, snapshot, write_rows
from tests.support.patience import PATIENCE

KILLS = 20
WAYS: dict[str, dict[str, Any]] = {
    "move": {},
    "move across file systems": {"across": True},
    "copy": {},
    "link": {},
}


class Place:
    """Files, their results, and the command that applies them."""

    def __init__(self, folder: Path, way: str, count: int = 11) -> None:
        self.photos, self.into = folder / "photos", folder / "into"
        results = write_rows(folder / "rows.jsonl", make_files(self.photos, count))
        self.log = folder / "log.jsonl"
        kind, *_ = way.split()
        self.before = snapshot(self.photos)
        self.command = [
            "apply", results, "--root", self.photos, "--log", self.log, f"--{kind}", "--yes",
            "--block-to", self.into / "block", "--review-to", self.into / "review",
        ]  # fmt: skip
        self.undo = ["apply", "--undo", self.log]
        self.kind = kind

    def check_back(self) -> None:
        """That all is as it was, and nothing is left elsewhere."""
        assert snapshot(self.photos) == self.before
        assert snapshot(self.into) == {}

    def check_applied(self) -> None:
        """That every file has its place."""
        there: Snapshot = {}
        for decision in ("block", "review"):
            there |= snapshot(self.into / decision)
        here = snapshot(self.photos)
        assert there.items() <= self.before.items()
        assert len(there) == 8
        assert (there | here) == self.before
        assert len(here) == (3 if self.kind == "move" else 11)


@pytest.mark.parametrize(
    ("way", "kills"),
    [
        ("move across file systems", KILLS),  # the longest way of all
        *((way, 3) for way in ("move", "copy", "link")),
        *(pytest.param(way, 3 * KILLS, marks=pytest.mark.slow) for way in WAYS),
    ],
)
def test_killed_at_any_moment_and_undone_every_file_is_back(
    way: str, kills: int, tmp_path: Path, forks: Commands
) -> None:
    place, rng = Place(tmp_path, way), random.Random(way)
    whole = forks.run(*place.command, **WAYS[way])
    assert whole.code == 0, whole.out
    place.check_applied()
    assert forks.run(*place.undo, **WAYS[way]).code == 0
    place.check_back()
    killed = 0
    for moment in rng.choices(range(1, whole.calls * 3 // 4), k=kills):
        ended = forks.run(
            *place.command, stop_at=moment, after=bool(rng.getrandbits(1)), **WAYS[way]
        )
        killed += ended.code == -signal.SIGKILL
        if rng.getrandbits(1):
            again = forks.run(*place.command, **WAYS[way])
            assert again.code == 0, again.out
            place.check_applied()
        undone = forks.run(*place.undo, **WAYS[way])
        if place.log.exists():
            assert undone.code == 0, (moment, undone.out)
        place.check_back()
    assert killed == kills


@pytest.mark.parametrize("way", WAYS)
def test_undoing_that_is_killed_goes_on(way: str, tmp_path: Path, forks: Commands) -> None:
    place, rng = Place(tmp_path, way), random.Random(way)
    assert forks.run(*place.command, **WAYS[way]).code == 0
    calls = forks.run(*place.undo, **WAYS[way]).calls
    for moment in rng.sample(range(1, calls // 2), 2):
        applied = forks.run(*place.command, **WAYS[way])
        assert applied.code == 0, applied.out
        place.check_applied()
        ended = forks.run(*place.undo, stop_at=moment, after=True, **WAYS[way])
        assert ended.code == -signal.SIGKILL
        # Either command finishes what was begun.
        if rng.getrandbits(1):
            assert forks.run(*place.command, **WAYS[way]).code == 0
            place.check_applied()
        undone = forks.run(*place.undo, **WAYS[way])
        assert undone.code == 0, (moment, undone.out)
        place.check_back()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_between_two_steps_and_it_goes_on(
    number: signal.Signals, tmp_path: Path, forks: Commands
) -> None:
    place, rng = Place(tmp_path, "move across file systems"), random.Random(number)
    calls = forks.run(*place.command, across=True).calls
    for moment in rng.sample(range(30, calls * 3 // 4), 2):
        assert forks.run(*place.undo, across=True).code == 0
        ended = forks.run(*place.command, across=True, stop_at=moment, signal=number)
        assert ended.code == 128 + number, ended.out
        assert "run the same command again" in ended.out
        again = forks.run(*place.command, across=True)
        assert again.code == 0, again.out
        place.check_applied()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["move", "copy"])
def test_processes_killed_after_random_times(kind: str, tmp_path: Path) -> None:
    place, rng = Place(tmp_path, kind, 600), random.Random(kind)
    command = [sys.executable, "-m", "moderate"]
    began = time.monotonic()
    subprocess.run([*command, *place.command], check=True, capture_output=True, timeout=PATIENCE)
    took = time.monotonic() - began
    subprocess.run([*command, *place.undo], check=True, capture_output=True, timeout=PATIENCE)
    place.check_back()
    for _ in range(KILLS):
        with subprocess.Popen([*command, *place.command], stdout=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0.3, 1) * took)
            process.kill()
        subprocess.run([*command, *place.undo], check=True, capture_output=True, timeout=PATIENCE)
        place.check_back()
