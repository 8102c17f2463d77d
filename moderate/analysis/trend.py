"""Volumes over time: shares of decisions and bands by day or week, and whether the latest differs.

The test is Pearson's chi-squared test of homogeneity of the latest period against all earlier ones
together, corrected by Holm over all that is tested. With a million images, a hair is significant:
so drift needs an effect, too. That of shares is Cohen's w, which does not depend on how many images
either side has (Cohen, 1988: 0.1 is small, 0.3 medium); that of the scores' distribution is the
population stability index over ten bins, of the same number of earlier images each (0.1 is the
usual limit).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from moderate.analysis import bounds
from moderate.analysis.policies import DECIDE_AGAIN, policy_of
from moderate.classify.coverage import Coverage
from moderate.errors import InputError, UsageError
from moderate.policy.thresholds import band_counts, score_bands
from moderate.text import one_line, printable
from moderate.types import CATEGORIES, Decision

if TYPE_CHECKING:
    from moderate.results.read import Results
    from moderate.state.ledger import RunRecord

By = Literal["day", "week"]
Counts = NDArray[np.int64]

_DECISIONS = tuple(decision.value for decision in Decision)
METHOD = (
    "chi-squared test of homogeneity of the latest period against all earlier ones together, "
    "Holm's correction over all tests; drift needs p under alpha and the effect: Cohen's w of "
    "shares, the population stability index over ten bins of scores"
)
_FEWEST = 5.0  # expected in each cell, else cells are taken together (Cochran, 1954)
_BINS, _FINE = 10, 4000
_LOGIT_SPAN = 16.0  # scores within 1e-7 of 0 or 1 share a bin


@dataclass(slots=True)
class Period:
    """What is counted of a day or week. bands and scores are empty where only decisions are known.

    scores holds, per category, how many scores fall in each of the fine bins of `_fine_bin`.
    """

    name: str
    sources: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    bands: dict[str, Counter[str]] = field(default_factory=dict)
    scores: dict[str, Counts] = field(default_factory=dict)
    policies: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)

    @property
    def images(self) -> int:
        """Rows with a decision."""
        return self.decisions.total()


@dataclass(frozen=True, slots=True)
class Limits:
    """When a difference counts as drift: p under `alpha` after Holm, and at least the effect."""

    alpha: float = 0.05
    min_w: float = 0.1
    min_psi: float = 0.1


@dataclass(frozen=True, slots=True)
class Tested:
    """One test of the latest period against the earlier ones.

    what is `decisions`, `CATEGORY bands` or `CATEGORY scores`; effect is Cohen's w of shares and
    the population stability index of scores. statistic, degrees, p and corrected p are None where
    there is too little data, and reason says so; merged names what was taken together.
    """

    what: str
    effect_name: Literal["w", "psi"]
    effect: float | None
    limit: float
    statistic: float | None
    degrees: int | None
    p: float | None
    p_holm: float | None
    drift: bool
    merged: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """Periods, oldest first, and what the tests say of the latest.

    coverage is what the weights of the latest results say of themselves.
    """

    by: By
    periods: tuple[Period, ...]
    limits: Limits
    tests: tuple[Tested, ...]
    notes: tuple[str, ...]
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def drifted(self) -> list[str]:
        """What differs."""
        return [test.what for test in self.tests if test.drift]


@dataclass(frozen=True, slots=True)
class _FileRows:
    """What is counted of the n rows of a file.

    keys (int64) are equal for rows of the same image; where is_image (bool) is False, the row may
    not be compared with others. periods (int32) are numbers of `Counting`'s names. bands and bins,
    (categories, n), are of int8 and int16; a bin is -1 where there is no score.
    """

    facts: Mapping[str, str]
    categories: tuple[str, ...]
    keys: NDArray[np.int64]
    is_image: NDArray[np.bool_]
    periods: NDArray[np.int32]
    severities: NDArray[np.int8]
    failed: NDArray[np.bool_]
    bands: NDArray[np.int8]
    bins: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.keys)


class Counting:
    """Counts results files and runs by period.

    An image that several files have a row of counts once, on the day its scores were computed,
    with what the earliest of the files says of it: one file of every night holds all that earlier
    nights scored, too. Rows of versions that did not write `run_id` and `scored_at` all count, on
    the day of their run.
    """

    def __init__(self, by: By) -> None:
        self._by = by
        self._periods: dict[str, Period] = {}
        self._files: list[tuple[str, Results]] = []
        self._runs: set[str] = set()
        self._repeated = 0
        self._rows_repeated = 0
        self._ledger_reused = False

    def add_results(self, results: Results) -> None:
        """Take a file. Raises InputError where it does not say when it was made."""
        started = results.facts.get("started")
        if started is None:
            raise InputError(
                f"{printable(results.path)} does not say when it was made: the audit facts are gone"
            )
        self._period_name(started, results.path)
        if not self._seen(results.facts.get("run_id")):
            self._files.append((started, results))

    def _count_files(self) -> Coverage:
        """Count the rows of all files; the coverage of the latest. Raises InputError."""
        self._files.sort(key=itemgetter(0))
        names: dict[str, int] = {}
        files = [self._rows_of(results, started, names) for started, results in self._files]
        if not files:
            return Coverage()
        kept = _first_of_each_image(files)
        self._rows_repeated = int(sum(map(len, files)) - kept.sum())
        start = 0
        for file in files:
            self._count_rows(file, kept[start : start + len(file)], list(names))
            start += len(file)
        return Coverage.of_facts(files[-1].facts)

    def _rows_of(self, results: Results, started: str, names: dict[str, int]) -> _FileRows:
        import pyarrow as pa
        import pyarrow.compute as pc

        policy = policy_of(results, advice=DECIDE_AGAIN)
        own = ["path", "sha256", "run_id", "scored_at", "status", "decision"]
        table = results.table([*own, *results.categories]).combine_chunks()
        days = pc.utf8_slice_codeunits(table["scored_at"].fill_null(started), 0, 10)
        encoded = days.combine_chunks().dictionary_encode()
        periods = [
            names.setdefault(self._period_name(day, results.path, "scored_at"), len(names))
            for day in encoded.dictionary.to_pylist()
        ]
        pairs = zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True)
        scores = np.stack(
            [table[name].to_numpy().astype(np.float32, copy=False) for name in results.categories]
        )
        limits = [policy.limits(name) for name in results.categories]
        return _FileRows(
            facts=results.facts,
            categories=tuple(map(str, results.categories)),
            keys=np.fromiter(map(hash, pairs), np.int64, table.num_rows),
            is_image=pc.and_(table["run_id"].is_valid(), _has_name(table)).to_numpy(),
            periods=np.array(periods, np.int32)[encoded.indices.to_numpy()]
            if periods
            else np.zeros(0, np.int32),
            severities=pc.index_in(table["decision"], pa.array(_DECISIONS))
            .to_numpy()
            .astype(np.int8),
            failed=pc.equal(table["status"], "error").to_numpy(),
            bands=np.stack(
                [
                    score_bands(
                        values, each.review if each else np.inf, each.block if each else np.inf
                    )
                    for values, each in zip(scores, limits, strict=True)
                ]
            ),
            bins=np.where(np.isnan(scores), -1, _fine_bin(np.nan_to_num(scores))).astype(np.int16),
        )

    def _count_rows(self, file: _FileRows, kept: NDArray[np.bool_], names: Sequence[str]) -> None:
        for number in np.unique(file.periods[kept]).tolist():
            of_period = kept & (file.periods == number)
            period = self._periods.setdefault(names[number], Period(names[number]))
            period.sources += 1
            period.policies.add(file.facts.get("policy_sha256", "unknown"))
            period.weights.add(file.facts.get("weights_sha256", "unknown"))
            severities = np.bincount(file.severities[of_period], minlength=len(_DECISIONS))
            period.decisions.update(dict(zip(_DECISIONS, severities.tolist(), strict=True)))
            period.errors += int(file.failed[of_period].sum())
            for category, bands, bins in zip(file.categories, file.bands, file.bins, strict=True):
                scored = of_period & (bins >= 0)
                if not scored.any():
                    continue
                counts = band_counts(bands[scored])
                of_bands = period.bands.setdefault(category, Counter())
                of_bands.update(dict(zip(_DECISIONS, counts, strict=False)))  # none is unscored
                binned = np.bincount(bins[scored], minlength=_FINE)
                before = period.scores.get(category)
                period.scores[category] = binned if before is None else before + binned

    def add_run(self, record: RunRecord) -> None:
        """Count the decisions of a run in the ledger, unless it did not complete."""
        counted = record.counts.get("decisions")
        if record.status.value != "completed" or not isinstance(counted, dict):
            return
        if self._seen(record.id):
            return
        period = self._period(record.started, "the ledger")
        period.policies.add(record.facts.get("policy_sha256", "unknown"))
        period.weights.add(record.facts.get("weights_sha256", "unknown"))
        period.decisions.update({name: int(counted.get(name, 0)) for name in _DECISIONS})
        period.errors += int(record.counts.get("errors", 0))
        origins = record.counts.get("origins")
        self._ledger_reused |= isinstance(origins, dict) and bool(origins.get("reused"))

    def finish(self, limits: Limits) -> Trend:
        """Count, and test the latest period. Raises InputError where nothing was counted."""
        coverage = self._count_files()
        periods = tuple(self._periods[name] for name in sorted(self._periods))
        periods = tuple(period for period in periods if period.images)
        if not periods:
            raise InputError("there are no rows to show a trend of")
        tests = _tests(periods, limits)
        notes = tuple(self._notes(periods, tests))
        return Trend(self._by, periods, limits, tests, notes, coverage)

    def _seen(self, run: str | None) -> bool:
        if run is None:
            return False
        if run in self._runs:
            self._repeated += 1
            return True
        self._runs.add(run)
        return False

    def _period_name(self, moment: str, where: str, what: str = "started") -> str:
        try:
            day = datetime.fromisoformat(moment).date()
        except ValueError:
            bad = one_line(moment, 40)
            raise InputError(f"{printable(where)}: {what} is not a time: {bad!r}") from None
        return day.isoformat() if self._by == "day" else _week(day)

    def _period(self, started: str, where: str) -> Period:
        name = self._period_name(started, where)
        period = self._periods.setdefault(name, Period(name))
        period.sources += 1
        return period

    def _notes(self, periods: Sequence[Period], tests: Sequence[Tested]) -> Iterator[str]:
        if self._repeated:
            yield f"{self._repeated} files of a run that was counted already were left out."
        if self._rows_repeated:
            yield (
                f"{self._rows_repeated:,} rows of images that an earlier file has, too, were left "
                "out: each counts once, on the day it was first scored."
            )
        if self._ledger_reused:
            yield "Runs of the ledger are counted whole, with the images that they reused."
        if len(periods) == 1:
            yield f"One {self._by} only: there is nothing to compare it with."
        for name in ("policies", "weights"):
            earlier = set().union(*(getattr(period, name) for period in periods[:-1]))
            if earlier and getattr(periods[-1], name) != earlier:
                what = "policy" if name == "policies" else "weights"
                yield f"Not all periods have the same {what}: a difference may come from that."
        for test in tests:
            if test.reason:
                yield f"{test.what}: {test.reason}."


def _has_name(table: Any) -> Any:
    """Which rows another file's rows can be compared with, as booleans.

    Pixels that a program had in memory are called by their place, and have no digest.
    """
    import pyarrow.compute as pc

    return pc.or_(table["sha256"].is_valid(), pc.invert(pc.starts_with(table["path"], "memory://")))


def _first_of_each_image(files: Sequence[_FileRows]) -> NDArray[np.bool_]:
    """Which of all rows, file by file, count: the first scored one of an image, else the first."""
    kept = ~np.concatenate([file.is_image for file in files])
    images = np.flatnonzero(~kept)
    failed = np.concatenate([file.failed for file in files])[images]
    scored_first = images[np.argsort(failed, kind="stable")]
    keys = np.concatenate([file.keys for file in files])[scored_first]
    kept[scored_first[np.unique(keys, return_index=True)[1]]] = True
    return kept


def compare(latest: Sequence[int], earlier: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Pearson's chi-squared test that two rows of counts have the same shares.

    Columns that expect fewer than 5 are taken together with the next rarest. The fields of `Tested`
    that it gives; without a statistic, `reason` says why.
    """
    columns = [
        (int(a), int(b), name) for a, b, name in zip(latest, earlier, names, strict=True) if a + b
    ]
    total_a, total_b = sum(a for a, _, _ in columns), sum(b for _, b, _ in columns)
    total = total_a + total_b
    if not total_a or not total_b:
        return {"reason": "too little data, no test"}
    smaller = min(total_a, total_b) / total
    merged: list[str] = []
    columns.sort(key=lambda column: column[0] + column[1])
    while len(columns) > 1 and (columns[0][0] + columns[0][1]) * smaller < _FEWEST:
        first, second = columns[:2]
        together = f"{first[2]} + {second[2]}"
        merged = [name for name in merged if name not in (first[2], second[2])] + [together]
        columns[:2] = [(first[0] + second[0], first[1] + second[1], together)]
        columns.sort(key=lambda column: column[0] + column[1])
    if len(columns) < 2:
        if not merged and total * smaller >= _FEWEST:  # all images are in one of them
            return {"effect": 0.0, "statistic": 0.0, "degrees": 0, "p": 1.0}
        return {"reason": "too little data, no test"}
    statistic = sum(
        (count - row * (a + b) / total) ** 2 / (row * (a + b) / total)
        for a, b, _ in columns
        for count, row in ((a, total_a), (b, total_b))
    )
    return {
        "statistic": statistic,
        "degrees": len(columns) - 1,
        "p": bounds.chi_squared_tail(statistic, len(columns) - 1),
        "merged": ", ".join(merged) or None,
        "columns": [(a / total_a, b / total_b) for a, b, _ in columns],
    }


def cohens_w(shares: Sequence[tuple[float, float]]) -> float:
    """The size of a difference of shares (latest, earlier), whatever the numbers behind them.

    A share that was never there before is measured against that of both together.
    """
    return float(sum((a - b) ** 2 / (b or (a + b) / 2) for a, b in shares if a + b) ** 0.5)


def stability(shares: Sequence[tuple[float, float]]) -> float:
    """The population stability index of shares (latest, earlier); an empty one counts as 1e-4."""
    pairs = [(max(a, 1e-4), max(b, 1e-4)) for a, b in shares]
    return float(sum((a - b) * np.log(a / b) for a, b in pairs))


def check_limits(limits: Limits) -> None:
    """Raises UsageError for limits that make no sense."""
    if not 0 < limits.alpha < 1:
        raise UsageError(f"--alpha {limits.alpha:g}: must lie between 0 and 1, both excluded")
    if not 0 <= limits.min_w < math.inf or not 0 <= limits.min_psi < math.inf:
        raise UsageError("--min-effect: must be a number of 0 or more")


def categories_of(periods: Sequence[Period]) -> tuple[str, ...]:
    """The categories that rows of these have scores of, the five first."""
    found = dict.fromkeys(name for period in periods for name in period.bands)
    five = [category.value for category in CATEGORIES if category.value in found]
    return tuple(dict.fromkeys([*five, *found]))


def _tests(periods: Sequence[Period], limits: Limits) -> tuple[Tested, ...]:
    if len(periods) < 2:
        return ()
    latest, earlier = periods[-1], periods[:-1]
    tests = [_of_counts("decisions", latest.decisions, [p.decisions for p in earlier], limits)]
    for category in categories_of(periods):
        before = [p for p in earlier if category in p.bands]
        if category not in latest.bands or not before:
            continue
        bands = [p.bands[category] for p in before]
        tests.append(_of_counts(f"{category} bands", latest.bands[category], bands, limits))
        scores = sum((p.scores[category] for p in before), np.zeros(_FINE, np.int64))
        tests.append(_of_scores(f"{category} scores", latest.scores[category], scores, limits))
    tested = [test["p"] for test in tests if test["p"] is not None]
    corrected = iter(bounds.holm(tested))
    return tuple(_finished(test, corrected, limits) for test in tests)


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("effect", "statistic", "degrees", "p", "merged", "reason")
)


def _of_counts(
    what: str, latest: Mapping[str, int], earlier: Sequence[Mapping[str, int]], limits: Limits
) -> dict[str, Any]:
    counts = [latest.get(name, 0) for name in _DECISIONS]
    before = [sum(each.get(name, 0) for each in earlier) for name in _DECISIONS]
    result = {**_NOTHING, **compare(counts, before, _DECISIONS)}
    if columns := result.pop("columns", None):
        result["effect"] = cohens_w(columns)
    return {"what": what, "effect_name": "w", "limit": limits.min_w, **result}


def _of_scores(what: str, latest: Counts, earlier: Counts, limits: Limits) -> dict[str, Any]:
    """Over ten bins with the same number of earlier scores each, as far as ties allow."""
    ranks = (np.cumsum(earlier) - earlier / 2) / max(int(earlier.sum()), 1)
    bins = np.minimum((ranks * _BINS).astype(int), _BINS - 1)
    a, b = (np.bincount(bins, weights=counts, minlength=_BINS) for counts in (latest, earlier))
    names = [f"bin {number}" for number in range(1, _BINS + 1)]
    result = {**_NOTHING, **compare(a.astype(int).tolist(), b.astype(int).tolist(), names)}
    result["merged"] = None
    if columns := result.pop("columns", None):
        result["effect"] = stability(columns)
    return {"what": what, "effect_name": "psi", "limit": limits.min_psi, **result}


def _finished(test: dict[str, Any], corrected: Iterator[float], limits: Limits) -> Tested:
    p_holm = None if test["p"] is None else next(corrected)
    drift = p_holm is not None and p_holm < limits.alpha and test["effect"] >= test["limit"]
    return Tested(**test, p_holm=p_holm, drift=drift)


def _fine_bin(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """A number for each score that rises with it, 0 to _FINE - 1, fine near 0 and 1, too."""
    bounded = scores.astype(np.float64).clip(1e-7, 1 - 1e-7)
    logit = np.log(bounded) - np.log1p(-bounded)
    place = (logit + _LOGIT_SPAN) / (2 * _LOGIT_SPAN) * _FINE
    numbers: NDArray[np.int64] = place.astype(np.int64).clip(0, _FINE - 1)
    return numbers


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"
