"""What thresholds are chosen by: labelled scores out of files, and the policy that comes of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import numpy as np
import tomli_w
from numpy.typing import NDArray

from moderate.analysis.calibrate import Calibrated, apply
from moderate.analysis.labelled_rows import join, misrepresented
from moderate.analysis.labels import Labels, Sampling, read_labels
from moderate.analysis.sample import order_of
from moderate.analysis.tune import Claim, Floats, Labelled, Tuning
from moderate.analysis.weighted import METHOD
from moderate.errors import InputError, UsageError
from moderate.own_categories import OWN, category_named
from moderate.policy.load import LoadedPolicy, parse_policy, resolve, shown_name
from moderate.policy.model import Policy
from moderate.results.read import Results
from moderate.results.schema import shortest
from moderate.text import one_line, printable
from moderate.toml_files import parse_toml
from moderate.types import CATEGORIES
from moderate.version import __version__


@dataclass(frozen=True)
class Evidence:
    """Labelled scores per category, and the scores of all images (NaN: not scored).

    results and labels are their files with digests, weights those that made the scores; notes say
    what was left out, and why.
    """

    labelled: Mapping[str, Labelled]
    scores: Mapping[str, Floats]
    results: str
    results_sha256: str
    labels: str
    labels_sha256: str
    weights: str
    weights_sha256: str | None
    notes: tuple[str, ...]

    @property
    def weighted(self) -> bool:
        """Whether labels stand for different numbers of images."""
        return any(each.weights is not None for each in self.labelled.values())


def gather(
    results: Results,
    labels_file: str,
    *,
    categories: Sequence[str] = (),
    seed: int = 0,
    id_column: str | None = None,
    assume_random: bool = False,
) -> Evidence:
    """Join labels and results. `categories` are those to look at; none: all that are labelled.

    Each image counts once, however many copies were scored. Raises InputError, also for labels
    of images that were not chosen at random, unless `assume_random`.
    """
    labels = read_labels(labels_file, id_column, results.own_categories)
    sampling = None if assume_random else _sampling(labels)
    notes = [note] if not sampling and (note := _random_note(labels, assume_random)) else []
    joined = join(labels, results)
    table = results.table([*results.categories, "sha256", "path", "status"])
    scores = {
        name: table[name].to_numpy().astype(np.float32, copy=False) for name in results.categories
    }
    scored = ~np.logical_and.reduce([np.isnan(values) for values in scores.values()])
    scores = {name: values[scored] for name, values in scores.items() if not np.isnan(values).all()}
    digests = table["sha256"].take(joined.rows).to_pylist()
    order = np.array(
        [order_of(sha or path, seed) for sha, path in zip(digests, joined.paths, strict=True)],
        np.uint64,
    )
    categories = [category_named("--category", name, results.categories) for name in categories]
    labelled: dict[str, Labelled] = {}
    for category in results.categories:
        values, truth = joined.scores[category], joined.labels[category]
        if categories and category not in categories:
            continue
        known = _first_known(category, labels, joined.paths, digests, truth)
        usable = known & ~np.isnan(values)
        if usable.any():
            weights = None
            if sampling:
                weights = np.ones(len(known))
                weights[known] = sampling.weights(joined.of[known])
                if problem := misrepresented(labels, category, weights[known], table):
                    raise InputError(f"{problem}; or add --assume-random")
                weights = weights[usable]
            labelled[category] = Labelled(
                values[usable], truth[usable] == 1, order[usable], weights
            )
        elif category in categories:
            why = "scores" if known.any() else "labels"
            raise InputError(f"--category {category}: there are no {why} for it")
    if joined.unmatched:
        notes.append(f"{joined.unmatched} labels are of images that the results do not have")
    if left := int(joined.copies.sum()):
        notes.append(f"{left} labelled rows are copies of others and count once")
    if unusable := int(joined.errors.sum()):
        notes.append(f"{unusable} labelled rows are errors without scores")
    if results.mismatch:
        notes.append("the results are not the file that the audit facts beside them describe")
    if sampling:
        notes.append(
            "labels are weighted by their inclusion probabilities: shares and bounds are of all "
            "images that they were sampled from"
        )
    kept = [str(category) for category in results.categories if category not in labelled]
    if kept:
        notes.append(f"{', '.join(kept)}: not tuned, thresholds as in the base policy")
    return Evidence(
        labelled=labelled,
        scores=scores,
        results=results.path,
        results_sha256=results.sha256,
        labels=labels_file,
        labels_sha256=_digest(labels_file, labels),
        weights=results.facts.get("weights", "unknown"),
        weights_sha256=results.facts.get("weights_sha256"),
        notes=tuple(notes),
    )


def _first_known(
    category: str,
    labels: Labels,
    paths: Sequence[str],
    digests: Sequence[str | None],
    truth: NDArray[np.int8],
) -> NDArray[np.bool_]:
    """For each content the first row that has a label. Raises InputError where copies disagree."""
    rows = np.flatnonzero(truth >= 0)
    first: dict[str, int] = {}
    for row in rows.tolist():
        seen = first.setdefault(digests[row] or paths[row], row)
        if truth[seen] != truth[row]:
            raise InputError(
                f"{printable(labels.path)}: copies of one image have different labels for "
                f"{category}: {one_line(paths[seen], 80)} and {one_line(paths[row], 80)}"
            )
    known = np.zeros(len(truth), bool)
    known[list(first.values())] = True
    return known


def _sampling(labels: Labels) -> Sampling | None:
    """The inclusion probabilities of images that had different chances; None where all are alike.

    Raises InputError for a file that holds several samples.
    """
    if labels.sampling and not labels.sampling.uniform and len(labels.chosen_by) > 1:
        raise InputError(
            f"{printable(labels.path)} holds several samples "
            f"({one_line(', '.join(labels.chosen_by), 60)}), whose probabilities do not go "
            "together: draw one sample of both kinds ('moderate sample --by band --random N')"
        )
    return labels.uneven


def asks_otherwise(policy: Policy) -> bool:
    """Whether more than the categories' scores decides.

    That is warnings, unscored categories, labels, overrides and lists.
    """
    more = policy.on_warning or policy.on_unscored == "review" or policy.labels
    return bool(more or policy.in_context)


def decided(results: Results, base: LoadedPolicy, tuning: Tuning, evidence: Evidence) -> Tuning:
    """The proposal with the shares that its policy really gives on these results."""
    from moderate.analysis.decide_by_policy import Redecider
    from moderate.analysis.pieces import pieces

    five = {name: tuning.thresholds[name] for name in CATEGORIES}
    own = {name: limits for name, limits in tuning.thresholds.items() if name not in CATEGORIES}
    policy = base.policy.model_copy(update={"categories": five, "own": own})
    redecider = Redecider(replace(base, policy=policy), results)
    counts = np.zeros(3, np.int64)
    for piece in pieces(results):
        severity = redecider.decide(piece).severity[~piece.failed]
        counts += np.bincount(severity, minlength=3)
    images = max(int(counts.sum()), 1)
    return replace(
        tuning, review_share=float(counts[1] / images), block_share=float(counts[2] / images)
    )


def policy_text(
    base: LoadedPolicy, tuning: Tuning, evidence: Evidence, *, today: date | None = None
) -> str:
    """The TOML of the base policy with the proposed thresholds, and the evidence as comments."""
    table = parse_toml(base.text)
    tuned = {each.category: each for each in tuning.tuned}
    for category, each in tuned.items():
        limits = each.thresholds
        into = table["categories"]
        if category not in CATEGORIES:
            into = into.setdefault(OWN, {})
        into[str(category)] = {"review": limits.review, "block": limits.block}
    names = ", ".join(map(str, tuned))
    table["name"] = f"{base.policy.name[:74]}-tuned"
    table["description"] = f"{base.policy.name}, with thresholds of {names} tuned on labels."[:500]
    file = None if base.file is None else printable(os.path.basename(base.file))
    day = today or datetime.now(UTC).date()
    head = [
        f"Thresholds of {names} proposed by moderate tune {__version__} on {day.isoformat()},",
        f"based on the policy {shown_name(base.policy.name, file)} (sha256 {base.sha256}).",
        *evidence_lines(tuning, evidence),
    ]
    if base.policy.override:
        head.append("note: overrides stay as they were, and nothing is claimed for their rows")
    comments = "".join(f"# {one_line(line, 1000)}\n" for line in head)
    return f"{comments}\n{tomli_w.dumps(table)}"


def evidence_lines(tuning: Tuning, evidence: Evidence) -> list[str]:
    """The data, the aim, and what was shown for each category."""
    aim = tuning.aim
    lines = [
        f"results: {printable(os.path.basename(evidence.results))} "
        f"(sha256 {evidence.results_sha256}), {tuning.images} scored images",
        f"labels: {printable(os.path.basename(evidence.labels))} (sha256 {evidence.labels_sha256})",
        f"weights: {printable(evidence.weights)} (sha256 {evidence.weights_sha256 or 'unknown'})",
        f"aim: recall at least {aim.target_recall:g}"
        + (f", false blocks at most {aim.max_false_block:g}" if aim.max_false_block else "")
        + (
            f", review share at most {aim.max_review_share:g}"
            if aim.max_review_share is not None
            else ""
        ),
        f"confidence: {aim.confidence:g} that all bounds hold together (each at level "
        f"{tuning.alpha:.3g}), for {_scope(evidence)}",
        f"split: {aim.holdout:.0%} held out, seed {aim.seed}",
    ]
    for each in tuning.tuned:
        limits = each.thresholds
        lines.append(
            f"{each.category}: review from {shortest(limits.review)}: recall "
            f"{_claim(each.recall, 'positives', '>=')}"
        )
        if each.false_blocks:
            lines.append(
                f"{each.category}: block from {shortest(limits.block)}: false blocks "
                f"{_claim(each.false_blocks, 'negatives', '<=')}"
            )
        else:
            lines.append(f"{each.category}: block from {shortest(limits.block)}: no claim")
        lines += [f"{each.category}: {note}" for note in each.notes]
        lines += [f"warning: {each.category}: {warning}" for warning in each.warnings]
    lines.append(
        f"of the scored images, {tuning.review_share:.2%} go to review, "
        f"{tuning.block_share:.2%} are blocked"
    )
    lines += [f"note: {note}" for note in evidence.notes]
    return lines


def _scope(evidence: Evidence) -> str:
    if evidence.weighted:
        return f"the images that those labelled were sampled from; {METHOD}"
    return "images like those labelled; exact binomial bounds"


def check_policy(text: str, target: str) -> None:
    """Raises PolicyError where the policy would not load from `target`.

    That is so where the base names lists or policies beside it, and the target is elsewhere.
    """
    loaded = parse_policy(text, printable(target))
    if loaded.policy.in_context:
        resolve(loaded.policy, os.path.dirname(target) or ".", printable(target))


def _claim(claim: Claim, what: str, sign: str) -> str:
    train, held = claim.train, claim.holdout
    text = f"{sign} {claim.bound:.4f} (train: {train.events} of {train.total} {what}"
    if train.weighted is not None:
        text += f", weighted {train.weighted:.4f}"
    if held.total:
        text += (
            f"; holdout: {held.events} of {held.total}, {held.share:.4f}, "
            f"interval {held.low:.4f} to {held.high:.4f}"
        )
    return text + ")"


def _random_note(labels: Labels, assume_random: bool) -> str | None:
    """Raises InputError where a template says that its images were not chosen at random."""
    others = [how for how in labels.chosen_by if how != "random"]
    if not others:
        return None
    how = one_line(", ".join(others), 60)
    if assume_random:
        return f"labels of images chosen by {how} were taken for a random sample, as asked for"
    raise InputError(
        f"{printable(labels.path)}: images chosen by {how} are no random sample, and show no "
        "recall or calibration for all images: label images of 'moderate sample' --by random, "
        "--by band, or --random N, which have an inclusion_probability; or add --assume-random"
    )


def _digest(path: str, labels: Labels) -> str:
    """Of the file; of a folder, of the labels in it."""
    if os.path.isdir(path):
        columns = [labels.ids, *(values.tolist() for values in labels.values.values())]
        return hashlib.sha256(repr(columns).encode()).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror}") from error


def calibrated(evidence: Evidence, fitted: Sequence[Calibrated]) -> Evidence:
    """The evidence with the scores that a bundle so calibrated would give."""
    calibrations = {each.category: each.calibration for each in fitted}
    labelled = {
        name: replace(each, scores=apply(each.scores, calibrations.get(name)))
        for name, each in evidence.labelled.items()
    }
    scores = {name: apply(each, calibrations.get(name)) for name, each in evidence.scores.items()}
    note = "scores are calibrated: the policy goes with the calibrated bundle alone"
    return replace(evidence, labelled=labelled, scores=scores, notes=(*evidence.notes, note))
