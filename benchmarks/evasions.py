"""Whether a test card gets through that is hidden in a file: in every container, shape and pixel.

    python benchmarks/evasions.py [--weights testcard] [--policy balanced] [--seed 1]
                                  [--only gif borders ...] [--most N] [--keep DIR] [--json FILE]

Each file is drawn twice: with a card that the policy blocks, and as a control with a photograph in
its place. Printed is, for each way of hiding, what became of both, and the name of each file with a
card that was approved. Ends with 1 if one of them was, other than those whose card is smaller than
weights can see, or that no sampled frame shows.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from evasive_files import COVERS, OTHER, SMALL, WAYS, File, Size, photograph
from PIL import Image
from processes import MODERATE
from reporting import machine, print_table, write_json

from moderate.testcards import CATEGORIES, draw_card

DECISIONS = ("approve", "review", "block")
VIDEO_EVERY = 1  # seconds


def files(way: str, seed: int, *, card: bool) -> Iterator[File]:
    """The files of one way; the same but for what is hidden, with a card and without."""
    rng = random.Random(f"{way} {seed}")
    cover = photograph(rng.choice(COVERS), SMALL)
    category = rng.choice(CATEGORIES)

    def shown(size: Size) -> Image.Image:
        if card:
            return draw_card(category, "block", seed, size)
        return photograph(OTHER, size)

    return WAYS[way](rng, cover, shown)


def written(
    folder: Path, ways: list[str], seed: int, most: int | None, *, card: bool
) -> dict[str, File]:
    """Write the files of these ways, and say which path below the folder is which."""
    paths = {}
    for way in ways:
        (folder / way).mkdir(parents=True)
        for number, file in enumerate(islice(files(way, seed, card=card), most)):
            name = f"{number:03} {file.name}"
            (folder / way / name).write_bytes(file.data)
            paths[f"{way}/{name}"] = file
    return paths


def decided(folder: Path, weights: str, policy: str, *, videos: bool) -> dict[str, dict[str, str]]:
    """The row of each file, by its path below the folder."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "rows.csv"
        command = [*MODERATE, str(folder), "--weights", weights, "--policy", policy]
        command += ["--formats", "+tiff,+ico", "--all-files", "--no-state", "--no-config", "-q"]
        if videos:
            command += ["--video-every", str(VIDEO_EVERY)]
        subprocess.run([*command, "--out", str(out)], check=True)
        with out.open(encoding="utf-8", newline="") as file:
            rows = {row["path"]: row for row in csv.DictReader(file)}
    below = f"{folder}/"
    return {path.removeprefix(below): row for path, row in rows.items() if "!/" not in path}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="testcard")
    parser.add_argument("--policy", default="balanced")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--most", type=int, metavar="N", help="files of each of --only")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.keep.resolve() if asked.keep else Path(temporary)
        drawn = {
            card: written(
                place / ("cards" if card else "controls"),
                *(asked.only, asked.seed, asked.most),
                card=card,
            )
            for card in (True, False)
        }
        rows = decided(place, asked.weights, asked.policy, videos="videos" in asked.only)
    counts: dict[str, Counter[str]] = {}
    approved: list[str] = []
    out_of_reach: list[str] = []
    for card, paths in drawn.items():
        folder, kind = ("cards", "") if card else ("controls", "control ")
        for path, file in paths.items():
            decision = rows[f"{folder}/{path}"]["decision"]
            counts.setdefault(file.way, Counter()).update((f"{kind}files", kind + decision))
            if card and decision == "approve":
                (approved if file.reachable else out_of_reach).append(path)
    columns = ("files", *DECISIONS, "control files", *(f"control {each}" for each in DECISIONS))
    print_table(
        f"{sum(each['files'] for each in counts.values())} files with a card and as many without: "
        f"{asked.weights}, {asked.policy}, seed {asked.seed}",
        ("way", *columns),
        [(way, *(each[column] for column in columns)) for way, each in counts.items()],
    )
    for title, paths in (("approved", approved), ("approved, out of reach", out_of_reach)):
        for path in paths:
            print(f"{title}: {path}")
    if asked.json:
        ways = {way: dict(each) for way, each in counts.items()}
        write_json(
            asked.json,
            {"machine": facts, "ways": ways, "approved": approved, "out_of_reach": out_of_reach},
        )
    sys.exit(1 if approved else 0)


if __name__ == "__main__":
    main()
