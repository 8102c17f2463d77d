"""Measures what `scale.py` takes as measured: CPU time per image, and bytes per row of results.

    python benchmarks/scale_inputs.py --weights starter --json benchmarks/scale_inputs.json

CPU time, not wall time: other work on the machine moves it less. Medians of `--repeat` rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from corpora import draw_photograph, encode
from limits import bundle_specs, decode_limit, files_of, forward_limit
from PIL import Image
from processes import Run, run
from reporting import machine, print_table, write_json

SIZES = {"thumbnail": (256, 192), "small": (640, 480), "web": (1600, 1200), "phone": (4032, 3024)}
KINDS = (
    ("thumbnail", "jpg"),
    ("small", "jpg"),
    *(("web", suffix) for suffix in ("jpg", "png", "webp", "heic")),
    ("phone", "jpg"),
    ("phone", "heic"),
)
FRAGMENTS = (64, 512, 4096)  # rows of a result file
MILLISECONDS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="starter", help="whose decoding and scoring is timed")
    parser.add_argument("--models", nargs="*", default=["vit_tiny_patch16_384"])
    parser.add_argument("--count", type=int, default=8, help="images of each kind")
    parser.add_argument("--rows", type=int, default=8192, help="rows of the largest result")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result: dict[str, Any] = {
            "machine": machine(),
            "weights": options.weights,
            "images": _images(Path(temporary), options.weights, options.count, options.repeat),
            "score_ms": _scoring(Path(temporary), options),
            **_results(Path(temporary), options.rows, options.repeat),
            "start_cpu_seconds": _start(Path(temporary), options.weights, options.repeat),
        }
    print_table(
        "CPU milliseconds to decode, and bytes, per image",
        ["kind", "decode", "bytes"],
        [[k, f"{v['decode_ms']:.1f}", f"{v['bytes']:,}"] for k, v in result["images"].items()],
    )
    facts = {**result["score_ms"], **result["bytes_per_row"], **result["fixed"]}
    print_table("The rest", ["", ""], [[name, f"{value:,.2f}"] for name, value in facts.items()])
    write_json(options.json, result)


def _images(folder: Path, weights: str, count: int, repeat: int) -> dict[str, dict[str, float]]:
    """Bytes of an image of each kind, and the CPU milliseconds of decoding it for the weights."""
    specs = bundle_specs(weights)
    measured = {}
    for size, suffix in KINDS:
        kind = folder / f"{size}-{suffix}"
        kind.mkdir()
        for seed in range(count):
            data = encode(_drawn(seed, size), suffix, 85 + seed % 8)
            (kind / f"{seed}.{suffix}").write_bytes(data)
        files = files_of(kind)
        spent = [decode_limit(files, specs).cpu_seconds for _ in range(repeat)]
        measured[f"{size} {suffix}"] = {
            "decode_ms": round(MILLISECONDS * statistics.median(spent), 2),
            "bytes": round(statistics.mean(file.stat().st_size for file in files)),
        }
    return measured


@cache
def _drawn(seed: int, size: str) -> Image.Image:
    return draw_photograph(seed, SIZES[size])


def _scoring(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """CPU milliseconds of scoring an image, by weights or architecture."""
    from networks import random_bundle

    bundles = {options.weights: options.weights}
    bundles |= {model: random_bundle(folder / model, model) for model in options.models}
    return {
        name: round(
            MILLISECONDS
            * statistics.median(
                forward_limit(bundle, 64).cpu_seconds for _ in range(options.repeat)
            ),
            2,
        )
        for name, bundle in bundles.items()
    }


def _results(folder: Path, rows: int, repeat: int) -> dict[str, dict[str, float]]:
    """Bytes of a row by format and by rows of a file, of the state, and CPU time of all the rest.

    The rows are of a real scan with the test card weights, under names as long as uploads have.
    """
    images = folder / "uploads" / "2026" / "11" / "26"
    images.mkdir(parents=True)
    cover = encode(_drawn(0, "thumbnail"), "jpg", 85)
    for number in range(rows):
        name = hashlib.sha256(b"%d" % number).hexdigest()[:32]
        # A comment segment gives each file bytes of its own.
        comment = b"\xff\xfe\x00\x0a%08d" % number
        (images / f"{name}.jpg").write_bytes(cover[:2] + comment + cover[2:])
    sizes = {}
    for suffix in ("csv", "jsonl", "parquet"):
        out = folder / f"all.{suffix}"
        # The first run fills the state, from which the others take their scores.
        _scan(images, "testcard", rows, ("--state", str(folder / "state"), "--out", str(out)))
        sizes[suffix] = round(out.stat().st_size / rows, 1)
    for count in (count for count in FRAGMENTS if count < rows):
        out = folder / f"{count}.parquet"
        limit = ("--limit", str(count), "--state", str(folder / "state"), "--out", str(out))
        _scan(images, "testcard", count, limit)
        sizes[f"parquet of {count} rows"] = round(out.stat().st_size / count, 1)
    state = sum(file.stat().st_size for file in _files_below(folder / "state"))
    few = min(512, rows // 2)
    one = ("--no-state", "--out", str(folder / "cpu.csv"))
    slopes = []
    for _ in range(repeat):
        many = _scan(images, "testcard", rows, one).cpu_seconds
        less = _scan(images, "testcard", few, (*one, "--limit", str(few))).cpu_seconds
        slopes.append((many - less) / (rows - few))
    sample = files_of(images)[:256]
    decoding = decode_limit(sample, bundle_specs("testcard")).cpu_seconds
    scoring = forward_limit("testcard", 256).cpu_seconds
    rest = statistics.median(slopes) - decoding - scoring
    return {
        "bytes_per_row": sizes,
        "fixed": {
            "state_bytes_per_image": round(state / rows, 1),
            "other_cpu_ms": round(MILLISECONDS * max(rest, 0.0), 2),
        },
    }


def _start(folder: Path, weights: str, repeat: int) -> float:
    """CPU seconds of a scan of one image: the start of the program and of the model."""
    image = folder / "one.jpg"
    image.write_bytes(encode(_drawn(0, "thumbnail"), "jpg", 85))
    options = ("--no-state", "--out", str(folder / "one.csv"))
    _scan(image, weights, 1, options)  # converts the model, which later starts need not
    return round(
        statistics.median(_scan(image, weights, 1, options).cpu_seconds for _ in range(repeat)), 2
    )


def _scan(inputs: Path, weights: str, rows: int, options: Iterable[str]) -> Run:
    command = (sys.executable, "-m", "moderate", "scan", str(inputs), "--weights", weights)
    done = run((*command, "--quiet", *options))
    if done.returncode:
        raise SystemExit(f"moderate scan of {rows} images failed:\n{done.said[-2000:]}")
    return done


def _files_below(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
