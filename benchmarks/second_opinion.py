"""What second opinions cost: a light network screens, a heavy one decides a share of the images.

    python benchmarks/second_opinion.py [--count 300] [--light ARCHITECTURE] [--heavy ARCHITECTURE]
        [--light-size 160] [--heavy-size 224] [--shares 5 20 50] [--repeats 3] [--cache DIR]
        [--backend torch] [--json FILE]

Drawn JPEGs of 640 x 480 are scanned by the light weights alone, by the heavy ones alone, and by
both, with a band that takes in about so many per cent of the images. Weights are random: how often
the two agree means nothing here, what they cost does. Printed are CPU milliseconds per image of all
processes, decoders included, from a warm start (the median of the repeats, taken in turns), the
ratios to either network alone, and what the formula of docs/performance.md expects from the light
and the heavy figure.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Threads that wait for work spin otherwise, which would count as CPU time on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from corpora import make
from networks import random_bundle
from reporting import machine, print_table, write_json

import moderate
from moderate.types import CATEGORIES

LIMITS = "".join(f"{name} = {{ review = 0.3, block = 0.85 }}\n" for name in CATEGORIES)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def write_policy(path: Path, heavy: Path | None, low: float = 0.0, high: float = 1.0) -> Path:
    """A policy that asks for the heavy weights where nudity is from low to high."""
    second = (
        ""
        if heavy is None
        else f'[[second_opinion]]\nweights = "{heavy.resolve()}"\nfrom = {low}\nto = {high}\n'
        'categories = ["nudity"]\n'
    )
    path.write_text(f'name = "{path.stem}"\n[categories]\n{LIMITS}{second}')
    return path


def scanned(
    images: Sequence[Path], weights: Path, policy: Path, backend: str
) -> tuple[float, list[moderate.Row]]:
    """CPU seconds of a scan, and its rows. Decoders and models are new in each."""
    before = cpu_seconds()
    rows = list(
        moderate.scan(
            *map(str, images),
            weights=str(weights),
            policy=str(policy),
            device="cpu",
            backend=backend,
        )
    )
    assert all(row.error is None for row in rows)
    return cpu_seconds() - before, rows


def band(scores: Sequence[float], share: float) -> tuple[float, float]:
    """The bounds of the highest scores, of which there are such a share."""
    ranked = sorted(scores, reverse=True)
    return ranked[max(1, round(share * len(ranked))) - 1], 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--light", default="test_vit")
    parser.add_argument("--heavy", default="vit_small_patch16_224")
    parser.add_argument("--light-size", type=int, default=160)
    parser.add_argument("--heavy-size", type=int, default=224)
    parser.add_argument("--shares", type=float, nargs="+", default=[5, 20, 50])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = make(asked.cache or folder, "small", asked.count)
        images = sorted(path for path in corpus.rglob("*") if path.suffix == ".jpg")[: asked.count]
        light = random_bundle(folder / "light", asked.light, asked.light_size)
        heavy = random_bundle(folder / "heavy", asked.heavy, asked.heavy_size)
        plain = write_policy(folder / "plain.toml", None)
        _, rows = scanned(images, light, plain, asked.backend)  # what is loaded once is loaded here
        scores = [float(row.scores[CATEGORIES[0]] or 0.0) for row in rows]
        contenders: dict[str, tuple[Path, Path]] = {
            "light alone": (light, plain),
            **{
                f"{share:g} %": (
                    light,
                    write_policy(folder / f"s{share:g}.toml", heavy, *band(scores, share / 100)),
                )
                for share in asked.shares
            },
            "heavy alone": (heavy, plain),
        }
        used: dict[str, list[float]] = {name: [] for name in contenders}
        opinions: dict[str, int] = {}
        for _ in range(asked.repeats):
            for name, (weights, policy) in contenders.items():
                seconds, rows = scanned(images, weights, policy, asked.backend)
                used[name].append(1000 * seconds / len(rows))
                opinions[name] = sum(
                    row.to_dict().get("second_weights") is not None for row in rows
                )
    results = report(used, opinions, len(images))
    print_table(
        f"{len(images)} images, {asked.light} ({asked.light_size} px) and {asked.heavy} "
        f"({asked.heavy_size} px), {asked.backend}",
        ["what", "second opinions", "CPU ms per image", "to heavy", "to light", "expected ms"],
        [
            [
                each["what"],
                f"{each['opinions']} ({each['share']:.0%})",
                f"{each['cpu_ms']:.1f}",
                f"{each['to_heavy']:.2f}",
                f"{each['to_light']:.2f}",
                f"{each['expected_ms']:.1f}",
            ]
            for each in results
        ],
    )
    write_json(asked.json, {"machine": facts, "arguments": _shown(asked), "results": results})


def report(
    used: dict[str, list[float]], opinions: dict[str, int], count: int
) -> list[dict[str, Any]]:
    """The figures of each contender."""
    of = {name: statistics.median(each) for name, each in used.items()}
    light, heavy = of["light alone"], of["heavy alone"]
    results = []
    for name, cpu_ms in of.items():
        share = opinions[name] / count
        expected = heavy if name == "heavy alone" else light + share * heavy
        results.append(
            {
                "what": name,
                "opinions": opinions[name],
                "share": share,
                "cpu_ms": cpu_ms,
                "of_each_repeat": used[name],
                "to_heavy": cpu_ms / heavy,
                "to_light": cpu_ms / light,
                "expected_ms": expected,
            }
        )
    return results


def _shown(asked: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(asked).items() if not isinstance(value, Path)}


if __name__ == "__main__":
    main()
