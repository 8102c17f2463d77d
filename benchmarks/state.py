"""What the state saves a second run over the same files, and what keeping it costs the first.

    python benchmarks/state.py [--cache DIR] [--count 100000] [--pairs 5] [--json FILE]

Every command is timed whole, start of the program included. README.md here says how to read it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import MODERATE, run
from reporting import cores, machine, print_table, write_json
from rich.console import Console
from rich.progress import track

# NumPy and Pillow are left to the processes that draw: on Linux the peak memory of a command
# begins with that of whoever started it.

LEAST_RATIO = 40.0  # of a second run's rate to the first's
MOST_PER_FILE = 20.0  # microseconds of CPU time for a known file
MOST_OVERHEAD = 0.03  # of the first run's time
VERSION = 1  # of the drawing: a cached corpus of another version is drawn again
SIDE = 256  # pixels
FOLDER_SIZE = 1000  # images


# -- images


def make(cache: Path, count: int) -> Path:
    """The folder with `count` small JPEGs of bytes of their own; drawn if it is not there yet.

    They are smooth, about 7 KB each: the cheapest to decode that a folder may hold, so that the
    first run is as fast as it gets.
    """
    out, marker = cache / f"smooth-{count}", cache / f"smooth-{count}.json"
    wanted = {"version": VERSION, "count": count}
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        return out
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, FOLDER_SIZE)
    parts = [(out, start, min(FOLDER_SIZE, count - start)) for start in starts]
    with multiprocessing.get_context("spawn").Pool(min(cores(), len(parts))) as pool:
        drawn = pool.imap_unordered(_draw_part, parts)
        for _ in _tracked(drawn, f"drawing {count} images", len(parts)):
            pass
    marker.write_text(json.dumps(wanted))
    return out


def _draw_part(part: tuple[Path, int, int]) -> None:
    """Draw the images of one subfolder: those from `start`, `count` of them."""
    import numpy as np
    from PIL import Image

    out, start, count = part
    folder = out / f"{start // FOLDER_SIZE:04}"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(start)
    for number in range(start, start + count):
        colours = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        picture = colours.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:06}.jpg", quality=80)


def warm(images: Path, most: int) -> int:
    """Read files into the system's cache, so that no run waits for the disk; how many, up to most.

    A first run that waited would make the second look better than it is.
    """
    found = 0
    for folder, _, names in os.walk(images):
        for name in names:
            if found == most:
                return found
            Path(folder, name).read_bytes()
            found += 1
    return found


def _tracked(items: Iterator[Any], what: str, total: int) -> Iterator[Any]:
    console = Console(stderr=True)
    shown = console.is_terminal
    return iter(track(items, what, total, console=console, transient=True, disable=not shown))


# -- runs


class Bench:
    """`moderate scan` of a folder, over and over, with files and states in `work`.

    limit is how many images to stop after, None for all of the folder.
    """

    def __init__(self, images: Path, weights: str, work: Path) -> None:
        self.images = images
        self.weights = weights
        self.work = work

    def scan(
        self, count: int, limit: int | None, state: Path | None, origin: str, kind: str = "csv"
    ) -> dict[str, Any]:
        """One run's figures. Ends the benchmark unless it gave `count` rows, all of `origin`."""
        out, summary = self.work / f"rows.{kind}", self.work / "summary.json"
        command = [*MODERATE, str(self.images), "--weights", self.weights, "--quiet"]
        command += ["--out", str(out), "--summary", str(summary)]
        command += ["--state", str(state)] if state else ["--no-state"]
        command += ["--limit", str(limit)] if limit else []
        done = run(command)
        if done.returncode != 0:
            raise SystemExit(f"moderate scan ended with {done.returncode}:\n{done.said[-2000:]}")
        told = json.loads(summary.read_text())
        if (told["rows"], told["errors"], told["origins"][origin]) != (count, 0, count):
            raise SystemExit(
                f"{count} rows of origin {origin} expected, no error: got {told['rows']}, "
                f"{told['errors']} errors, {told['origins']}"
            )
        kept = "a state" if state else "no state"
        print(f"{count} images, {origin}, {kept}, {kind}: {done.seconds:.2f} s", file=sys.stderr)
        return {
            "images": count,
            "origins": told["origins"],
            "seconds": done.seconds,
            "cpu_seconds": done.cpu_seconds,
            "images_per_second": count / done.seconds,
            "pss_peak_bytes": done.pss_peak,
            "largest_process_bytes": done.largest_process,
            "processes": done.processes,
            "rows_sha256": _digest(out) if kind == "csv" else None,
            "load_after": round(os.getloadavg()[0], 2),
        }

    def pairs(self, count: int, limit: int | None, pairs: int) -> list[dict[str, dict[str, Any]]]:
        """First runs without and with a fresh state, taking turns at going first."""
        measured = []
        for number in range(pairs):
            pair = {}
            for way in ("without", "with") if number % 2 == 0 else ("with", "without"):
                state = self.work / "fresh" if way == "with" else None
                pair[way] = self.scan(count, limit, state, "new")
                if state:
                    shutil.rmtree(state)
            measured.append(pair)
        return measured


def overheads(pairs: list[dict[str, dict[str, Any]]], key: str) -> list[float]:
    """What the state adds to a first run in each pair, as a share."""
    return [pair["with"][key] / pair["without"][key] - 1 for pair in pairs]


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs of the same thing; memory is the highest."""
    middle = ("seconds", "cpu_seconds", "images_per_second")
    highest = ("pss_peak_bytes", "largest_process_bytes", "processes")
    return {
        **runs[-1],
        **{key: statistics.median(one[key] for one in runs) for key in middle},
        **{key: max(one[key] or 0 for one in runs) for key in highest},
        "all_seconds": [round(one["seconds"], 3) for one in runs],
    }


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(bench: Bench, found: int, options: argparse.Namespace) -> dict[str, Any]:
    """All that is measured, the second runs last."""
    count, pair_count = min(found, options.count), min(found, options.count, options.pair_count)
    limit = count if found > count else None
    # OpenVINO compiles the model once per machine, and keeps it.
    bench.scan(min(64, count), min(64, count), None, "new")
    pairs = bench.pairs(pair_count, pair_count, options.pairs)
    state = bench.work / "state"
    first = bench.scan(count, limit, state, "new")
    nbytes = size_of(state)
    second = {
        kind: [bench.scan(count, limit, state, "reused", kind) for _ in range(options.repeat)]
        for kind in ("csv", "parquet")
    }
    starts = {
        kind: [bench.scan(1, 1, state, "reused", kind) for _ in range(options.repeat)]
        for kind in ("csv", "parquet")
    }
    if any(one["rows_sha256"] != first["rows_sha256"] for one in second["csv"]):
        raise SystemExit("a second run's CSV rows are not those of the first")
    seconds = {way: statistics.median(pair[way]["seconds"] for pair in pairs) for way in pairs[0]}
    wall, cpu = overheads(pairs, "seconds"), overheads(pairs, "cpu_seconds")
    results = {kind: medians(runs) for kind, runs in second.items()}
    return {
        "pairs": pairs,
        "overhead": {
            "images": pair_count,
            "seconds": seconds,
            "median": seconds["with"] / seconds["without"] - 1,
            "median_of_pairs": statistics.median(wall),
            "least": min(wall),
            "most": max(wall),
            "cpu_median_of_pairs": statistics.median(cpu),
        },
        "first": first,
        "second": results,
        "ratio": {
            kind: one["images_per_second"] / first["images_per_second"]
            for kind, one in results.items()
        },
        "cpu": {
            kind: cpu_of_known(first, one, medians(starts[kind])) for kind, one in results.items()
        },
        "state_bytes": nbytes,
        "state_bytes_per_image": nbytes / count,
    }


def cpu_of_known(
    first: dict[str, Any], second: dict[str, Any], start: dict[str, Any]
) -> dict[str, float]:
    """CPU time of second runs, which other work on the machine moves less than their time.

    The time per file is without that of a run over a single file, `start`; the ratio is not.
    """
    more = second["images"] - start["images"]
    spent = second["cpu_seconds"] - start["cpu_seconds"]
    return {
        "microseconds_per_file": spent / more * 1e6 if more else float("nan"),
        "ratio": first["cpu_seconds"] / second["cpu_seconds"],
    }


def report(result: dict[str, Any]) -> None:
    """Print what was measured."""
    first, overhead, ratio = result["first"], result["overhead"], result["ratio"]
    runs = [("first run, CSV", first, None)]
    runs += [
        (f"second run, {name}", result["second"][kind], ratio[kind])
        for kind, name in (("csv", "CSV"), ("parquet", "Parquet"))
    ]
    print_table(
        f"{first['images']} images, start of the program included",
        ["what", "s", "CPU s", "images/s", "to the first", "memory MB", "largest process MB"],
        [
            [
                what,
                f"{one['seconds']:.2f}",
                f"{one['cpu_seconds']:.2f}",
                f"{one['images_per_second']:.0f}",
                f"{times:.1f}x" if times else "",
                f"{(one['pss_peak_bytes'] or 0) / 1e6:.0f}",
                f"{one['largest_process_bytes'] / 1e6:.0f}",
            ]
            for what, one, times in runs
        ],
    )
    for kind, times in ratio.items():
        cpu = result["cpu"][kind]
        print(
            f"second run of {first['images']} files, {kind}: target {LEAST_RATIO:g}x the first: "
            f"{times:.1f}x (CPU time {cpu['ratio']:.1f}x); CPU time per known file: target "
            f"{MOST_PER_FILE:g} microseconds: {cpu['microseconds_per_file']:.1f}"
        )
    print(
        f"state in a first run of {overhead['images']} images: target at most {MOST_OVERHEAD:.0%}: "
        f"{overhead['median']:+.1%} (pairs {overhead['least']:+.1%} to {overhead['most']:+.1%}, "
        f"median {overhead['median_of_pairs']:+.1%}; in CPU time "
        f"{overhead['cpu_median_of_pairs']:+.1%})"
    )
    print(f"state on the disk: {result['state_bytes_per_image']:.0f} bytes an image")


def _digest(file: Path) -> str:
    """Of the rows without the columns that say which run wrote them."""
    digest = hashlib.sha256()
    with file.open(newline="") as rows:
        for row in csv.DictReader(rows):
            for name in ("origin", "run_id", "scored_at"):
                del row[name]
            digest.update(repr(row).encode())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="keeps the images between runs")
    parser.add_argument("--images", type=Path, help="a folder of images, instead of drawn ones")
    parser.add_argument("--count", type=int, default=100_000, help="images of the long runs")
    parser.add_argument("--pairs", type=int, default=5, help="first runs without and with state")
    parser.add_argument("--pair-count", type=int, default=10_000, help="images of those")
    parser.add_argument("--repeat", type=int, default=3, help="second runs, of each format")
    parser.add_argument("--weights", default="testcard", help="name or folder of a bundle")
    parser.add_argument("--cores", type=int, default=2, help="to use, where that can be chosen")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    # The state goes where the images are drawn: one kept in memory would cost nothing to sync.
    with tempfile.TemporaryDirectory(dir=options.cache) as temporary:
        work = Path(temporary)
        images = options.images or make(options.cache or work, options.count)
        found = warm(images, options.count + 1)
        if not found:
            sys.exit(f"{images}: no files")
        result = {"machine": machine(), "weights": options.weights}
        result |= measure(Bench(images, options.weights, work), found, options)
    report(result)
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
