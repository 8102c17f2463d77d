"""Runs that are killed, run out of room, lose their state or meet each other; real processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import resource
import shutil
import signal
import subprocess
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from moderate.types import Category
from tests.support import run_columns
from tests.support.patience import PATIENCE
from tests.support.scans import (
    COMMAND,
    Disk,
    Place,
    Written,
    assert_same,
    can_mount,
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
from tests.support.scored import write_results

GOES_ON = "run the same command again to go on from there"
CODES = {signal.SIGKILL: -9, signal.SIGHUP: 129, signal.SIGTERM: 143, signal.SIGINT: 130}
MOST_KILLS = 4  # of one run, before it is left in peace
STOPPED_WITHIN = 3.0  # seconds from SIGINT or SIGTERM to the end


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: what it wrote, and how long it took in seconds."""

    corpus: Path
    inputs: list[str]
    weights: str
    written: Written
    state: Path
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
    place = Place(folder / "warm", corpus, ["dump.zip"], str(weights))
    assert place.run(place.scan()).returncode == 0  # the model is converted and cached here
    place = Place(folder / "reference", corpus, inputs, str(weights))
    began = time.monotonic()
    done = place.run(place.scan())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    seconds = time.monotonic() - began
    return Undisturbed(corpus, inputs, str(weights), Written.by(place), place.state, seconds)


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


def write_old(target: Path) -> None:
    """Results of an earlier run, which a run may replace."""
    write_results(target, {Category.NUDITY: np.zeros(3)})


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
                assert run_columns.without(target.read_bytes()) == expected.files[target.name]
                assert read_sidecar(target) == expected.facts[target.name]
            else:
                assert json.loads(target.read_text())["rows"] == expected.counts["rows"]


@dataclass(frozen=True)
class Moment:
    """So many seconds after the log of the state has so many bytes, and this run's among them."""

    seconds: float
    nbytes: int = 0

    @classmethod
    def any_of(cls, seconds: float, chance: random.Random) -> Moment:
        """One in a run that takes so many seconds; mostly where the work is, which is short."""
        if chance.random() < 0.35:
            return cls(chance.uniform(0.0, seconds))
        return cls(chance.uniform(0.0, 0.1), chance.randrange(600_000))

    def wait(self, process: subprocess.Popen[str], state: Path) -> None:
        """Until it is there, or the process has ended."""
        log, began = state / "scores.sqlite3-wal", time.time()
        while self.nbytes and process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                known = log.stat()
                if known.st_size >= self.nbytes and known.st_mtime > began:
                    break
            time.sleep(0.002)
        time.sleep(self.seconds)


def kill_once(
    place: Place,
    reference: Undisturbed,
    moment: Moment,
    number: signal.Signals,
    tally: Tally,
    again: float | None = None,
) -> bool:
    """Start the run, hit it at that moment and check what is left; whether it got through.

    It is hit again so many seconds later, as by somebody impatient.

    Whoever is hit before Python has called any of our code can do nothing about it.
    """
    known = scored(place)
    old = {file.name: file.read_bytes() for file in place.out.iterdir() if file.suffix != ".part"}
    parts = set(place.out.glob(".*.part"))  # of a run that was killed before
    process = place.start(place.scan())
    moment.wait(process, place.state)
    prepared = catches(process.pid, signal.SIGTERM)
    began = time.monotonic()
    process.send_signal(number)
    if again is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(again)
        process.send_signal(number)
    said, complained = process.communicate(timeout=PATIENCE)
    waited, code = time.monotonic() - began, process.returncode
    gone = time.monotonic() + 20  # two seconds on an idle machine
    while orphans() and time.monotonic() < gone:
        time.sleep(0.02)
    assert not orphans(), "decoders outlive the run"
    about = f"{number.name} at {moment}, again {again}: {code} in {waited:.2f} s, {complained!r}"

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
        tally.unprepared.append(moment.seconds)
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
    # On a busy machine all takes longer, the undisturbed run too.
    assert waited < max(STOPPED_WITHIN, reference.seconds / 2), about
    assert "Traceback" not in complained, about
    assert complained.count("\n") == 1, about
    assert complained.startswith(f"moderate: error: stopped by {number.name}"), about
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
    # Harmless, for the next run takes them over: a signal between two instructions may leave them.
    tally.fates["left parts"] += not parts.issuperset(place.out.glob(".*.part"))
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
            write_old(target)
    kills = 0
    wanted = chance.choice([1, 1, 2, 2, 3, MOST_KILLS])
    while kills < wanted:
        number = chance.choice([signal.SIGKILL, *CODES])
        moment = Moment.any_of(reference.seconds, chance)
        kills += 1
        again = chance.uniform(0.0, 0.2) if chance.random() < 0.2 else None
        if kill_once(place, reference, moment, number, tally, again):
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


def kill_many(
    reference: Undisturbed, folder: Path, kills: int, seed: int, *, cold: bool = False
) -> Tally:
    """At least so many kills. cold: the model is converted anew in each run that comes so far."""
    chance, tally = random.Random(seed), Tally()
    done = number = 0
    with orphans_are_ours():
        while done < kills:
            place = reference.place(folder / f"{number}")
            place.cache = place.folder / "cache" if cold else None
            done += 1
            try:
                done += kill_until_done(place, reference, chance, tally) - 1
            except AssertionError as error:  # the next ones tell more
                tally.problems.append(f"run {number}: {error}")
            shutil.rmtree(place.folder)
            number += 1
    print(tally, f"undisturbed {reference.seconds:.2f} s, {done} kills in {number} runs")
    if tally.problems:
        pytest.fail("\n\n".join(tally.problems))
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_that_are_killed_while_the_model_is_converted(
    large: Undisturbed, tmp_path: Path
) -> None:
    slower = replace(large, seconds=large.seconds + 6.0)
    kill_many(slower, tmp_path, kills=12, seed=0, cold=True)


# A full disk


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Makes a small disk at `tmp_path / "disk"`, which goes with the test."""
    with contextlib.ExitStack() as stack:

        def make(room: int) -> Disk:
            disk = Disk(tmp_path / "disk", room)
            stack.callback(disk.remove)
            return disk

        yield make


def check_refusal(done: subprocess.CompletedProcess[str], *, warnings: int = 0) -> str:
    """One clear line, after at most so many warnings; returns it."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *warned, line = done.stderr.splitlines()
    assert line.startswith("moderate: error: "), done.stderr
    assert len(warned) <= warnings, done.stderr
    assert not any("error" in warning.split(": ")[1] for warning in warned), done.stderr
    return line


def contents_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def check_it_completes(place: Place, reference: Undisturbed) -> dict[str, int]:
    """The same command, quietly; returns where its scores came from."""
    done = place.run(place.scan())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same(place, reference.written)
    assert place.left_behind() == []
    origins: dict[str, int] = json.loads(place.summary.read_text())["origins"]
    return origins


class TestFullDisk:
    """Of a file system that is really full, where this user can make one."""

    @pytest.mark.parametrize("room", [0, 16 * 1024])
    def test_under_the_targets(
        self, small: Undisturbed, tmp_path: Path, make_disk: Callable[[int], Disk], room: int
    ) -> None:
        place = small.place(tmp_path / "run", "--force")
        disk = make_disk(room + 3 * 4096)
        place.out.rmdir()
        place.out.symlink_to(tmp_path / "disk")
        for target in place.targets:
            target.write_text("a few bytes, of whatever kind")
        before = contents_of(place.out)
        line = check_refusal(place.run(place.scan()))
        assert "No space left on device" in line
        assert str(place.out) in line
        assert contents_of(place.out) == before
        kept = scored(place)
        assert bool(kept) == (GOES_ON in line)
        disk.make_room()
        assert check_it_completes(place, small)["new"] == len(small.contents) - len(kept)

    def test_under_the_state(
        self, large: Undisturbed, tmp_path: Path, make_disk: Callable[[int], Disk]
    ) -> None:
        """The run is worth more than what could be remembered of it."""
        place = large.place(tmp_path / "run")
        disk = make_disk(300 * 1024)
        place.state.symlink_to(tmp_path / "disk")
        done = place.run(place.scan())
        assert (done.returncode, done.stdout) == (0, ""), done
        assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
        assert "the run goes on" in done.stderr
        assert "full" in done.stderr
        assert_same(place, large.written)
        disk.make_room()
        check_it_completes(place, large)
        assert check_it_completes(place, large)["new"] == 0

    @pytest.mark.parametrize("trouble", ["full", "read-only", "full later", "read-only later"])
    def test_under_the_state_before_anything_is_kept(
        self,
        small: Undisturbed,
        tmp_path: Path,
        make_disk: Callable[[int], Disk],
        trouble: str,
    ) -> None:
        """Named or not: one warning, and the rows of a run without a state."""
        place = small.place(tmp_path / "run")
        disk = make_disk(0 if trouble == "full" else 64 * 1024 * 1024)
        place.state.symlink_to(tmp_path / "disk")
        if "later" in trouble:  # what is there already is of no use, and stays as it is
            assert place.run(place.scan()).returncode == 0
            assert_same(place, small.written)
        if trouble == "full later":
            with contextlib.suppress(OSError), (tmp_path / "disk" / "fill").open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
        elif trouble.startswith("read-only"):
            disk.let_read_only()
        done = place.run(place.scan())
        assert (done.returncode, done.stdout) == (0, ""), done
        if trouble != "full later":  # where scores can be read, if not written
            (line,) = done.stderr.splitlines()
            assert line.startswith("moderate: the state cannot be used"), line
            assert "going on without" in line
            assert trouble.split()[0].replace("read-only", "Read-only") in line
        assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
        assert_same(place, small.written)

    def test_under_the_state_that_nobody_named(
        self, small: Undisturbed, tmp_path: Path, make_disk: Callable[[int], Disk]
    ) -> None:
        place = small.place(tmp_path / "run")
        disk = make_disk(0)
        (place.folder / "home").symlink_to(tmp_path / "disk")
        command = [part for part in place.scan() if part not in ("--state", str(place.state))]
        done = place.run(command)
        assert (done.returncode, done.stdout) == (0, ""), done
        assert done.stderr.count("\n") == 1, done.stderr
        assert "going on without" in done.stderr
        assert_same(place, small.written)
        disk.make_room()
        for _ in range(2):
            done = place.run(command)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert_same(place, small.written)
        assert json.loads(place.summary.read_text())["origins"]["new"] == 0

    @pytest.mark.parametrize("room", [0, 100 * 1024])
    def test_under_both(
        self, small: Undisturbed, tmp_path: Path, make_disk: Callable[[int], Disk], room: int
    ) -> None:
        disk = make_disk(room + 3 * 4096 + 2 * 4096)
        place = small.place(tmp_path / "run", "--force")
        for name, real in (("out", place.out), ("state", place.state)):
            (tmp_path / "disk" / name).mkdir()
            if real.exists():
                real.rmdir()
            real.symlink_to(tmp_path / "disk" / name)
        for target in place.targets:
            target.write_text("a few bytes, of whatever kind")
        before = contents_of(place.out)
        line = check_refusal(place.run(place.scan()), warnings=2)
        assert "No space left on device" in line or "full" in line
        assert contents_of(place.out) == before
        disk.make_room()
        check_it_completes(place, small)
        assert check_it_completes(place, small)["new"] == 0


if not can_mount():
    del TestFullDisk  # what follows needs no rights


def test_files_that_cannot_grow(large: Undisturbed, tmp_path: Path) -> None:
    """Neither targets nor state: a limit of the system stands in for a disk that gets full."""
    most = 128 * 1024
    options = ("--batch-size", "1", "--workers", "2", "--max-file-size", "100KB")
    place = large.place(tmp_path / "run", *options)
    for target in place.targets:
        write_old(target)
    before = contents_of(place.out)
    done = place.run(
        place.scan(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    )
    line = check_refusal(done, warnings=2)
    assert "ulimit -f 128" in line
    assert contents_of(place.out) == before
    fresh = large.place(tmp_path / "fresh", *options)
    assert fresh.run(fresh.scan("--rescore")).returncode == 0
    done = place.run(place.scan())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same(place, Written.by(fresh))
    assert place.left_behind() == []


# Damage

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda data: b"\xff" * 100 + data[100:],
    "middle": lambda data: (
        data[: len(data) // 4]
        + b"\xa5" * (len(data) // 2)
        + data[len(data) // 4 + len(data) // 2 :]
    ),
    "half": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "random": lambda data: random.Random(0).randbytes(len(data)),
}
FILES = ("scores.sqlite3", "runs.sqlite3")
ALIKE = {"random"}  # to SQLite much as a damaged header: no database


@pytest.mark.parametrize(
    "damage",
    [pytest.param(d, marks=[pytest.mark.slow] if d in ALIKE else []) for d in DAMAGE],
)
@pytest.mark.parametrize(
    "files", [FILES, *(pytest.param((file,), marks=pytest.mark.slow) for file in FILES)]
)
def test_a_damaged_state(
    small: Undisturbed, tmp_path: Path, files: tuple[str, ...], damage: str
) -> None:
    place = small.place(tmp_path / "run")
    shutil.copytree(small.state, place.state)
    damaged = {}
    for name in files:
        file = place.state / name
        damaged[name] = DAMAGE[damage](file.read_bytes())
        file.write_bytes(damaged[name])
    done = place.run(place.scan())
    assert (done.returncode, done.stdout) == (0, ""), done
    assert_same(place, small.written)
    assert place.left_behind() == []
    aside = {file.name.partition(".corrupt-")[0]: file for file in place.state.glob("*.corrupt-*")}
    if damage == "nothing":  # SQLite takes it for a file that was just made
        assert (aside, done.stderr) == ({}, "")
    else:
        assert aside.keys() == damaged.keys()
        assert {name: file.read_bytes() for name, file in aside.items()} == damaged
        said = done.stderr.splitlines()
        assert len(said) == len(files)
        for name, file in aside.items():
            where = place.state / name
            assert any(f"{where} is damaged" in line and file.name in line for line in said)
    new = len(small.contents) if "scores.sqlite3" in files else 0
    assert json.loads(place.summary.read_text())["origins"]["new"] == new
    assert check_it_completes(place, small)["new"] == 0
    assert len(place.runs("list")) == (2 if "runs.sqlite3" in files else 3)


# Several at once


@contextlib.contextmanager
def stopped(place: Place, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A run that stands still while it writes its targets, until it gets SIGCONT."""
    process = place.start(place.scan("--decode-timeout", "300", *more))
    try:
        # The summary is opened last: the others are locked by then.
        wait_for(lambda: list(place.out.glob(".summary.*.part")))
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None, "it was over before it could be stopped"
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, complained = process.communicate(timeout=PATIENCE)
    assert said == ""
    return process.returncode, complained


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_runs_that_share_a_state(small: Undisturbed, tmp_path: Path, count: int) -> None:
    places = [small.place(tmp_path / f"{number}") for number in range(count)]
    for place in places[1:]:
        place.state = places[0].state
    processes = [place.start(place.scan()) for place in places]
    assert [finish(process) for process in processes] == [(0, "")] * count
    for place in places:
        assert_same(place, small.written)
        assert place.left_behind() == []
    assert scored(places[0]) == small.contents
    listed = places[0].runs("list")
    assert [run["status"] for run in listed] == ["completed"] * count
    assert check_it_completes(places[0], small)["new"] == 0


def test_runs_that_want_the_same_targets(small: Undisturbed, tmp_path: Path) -> None:
    place = small.place(tmp_path / "run")
    for target in place.targets:
        write_old(target)
    with stopped(place) as first:
        before = {name: place.out.joinpath(name).stat() for name in os.listdir(place.out)}
        others = [place.start(place.scan()) for _ in range(3)]
        for other in others:
            code, complained = finish(other)
            assert code == 2
            assert complained.count("\n") == 1
            assert "another run is writing it" in complained
        after = {name: place.out.joinpath(name).stat() for name in os.listdir(place.out)}
        assert {n: (s.st_ino, s.st_size, s.st_mtime_ns) for n, s in after.items()} == {
            n: (s.st_ino, s.st_size, s.st_mtime_ns) for n, s in before.items()
        }
        first.send_signal(signal.SIGCONT)
        assert finish(first) == (0, "")
    assert_same(place, small.written)
    assert place.left_behind() == []
    statuses = Counter(run["status"] for run in place.runs("list"))
    assert statuses == {"completed": 1, "failed": 3}


def test_runs_that_race_for_the_same_targets(small: Undisturbed, tmp_path: Path) -> None:
    place = small.place(tmp_path / "run")
    ends = [finish(process) for process in [place.start(place.scan()) for _ in range(4)]]
    assert any(code == 0 for code, _ in ends)
    for code, complained in ends:
        assert code in (0, 2)
        assert complained.count("\n") == (code == 2)
        assert ("another run" in complained) == (code == 2)
    assert_same(place, small.written)
    assert place.left_behind() == []


def test_one_run_at_a_time(small: Undisturbed, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = small.place(tmp_path / "holder")
    other = small.place(tmp_path / "other")
    patient = small.place(tmp_path / "patient")
    killed = small.place(tmp_path / "killed")
    for place in (other, patient):
        place.state = holder.state
    with stopped(holder, "--lock", str(lock)) as first:
        line = check_refusal(other.run(other.scan("--lock", str(lock))))
        assert f"--lock {lock}: another run (process {first.pid} on " in line
        assert line.endswith("holds it; nothing was done")
        impatient = other.run(other.scan("--lock", str(lock), "--lock-wait", "0.3"))
        assert "still holds it after 0.3 s" in check_refusal(impatient)
        assert os.listdir(other.out) == []
        waiting = patient.start(patient.scan("--lock", str(lock), "--lock-wait", "100"))
        wait_for(lambda: "queued" in [run["status"] for run in holder.runs("list")])
        assert waiting.poll() is None
        assert os.listdir(patient.out) == []
        first.send_signal(signal.SIGCONT)
        assert finish(first) == (0, "")
        assert finish(waiting) == (0, "")
    for place in (holder, patient):
        assert_same(place, small.written)
    with stopped(killed, "--lock", str(lock)) as first:
        first.kill()
    done = killed.run(killed.scan("--lock", str(lock)))
    assert (done.returncode, done.stderr) == (0, "")


# What becomes of runs


@contextlib.contextmanager
def fed(place: Place) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A run that gets its names one by one: it and what sends it ten more; returns those."""
    files = sorted(f for f in place.cwd.rglob("*.*") if f.suffix in {".jpg", ".png", ".bmp"})
    names = iter([str(file.relative_to(place.cwd)) for file in files])
    process = place.start(place.scan(), stdin=subprocess.PIPE)

    def send() -> str:
        assert process.stdin
        sent = "".join(f"{next(names)}\n" for _ in range(10))
        process.stdin.write(sent)
        process.stdin.flush()
        return sent

    try:
        yield process, send
    finally:
        process.kill()
        process.communicate()


def images(place: Place) -> int:
    return sum(run["counts"].get("rows", 0) for run in place.runs("list"))


def test_a_run_in_the_ledger_while_it_lives_and_when_it_was_killed(
    large: Undisturbed, tmp_path: Path
) -> None:
    place = Place(tmp_path / "run", large.corpus, ["-"], large.weights)
    ask = [*COMMAND, "runs"]
    state = ["--state", str(place.state)]
    with fed(place) as (process, send):
        send()
        first = wait_for(lambda: images(place))
        send()
        wait_for(lambda: images(place) > first)
        (alive,) = place.runs("list")
        assert alive["status"] == "running"
        assert (alive["died"], alive["ended"], alive["pid"]) == (False, None, process.pid)
        assert "running" in place.run([*ask, "list", *state]).stdout
        assert "last heard of" in place.run([*ask, "show", "last", *state]).stdout
        process.kill()
        process.wait()
        (dead,) = place.runs("list")
        assert dead["status"] == "failed"
        assert dead["died"]
        assert dead["ended"] == dead["updated"]
        assert dead["outputs"] == {}
        assert place.runs("show", dead["id"][:8]) == dead
        listed = place.run([*ask, "list", *state]).stdout
        assert "died" in listed
        assert "running" not in listed
        assert "the process died without a word" in place.run([*ask, "show", "last", *state]).stdout


def test_what_was_killed_is_not_finished_with_other_weights(
    large: Undisturbed, tmp_path: Path
) -> None:
    place = Place(tmp_path / "run", large.corpus, ["-"], large.weights)
    write_old(place.targets[0])
    with fed(place) as (process, send):
        names = send()
        wait_for(lambda: images(place))
        process.kill()
    kept = scored(place)
    assert kept
    other = Place(tmp_path / "other", large.corpus, ["-"], "testcard")
    other.out, other.state = place.out, place.state
    before = contents_of(place.out)
    line = check_refusal(other.run(other.scan(), names), warnings=1)  # a demonstration
    assert "which broke off at" in line
    assert line.endswith("add --rescore to begin again")
    assert contents_of(place.out) == before
    assert scored(place) == kept
    done = place.run(place.scan(), names)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(Written.by(place).rows) == 10
    origins = json.loads(place.summary.read_text())["origins"]
    assert len(kept) + origins["new"] == len({row["sha256"] for row in Written.by(place).rows})
    assert place.left_behind() == []


def test_quiet_is_quiet(small: Undisturbed, tmp_path: Path) -> None:
    """Cron sends mail for every character."""
    place = small.place(tmp_path / "run")
    command = [part for part in place.scan() if part not in ("--state", str(place.state))]
    for _ in range(2):
        done = place.run(command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(place.summary.read_text())["origins"]["new"] == 0
    assert (place.folder / "home" / "moderate" / "scores.sqlite3").exists()


# Terminals that are closed


@contextlib.contextmanager
def on_a_terminal(
    place: Place, *, ignored: bool
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None], Callable[[], None]]]:
    """A run at a terminal of its own that has scored something and waits for more names.

    Gives it, what closes its terminal, and what ends its list. ignored: it is started with SIGHUP
    ignored, as by nohup.
    """
    master, slave = pty.openpty()

    def own_the_terminal() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [part for part in place.scan("--progress", "bar") if part != "--quiet"]
    files = sorted(f for f in place.cwd.rglob("*.*") if f.suffix in {".jpg", ".png", ".bmp"})
    names = [str(file.relative_to(place.cwd)) for file in files]
    process = subprocess.Popen(
        command, cwd=place.cwd, env=place.environment(), text=True, stdin=subprocess.PIPE,
        stdout=slave, stderr=slave, start_new_session=True, preexec_fn=own_the_terminal,
    )  # fmt: skip
    os.close(slave)
    terminal = os.fdopen(master, "rb", buffering=0)

    def end_the_list() -> None:
        assert process.stdin
        process.stdin.close()

    try:
        assert process.stdin
        process.stdin.write("".join(f"{name}\n" for name in names[:10]))
        process.stdin.flush()
        wait_for(lambda: images(place))
        yield process, terminal.close, end_the_list
    finally:
        terminal.close()
        process.kill()
        process.wait()


def test_a_terminal_that_is_closed_ends_the_run_and_nothing_is_left(
    small: Undisturbed, tmp_path: Path
) -> None:
    place = Place(tmp_path / "run", small.corpus, ["-"], small.weights)
    with on_a_terminal(place, ignored=False) as (process, close_it, _):
        assert list(place.out.glob(".*.part"))
        close_it()
        assert process.wait(PATIENCE) == 129
        assert os.listdir(place.out) == []
        assert place.left_behind() == []
    (run,) = place.runs("list")
    assert run["status"] == "interrupted"
    assert scored(place)


def test_a_run_that_ignores_its_terminal_outlives_it(small: Undisturbed, tmp_path: Path) -> None:
    place = Place(tmp_path / "run", small.corpus, ["-"], small.weights)
    with on_a_terminal(place, ignored=True) as (process, close_it, end_the_list):
        close_it()
        process.send_signal(signal.SIGHUP)
        end_the_list()
        assert process.wait(PATIENCE) == 0
    assert len(Written.by(place).rows) == 10
    assert place.left_behind() == []
