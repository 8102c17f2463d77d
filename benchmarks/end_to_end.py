"""End to end against a plain loop over timm's own evaluation transform: same files, same weights.

    python benchmarks/end_to_end.py [--count 120] [--size 1600x1200] [--repeat 3] [--json FILE]

Both write one row per image. Prints the median rate of each and their ratio within this run; the
times of another machine, or of another hour on a shared one, say little.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import moderate
from moderate.classify.bundle import find_bundle

BATCH = 32


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEGs with detail at every scale, as photographs have: octaves of noise that fade."""
    rng = np.random.default_rng(0)
    for number in range(count):
        total = np.zeros((size[1], size[0], 3), np.float32)
        for octave in range(1, 8):
            cells = rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
            layer = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
            total += np.asarray(layer, np.float32) / 2**octave
        Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg")


def with_moderate(folder: Path, out: Path) -> int:
    """Rows by the tool's own Python API."""
    with out.open("w", newline="") as file:
        rows = csv.writer(file)
        count = 0
        for row in moderate.scan(folder, weights="testcard", batch_size=BATCH):
            rows.writerow([row.ref.path, *row.scores.values()])
            count += 1
    return count


def with_a_loop(folder: Path, out: Path) -> int:
    """Rows by a loop over timm's transform, one process, as a first script would do it."""
    model = timm.create_model(f"local-dir:{find_bundle('testcard')}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    files = sorted(folder.iterdir())
    with out.open("w", newline="") as file, torch.inference_mode():
        rows = csv.writer(file)
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            images = [transform(Image.open(path).convert("RGB")) for path in batch]
            for path, scores in zip(batch, model(torch.stack(images)).sigmoid(), strict=True):
                rows.writerow([path, *scores.tolist()])
    return len(files)


def rate(run: Callable[[Path, Path], int], folder: Path, out: Path) -> float:
    """Images per second of one run, start of processes and model included."""
    begun = time.perf_counter()
    count = run(folder, out)
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--size", default="1600x1200")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    rates: dict[str, list[float]] = {"moderate": [], "timm loop": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        draw(folder, options.count, (width, height))
        for _ in range(options.repeat):  # in turns, so that a busy minute hits both
            rates["moderate"].append(rate(with_moderate, folder, Path(temporary) / "a.csv"))
            rates["timm loop"].append(rate(with_a_loop, folder, Path(temporary) / "b.csv"))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "images": options.count,
        "size": options.size,
        "repeat": options.repeat,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "images_per_second": {name: round(value, 2) for name, value in medians.items()},
        "ratio": round(medians["moderate"] / medians["timm loop"], 3),
    }
    for name, value in medians.items():
        print(f"{name:<10} {value:8.1f} images/s")
    print(f"ratio      {result['ratio']:8.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
