"""The command in a process of its own, and pictures for it: to be killed and resumed."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moderate.results.pages import PAGES
from moderate.results.read import read_results
from tests.support import run_columns
from tests.support.patience import PATIENCE
from tests.support.pictures import FORMATS, SUFFIX, encode, scene

COMMAND = [sys.executable, "-P", "-m", "moderate"]
OF_THE_RUN = {"run_id", "started", "ended", "sha256"}
"""Audit facts that two runs over the same input do not share."""

OF_NO_OTHER_RUN = {"generator", "audit", "origins", "outputs", "throughput"}
"""Parts of a summary that two runs over the same input do not share."""

_PR_SET_CHILD_SUBREAPER = 36


def make_corpus(folder: Path, count: int = 400) -> list[str]:
    """Some `count` pictures of all formats in folders, a zip and a manifest; the inputs' names.

    Among them are broken ones, copies within and across the inputs, and files that are no image.
    """
    folder.mkdir(parents=True)
    made: list[bytes] = []
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        cells: list[bytes] = []
        for number in range(count):
            kind = FORMATS[number % len(FORMATS)]
            # Small where encoding is slow.
            size = (60 + number, 50 + number) if kind in {"JPEG", "BMP"} else (60, 40 + number % 9)
            data = encode(scene(size, seed=number), kind)
            suffix = SUFFIX[kind]
            if number % 13 == 5:
                data = data[: len(data) // 2]
            elif number % 17 == 3:
                data = made[number // 2]
                suffix = "jpg"
            elif number % 29 == 7:
                data = b"<html>number %d is no picture</html>" % number
            made.append(data)
            if number % 5 == 3:
                archive.writestr(f"zipped/{number:04}.{suffix}", data)
            elif number % 5 == 4:
                cells.append(data)
            else:
                into = folder / ("first", "second/deep", "second")[number % 3]
                into.mkdir(parents=True, exist_ok=True)
                (into / f"{number:04}.{suffix}").write_bytes(data)
    (folder / "second" / "notes.txt").write_text("no picture, no row\n")
    (folder / "dump.zip").write_bytes(zipped.getvalue())
    ids = pa.array([f"id-{number}" for number in range(len(cells))])
    pq.write_table(pa.table({"id": ids, "image": pa.array(cells)}), folder / "manifest.parquet")
    time.sleep(0.1)  # files as young as the clock's tick are read again
    return ["first", "second", "dump.zip", "manifest.parquet"]


@dataclass
class Place:
    """Where a command runs: inputs, targets and state of its own. cwd is where the inputs are."""

    folder: Path
    cwd: Path
    inputs: Sequence[str]
    weights: str
    options: Sequence[str] = ()
    cache: Path | None = None
    out: Path = field(init=False)
    state: Path = field(init=False)
    temporary: Path = field(init=False)

    def __post_init__(self) -> None:
        self.out, self.state = self.folder / "out", self.folder / "state"
        self.temporary = self.folder / "tmp"
        for made in (self.out, self.temporary):
            made.mkdir(parents=True)

    @property
    def targets(self) -> list[Path]:
        """The files of rows."""
        return [self.out / name for name in ("rows.csv", "rows.parquet", "rows.jsonl")]

    @property
    def summary(self) -> Path:
        """The summary as JSON."""
        return self.out / "summary.json"

    def scan(self, *more: str) -> list[str]:
        """The command line of a scan."""
        return [
            *COMMAND, "scan", *self.inputs, "--weights", self.weights, "--device", "cpu",
            "--state", str(self.state), "--quiet", "--batch-size", "8",
            *(part for target in self.targets for part in ("--out", str(target))),
            "--summary", str(self.summary), *self.options, *more,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """That of the tests without settings for the command, and with temporary files apart."""
        made = {k: v for k, v in os.environ.items() if not k.startswith("MODERATE_")}
        made |= {"TMPDIR": str(self.temporary), "XDG_STATE_HOME": str(self.folder / "home")}
        return made | ({"XDG_CACHE_HOME": str(self.cache)} if self.cache else {})

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command; its outputs are pipes."""
        return subprocess.Popen(
            command, cwd=self.cwd, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def run(
        self, command: Sequence[str], given: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `given` is its standard input."""
        with self.start(command, stdin=subprocess.PIPE, **options) as process:
            said, complained = process.communicate(given, timeout=PATIENCE)
        return subprocess.CompletedProcess(command, process.returncode, said, complained)

    def runs(self, *arguments: str) -> Any:
        """What `moderate runs` says as JSON."""
        done = self.run([*COMMAND, "runs", *arguments, "--json", "--state", str(self.state)])
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    def left_behind(self) -> list[str]:
        """What no run that has ended leaves: parts of targets, temporary files, locks."""
        found = [*self.folder.rglob("*.part"), *self.temporary.iterdir()]
        running = self.state / "running"
        return sorted(map(str, [*found, *(running.iterdir() if running.is_dir() else ())]))


@dataclass(frozen=True)
class Written:
    """What a run wrote, without what no two runs share."""

    files: dict[str, bytes]
    facts: dict[str, dict[str, str]]
    table: pa.Table
    groups: int
    counts: dict[str, Any]

    @classmethod
    def by(cls, place: Place) -> Written:
        """Everything that stands under the targets' names."""
        table, groups, parquet = read_parquet(place.out / "rows.parquet")
        texts = [target for target in place.targets if target.suffix != ".parquet"]
        facts = {target.name: read_sidecar(target) for target in texts}
        summary = json.loads(place.summary.read_text())
        counts = {k: v for k, v in summary.items() if k not in OF_NO_OTHER_RUN}
        audit = {k: v for k, v in summary["audit"].items() if k not in OF_THE_RUN}
        return cls(
            {target.name: run_columns.without(target.read_bytes()) for target in texts},
            {**facts, "rows.parquet": parquet, "summary": audit},
            table,
            groups,
            counts,
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the JSON Lines."""
        return [json.loads(line) for line in self.files["rows.jsonl"].splitlines()]


def read_sidecar(target: Path) -> dict[str, str]:
    """The audit facts beside a text file, without those of the run; they name its digest."""
    facts = read_results(str(target)).facts  # also those that a kill kept from their name
    assert facts["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    return {key: value for key, value in facts.items() if key not in OF_THE_RUN}


def read_parquet(target: Path) -> tuple[pa.Table, int, dict[str, str]]:
    """Table, number of row groups, and metadata without that of the run."""
    with pq.ParquetFile(target) as file:
        table, groups = file.read(), file.metadata.num_row_groups
        metadata = {k.decode(): v.decode() for k, v in file.metadata.metadata.items()}
    metadata.pop("ARROW:schema")  # all of it again, the run's own facts too
    del metadata[PAGES]  # as sha256 of text
    facts = {key: value for key, value in metadata.items() if key not in OF_THE_RUN}
    return table.drop_columns(run_columns.NAMES).replace_schema_metadata(None), groups, facts


def assert_same(place: Place, expected: Written) -> None:
    """The same bytes, facts and table as those of an undisturbed run."""
    written = Written.by(place)
    for name, facts in expected.facts.items():
        theirs = written.facts[name]
        differ = {key for key in facts.keys() | theirs.keys() if facts.get(key) != theirs.get(key)}
        assert not differ, f"{name}: other facts: {differ}"
    for name, data in expected.files.items():
        lines = zip(written.files[name].splitlines(), data.splitlines(), strict=False)
        other = next(((ours, theirs) for ours, theirs in lines if ours != theirs), "")
        assert written.files[name] == data, f"{name}: other rows, the first: {other}"
    assert written.table.equals(expected.table), "another table"
    assert written.groups == expected.groups, "other row groups"
    assert written.counts == expected.counts, f"other counts: {written.counts}"


def read_kept(database: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a database as a process left it, which is not touched; none where there is none."""
    copy = database.parent.parent / f"copy-of-{database.name}"
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"{database}{suffix}", f"{copy}{suffix}")
    if not copy.exists():
        return []
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema").fetchall():
            return []
        return connection.execute(query).fetchall()


def scored(place: Place) -> set[str]:
    """Digests (hex) of the contents whose outcome is kept."""
    found = read_kept(place.state / "scores.sqlite3", "SELECT sha256 FROM outcomes")
    return {digest.hex() for (digest,) in found}


@contextlib.contextmanager
def orphans_are_ours() -> Iterator[None]:
    """Within, children of processes that were killed become children of this one, as of an init.

    So they are found whatever they are called and wherever they had got to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def orphans() -> list[int]:
    """Decoders whose parent is gone and that live on."""
    living = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()
            state, parent = fields[:2]
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if int(parent) == os.getpid() and state != "Z" and b"moderate.decode" in command:
                living.append(int(name))
    return living


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for this signal yet."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is so; returns what the condition gave."""
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, "it never was so"
        time.sleep(0.02)
    return result


class Disk:
    """A small file system of its own at `folder`, in memory, with `room` bytes free."""

    def __init__(self, folder: Path, room: int) -> None:
        self._folder = folder
        folder.mkdir()
        size = room + 4096  # the folder itself
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)],
            check=True,
            capture_output=True,
        )

    def make_room(self) -> None:
        """More than anybody needs."""
        subprocess.run(
            ["mount", "-o", "remount,size=64m", str(self._folder)], check=True, capture_output=True
        )

    def let_read_only(self) -> None:
        """As a disk that the system has found faults on."""
        subprocess.run(
            ["mount", "-o", "remount,ro", str(self._folder)], check=True, capture_output=True
        )

    def remove(self) -> None:
        """With all that is on it, even if a process has not let go of it yet."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True, capture_output=True)


def can_mount() -> bool:
    """Whether this user may make a `Disk`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Disk(Path(folder) / "disk", 4096).remove()
        except (OSError, subprocess.CalledProcessError):
            return False
    return True
