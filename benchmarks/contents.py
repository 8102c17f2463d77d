"""What it costs to register an image as a run goes on, in CPU time and memory per step.

    python benchmarks/contents.py [--count 200000] [--step 10000] [--json FILE]

Nothing is decoded or scored: what grows with the number of images is all that is left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reporting import machine, print_table, write_json

from moderate.state.contents import Contents
from moderate.state.known_files import FileRecord, Scopes, path_digest
from moderate.state.records import FileStat, Outcome
from moderate.state.run_scores import RunScores
from moderate.state.scores import ScoreStore
from moderate.types import CATEGORIES, ImageFacts

BATCH = 32  # images between two commits, as many as a scan has
MOST_RISE = 2.0  # of the last steps' CPU time to that of the first ones
ENDS = 3  # steps that count as the first, and as the last


def images(start: int, count: int) -> Iterator[tuple[int, bytes, bytes, Outcome]]:
    """Position, path, digest and outcome of images whose contents all differ."""
    for number in range(start, start + count):
        digest = hashlib.sha256(b"%d" % number).digest()
        facts = ImageFacts(640, 480, "jpeg", 1, 70_000, digest.hex())
        outcome = Outcome(facts, dict.fromkeys(CATEGORIES, 0.25))
        yield number, b"./uploads/2026/11/26/%08d.jpg" % number, digest, outcome


def register_copies(contents: Contents) -> Callable[[int, int], None]:
    """What a run does to find copies among its images."""

    def step(start: int, count: int) -> None:
        for position, path, digest, outcome in images(start, count):
            if not contents.claim(digest, position, path).owner:
                raise SystemExit(f"image {position} is taken for a copy")
            contents.settle(digest, outcome)

    return step


def keep_scores(scores: RunScores) -> Callable[[int, int], None]:
    """What a run does to keep its scores for the next one."""

    def step(start: int, count: int) -> None:
        for position, path, digest, outcome in images(start, count):
            stat = FileStat(70_000, 10**18, 10**18 + position)
            file = FileRecord(path_digest(path, b"/srv"), digest, stat)
            scores.add(file, (digest, outcome))
            if position % BATCH == BATCH - 1:
                scores.commit()
        scores.commit(everything=True)

    return step


def measure(what: str, step: Callable[[int, int], None], count: int, size: int) -> dict[str, Any]:
    """The CPU time of each step, and the memory of this process after it."""
    steps = []
    for start in range(0, count, size):
        begun = time.process_time()
        some = min(size, count - start)
        step(start, some)
        spent = time.process_time() - begun
        steps.append(
            {"images": start + some, "cpu_us": spent / some * 1e6, "resident_bytes": resident()}
        )
    ends = steps[:ENDS], steps[-ENDS:]
    first, last = (sum(one["cpu_us"] for one in some) / len(some) for some in ends)
    grown = steps[-1]["resident_bytes"] - steps[0]["resident_bytes"]
    return {"what": what, "steps": steps, "rise": last / first, "grown_bytes": grown}


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000, help="images")
    parser.add_argument("--step", type=int, default=10_000, help="images between two figures")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "parts": []}
    contents = Contents()
    result["parts"].append(
        measure("copies", register_copies(contents), options.count, options.step)
    )
    contents.close()
    with tempfile.TemporaryDirectory() as folder:
        store = ScoreStore.open(Path(folder))
        scopes = Scopes(hashlib.sha256(b"scores").digest(), hashlib.sha256(b"errors").digest())
        scores = RunScores(store, scopes, rescore=False, retry_errors=False)
        result["parts"].append(measure("state", keep_scores(scores), options.count, options.step))
        kept = store.info().outcomes
        store.close()
    if kept != options.count:
        raise SystemExit(f"{options.count} outcomes expected in the state, {kept} are there")
    for part in result["parts"]:
        print_table(
            f"Registering images: {part['what']}",
            ["images", "CPU us per image", "memory MB"],
            [
                [one["images"], f"{one['cpu_us']:.1f}", f"{one['resident_bytes'] / 1e6:.1f}"]
                for one in part["steps"]
            ],
        )
        print(
            f"{part['what']}: last steps to first ones: target at most {MOST_RISE:g}x: "
            f"{part['rise']:.2f}x; memory grew by {part['grown_bytes'] / 1e6:.1f} MB"
        )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
