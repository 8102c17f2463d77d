"""Runs a command that prints CSV rows, and watches when they come and what its processes hold."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODERATE = (sys.executable, "-m", "moderate", "scan")
INTERVAL = 0.25  # seconds between two looks at memory; each costs some milliseconds


@dataclass(frozen=True)
class Run:
    """One finished command. Times are seconds from its start; memory is in bytes.

    pss_peak is the highest sum over the process tree of proportional set sizes, which counts
    shared memory once; rss_peak counts it once per process. None where /proc does not tell.
    largest_process is the peak resident set of the process that had the largest one.
    """

    returncode: int
    header: str
    rows: tuple[str, ...]
    row_times: tuple[float, ...]
    seconds: float
    cpu_seconds: float
    pss_peak: int | None
    rss_peak: int | None
    processes: int
    largest_process: int
    said: str

    def rate(self) -> float:
        """Images per second of the whole run, start-up included."""
        return len(self.rows) / self.seconds

    def steady_rate(self, batch: int) -> float | None:
        """Images per second between the end of the first batch and the last row.

        None for fewer than three batches, where there is hardly anything between.
        """
        if len(self.rows) < 3 * batch:
            return None
        spent = self.row_times[-1] - self.row_times[batch - 1]
        return (len(self.rows) - batch) / spent if spent > 0 else None


@dataclass
class _Peak:
    pss: int = 0
    rss: int = 0
    processes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end; its first line on stdout is the header, each other one a row."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    peak = _Peak()
    said: list[bytes] = []
    watcher = threading.Thread(target=_watch, args=(child.pid, peak), daemon=True)
    listener = threading.Thread(target=lambda: said.append(child.stderr.read()), daemon=True)
    watcher.start()
    listener.start()
    rows: list[str] = []
    times: list[float] = []
    for line in child.stdout:
        rows.append(line.decode(errors="replace").rstrip("\r\n"))
        times.append(time.perf_counter() - begun)
    # wait4 says what the child and every descendant it waited for cost.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    peak.stop.set()
    watcher.join()
    listener.join()
    return Run(
        child.returncode,
        rows[0] if rows else "",
        tuple(rows[1:]),
        tuple(times[1:]),
        seconds,
        usage.ru_utime + usage.ru_stime,
        peak.pss or None,
        peak.rss or None,
        peak.processes,
        usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        b"".join(said).decode(errors="replace"),
    )


def scan_command(
    folder: Path, bundle: Path | str, *options: str, batch: int = 32
) -> tuple[str, ...]:
    """`moderate scan` over a folder with rows on standard output, each image decoded and scored."""
    return (
        *MODERATE,
        str(folder),
        *("--weights", str(bundle), "--no-state", "--out", "-", "--quiet"),
        *("--batch-size", str(batch), "--max-file-size", "64MB"),
        *options,
    )


def check_scan(done: Run, count: int) -> None:
    """End the benchmark unless a scan has `count` rows, none of which is a copy's: those cost less.

    done is of a command of `scan_command`.
    """
    if done.returncode != 0 or len(done.rows) != count:
        raise SystemExit(f"moderate scan gave {len(done.rows)} rows:\n{done.said[-2000:]}")
    copies = sum(bool(row["duplicate_of"]) for row in csv.DictReader((done.header, *done.rows)))
    if copies:
        raise SystemExit(f"{copies} of {count} images are copies, which moderate scan scores once")


def _watch(root: int, peak: _Peak) -> None:
    while not peak.stop.wait(INTERVAL):
        members = _tree(root)
        pss = sum(_kilobytes(pid, "Pss:") for pid in members) * 1024
        rss = sum(_kilobytes(pid, "Rss:") for pid in members) * 1024
        peak.pss = max(peak.pss, pss)
        peak.rss = max(peak.rss, rss)
        peak.processes = max(peak.processes, len(members))


def _tree(root: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces; the parent is the second field after it.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    members = [root]
    for pid in members:
        members += children.get(pid, [])
    return members


def _kilobytes(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))
