"""How weights do on images that you supply: false alarms, recall, agreement, CPU time.

    python benchmarks/weights.py DIR --weights starter open-nsfw [--policies balanced strict]
                                     [--page docs/weights-measured.md] [--json FILE]

Each folder of DIR stands for one label: `ordinary` for images that show nothing to be found, a
category (`nudity`, `violence`, ...) or another name that is given a category (`firearms` and `gore`
stand for violence; `--label knives=violence` adds one). Images are scanned by the installed
weights, and counted by the functions behind `moderate eval`. All intervals are exact (Clopper and
Pearson) and hold 95 %. Prints Markdown; `--page` puts it between the two marks of that file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from processes import MODERATE
from reporting import machine, write_json

from moderate.analysis import bounds
from moderate.analysis.evaluation import Evaluation, Wanted, evaluate
from moderate.analysis.labelled_rows import Joined, join
from moderate.analysis.labels import UNKNOWN, Labels
from moderate.analysis.metrics import CONFIDENCE
from moderate.classify.bundle import Bundle, load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.errors import ModerateError
from moderate.policy.load import load_policy
from moderate.results.read import Results, read_results
from moderate.text import one_line, printable
from moderate.types import CATEGORIES, Category

ORDINARY = "ordinary"
STANDS_FOR: Mapping[str, Category] = {
    **{category.value: category for category in CATEGORIES},
    "firearms": Category.VIOLENCE,
    "gore": Category.VIOLENCE,
}
"""What a folder's images are positive in, by its name."""

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NO_GATES = Wanted({}, {})


class RefusedError(Exception):
    """The message is one line for whoever runs the benchmark."""


class Share(NamedTuple):
    """`count` of `total` images."""

    count: int
    total: int

    def __str__(self) -> str:
        """The percentage with its exact interval, or a dash where there are no images."""
        if not self.total:
            return "–"
        low, high = bounds.interval(self.count, self.total, CONFIDENCE)
        rate = 100 * self.count / self.total
        return f"{rate:.1f} % ({100 * low:.1f} to {100 * high:.1f}), {self.count} of {self.total}"


@dataclass(frozen=True)
class Folder:
    """A folder of DIR. category is what its images are positive in, None for ordinary ones."""

    path: Path
    category: Category | None

    @property
    def name(self) -> str:
        return printable(self.path.name)


@dataclass(frozen=True)
class Scanned:
    """One folder's rows by one bundle, with the labels of every row that is not a copy."""

    folder: Folder
    bundle: Bundle
    results: Results
    labels: Labels
    copies: int
    undecoded: int

    @property
    def all_scored(self) -> bool:
        """Whether the bundle scores every category."""
        return all((~np.isnan(scores)).any() for scores in self.joined().scores.values())

    def judged(self, policy: str) -> Evaluation:
        """What `moderate eval` finds by this policy, without resampling."""
        return evaluate(self.results, self.labels, NO_GATES, policy=policy, resamples=0, worst=0)

    def joined(self) -> Joined:
        return join(self.labels, self.results)


def folders(root: Path, labels: Mapping[str, Category]) -> list[Folder]:
    """The folders of `root` by name, ordinary ones first. Raises RefusedError."""
    try:
        paths = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise RefusedError(f"{printable(os.fspath(root))}: {error.strerror}") from None
    known = {**STANDS_FOR, **labels}
    for path in paths:
        if path.name != ORDINARY and path.name not in known:
            raise RefusedError(
                f"{printable(os.fspath(path))}: no category is known for this folder; rename it to "
                f"{ORDINARY} or {', '.join(STANDS_FOR)}, or give --label NAME=CATEGORY"
            )
    if not paths:
        raise RefusedError(
            f"{printable(os.fspath(root))} has no folders: make {ORDINARY}, firearms, ... in it"
        )
    found = [Folder(path, known.get(path.name)) for path in paths]
    return sorted(found, key=lambda folder: (folder.category is not None, folder.name))


def scan(folder: Folder, weights: str, bundle: Bundle, out: Path) -> Scanned:
    """Score a folder's images by `moderate scan` and label its rows. Raises RefusedError."""
    command = [*MODERATE, os.path.abspath(folder.path), "--weights", weights, "--no-config"]
    options = ["--no-state", "--quiet", "--device", "cpu", "--out", os.fspath(out)]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MODERATE_")}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise RefusedError(
            f"scan of {folder.name} by {printable(weights)}: {one_line(said[-1], 300)}"
        )
    results = read_results(os.fspath(out))
    rows = [row for row in results.rows() if row["duplicate_of"] is None]
    if not rows:
        raise RefusedError(f"{printable(os.fspath(folder.path))} has no images")
    value = dict.fromkeys(CATEGORIES, UNKNOWN)
    if folder.category is None:
        value = dict.fromkeys(CATEGORIES, 0)
    else:
        value[folder.category] = 1
    labels = Labels(
        path=folder.name,
        by="path",
        ids=tuple(row["path"] for row in rows),
        values={name: np.full(len(rows), value[name], np.int8) for name in CATEGORIES},
        expected=np.full(len(rows), UNKNOWN, np.int8),
        labelled=tuple(name for name in CATEGORIES if value[name] != UNKNOWN),
    )
    return Scanned(
        folder,
        bundle,
        results,
        labels,
        copies=sum(1 for _ in results.rows()) - len(rows),
        undecoded=sum(row["status"] != "ok" for row in rows),
    )


def decided(scanned: Scanned, policy: str) -> tuple[Share, Share, Share]:
    """Shares of the scored images that the policy approves, sends to review, and blocks."""
    decisions = scanned.judged(policy).decisions
    of = 1 if scanned.folder.category is None else 0
    counts = [
        every - errors
        for every, errors in zip(decisions.by_label[of], decisions.errors_by_label[of], strict=True)
    ]
    approve, review, block = (Share(count, sum(counts)) for count in counts)
    return approve, review, block


class Reached(NamedTuple):
    """How many images of a folder reach the two thresholds of a category; the highest score."""

    policy: str
    folder: str
    weights: str
    category: Category
    review: float
    block: float
    at_review: Share
    at_block: Share
    highest: float


def reached(scanned: Scanned, policy: str) -> Iterator[Reached]:
    """For an ordinary folder each category that is scored, else the one it stands for."""
    for each in scanned.judged(policy).categories:
        if not each.n:
            continue
        at_review, at_block = each.measured.at_review, each.measured.at_block
        yield Reached(
            policy,
            scanned.folder.name,
            scanned.bundle.name,
            each.category,
            each.review,
            each.block,
            # All images of a folder have the same label: one of the two counts is 0.
            Share(at_review.tp + at_review.fp, each.n),
            Share(at_block.tp + at_block.fp, each.n),
            float(np.nanmax(scanned.joined().scores[each.category])),
        )


class Agreement(NamedTuple):
    """Images of one folder that two bundles both score, by the review threshold of a policy.

    either is what the maximum of the two scores reaches, mean what their mean does; by_chance is
    how many images both would flag if their flags had nothing to do with each other.
    """

    folder: str
    category: Category
    first: str
    second: str
    images: int
    by_first: int
    by_second: int
    both: int
    by_chance: float
    either: int
    mean: int


def agreement(one: Scanned, two: Scanned, policy: str) -> Iterator[Agreement]:
    """For each category that both bundles score: of a positive folder only the one it stands for.

    Raises RefusedError where the folder changed between the two scans.
    """
    first, second = one.joined(), two.joined()
    if first.paths != second.paths:
        raise RefusedError(f"{one.folder.name}: images came or went while it was scanned")
    limits = load_policy(policy).policy.categories
    for category in CATEGORIES:
        if one.folder.category not in (None, category):
            continue
        a, b = first.scores[category], second.scores[category]
        scored = ~(np.isnan(a) | np.isnan(b))
        images = int(scored.sum())
        if not images:
            continue
        a, b = a[scored], b[scored]
        threshold = np.float32(limits[category].review)
        flagged = a >= threshold, b >= threshold
        counts = [int(np.count_nonzero(each)) for each in flagged]
        yield Agreement(
            one.folder.name,
            category,
            one.bundle.name,
            two.bundle.name,
            images,
            *counts,
            int(np.count_nonzero(flagged[0] & flagged[1])),
            counts[0] * counts[1] / images,
            int(np.count_nonzero(flagged[0] | flagged[1])),
            int(np.count_nonzero((a + b) / 2 >= threshold)),
        )


class Cost(NamedTuple):
    """CPU milliseconds per image of the networks alone, on one thread, in fp32."""

    weights: str
    networks: int
    backend: str
    milliseconds: float


def cost(bundle: Bundle, images: int) -> Cost:
    """Score `images` images of noise in batches as a scan does; loading is not counted."""
    noise, size = np.random.default_rng(0), 8
    batch = tuple(
        noise.integers(0, 256, (size, *spec.shape)).astype(spec.dtype) for spec in bundle.specs
    )
    rounds = max(1, images // size)
    placement = place("cpu", "fp32")
    with Classifier(bundle, placement, batch_size=size, inference_threads=1) as classifier:
        classifier.submit(batch).result()  # warm
        begun = time.process_time()
        for _ in range(rounds):
            classifier.submit(batch).result()
        spent = time.process_time() - begun
        backend = classifier.placement.backend
    return Cost(bundle.name, len(bundle.models), backend, 1000 * spent / (rounds * size))


def networks(bundle: Bundle) -> set[str]:
    """The digests of the bundle's networks."""
    return {model.card.sha256["model.safetensors"] for model in bundle.models}


@dataclass(frozen=True)
class Measurement:
    """All that was measured, ready to be printed."""

    scans: Sequence[Scanned]
    policies: Sequence[str]
    costs: Sequence[Cost]

    def of(self, positive: bool) -> list[Scanned]:
        """The scans of folders with a category, or those of ordinary ones."""
        return [each for each in self.scans if (each.folder.category is not None) == positive]

    def pairs(self) -> Iterator[tuple[Scanned, Scanned]]:
        """Two scans of one folder by bundles that have no network in common."""
        for one, two in itertools.combinations(self.scans, 2):
            if one.folder == two.folder and not networks(one.bundle) & networks(two.bundle):
                yield one, two


def markdown(measured: Measurement) -> Iterator[str]:
    """The page, line by line."""
    yield from _about(measured)
    ordinary, positive = measured.of(positive=False), measured.of(positive=True)
    yield "### False alarms on ordinary images"
    yield ""
    if ordinary:
        yield "Share of the scored images whose score reaches the threshold."
        yield ""
        yield from _reached_table(ordinary, measured.policies)
        yield "Decisions on the same images, by all categories together:"
        yield ""
        yield from _decision_table(ordinary, measured.policies)
    else:
        yield f"Unmeasured: there was no folder `{ORDINARY}`."
        yield ""
    yield "### Recall"
    yield ""
    if positive:
        yield "Share of the scored images of each positive folder that reach the threshold."
        yield ""
        yield from _reached_table(positive, measured.policies)
        yield from _decision_table(positive, measured.policies)
    covered = {each.folder.category for each in positive}
    missing = [category.value for category in CATEGORIES if category not in covered]
    if missing:
        yield f"Unmeasured, for lack of images: recall on {', '.join(missing)}."
        yield ""
    yield from _agreement_table(measured)
    yield "### CPU time"
    yield ""
    yield "CPU time of the networks alone, per image, on one thread in fp32. Decoding is not in it."
    yield ""
    rows = [
        (c.weights, str(c.networks), c.backend, f"{c.milliseconds:.0f}") for c in measured.costs
    ]
    yield from table(("weights", "networks", "backend", "ms per image"), rows)


def _about(measured: Measurement) -> Iterator[str]:
    about = machine()
    versions = {name: number for name, number in about["versions"].items() if number}
    listed = ", ".join(
        f"{name} {versions[name]}" for name in ("moderate", "torch", "openvino") if name in versions
    )
    yield f"Measured on {about['processor']}, Python {about['python']}, {listed}."
    yield "Intervals hold 95 % and are exact (Clopper-Pearson)."
    yield ""
    seen: dict[str, Scanned] = {}
    for each in measured.scans:
        seen.setdefault(each.folder.name, each)
    rows = [
        (
            name,
            each.folder.category.value if each.folder.category else "none",
            str(len(each.labels.ids) - each.undecoded),
            str(each.copies),
            str(each.undecoded),
        )
        for name, each in seen.items()
    ]
    yield from table(("folder", "positive in", "scored", "copies left out", "not scored"), rows)
    bundles = {each.bundle.name: each.bundle for each in measured.scans}
    rows = [(name, bundle.sha256[:12]) for name, bundle in bundles.items()]
    yield from table(("weights", "digest"), rows)


def _reached_table(scans: Sequence[Scanned], policies: Sequence[str]) -> Iterator[str]:
    header = ("policy", "folder", "weights", "category", "from review", "from block", "highest")
    rows = [
        (
            found.policy,
            found.folder,
            found.weights,
            found.category.value,
            f"{found.review:.2f}: {found.at_review}",
            f"{found.block:.2f}: {found.at_block}",
            f"{found.highest:.2f}",
        )
        for policy in policies
        for each in scans
        for found in reached(each, policy)
    ]
    yield from table(header, rows)


def _decision_table(scans: Sequence[Scanned], policies: Sequence[str]) -> Iterator[str]:
    header = ("policy", "folder", "weights", "approved", "to review", "blocked")
    rows = [
        (policy, each.folder.name, each.bundle.name, *map(str, decided(each, policy)))
        for policy in policies
        for each in scans
    ]
    yield from table(header, rows)
    for policy in policies:
        blind = list(dict.fromkeys(s.bundle.name for s in scans if not s.all_scored))
        if blind and load_policy(policy).policy.on_unscored == "review":
            yield (
                f"`{policy}` sends every image to review that lacks a score in some category "
                f"(`on_unscored`), so here all that {', '.join(blind)} would approve."
            )
            yield ""


def _agreement_table(measured: Measurement) -> Iterator[str]:
    policy = measured.policies[0]
    found = [each for pair in measured.pairs() for each in agreement(*pair, policy)]
    if not found:
        return
    yield "### Agreement between weights"
    yield ""
    yield (
        f"Images at or above the review threshold of `{policy}` by each of two bundles that have "
        "no network in common. "
        "`by chance`: how many both would flag if they erred independently. `maximum` and `mean`: "
        "how many the maximum and the mean of the two scores would flag."
    )
    yield ""
    header = ("folder", "category", "first", "second", "images", "by first", "by second")
    yield from table(
        (*header, "by both", "by chance", "maximum", "mean"),
        [
            (
                each.folder,
                each.category.value,
                each.first,
                each.second,
                *map(str, (each.images, each.by_first, each.by_second, each.both)),
                f"{each.by_chance:.1f}",
                str(each.either),
                str(each.mean),
            )
            for each in found
        ],
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and the empty line after it."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def split_page(page: Path) -> tuple[str, str]:
    """The page's text up to its first mark and from its second. Raises RefusedError."""
    head, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise RefusedError(f"{printable(os.fspath(page))} lacks the lines {BEGIN} and {END}")
    return head + begin, end + tail


def measure(args: argparse.Namespace, scratch: Path) -> Measurement:
    """Scan every folder by all weights. Raises RefusedError and ModerateError."""
    found = folders(args.dir, args.labels)
    for policy in args.policies:
        load_policy(policy)
    bundles = {weights: load_bundle(weights) for weights in args.weights}
    scans = [
        scan(folder, weights, bundle, scratch / f"{number}-{order}.parquet")
        for number, (weights, bundle) in enumerate(bundles.items())
        for order, folder in enumerate(found)
    ]
    costs = [cost(bundle, args.cost_images) for bundle in bundles.values()]
    return Measurement(scans, args.policies, costs)


def as_json(measured: Measurement) -> dict[str, object]:
    """The same counts, for programs."""
    every = [found for policy in measured.policies for each in measured.scans
             for found in reached(each, policy)]  # fmt: skip
    decisions = [
        {
            "policy": policy,
            "folder": each.folder.name,
            "weights": each.bundle.name,
            **dict(zip(("approve", "review", "block"), (s.count for s in shares), strict=True)),
        }
        for policy in measured.policies
        for each in measured.scans
        for shares in [decided(each, policy)]
    ]
    pairs = [a for pair in measured.pairs() for a in agreement(*pair, measured.policies[0])]
    return {
        "machine": machine(),
        "reached": [found._asdict() for found in every],
        "decisions": decisions,
        "agreement": [each._asdict() for each in pairs],
        "cost": [each._asdict() for each in measured.costs],
    }


def _label(text: str) -> tuple[str, Category]:
    name, _, category = text.partition("=")
    return name, Category(category)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page; 2 and one line where it cannot be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dir", type=Path, metavar="DIR", help="its folders stand for labels")
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME|DIR")
    parser.add_argument("--policies", nargs="+", default=["balanced"], metavar="NAME|FILE")
    parser.add_argument(
        "--label", type=_label, action="append", default=[], metavar="NAME=CATEGORY"
    )
    parser.add_argument("--cost-images", type=int, default=64, help="images to time, in all")
    parser.add_argument("--page", type=Path, help="put the result into this Markdown file")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    args.labels = dict(args.label)
    try:
        if args.page:
            split_page(args.page)  # a page without marks is refused before hours of work
        with tempfile.TemporaryDirectory() as scratch:
            measured = measure(args, Path(scratch))
            text = "".join(f"{line}\n" for line in markdown(measured))
            if args.json:
                write_json(args.json, as_json(measured))
        if args.page:
            head, tail = split_page(args.page)
            args.page.write_text(f"{head}\n{text}{tail}", encoding="utf-8")
    except (RefusedError, ModerateError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
