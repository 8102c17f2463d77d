"""End to end against what a user would pick instead: same files, same weights, rows from all.

    python benchmarks/peers.py [--cache DIR] [--count 128] [--repeat 3] [--json FILE]

Contenders take turns, each in processes of its own. README.md here says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from corpora import CORPORA, make
from networks import random_bundle
from processes import Run, run, scan_command
from reporting import cores, machine, print_table, write_json

MODELS = {"mobilenetv4_conv_small": None, "vit_tiny_patch16_384": None}
MODERATE = {
    "moderate torch": ("--backend", "torch", "--precision", "fp32"),
    "moderate openvino fp32": ("--backend", "openvino", "--precision", "fp32"),
    "moderate openvino bf16": ("--backend", "openvino", "--precision", "bf16"),
}
BASE = "timm"
CONTENDERS = (BASE, "transformers", *MODERATE)
# (model, corpus, contender) -> images/s wanted, as a multiple of timm's own loop on 2 cores.
TARGETS = {
    ("mobilenetv4_conv_small", "phone", "moderate openvino fp32"): 4.0,
    ("mobilenetv4_conv_small", "mixed", "moderate openvino fp32"): 2.5,
    ("mobilenetv4_conv_small", "small", "moderate openvino fp32"): 2.0,
    ("vit_tiny_patch16_384", "mixed", "moderate openvino fp32"): 1.5,
    ("vit_tiny_patch16_384", "mixed", "moderate openvino bf16"): 2.5,
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def command(contender: str, folder: Path, bundle: Path, batch: int) -> tuple[str, ...]:
    """The command line of one contender."""
    if contender in MODERATE:
        return scan_command(folder, bundle, *MODERATE[contender], batch=batch)
    script = Path(__file__).with_name("contenders.py")
    options = ("--batch", str(batch), "--workers", str(cores()))
    return (sys.executable, str(script), contender, str(folder), str(bundle), *options)


def compare(
    folder: Path, bundle: Path, contenders: list[str], repeat: int, batch: int
) -> dict[str, list[Run]]:
    """`repeat` runs of each contender, in turns, so that a busy minute hits all alike."""
    runs: dict[str, list[Run]] = {contender: [] for contender in contenders}
    for _ in range(repeat):
        for contender in contenders:
            runs[contender].append(run(command(contender, folder, bundle, batch), OFFLINE))
    return runs


def summarise(runs: list[Run], images: int, batch: int) -> dict[str, Any]:
    """Medians of one contender, or why there are none."""
    last = runs[-1]
    whole = [one for one in runs if one.returncode == 0 and len(one.rows) == images]
    if len(whole) < len(runs):
        said = [line for line in last.said.splitlines() if line.strip()]
        return {
            "failed": f"exit {last.returncode}, {len(last.rows)} of {images} rows: "
            + (said[-1][:120] if said else "nothing said")
        }
    steady = [one.steady_rate(batch) for one in whole]
    return {
        "rows": len(last.rows),
        "images_per_second": statistics.median(one.rate() for one in whole),
        "images_per_second_steady": statistics.median(steady) if None not in steady else None,
        "first_row_seconds": statistics.median(one.row_times[0] for one in whole),
        "cpu_seconds": statistics.median(one.cpu_seconds for one in whole),
        "pss_peak_bytes": max((one.pss_peak or 0) for one in whole) or None,
        "processes": max(one.processes for one in whole),
        "runs": [round(one.rate(), 3) for one in whole],
    }


def keep_rows(folder: Path, runs: dict[str, list[Run]]) -> None:
    """Write the rows of each contender's last run, to see that all did the same work."""
    folder.mkdir(parents=True, exist_ok=True)
    for contender, of_one in runs.items():
        lines = (of_one[-1].header, *of_one[-1].rows)
        (folder / f"{contender}.csv").write_text("\n".join(lines) + "\n")


def add_ratios(results: dict[str, dict[str, Any]]) -> None:
    """Beside each rate, its multiple of timm's."""
    base = results.get(BASE, {})
    for result in results.values():
        for key in ("images_per_second", "images_per_second_steady"):
            if result.get(key) and base.get(key):
                result[key.replace("images_per_second", "ratio")] = result[key] / base[key]


def check_targets(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target with what was reached; start-up counts, as it does for a user."""
    found = {(cell["model"], cell["corpus"]): cell["contenders"] for cell in cells}
    checked = []
    for (model, corpus, contender), target in TARGETS.items():
        result = found.get((model, corpus), {}).get(contender)
        if result is not None:
            checked.append(
                {
                    "model": model,
                    "corpus": corpus,
                    "contender": contender,
                    "target": target,
                    "ratio": result.get("ratio"),
                    "ratio_steady": result.get("ratio_steady"),
                }
            )
    return checked


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f}x" if ratio else "-"


def _row(name: str, result: dict[str, Any]) -> list[str]:
    if "failed" in result:
        return [f"{name} ({result['failed']})", *["-"] * 8]
    steady, pss = result["images_per_second_steady"], result["pss_peak_bytes"]
    return [
        name,
        str(result["rows"]),
        f"{result['images_per_second']:.2f}",
        _times(result.get("ratio")),
        f"{steady:.2f}" if steady else "-",
        _times(result.get("ratio_steady")),
        f"{result['first_row_seconds']:.1f}",
        f"{result['cpu_seconds']:.1f}",
        f"{pss / 1e6:.0f}" if pss else "-",
    ]


COLUMNS = [
    "contender",
    "rows",
    "images/s",
    "ratio",
    "images/s after start",
    "ratio after start",
    "first row s",
    "CPU s",
    "memory MB",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="keeps corpora and bundles between runs")
    parser.add_argument("--count", type=int, default=128, help="images of each corpus")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--corpora", nargs="*", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="timm architectures")
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rows", type=Path, help="keep every contender's last rows here, as CSV")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "batch": options.batch, "results": []}
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        for model in options.models:
            bundle = random_bundle(cache / model, model)
            for corpus in options.corpora:
                folder = make(cache, corpus, options.count)
                runs = compare(folder, bundle, options.contenders, options.repeat, options.batch)
                contenders = {
                    name: summarise(of_one, options.count, options.batch)
                    for name, of_one in runs.items()
                }
                add_ratios(contenders)
                if options.rows:
                    keep_rows(options.rows / model / corpus, runs)
                result["results"].append(
                    {"model": model, "corpus": corpus, "contenders": contenders}
                )
                print_table(
                    f"{model}, {options.count} images of the corpus {corpus}",
                    COLUMNS,
                    [_row(name, one) for name, one in contenders.items()],
                )
    result["targets"] = check_targets(result["results"])
    for target in result["targets"]:
        print(
            f"{target['model']}, {target['corpus']}, {target['contender']}: target "
            f"{target['target']:g}x: {_times(target['ratio'])}, after start "
            f"{_times(target['ratio_steady'])}"
        )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
