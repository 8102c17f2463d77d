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
_OPENVINO_FP32 = ("--backend", "openvino", "--precision", "fp32")
MODERATE = {
    "moderate torch": ("--backend", "torch", "--precision", "fp32"),
    "moderate openvino fp32": _OPENVINO_FP32,
    "moderate openvino bf16": ("--backend", "openvino", "--precision", "bf16"),
    # What the others look at: the centre of a picture, without the whole of it beside.
    "moderate openvino one view": (*_OPENVINO_FP32, "--views", "1"),
}
BASE = "timm"
BASES = (BASE, "transformers")
CONTENDERS = (*BASES, *MODERATE)
# (model, corpus, contender) -> images/s wanted on 2 cores, start included, as a multiple of timm's
# own loop and of transformers' pipeline.
TARGETS = {
    ("mobilenetv4_conv_small", "phone", "moderate openvino fp32"): 5.5,
    ("mobilenetv4_conv_small", "phone", "moderate openvino one view"): 5.5,
    ("mobilenetv4_conv_small", "mixed", "moderate openvino fp32"): 2.5,
    ("mobilenetv4_conv_small", "mixed", "moderate openvino one view"): 2.5,
    ("mobilenetv4_conv_small", "small", "moderate openvino fp32"): 5.0,
    ("mobilenetv4_conv_small", "small", "moderate openvino one view"): 5.0,
    ("vit_tiny_patch16_384", "mixed", "moderate openvino fp32"): 1.9,
    ("vit_tiny_patch16_384", "mixed", "moderate openvino one view"): 1.9,
    ("vit_tiny_patch16_384", "mixed", "moderate openvino bf16"): 4.0,
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
    # Scans without a state keep converted models only in a cache outside the home.
    environment = OFFLINE | {"XDG_CACHE_HOME": str(bundle.parent / "converted")}
    for _ in range(repeat):
        for contender in contenders:
            runs[contender].append(run(command(contender, folder, bundle, batch), environment))
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
    """Beside each contender, how many times as fast as each of BASES it is, by name.

    `ratio` and `ratio_steady` compare images/s, `ratio_cpu` the images per second of CPU time.
    """
    for result in results.values():
        for name in BASES:
            base = results.get(name, {})
            ratios = {
                ratio: result[key] / base[key]
                for ratio, key in (
                    ("ratio", "images_per_second"),
                    ("ratio_steady", "images_per_second_steady"),
                )
                if result.get(key) and base.get(key)
            }
            if result.get("cpu_seconds") and base.get("cpu_seconds"):
                ratios["ratio_cpu"] = base["cpu_seconds"] / result["cpu_seconds"]
            result.setdefault("to", {})[name] = ratios


def check_targets(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target with what was reached against each of BASES.

    Start-up counts in the ratio and that of CPU time, as it does for a user.
    """
    found = {(cell["model"], cell["corpus"]): cell["contenders"] for cell in cells}
    checked = []
    for (model, corpus, contender), target in TARGETS.items():
        result = found.get((model, corpus), {}).get(contender)
        if result is None:
            continue
        for base in BASES:
            ratios = result["to"][base]
            checked.append(
                {
                    "model": model,
                    "corpus": corpus,
                    "contender": contender,
                    "base": base,
                    "target": target,
                    **{key: ratios.get(key) for key in ("ratio", "ratio_cpu", "ratio_steady")},
                }
            )
    return checked


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f}x" if ratio else "-"


def _row(name: str, result: dict[str, Any]) -> list[str]:
    if "failed" in result:
        return [f"{name} ({result['failed']})", *["-"] * 11]
    to = {base: result["to"][base] for base in BASES}
    steady, pss = result["images_per_second_steady"], result["pss_peak_bytes"]
    return [
        name,
        str(result["rows"]),
        f"{result['images_per_second']:.2f}",
        *(_times(to[base].get("ratio")) for base in BASES),
        f"{result['cpu_seconds']:.1f}",
        *(_times(to[base].get("ratio_cpu")) for base in BASES),
        f"{steady:.2f}" if steady else "-",
        *(_times(to[base].get("ratio_steady")) for base in BASES),
        f"{result['first_row_seconds']:.1f}",
        f"{pss / 1e6:.0f}" if pss else "-",
    ]


COLUMNS = [
    "contender",
    "rows",
    "images/s",
    *(f"to {base}" for base in BASES),
    "CPU s",
    *(f"to {base}" for base in BASES),
    "after start",
    *(f"to {base}" for base in BASES),
    "first row s",
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
            f"{target['model']}, {target['corpus']}, {target['contender']} to {target['base']}: "
            f"target {target['target']:g}x: {_times(target['ratio'])}, by CPU time "
            f"{_times(target['ratio_cpu'])}, after start {_times(target['ratio_steady'])}"
        )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
