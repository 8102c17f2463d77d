"""`moderate tune`: from files to a policy that loads, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.classify.bundle import load_bundle
from moderate.cli.main import run
from moderate.policy.load import load_policy
from moderate.types import CATEGORIES, Category, Decision
from moderate.weights.verify import verify_bundle
from tests.support.scored import drawn, write_labels, write_results

Captured = pytest.CaptureFixture[str]
NUDITY, VIOLENCE = Category.NUDITY, Category.VIOLENCE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """r.csv with 3,000 images, l.csv with labels of the first 2,000: violence of few only."""
    rng = np.random.default_rng(1)
    scores: dict[Category, Any] = {}
    labels: dict[Category, Any] = {}
    for category in (NUDITY, VIOLENCE):
        scores[category], labels[category] = drawn(rng, 3000)
        labels[category] = labels[category][:2000]
    labels[VIOLENCE][30:] = -1
    write_results(tmp_path / "r.csv", scores, errors=4, copies=range(20))
    write_labels(tmp_path / "l.csv", labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuned(*arguments: str) -> int:
    return run(["tune", "r.csv", "--labels", "l.csv", *arguments])


def error_of(capsys: Captured, *arguments: str) -> str:
    assert run([*arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_policy_is_proposed_written_and_loads(here: Path, capsys: Captured) -> None:
    arguments = ["--target-recall", "0.9", "--max-false-block", "0.02", "--category", "nudity"]
    assert tuned(*arguments, "--out", "p.toml") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "nudity: review thresholds" in out
    text = (here / "p.toml").read_text()
    loaded = load_policy("p.toml").policy
    base = load_policy("balanced").policy
    assert loaded.name == "balanced-tuned"
    for category in CATEGORIES[1:]:
        assert loaded.categories[category] == base.categories[category]
    assert loaded.categories[NUDITY] != base.categories[NUDITY]
    assert (loaded.rating, loaded.bands, loaded.on_warning) == (
        base.rating,
        base.bands,
        base.on_warning,
    )
    comments = [line for line in text.splitlines() if line.startswith("#")]
    for part in (
        "aim: recall at least 0.9, false blocks at most 0.02",
        "confidence: 0.95",
        "r.csv (sha256",
        "l.csv (sha256",
        "seed 0",
        "positives; holdout:",
        "negatives; holdout:",
        "sexual_activity, suggestive, violence, drug_use: not tuned",
    ):
        assert any(part in line for line in comments), part
    assert tuned(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    limits = found["tuning"]["categories"]["nudity"]["thresholds"]
    assert limits == loaded.categories[NUDITY].model_dump()
    assert found["tuning"]["images"] == 3020


def test_the_written_threshold_decides_as_it_was_measured(here: Path, capsys: Captured) -> None:
    assert tuned("--category", "nudity", "--out", "p.toml", "--json") == 0
    found = json.loads(capsys.readouterr().out)["tuning"]["categories"]["nudity"]
    limits = load_policy("p.toml").policy.categories[NUDITY]
    rng = np.random.default_rng(1)
    scores, labels = drawn(rng, 3000)
    caught = sum(
        limits.decision(float(score)) is not Decision.APPROVE
        for score, label in zip(scores[:2000], labels[:2000], strict=True)
        if label == 1
    )
    recall = found["recall"]
    assert caught == recall["train"]["events"] + recall["holdout"]["events"]


def test_too_few_labels_name_category_and_number(here: Path, capsys: Captured) -> None:
    err = error_of(capsys, "tune", "r.csv", "--labels", "l.csv", "--out", "p.toml")
    assert "violence: " in err
    assert "positive labels where 103 are needed" in err
    assert "--category" in err
    assert not (here / "p.toml").exists()
    err = error_of(capsys, "tune", "r.csv", "--labels", "l.csv", "--category", "drug_use")
    assert "--category drug_use: there are no labels for it" in err


def test_an_aim_out_of_reach_writes_nothing(here: Path, capsys: Captured) -> None:
    aim = ("--category", "nudity", "--target-recall", "0.97", "--max-review-share", "0.05")
    assert tuned(*aim, "--out", "p.toml") == 2
    out, err = capsys.readouterr()
    assert "review share" in out  # the table is there all the same
    assert "over --max-review-share 0.05" in err
    assert not (here / "p.toml").exists()


def test_chosen_samples_show_nothing_unless_told_so(here: Path, capsys: Captured) -> None:
    _, labels = drawn(np.random.default_rng(1), 3000)
    write_labels(here / "u.csv", {NUDITY: labels[:2000]}, chosen_by="uncertainty")
    write_labels(here / "v.csv", {NUDITY: labels[:2000]}, chosen_by="random")
    err = error_of(capsys, "tune", "r.csv", "--labels", "u.csv")
    assert "chosen by uncertainty are no random sample" in err
    assert run(["tune", "r.csv", "--labels", "u.csv", "--assume-random"]) == 0
    assert "as asked for" in " ".join(capsys.readouterr().out.split())
    assert run(["tune", "r.csv", "--labels", "v.csv"]) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--target-recall", "1"], "--target-recall 1: must lie between 0 and 1"),
        (["--max-false-block", "0"], "--max-false-block 0: must lie between"),
        (["--holdout", "1"], "--holdout 1: must be"),
        (["--out", "p.yaml"], "a policy is a .toml file"),
        (["--out", "no/p.toml"], "there is no folder"),
        (["--policy", "no.toml"], "no policy"),
        (["--calibrate", "isotonic"], "--calibrate needs --weights"),
        (["--weights", "testcard"], "go with --calibrate"),
        (["--labels", "none.csv"], "none.csv"),
        (["--labels", "empty.csv"], "empty"),
        (["--calibrate", "temperature", "--weights", "testcard", "--bundle-out", "b"], "made by"),
        (["--calibrate", "temperature", "--weights", "gone", "--bundle-out", "."], "there already"),
    ],
)
def test_nonsense_is_one_line(
    arguments: list[str], reason: str, here: Path, capsys: Captured
) -> None:
    (here / "empty.csv").write_text("")
    err = error_of(capsys, "tune", "r.csv", "--labels", "l.csv", *arguments)
    assert reason in err
    assert {file.name for file in here.iterdir()} == {
        *("r.csv", "r.csv.meta.json", "l.csv", "empty.csv")
    }


def test_a_base_that_names_files_stays_where_it_works(here: Path, capsys: Captured) -> None:
    (here / "sub").mkdir()
    base = load_policy("balanced").text
    (here / "base.toml").write_text(f'ignore_file = "cleared.csv"\n{base}')
    (here / "cleared.csv").write_text("sha256,reason,expires\n")
    arguments = ["--category", "nudity", "--policy", "base.toml"]
    assert tuned(*arguments, "--out", "p.toml") == 0
    assert 'ignore_file = "cleared.csv"' in (here / "p.toml").read_text()
    capsys.readouterr()
    assert tuned(*arguments, "--out", "sub/p.toml") == 2
    assert "cleared.csv" in capsys.readouterr().err
    assert list((here / "sub").iterdir()) == []


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_calibrated_copy_and_its_policy(
    method: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    rng = np.random.default_rng(3)
    logit = rng.normal(0, 3, 4000)
    labels = rng.random(4000) < 1 / (1 + np.exp(-logit / 3))
    scores = {NUDITY: 1 / (1 + np.exp(-logit))}
    monkeypatch.chdir(tmp_path)
    facts = {"weights_sha256": load_bundle(str(bundle)).sha256}
    write_results(tmp_path / "r.parquet", scores, **facts)
    write_labels(tmp_path / "l.csv", {NUDITY: labels.astype(np.int8)})
    arguments = ["tune", "r.parquet", "--labels", "l.csv", "--calibrate", method]
    arguments += ["--weights", str(bundle), "--bundle-out", "copy"]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert "Calibration: fitted on the train part, measured on the holdout" in out
    positives = int(labels.sum())
    held = round(0.3 * positives)
    row = next(line for line in out.splitlines() if line.startswith("nudity"))
    fitted_on, measured_on = row.split()[1:4:2], row.split()[4:7:2]
    assert (fitted_on[0], measured_on[0]) == (str(positives - held), str(held))
    assert sum(map(int, [*fitted_on, *measured_on])) == 4000
    assert "are in ./copy; scan with them: moderate scan INPUT --weights ./copy" in err
    assert "review thresholds" not in out
    assert not (tmp_path / "p.toml").exists()
    copy = load_bundle("./copy")
    assert set(copy.card.calibration) == {NUDITY}
    assert verify_bundle("./copy", "cpu", "fp32").selftest is not None
    assert run(["weights", "verify", "./copy", "--device", "cpu"]) == 0
    arguments[-1] = "other"
    capsys.readouterr()
    assert run([*arguments, "--target-recall", "0.9", "--out", "p.toml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights"]["sha256"] == copy.sha256
    assert found["calibration"][0]["after"]["ece"] < found["calibration"][0]["before"]["ece"]
    assert copy.sha256 in (tmp_path / "p.toml").read_text()
    # What comes of scores that are calibrated already is refused.
    write_results(tmp_path / "c.csv", scores, weights_sha256=copy.sha256)
    again = ["tune", "c.csv", *arguments[2:6], "--weights", "./copy", "--bundle-out", "third"]
    assert "calibrates nudity already" in error_of(capsys, *again)
    # And so is writing over what is there.
    assert "is there already" in error_of(capsys, *arguments)


def test_the_review_share_is_the_one_that_the_policy_gives(here: Path, capsys: Captured) -> None:
    """Not of scores alone: what a policy sends to review for another reason counts, too."""
    Path("all.toml").write_text(
        load_policy("balanced").text.replace('on_unscored = "ignore"', 'on_unscored = "review"')
    )
    arguments = ["--category", "nudity", "--target-recall", "0.9", "--policy", "all.toml"]
    assert tuned(*arguments, "--json") == 0
    share = json.loads(capsys.readouterr().out)["tuning"]["review_share"]
    assert tuned(*arguments, "--out", "p.toml") == 0
    assert run(["decide", "r.csv", "--policy", "p.toml", "--out", "d.jsonl", "-q"]) == 0
    rows = [json.loads(line) for line in Path("d.jsonl").read_text().splitlines()]
    scored = [row["decision"] for row in rows if row["status"] == "ok"]
    assert share == pytest.approx(scored.count("review") / len(scored))
    capsys.readouterr()
    assert tuned(*arguments, "--max-review-share", "0.5") == 2
    assert "to review, over --max-review-share" in capsys.readouterr().err


def test_copies_with_different_labels_are_an_error(here: Path, capsys: Captured) -> None:
    lines = Path("l.csv").read_text().splitlines()
    column = lines[0].split(",").index("nudity")
    paths = {line.split(",")[0] for line in lines[1:]}
    rows = [line.split(",") for line in Path("r.csv").read_text().splitlines()]
    header = rows[0]
    of, path = header.index("duplicate_of"), header.index("path")
    copy = next(row for row in rows[1:] if row[of])
    cells = [""] * len(lines[0].split(","))
    original = next(line.split(",") for line in lines[1:] if line.split(",")[0] == copy[of])
    cells[0], cells[column] = copy[path], "0" if original[column] == "1" else "1"
    kept = [line for line in lines if line.split(",")[0] != copy[path]]
    Path("l.csv").write_text("\n".join([*kept, ",".join(cells)]) + "\n")
    assert paths
    err = error_of(capsys, "tune", "r.csv", "--labels", "l.csv", "--category", "nudity")
    assert "copies of one image have different labels for nudity" in err


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "r.csv", "--by", "random", "--out", "r.csv"],
        ["tune", "r.csv", "--labels", "l.csv", "--policy", "p.toml", "--out", "p.toml"],
        ["eval", "r.csv", "--labels", "l.csv", "--out", "r.csv.meta.json"],
        ["report", "r.csv", "--out", "r.csv.meta.json"],
    ],
)
def test_what_is_read_is_not_overwritten(here: Path, capsys: Captured, command: list[str]) -> None:
    Path("p.toml").write_text(load_policy("strict").text)
    before = {file: file.read_bytes() for file in here.iterdir()}
    assert "is an input" in error_of(capsys, *command)
    assert {file: file.read_bytes() for file in here.iterdir()} == before
