"""The counts of a run, kept while rows pass by: memory does not grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from moderate.classify.coverage import Coverage
from moderate.config import ConfigRecord
from moderate.policy.judge import Judge
from moderate.policy.model import Policy
from moderate.policy.thresholds import BANDS, DECISIONS, Severities
from moderate.results.table import row_to_dict
from moderate.run.highlights import Highlights
from moderate.run.input_counts import unreadable_text
from moderate.run.listing import Listing
from moderate.run.opinion_columns import SECOND_OPINION
from moderate.run.opinion_counts import OpinionCounts
from moderate.text import one_line, path_text, printable, utc
from moderate.types import (
    CATEGORIES,
    Decision,
    ErrorCode,
    Origin,
    Row,
    Skipped,
    StoredObject,
    Url,
)

if TYPE_CHECKING:
    from moderate.exports.baseline import Baseline
    from moderate.run.row_batch import RowBatch

SCHEMA_VERSION = 1
EXAMPLES_KEPT = 5
MOST_NAMES = 50
"""Names of warnings and of error codes that are counted apart; a run knows fewer of either."""

_DECODED = (Origin.NEW, Origin.CHANGED)

OTHER_NAMES = "(other names)"


def name_counted(name: str, counts: Mapping[str, int]) -> str:
    """What a warning or an error code of a results file is counted as.

    A file that was changed may hold as many names as it has rows, and names of any length: no
    report is to grow with them.
    """
    short = one_line(name, 60)
    return short if short in counts or len(counts) < MOST_NAMES else OTHER_NAMES


@dataclass(frozen=True, slots=True)
class Audit:
    """What a later reader needs to trust a result: versions, digests, device and policy.

    policy_json is the whole policy, so that thresholds can be looked up when its file is gone.
    sandbox is None where there was nothing to decode, and before that is known. config is None
    where no configuration file was used. coverage is what the weights say of themselves.
    policy_file is the file that the policy was read from, None for a preset. looked_at says which
    frames, views and embedded content were looked at, empty where that is not recorded. levels are
    those of `levels_text` that labels are the scores of, empty for none. second_weights are name
    and digest of the weights that give second opinions, second_opinion what the policy says of
    these, as a list in JSON.
    """

    version: str
    run_id: str
    weights: str
    weights_sha256: str
    weights_purpose: str
    weights_models: tuple[str, ...]
    policy: str
    policy_sha256: str
    policy_json: str
    device: str
    precision: str
    backend: str
    sandbox: tuple[str, ...] | None
    exact_decode: bool
    torch: str
    timm: str
    started: datetime
    config: ConfigRecord | None = None
    coverage: Coverage = field(default_factory=Coverage)
    policy_file: str | None = None
    looked_at: str = ""
    levels: str = ""
    second_weights: tuple[tuple[str, str], ...] = ()
    second_opinion: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A row to list: its path as text, its decision and why."""

    path: str
    decision: Decision
    reasons: str


@dataclass(slots=True)
class Summary:
    """Counts and times of one run.

    seconds is wall clock from start to last row; startup_seconds the part of it in which torch was
    imported and the weights loaded. origins counts every row, also those left out.
    batch_limit is how many images a forward pass was cut down to for want of memory, limit the
    --limit that cut the input; None where none did. input_notes are sentences on mistakes in how
    the inputs were named. judge is what decides: its notes on overrides
    and lists belong to the summary.

    listing takes the rows for a page, where one is to be written. levels are the values of those
    that match by description, of the policy and its overrides; ratings are counted where there are
    any.

    findings are the first `max_listed` rows of each decision over `approve`. may_be_empty says that
    it means nothing if there are no images, as in a share of a small input. only is what `--only`
    names: rows of other origins are in left_out and, those with scores, in left_out_scored, and are
    counted nowhere else but in origins. unreadable names the first inputs, or folders of them, that
    could not be read, with the reason; unreadable_count counts all of these. baseline is that of
    --baseline; unchanged counts by decision the rows whose findings it has, which are not among
    findings. export_notes say what the documents of --report leave out. merged are the
    audit facts of shares that were put together. fetched
    counts the rows of images that are not on this machine, decoded those that this run decoded and
    that have decoded_pixels in all. second_opinions are known at the end, in the policy's order.
    """

    audit: Audit
    policy: Policy
    judge: Judge | None = None
    hourly_cost: float | None = None
    limit: int | None = None
    ended: datetime = datetime.min
    seconds: float = 0.0
    startup_seconds: float = 0.0
    batch_limit: int | None = None
    input_notes: list[str] = field(default_factory=list)
    rows: int = 0
    errors: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    bands: dict[str, Counter[str]] = field(
        default_factory=lambda: {category.value: Counter() for category in CATEGORIES}
    )
    error_codes: Counter[str] = field(default_factory=Counter)
    error_examples: dict[str, list[str]] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)
    ratings: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    highlights: Highlights = field(default_factory=Highlights)
    max_listed: int = 0
    findings: dict[Decision, list[Finding]] = field(
        default_factory=lambda: {d: [] for d in Decision if d is not Decision.APPROVE}
    )
    may_be_empty: bool = False
    only: tuple[Origin, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_scored: int = 0
    unreadable: list[str] = field(default_factory=list)
    unreadable_count: int = 0
    missing_inputs: int = 0
    listing: Listing | None = None
    baseline: Baseline | None = None
    unchanged: Counter[str] = field(default_factory=Counter)
    export_notes: list[str] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    fetched: int = 0
    decoded: int = 0
    decoded_pixels: int = 0
    second_opinions: tuple[OpinionCounts, ...] = ()
    own: tuple[str, ...] = ()
    levels: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Count by the own categories that the judge decides by, too; look up `levels` once."""
        for name in self.judge.own if self.judge else self.policy.own:
            self.bands.setdefault(name, Counter())
        scales = self.judge.described_scales if self.judge else ()
        self.levels = tuple(dict.fromkeys(level.value for scale in scales for level in scale))

    def count(self, row: Row) -> None:
        """Take one row into the counts."""
        self.rows += 1
        self.highlights.count(row)
        if self.listing is not None:
            self.listing.add(row)
        self.decisions[row.decision] += 1
        self._count_input(row)
        listed = self.findings.get(row.decision)
        if self.baseline and listed is not None and self.baseline.covers(row_to_dict(row)):
            self.unchanged[row.decision] += 1
        elif listed is not None and len(listed) < self.max_listed:
            path = path_text(row.ref.display)
            listed.append(Finding(path, row.decision, "; ".join(row.reasons)))
        for warning in row.facts.warnings:
            self.warnings[warning.value] += 1
        if row.views.rating is not None and self.levels:
            self.ratings[row.views.rating] += 1
        if row.error:
            self.errors += 1
            code = row.error.code.value
            self.error_codes[code] += 1
            examples = self.error_examples.setdefault(code, [])
            if len(examples) < EXAMPLES_KEPT:
                examples.append(path_text(row.ref.display))
            return
        for counts, band in zip(self.bands.values(), row.bands, strict=True):
            counts[band] += 1

    def counts_batches(self) -> bool:
        """Whether `count_batch` can take rows; not where each has to be looked at."""
        return not (self.only or self.baseline)

    def count_batch(self, batch: RowBatch, columns: Mapping[str, Any]) -> None:
        """Take many rows into the counts, as `count` does one by one; columns are their own."""
        decided, known = batch.decided, batch.known
        self.rows += len(batch)
        self.highlights.count_batch(batch)
        if self.listing is not None:
            self.listing.add_batch(columns)
        _add(self.decisions, DECISIONS, decided.severity)
        if known.origins is None:
            self.origins[Origin.REUSED] += len(batch)
        else:
            self.origins.update(known.origins)
        for decision, listed in self.findings.items():
            missing = max(self.max_listed - len(listed), 0)
            for index in np.flatnonzero(decided.severity == decision.severity)[:missing].tolist():
                reasons = decided.reasons.values[decided.reasons.codes[index]]
                listed.append(Finding(batch.path(index), decision, "; ".join(reasons)))
        numbers = np.bincount(known.warnings.codes, minlength=len(known.warnings.values))
        for warnings, number in zip(known.warnings.values, numbers.tolist(), strict=True):
            for warning in warnings if number else ():
                self.warnings[warning.value] += number
        for counts, bands in zip(self.bands.values(), decided.bands, strict=True):
            _add(counts, BANDS, bands)
        if self.levels:
            numbers = np.bincount(
                decided.rating.codes + 1, minlength=len(decided.rating.values) + 1
            )
            for level, number in zip(decided.rating.values, numbers[1:].tolist(), strict=True):
                self.ratings[level] += number

    def writes(self, row: Row) -> bool:
        """Whether `--only` lets the row be written; one that it leaves out is counted as such."""
        if not self.only or row.origin in self.only:
            return True
        self._count_input(row)
        self.left_out[row.origin.value] += 1
        self.left_out_scored += row.error is None
        return False

    def _count_input(self, row: Row) -> None:
        self.origins[row.origin] += 1
        self.fetched += isinstance(row.ref.location, Url | StoredObject)
        if row.facts.width is not None and row.origin in _DECODED:
            self.decoded += 1
            self.decoded_pixels += row.facts.width * (row.facts.height or 0)
        if row.error is None or not row.ref.whole_input:
            return
        self.unreadable_count += 1
        self.missing_inputs += row.error.code is ErrorCode.NOT_FOUND
        if len(self.unreadable) < EXAMPLES_KEPT:
            reason = one_line(row.error.message)
            self.unreadable.append(f"{printable(path_text(row.ref.display))} ({reason})")

    def count_skipped(self, skipped: Skipped) -> None:
        """Take one file that got no row into the counts."""
        self.skipped[skipped.reason.value] += 1
        self.highlights.count_skipped(skipped)

    @property
    def scored(self) -> int:
        """Rows with scores."""
        return self.rows - self.errors

    @property
    def found(self) -> int:
        """Everything met: scored + errors + left out + skipped."""
        return self.rows + self.left_out.total() + self.skipped.total()

    @property
    def error_rate(self) -> float:
        """Share of rows that are errors, 0.0 to 1.0."""
        return self.errors / self.rows if self.rows else 0.0

    @property
    def images_per_second(self) -> float:
        """Rows per second of wall clock after start-up, errors included.

        A run of under a second after start-up was mostly decoded meanwhile: there, of the whole.
        """
        if not self.seconds:
            return 0.0
        running = self.seconds - self.startup_seconds
        return self.rows / (running if self.is_rate_steady else self.seconds)

    @property
    def is_rate_steady(self) -> bool:
        """Whether the run went on for long enough after start-up to be measured without it."""
        return self.seconds - self.startup_seconds >= 1

    @property
    def cost(self) -> float | None:
        """What the run cost at `hourly_cost`, in the currency of that number."""
        return None if self.hourly_cost is None else self.hourly_cost * self.seconds / 3600

    @property
    def rating_counts(self) -> dict[str, int]:
        """The rows by rating: each level that matches by description, then any others."""
        return {name: self.ratings[name] for name in (*self.levels, *self.ratings)}

    @property
    def unscored_categories(self) -> list[str]:
        """Categories that no image of this run was scored for."""
        return [
            name
            for name, bands in self.bands.items()
            if self.scored and bands["unscored"] == self.scored
        ]

    def all_notes(self) -> list[str]:
        """Sentences that belong under every form of the summary."""
        notes = []
        if self.audit.weights_purpose == "demo":
            notes.append(
                f"{self.audit.weights} is a demonstration: it knows drawn test cards only "
                "and is no moderation model."
            )
        for each in self.second_opinions:
            if each.purpose == "demo" and each.weights != self.audit.weights:
                notes.append(
                    f"{each.weights}, asked for second opinions, is a demonstration: it knows "
                    "drawn test cards only and is no moderation model."
                )
        if faults := self.error_codes[ErrorCode.INTERNAL_ERROR]:
            images = "1 image" if faults == 1 else f"{faults:,} images"
            notes.append(
                f"A fault in moderate itself cost {images} the scores (internal_error): please "
                "report it; --debug shows more."
            )
        if self.batch_limit is not None:
            notes.append(
                f"Memory ran short: from then on the model was given {self.batch_limit} images at "
                "a time."
            )
        if self.unreadable_count:
            notes.append(f"{unreadable_text(self)}.")
        if self.baseline:
            notes.append(baseline_note(self.baseline, self.decisions, self.unchanged))
        notes += [f"{note[0].upper()}{note[1:]}." for note in self.export_notes]
        if self.limit is not None:
            notes.append(f"Stopped at --limit {self.limit}: there may be more input.")
        notes += self.input_notes
        if self.unscored_categories:
            what = "sends them to review" if self.policy.on_unscored == "review" else "ignores that"
            notes.append(
                f"Not scored by these weights: {', '.join(self.unscored_categories)}; "
                f"policy {self.policy.name} {what}."
            )
        if idle := [name for name in self.own if name not in self.bands]:
            notes.append(idle_note(self.policy, idle))
        return notes + (self.judge.notes() if self.judge else [])


def idle_note(policy: Policy, names: Sequence[str]) -> str:
    """That a policy has no thresholds for these own categories, as a sentence."""
    them = "its" if len(names) == 1 else "their"
    return (
        f"Policy {printable(policy.name)} has no thresholds for {', '.join(names)}: {them} scores "
        "are shown and decide nothing."
    )


def _add(counts: Counter[str], names: Sequence[str], numbers: Severities) -> None:
    """Count values that are given by their places among names."""
    for name, number in zip(names, np.bincount(numbers, minlength=len(names)), strict=True):
        if number:
            counts[name] += int(number)


def left_out_text(summary: Summary) -> str:
    """How many rows `--only` left out, by origin."""
    counts = [f"{summary.left_out[o]:,} {o.value}" for o in Origin if summary.left_out[o]]
    return ", ".join(counts) or "nothing"


def selection_facts(summary: Summary) -> dict[str, str]:
    """The audit facts of `--only`: what it names and what it left out; none without it."""
    if not summary.only:
        return {}
    return {"only": ",".join(summary.only), "left_out": left_out_text(summary)}


def baseline_note(
    baseline: Baseline, decisions: Mapping[str, int], unchanged: Mapping[str, int]
) -> str:
    """How many findings a baseline has, as a sentence. Both counts are by decision."""
    found = sum(decisions.get(each, 0) for each in Decision if each is not Decision.APPROVE)
    known = sum(unchanged.values())
    parts = [f"{found - known:,} new", f"{known:,} in the baseline {printable(baseline.shown)}"]
    return f"Findings: {', '.join(parts)}."


def baseline_counts(
    baseline: Baseline | None, decisions: Mapping[str, int], unchanged: Mapping[str, int]
) -> dict[str, Any]:
    """The findings by decision, new ones and those that a baseline has; nothing without one."""
    if baseline is None:
        return {}
    over = [each for each in Decision if each is not Decision.APPROVE]
    known = {each.value: unchanged.get(each, 0) for each in over}
    new = {each.value: decisions.get(each, 0) - known[each.value] for each in over}
    return {"baseline": {"file": baseline.shown, "unchanged": known, "new": new}}


def sandbox_text(active: tuple[str, ...] | None) -> str:
    """What the decoders were hardened with, in the words of the audit facts."""
    if active is None:
        return "nothing was decoded"
    return ", ".join(active) or "none"


def counts(summary: Summary) -> dict[str, Any]:
    """The counts so far as JSON values: what the ledger keeps of a run."""
    return {
        "rows": summary.rows,
        "scored": summary.scored,
        "errors": summary.errors,
        "skipped": summary.skipped.total(),
        "decisions": {d.value: summary.decisions[d.value] for d in Decision},
        "error_codes": dict(sorted(summary.error_codes.items())),
        "warnings": dict(sorted(summary.warnings.items())),
        "origins": {origin.value: summary.origins[origin.value] for origin in Origin},
        **({"left_out": dict(sorted(summary.left_out.items()))} if summary.only else {}),
        **_opinions(summary),
    }


def audit_facts(audit: Audit) -> dict[str, str]:
    """The audit facts known at the start, as they go into a file's metadata."""
    config = audit.config
    return {
        "tool": "moderate",
        "version": audit.version,
        "run_id": audit.run_id,
        "purpose": audit.weights_purpose,
        "weights": audit.weights,
        "weights_sha256": audit.weights_sha256,
        "weights_models": "; ".join(audit.weights_models),
        **audit.coverage.facts(),
        **_second_facts(audit),
        "policy": audit.policy,
        "policy_sha256": audit.policy_sha256,
        "policy_json": audit.policy_json,
        **({"policy_file": audit.policy_file} if audit.policy_file else {}),
        "device": audit.device,
        "precision": audit.precision,
        "backend": audit.backend,
        "jpeg_decode": "full" if audit.exact_decode else "reduced where large",
        **({"looked_at": audit.looked_at} if audit.looked_at else {}),
        **({"levels": audit.levels} if audit.levels else {}),
        "sandbox": sandbox_text(audit.sandbox),
        "torch": audit.torch,
        "timm": audit.timm,
        "schema": str(SCHEMA_VERSION),
        **({"config": config.path, "config_sha256": config.sha256} if config else {}),
        "started": utc(audit.started),
    }


def _opinions(summary: Summary) -> dict[str, Any]:
    if not summary.second_opinions:
        return {}
    return {"second_opinions": [each.as_json() for each in summary.second_opinions]}


def _opinion_costs(summary: Summary) -> dict[str, Any]:
    if not summary.second_opinions:
        return {}
    return {"second_opinions": [each.cost_as_json() for each in summary.second_opinions]}


def _second_facts(audit: Audit) -> dict[str, str]:
    if not audit.second_weights:
        return {}
    names, digests = zip(*audit.second_weights, strict=True)
    return {
        "second_weights": "; ".join(names),
        "second_weights_sha256": "; ".join(digests),
        SECOND_OPINION: audit.second_opinion,
    }


def as_json(summary: Summary) -> dict[str, Any]:
    """The whole summary as JSON values. `schema` counts up when a key changes its meaning."""
    return {
        "schema": SCHEMA_VERSION,
        "audit": {
            **audit_facts(summary.audit),
            **selection_facts(summary),
            **summary.merged,
            "ended": utc(summary.ended),
        },
        "total": summary.found,
        **counts(summary),
        "categories": {
            name: {band: bands[band] for band in ("approve", "review", "block", "unscored")}
            for name, bands in summary.bands.items()
        },
        **({"ratings": summary.rating_counts} if summary.levels else {}),
        "coverage": summary.audit.coverage.as_json(),
        "error_examples": dict(sorted(summary.error_examples.items())),
        "skipped_by_reason": dict(sorted(summary.skipped.items())),
        **summary.highlights.as_json(),
        "unreadable_inputs": summary.unreadable_count,
        **baseline_counts(summary.baseline, summary.decisions, summary.unchanged),
        "notes": summary.all_notes(),
        "throughput": {
            "seconds": round(summary.seconds, 3),
            "startup_seconds": round(summary.startup_seconds, 3),
            "images_per_second": round(summary.images_per_second, 2),
            **_opinion_costs(summary),
        },
        "cost": None
        if summary.cost is None
        else {"per_hour": summary.hourly_cost, "run": round(summary.cost, 6)},
    }
