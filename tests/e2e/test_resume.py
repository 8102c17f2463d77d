"""Runs that are killed, run out of room, lose their state or meet each other; real processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from scans import (
    COMMAND,
    Place,
    Written,
    assert_same,
    catches,
    make_corpus,
    orphans,
    orphans_are_ours,
    read_kept,
    read_parquet,
    read_sidecar,
    scored,
    wait_for,
)

GOES_ON = "run the same command again to go on from there"
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
MOST_KILLS = 4  # of one run, before it is left in peace
PATIENCE = 3.0  # seconds from SIGINT or SIGTERM to the end
OLD = "what an earlier run wrote\n"


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: what it wrote, and how long it took in seconds."""

    corpus: Path
    inputs: list[str]
    weights: str
    written: Written
    seconds: float

    def place(self, folder: Path, *options: str) -> Place:
        """Where the same is done again."""
        folder.mkdir(parents=True, exist_ok=True)
        return Place(folder, self.corpus, self.inputs, self.weights, options)

    @property
    def contents(self) -> set[str]:
        """Digests of all contents."""
        return {row["sha256"] for row in self.written.rows}


def undisturbed(folder: Path, weights: Path, count: int) -> Undisturbed:
    corpus = folder / "corpus"
    inputs = make_corpus(corpus, count)
    place = Place(folder / "warm", corpus, inputs, str(weights))
    assert place.run(place.scan()).returncode == 0  # the model is converted and cached here
    place = Place(folder / "reference", corpus, inputs, str(weights))
    began = time.monotonic()
    done = place.run(place.scan())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return Undisturbed(corpus, inputs, str(weights), Written.by(place), time.monotonic() - began)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Undisturbed:
    """400 pictures, for runs that are hit in the middle."""
    made = undisturbed(tmp_path_factory.mktemp("large"), bundle, 400)
    rows = made.written.rows
    assert 380 < len(rows) <= 400
    assert {row["format"] for row in rows} >= {"jpeg", "png", "webp", "gif", "bmp", "heif"}
    assert sum(row["duplicate_of"] is not None for row in rows) > 10
    assert {"truncated", "not_an_image"} <= {row["error_code"] for row in rows}
    assert len({row["nudity"] for row in rows}) > 200
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Undisturbed:
    """60 pictures, where any will do."""
    return undisturbed(tmp_path_factory.mktemp("small"), bundle, 60)


# Kills


@dataclass
class Tally:
    """What the kills met, so that it is known that they met something."""

    fates: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    unprepared: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_targets(place: Place, expected: Written, old: dict[str, bytes]) -> None:
    """Each target is what it was, or complete."""
    for target in [*place.targets, place.summary]:
        before = old.get(target.name)
        if not target.exists():
            assert before is None, f"{target.name} is gone"
        elif target.read_bytes() != before:
            if target.suffix == ".parquet":
                assert read_parquet(target)[0].equals(expected.table)
            elif target.name in expected.files:
                assert target.read_bytes() == expected.files[target.name]
                assert read_sidecar(target) == expected.facts[target.name]
            else:
                assert json.loads(target.read_text())["rows"] == expected.counts["rows"]


def kill_once(
    place: Place, reference: Undisturbed, delay: float, number: signal.Signals, tally: Tally
) -> bool:
    """Start the run, hit it after `delay` seconds and check what is left; whether it got through.

    Whoever is hit before Python has called any of our code can do nothing about it.
    """
    known = scored(place)
    old = {file.name: file.read_bytes() for file in place.out.iterdir() if file.suffix != ".part"}
    process = place.start(place.scan())
    time.sleep(delay)
    prepared = catches(process.pid, signal.SIGTERM)
    began = time.monotonic()
    process.send_signal(number)
    said, complained = process.communicate(timeout=60)
    waited, code = time.monotonic() - began, process.returncode
    gone = time.monotonic() + 2
    while orphans() and time.monotonic() < gone:
        time.sleep(0.02)
    assert not orphans(), "decoders outlive the run"
    about = f"{number.name} after {delay:.2f} s: {code} in {waited:.2f} s, {complained!r}"

    if code == 0:
        tally.fates["completed"] += 1
        assert said + complained == "", about
        assert_same(place, reference.written)
        return True
    check_targets(place, reference.written, old)
    kept = scored(place)
    assert known <= kept <= reference.contents, about
    assert said == "", about
    if number is not signal.SIGKILL and not prepared:
        assert delay < 1.0, about
        tally.unprepared.append(delay)
        tally.fates[f"{number.name} before our code: {code}"] += 1
        return False
    assert code == CODES[number], about
    tally.fates[number.name] += 1
    tally.kept.append(len(kept) - len(known))
    if number is signal.SIGKILL:
        assert complained == "", about
        check_rows_are_kept(place, reference, kept)
        return False
    tally.waits.append(waited)
    assert waited < PATIENCE, about
    assert "Traceback" not in complained, about
    assert complained.count("\n") == 1, about
    assert complained.startswith("moderate: error: stopped by ") and number.name in complained, (
        about
    )
    if GOES_ON in complained:
        count = int(complained.split("; ")[1].split()[0].replace(",", ""))
        check_first_are_kept(reference, kept, count)
        tally.fates["said how to go on"] += 1
    elif "before anything was done" in complained:
        tally.fates["stopped before anything was done"] += 1
        assert kept == known, about
    else:
        tally.fates["stopped before the first row"] += 1
        assert complained.endswith("; no result file was written\n"), about
        left = {f.name: f.read_bytes() for f in place.out.iterdir() if f.suffix != ".part"}
        assert left == old, about
    assert not list(place.out.glob(".*.part")), about
    return False


def check_first_are_kept(reference: Undisturbed, kept: set[str], count: int) -> None:
    """Of so many images that the run says it has scored, no outcome is lost: rows are in order."""
    first = [row["sha256"] for row in reference.written.rows if row["status"] == "ok"][:count]
    assert set(first) <= kept


def check_rows_are_kept(place: Place, reference: Undisturbed, kept: set[str]) -> None:
    """Nothing is lost of what a run that was killed had counted by its last word."""
    query = "SELECT counts FROM runs ORDER BY rowid DESC LIMIT 1"
    for (counts,) in read_kept(place.state / "runs.sqlite3", query):
        rows = json.loads(counts).get("rows", 0)
        assert {row["sha256"] for row in reference.written.rows[:rows]} <= kept


def kill_until_done(
    place: Place, reference: Undisturbed, chance: random.Random, tally: Tally
) -> int:
    """Kill a run again and again, then let it end; returns how often it was killed."""
    if chance.random() < 0.5:
        for target in place.targets:
            target.write_text(OLD)
    kills = 0
    wanted = chance.choice([1, 1, 2, 2, 3, MOST_KILLS])
    while kills < wanted:
        # Half of the time at any moment, else after Python has come up, where the work is.
        earliest = chance.choice([0.0, 0.35])
        delay = reference.seconds * chance.uniform(earliest, 1.0)
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        kills += 1
        if kill_once(place, reference, delay, number, tally):
            break
    known = scored(place)
    done = place.run(place.scan())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same(place, reference.written)
    assert place.left_behind() == []
    origins = json.loads(place.summary.read_text())["origins"]
    assert len(known) + origins["new"] == len(reference.contents), "scored twice"
    assert origins["changed"] == 0
    assert scored(place) == reference.contents
    return kills


def kill_many(reference: Undisturbed, folder: Path, kills: int, seed: int) -> Tally:
    """At least so many kills."""
    chance, tally = random.Random(seed), Tally()
    done = number = 0
    with orphans_are_ours():
        while done < kills:
            place = reference.place(folder / f"{number}")
            done += 1
            try:
                done += kill_until_done(place, reference, chance, tally) - 1
            except AssertionError as error:  # the next ones tell more
                tally.problems.append(f"run {number}: {error}")
            shutil.rmtree(place.folder)
            number += 1
    print(tally, f"undisturbed {reference.seconds:.2f} s, {done} kills in {number} runs")
    assert not tally.problems, "\n\n".join(tally.problems)
    return tally


def test_a_run_that_is_killed_goes_on_where_it_was(large: Undisturbed, tmp_path: Path) -> None:
    tally = kill_many(large, tmp_path, kills=6, seed=1)
    assert any(tally.kept), "no kill hit a run that had scored something"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(4))
def test_runs_that_are_killed_all_the_time(large: Undisturbed, tmp_path: Path, seed: int) -> None:
    tally = kill_many(large, tmp_path, kills=30, seed=seed)
    assert sum(map(bool, tally.kept)) > 5
    assert {number.name for number in CODES} <= tally.fates.keys()
    assert tally.fates["said how to go on"] > 3
