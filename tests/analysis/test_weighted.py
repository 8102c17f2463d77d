"""Weighted shares: exact where weights are equal, and holding as often as promised where not."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn import metrics as sk

from moderate.analysis import bounds, weighted
from moderate.analysis.evaluation import Wanted, evaluate
from moderate.analysis.labels import read_labels
from moderate.analysis.metrics import measure
from moderate.analysis.sample import as_csv, sample
from moderate.analysis.tune import weighted_block_threshold, weighted_review_threshold
from moderate.analysis.weighted import Tally
from moderate.cli.main import run
from moderate.errors import InputError
from moderate.policy.load import load_policy
from moderate.policy.thresholds import reaches
from moderate.results.read import read_results
from moderate.types import Category
from tests.support.scored import drawn, write_results

Captured = pytest.CaptureFixture[str]
NUDITY = Category.NUDITY
POLICY = load_policy("balanced").policy


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "weighted_labels.py"
    spec = importlib.util.spec_from_file_location("weighted_labels", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("events", "total"), [(0, 60), (3, 93), (40, 41), (0, 1)])
def test_equal_weights_have_the_bound_of_clopper_and_pearson(events: int, total: int) -> None:
    for weight in (1.0, 250.0):
        seen, others = (
            Tally(count, count * weight, count * weight**2) for count in (events, total - events)
        )
        for alpha in (0.05, 0.001):
            expected = bounds.upper_bound(events, total, alpha)
            assert weighted.upper_bound(seen, others, weight, alpha) == pytest.approx(expected)
            at_limit = weighted.exceeds(expected, seen, others, weight)
            assert at_limit == pytest.approx(alpha, rel=1e-6)


def test_what_the_heaviest_may_hide_is_in_the_bound() -> None:
    light = Tally(100, 100.0, 0.0)
    assert weighted.upper_bound(Tally(0, 0.0, 0.0), light, 1.0, 0.05) < 0.04
    assert weighted.upper_bound(Tally(0, 0.0, 0.0), light, 50.0, 0.05) > 0.55
    assert weighted.upper_bound(light, Tally(0, 0.0, 0.0), 1.0, 0.05) == 1.0


@pytest.mark.parametrize("name", ["bands, 12 % of positives hidden low",
                                  "bands of decisions by another category",
                                  "a chance for each image by its score"])  # fmt: skip
def test_thresholds_hold_as_often_as_promised(simulation: ModuleType, name: str) -> None:
    """A short form of the benchmark, which has more scenarios."""
    sampler, options = simulation.SCENARIOS[name]
    make = simulation.maker(8000, **options)
    draws = 120
    most = next(k for k in range(draws) if bounds.at_most(k, draws, simulation.ALPHA) > 1 - 1e-4)
    recall = simulation.recall_coverage(
        np.random.default_rng(1), make, sampler, weighted_review_threshold, 150, 300, 0.8, draws
    )
    blocks = simulation.block_coverage(np.random.default_rng(2), make, sampler, 150, 200, 0.02,
                                       draws)  # fmt: skip
    assert recall.wrong <= most
    assert blocks.wrong <= most
    assert blocks.proposed > draws / 2
    if sampler is simulation.by_band:
        assert recall.proposed > draws / 2


def test_the_effective_sample_size_would_not_hold(simulation: ModuleType) -> None:
    """Why the simpler bound is not the one in use; also that the simulation can find one wrong."""
    sampler, options = simulation.SCENARIOS["a chance for each image by its score"]
    found = simulation.recall_coverage(
        np.random.default_rng(1), simulation.maker(8000, **options), sampler,
        simulation.effective_size_threshold, 150, 300, 0.9, 60,
    )  # fmt: skip
    assert found.wrong > 0.2 * found.draws


def test_thresholds_of_equal_weights_are_those_of_plain_labels(simulation: ModuleType) -> None:
    rng = np.random.default_rng(3)
    scores, labels = drawn(rng, 2000)
    of = simulation.Dump(scores, labels == 1, np.zeros(2000, np.int64))
    everything = np.ones(2000, bool)
    alike = simulation.labelled(of, everything, np.full(2000, 1e6))
    from moderate.analysis.tune import block_threshold, review_threshold

    positives, negatives = scores[labels == 1], scores[labels == 0]
    assert weighted_review_threshold(alike, 0.9, 0.05) == review_threshold(positives, 0.9, 0.05)
    assert weighted_block_threshold(alike, 0.02, 0.05) == block_threshold(negatives, 0.02, 0.05)


def test_metrics_are_those_of_scikit_learn_with_weights() -> None:
    rng = np.random.default_rng(4)
    scores, labels = drawn(rng, 400)
    scores, truth = scores.round(2), labels == 1
    weights = rng.uniform(1, 90, 400)
    flagged, blocked = reaches(scores, 0.3), reaches(scores, 0.85)
    of = measure(truth, scores, flagged, blocked, weights=weights, resamples=50)
    for estimate, metric in (
        (of.precision, sk.precision_score), (of.recall, sk.recall_score), (of.f1, sk.f1_score)
    ):  # fmt: skip
        expected = metric(truth, flagged, sample_weight=weights)
        assert estimate.value == pytest.approx(expected)
    area = sk.average_precision_score(truth, scores, sample_weight=weights)
    assert of.average_precision.value == pytest.approx(area)
    assert of.roc_auc.value == pytest.approx(sk.roc_auc_score(truth, scores, sample_weight=weights))
    assert (of.recall.method, of.average_precision.method) == ("gamma", "bootstrap")
    assert of.recall.low is not None
    assert of.recall.high is not None
    assert of.recall.value is not None
    assert of.recall.low < of.recall.value < of.recall.high


def test_the_interval_of_precision_knows_the_weights_of_flagged_images_alone() -> None:
    truth = np.repeat([True, False, True, False], [99, 1, 3, 300])
    flagged = np.repeat([True, False], [100, 303])
    weights = np.where(flagged, 1.1, 200.0)
    scores = np.where(flagged, np.float32(0.9), np.float32(0.1)).astype(np.float32)
    of = measure(truth, scores, flagged, flagged, weights=weights).precision
    assert of.value == pytest.approx(0.99)
    assert of.low is not None
    assert 0.9 < of.low < 0.99


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bool]]:
    """Results of 4,000 images, 4 % of them positive, and the truth by path."""
    rng = np.random.default_rng(5)
    scores, labels = drawn(rng, 4000, 0.04)
    file = write_results(tmp_path_factory.mktemp("dump") / "r.parquet", {NUDITY: scores})
    return file, {f"./{n}.jpg": bool(label) for n, label in enumerate(labels)}


def filled(template: str, truth: dict[str, bool]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(template.splitlines()))
    for row in rows:
        row["nudity"] = str(int(truth[row["path"]]))
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def template(results: Path, **options: object) -> str:
    taken = sample(read_results(str(results)), POLICY, **{"by": "band", "category": NUDITY,
                                                          **options})  # type: ignore[arg-type]  # fmt: skip
    return as_csv(taken)


@pytest.mark.parametrize(
    "options",
    [{"count": 60}, {"count": 60, "random": 500}, {"count": 40, "random": 300, "by": "uncertainty"},
     {"count": 60, "random": 200, "category": None}],
)  # fmt: skip
def test_probabilities_of_a_sample_add_up_to_all_images(
    dump: tuple[Path, dict[str, bool]], options: dict[str, object]
) -> None:
    rows = list(csv.DictReader(template(dump[0], **options).splitlines()))
    assert len({row["path"] for row in rows}) == len(rows)
    total = sum(1 / float(row["inclusion_probability"]) for row in rows)
    assert total == pytest.approx(4000)
    assert len({row["inclusion_probability"] for row in rows}) > 1
    assert {row["chosen_by"] for row in rows} in ({"band"}, {"band+random"}, {"uncertainty+random"})


def test_a_mixture_takes_each_image_of_a_band_as_often(dump: tuple[Path, dict[str, bool]]) -> None:
    counts: dict[str, int] = {}
    chances: dict[str, float] = {}
    for seed in range(12):
        text = template(dump[0], count=50, random=800, seed=seed)
        for row in csv.DictReader(text.splitlines()):
            if row["chosen_for"] == "nudity approve":
                counts[row["path"]] = counts.get(row["path"], 0) + 1
                chances[row["path"]] = float(row["inclusion_probability"])
    chance = float(np.mean(list(chances.values())))
    seen = np.array(list(counts.values()))
    images = round(seen.sum() / 12 / chance)
    expected = 12 * chance
    statistic = ((seen - expected) ** 2).sum() + (images - len(seen)) * expected**2
    statistic /= expected * (1 - chance)
    assert abs(statistic - images) < 5 * (2 * images) ** 0.5


def test_labels_of_bands_tune_and_evaluate_for_all_images(
    dump: tuple[Path, dict[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    results, truth = dump
    monkeypatch.chdir(tmp_path)
    labels = write(tmp_path / "l.csv", filled(template(results, count=80, random=900), truth))
    arguments = ["tune", str(results), "--labels", labels, "--target-recall", "0.8"]
    assert run([*arguments, "--max-false-block", "0.02", "--out", "p.toml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    of = found["tuning"]["categories"]["nudity"]
    assert found["tuning"]["aim"]["holdout"] == 0
    assert of["recall"]["bound"] >= 0.8
    assert of["recall"]["train"]["weighted"] is not None
    scores = read_results(str(results)).table(["path", "nudity"]).to_pylist()
    caught = [row["nudity"] >= of["thresholds"]["review"] for row in scores if truth[row["path"]]]
    assert np.mean(caught) >= 0.8
    assert "Fay and Feuer" in Path("p.toml").read_text()
    # The same labels taken for a random sample find far too many positives.
    plain = evaluate(read_results(str(results)), read_labels(labels), Wanted({}, {}), resamples=0)
    nudity = plain.categories[0]
    prevalence = np.mean(list(truth.values()))
    assert nudity.prevalence.value == pytest.approx(prevalence, abs=0.01)
    assert nudity.positives / nudity.n > 1.5 * prevalence
    assert nudity.measured.recall.method == "gamma"
    assert plain.decisions.missed.method == "gamma"
    assert any("weighted by the inclusion probabilities" in note for note in plain.notes)
    assert run(["eval", str(results), "--labels", labels, "--bootstrap", "20"]) == 0


def test_labels_that_do_not_stand_for_all_images_are_refused(
    dump: tuple[Path, dict[str, bool]], tmp_path: Path, capsys: Captured
) -> None:
    results, truth = dump
    rows = filled(template(results, count=80, random=300), truth)
    tune = ["tune", str(results), "--target-recall", "0.5", "--labels"]

    def refused(some: list[dict[str, str]], reason: str) -> None:
        assert run([*tune, write(tmp_path / "l.csv", some)]) == 2
        err = capsys.readouterr().err
        assert reason in err
        assert err.count("\n") == 1

    stand = "by their inclusion probabilities, the labels of nudity stand for"
    refused([row for row in rows if row["chosen_for"] != "nudity approve"], stand)
    unknown = [row | ({"nudity": ""} if row["chosen_for"] == "nudity approve" else {})
               for row in rows]  # fmt: skip
    refused(unknown, stand)
    other = filled(template(results, count=200, by="random", seed=9), truth)
    known = {row["path"] for row in rows}
    refused([*rows, *(row for row in other if row["path"] not in known)], "holds several samples")
    refused([*rows, *other], "with two inclusion probabilities")
    refused([rows[0] | {"inclusion_probability": "1.5"}, *rows[1:]], "is not a probability")
    # Labels that are not known are stood for by the others of their group.
    some = [row | ({"nudity": ""} if number % 4 == 0 else {}) for number, row in enumerate(rows)]
    assert run([*tune, write(tmp_path / "l.csv", some)]) == 0
    capsys.readouterr()
    # Few labels that stand for many cannot show a high recall, and it is said what would.
    few = filled(template(results, count=30), truth)
    refused_aim = ["tune", str(results), "--labels", write(tmp_path / "l.csv", few)]
    assert run([*refused_aim, "--target-recall", "0.95"]) == 2
    err = capsys.readouterr().err
    assert "do not show recall 0.95: some labels stand for" in err
    assert "it takes about" in err
    # More labels than there are images would be no advice.
    some = filled(template(results, count=5), truth)
    fewest = ["tune", str(results), "--labels", write(tmp_path / "l.csv", some)]
    assert run([*fewest, "--target-recall", "0.999"]) == 2
    err = capsys.readouterr().err
    assert " images sampled from: lower the aim, or scan and label more images" in err
    assert run([*refused_aim, "--target-recall", "0.95", "--assume-random"]) == 2  # too few, plain


def test_plain_labels_are_taken_as_before(tmp_path: Path) -> None:
    text = "path,nudity,chosen_by,inclusion_probability\na,1,random,0.5\nb,0,random,0.5\n"
    (tmp_path / "l.csv").write_text(text)
    assert read_labels(str(tmp_path / "l.csv")).uneven is None
    (tmp_path / "l.csv").write_text("path,nudity,inclusion_probability\na,1,0.5\nb,0,\n")
    assert read_labels(str(tmp_path / "l.csv")).sampling is None
    (tmp_path / "l.csv").write_text("path,nudity,inclusion_probability\na,1,0.5\nb,0,x\n")
    with pytest.raises(InputError, match=r"line 3 of .* is not a probability"):
        read_labels(str(tmp_path / "l.csv"))
