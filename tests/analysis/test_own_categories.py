"""Own categories in what is made of stored results: evaluation, thresholds, labels, reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.analysis.labels import read_labels
from moderate.cli.main import run
from moderate.policy.batch import UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.policy.rows import decide_rows
from moderate.results.read import read_results
from moderate.results.targets import open_writers
from moderate.review.journal import Entry, Journal
from moderate.review.labelling import Template
from moderate.types import UNSCORED, Category, ImageFacts, ImageRef

Captured = pytest.CaptureFixture[str]
COUNT = 400
SUFFIXES = ("csv", "parquet", "jsonl")


def policy_of(**own: Any) -> Policy:
    base = load_policy("balanced").policy
    return Policy.model_validate({**base.model_dump(), "own": own} if own else base.model_dump())


POLICY = {"gambling": {"review": 0.6, "block": 0.9}}
FACTS = {
    "tool": "moderate",
    "started": "2026-03-01T00:00:00Z",
    "run_id": "r1",
    "weights": "w",
    "weights_sha256": "0" * 64,
}


def results(path: str, seed: int = 0, **own: Any) -> Path:
    """Rows with scores of nudity, gambling and weapons, decided by a policy with these limits."""
    rng = np.random.default_rng(seed)
    policy = policy_of(**own)
    rows = [
        UndecidedRow(
            ImageRef(f"i/{number:04}.jpg".encode()),
            ImageFacts(sha256=f"{number:064x}", format="jpeg"),
            {**UNSCORED, Category.NUDITY: float(np.float32(rng.uniform(0, 0.2)))},
            labels={
                "gambling": float(np.float32(rng.uniform(0, 1))),
                "weapons": float(np.float32(rng.uniform(0, 1))),
            },
        )
        for number in range(COUNT)
    ]
    facts = {**FACTS, "policy": policy.name, "policy_json": policy.model_dump_json()}
    with open_writers([path]) as writers:
        for writer in writers:
            writer.start(facts, (), ("gambling", "weapons"))
            for row in decide_rows(Judge(policy), rows, "r1"):
                writer.write(row)
            writer.seal(facts)
            writer.commit(facts)
    return Path(path)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    five = "".join(
        f"{name} = {{ review = {each.review}, block = {each.block} }}\n"
        for name, each in load_policy("balanced").policy.categories.items()
    )
    Path("p.toml").write_text(
        f'name = "p"\n[categories]\n{five}own.gambling = {{ review = 0.6, block = 0.9 }}\n'
    )


def rows_of(path: str) -> list[dict[str, Any]]:
    return list(read_results(path).rows())


def label_all(path: str) -> None:
    """Labels of gambling: 1 above 0.5, with some noise."""
    rng = np.random.default_rng(1)
    with open("l.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "gambling", "nudity"])
        for row in rows_of(path):
            writer.writerow([row["path"], int(row["gambling"] > 0.5 + rng.normal(0, 0.02)), ""])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_of_own_categories_are_evaluated(suffix: str, capsys: Captured) -> None:
    results(f"r.{suffix}", **POLICY)
    label_all(f"r.{suffix}")
    arguments = ["eval", f"r.{suffix}", "--labels=l.csv", "--bootstrap=0"]
    assert run([*arguments, "--out=e.json", "--min-recall=gambling=0.5"]) == 0
    found = json.loads(Path("e.json").read_text())["categories"]
    assert list(found)[5:] == ["gambling", "weapons"]
    assert found["gambling"]["images"] == COUNT
    assert found["gambling"]["review"] == 0.6
    assert found["weapons"]["review"] is None
    with open("l.csv") as file:
        truth = {row["path"]: row for row in csv.DictReader(file)}
    flagged = [row for row in rows_of(f"r.{suffix}") if row["gambling"] >= np.float32(0.6)]
    right = sum(truth[row["path"]]["gambling"] == "1" for row in flagged)
    measured = found["gambling"]["at_review"]
    assert measured["precision"]["value"] == pytest.approx(right / len(flagged))
    assert run([*arguments, "--min-recall=gambling=0.999"]) == 1
    capsys.readouterr()
    assert run([*arguments, "--min-recall=gambing=0.5"]) == 2
    assert "categories are nudity" in capsys.readouterr().err
    Path("w.csv").write_text(Path("l.csv").read_text().replace("gambling", "weapons"))
    assert run(["eval", f"r.{suffix}", "--labels=w.csv", "--bootstrap=0", "--out=w.md"]) == 0
    assert "weapons" in Path("w.md").read_text()


@pytest.mark.parametrize("own", [POLICY, {}])
def test_thresholds_of_own_categories_are_tuned(own: dict[str, Any]) -> None:
    results("r.parquet", **own)
    label_all("r.parquet")
    base = "p.toml" if own else "balanced"
    tune = ["tune", "r.parquet", "--labels=l.csv", "--target-recall=0.9", f"--policy={base}"]
    assert run([*tune, "--category=gambling", "--out=t.toml"]) == 0
    tuned = load_policy("t.toml").policy
    assert 0.3 < tuned.own["gambling"].review < 0.6
    assert tuned.own["gambling"].block == (0.9 if own else 1.0)
    assert tuned.categories == load_policy(base).policy.categories
    assert run(["decide", "r.parquet", "--policy=t.toml", "--out=d.csv"]) == 0
    flagged = [row for row in rows_of("d.csv") if row["decision"] != "approve"]
    assert all("gambling" in row["reasons"] for row in flagged)
    assert run(["tune", "r.parquet", "--labels=l.csv", "--category=gambing"]) == 2


def test_templates_have_a_column_for_each_own_category() -> None:
    results("r.csv", **POLICY)
    sample = ["sample", "r.csv", "--by=uncertainty", "--count=20", "--category=gambling"]
    assert run([*sample, "--out=s.csv"]) == 0
    with open("s.csv") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[6:10] == ["drug_use", "gambling", "weapons", "chosen_by"]
    scores = {row["path"]: row["gambling"] for row in rows_of("r.csv")}
    nearest = sorted(min(abs(s - 0.6), abs(s - 0.9)) for s in scores.values())[:20]
    chosen = [scores[line["path"]] for line in lines]
    assert sorted(min(abs(s - 0.6), abs(s - 0.9)) for s in chosen) == nearest
    assert run(["sample", "r.csv", "--by=uncertainty", "--category=weapons", "--out=w.csv"]) == 2
    template = Template("s.csv", approve_is_no=True)
    assert template.categories[5:] == ("gambling", "weapons")
    entry = Entry(
        row=1,
        path=lines[0]["path"],
        sha256=lines[0]["sha256"],
        reviewer="ada",
        machine_decision="",
        machine_scores={},
        decision="approve",
        labels={"gambling": True},
    )
    template.record(entry)
    with open("s.csv") as file:
        filled = next(csv.DictReader(file))
    assert (filled["gambling"], filled["weapons"], filled["nudity"]) == ("1", "0", "0")
    assert read_labels("s.csv", own=("gambling", "weapons")).labelled[-1] == "weapons"


def test_answers_of_a_review_become_labels(capsys: Captured) -> None:
    results("r.csv", **POLICY)
    row = next(row for row in rows_of("r.csv") if row["decision"] == "review")
    number = int(row["path"][4:8]) + 1
    journal = Journal(Path("r.csv.decisions.jsonl"))
    journal.append(
        Entry(
            row=number,
            path=row["path"],
            sha256=row["sha256"],
            reviewer="ada",
            machine_decision="review",
            machine_scores={"gambling": row["gambling"]},
            decision="block",
            labels={"gambling": True, "weapons": False},
        )
    )
    journal.close()
    assert run(["review", "export", "r.csv", "--labels=out.csv"]) == 0
    labels = read_labels("out.csv", own=("gambling", "weapons"))
    assert labels.values["gambling"].tolist() == [1]
    assert labels.values["weapons"].tolist() == [0]
    decisions = ["--decisions=r.csv.decisions.jsonl"]
    assert run(["report", "r.csv", *decisions, "--json"]) == 0
    bands = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert any(each.get("category") == "gambling" for each in bands["bands"])


def test_reports_of_stored_results_count_own_categories(capsys: Captured) -> None:
    results("r.parquet", **POLICY)
    assert run(["report", "r.parquet", "--out=r.json"]) == 0
    found = json.loads(Path("r.json").read_text())
    counted = found["categories"]["gambling"]
    assert sum(counted.values()) == COUNT
    assert "weapons" not in found["categories"]
    assert any("no thresholds for weapons" in note for note in found["notes"])
    assert run(["report", "r.parquet", "--out=r.html"]) == 0
    assert "weapons" in Path("r.html").read_text()
    capsys.readouterr()
    assert run(["explain", "r.parquet", "./i/0003.jpg", "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)["images"][0]
    by_name = {each["category"]: each for each in explained["scores"]}
    assert by_name["gambling"]["review"] == 0.6
    assert by_name["weapons"]["review"] is None
    assert explained["follows"] is True
    assert explained["labels"] == []


def test_differences_and_trends_show_own_categories() -> None:
    results("a.csv", **POLICY)
    results("b.csv", seed=5, **POLICY)
    assert run(["diff", "a.csv", "b.csv", "--out=d.json"]) == 0
    found = json.loads(Path("d.json").read_text())
    moved = found["categories"]["gambling"]
    assert moved["stricter"] > 0
    assert {each["category"] for each in found["moved"]} <= {"gambling", "weapons"}
    Path("q.toml").write_text(Path("p.toml").read_text().replace("review = 0.6", "review = 0.8"))
    assert run(["diff", "a.csv", "--policy=q.toml", "--out=q.json"]) == 0
    milder = json.loads(Path("q.json").read_text())["categories"]["gambling"]["milder"]
    scores = [row["gambling"] for row in rows_of("a.csv")]
    assert milder == sum(0.6 <= score < 0.8 for score in scores)
    assert run(["report", "--trend", "a.csv", "--out=t.json"]) == 0
    assert "gambling" in Path("t.json").read_text()


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("sarif", "o.sarif"),
        ("junit", "o.xml"),
        ("coop", "o.jsonl"),
        ("label-studio", "o.json"),
        ("fiftyone", "o.csv"),
        ("dsa", "o2.csv"),
    ],
)
def test_exports_hold_own_categories(form: str, file: str) -> None:
    results("r.parquet", **POLICY)
    assert run(["report", "r.parquet", "--report", f"{form}:{file}"]) == 0
    text = Path(file).read_text()
    assert "gambling" in text
    if form == "sarif":
        document = json.loads(text)
        rules = {each["ruleId"] for each in document["runs"][0]["results"]}
        assert rules == {"gambling"}
        assert "weapons" in document["runs"][0]["results"][0]["properties"]["scores"]
    if form == "fiftyone":
        assert text.splitlines()[0].endswith("uri,gambling,weapons")
    if form == "label-studio":
        choices = [
            each["value"]["choices"]
            for task in json.loads(text)
            for each in task["predictions"][0]["result"]
            if each["from_name"] == "categories"
        ]
        assert choices
        assert all(each == ["gambling"] for each in choices)


def test_flags_have_own_categories() -> None:
    results("r.parquet", **POLICY)
    assert run(["report", "r.parquet", "--shape=flags", "--out=f.jsonl"]) == 0
    first = json.loads(Path("f.jsonl").read_text().splitlines()[0])
    flags = {each["name"]: each["confidence"] for each in first["detect-moderation"]["flags"]}
    assert list(flags) == ["Nudity", "Gambling", "Weapons"]


def test_a_carried_column_elsewhere_is_no_category() -> None:
    results("r.csv", **POLICY)
    with open("r.csv", newline="") as file:
        lines = list(csv.reader(file))
    place = lines[0].index("weapons")
    moved = [[*line[:3], line[place], *line[3:place], *line[place + 1 :]] for line in lines]
    with open("m.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(moved)
    read = read_results("m.csv")
    assert (read.own_categories, read.carried) == (("gambling",), ("weapons",))


def test_an_approval_by_an_own_category_alone_is_no_contradiction() -> None:
    results("r.csv", **POLICY)
    lines = Path("r.csv").read_text().splitlines()
    place = lines[0].split(",").index("nudity")
    cut = [lines[0]]
    for line in lines[1:3]:
        cells = line.split(",")
        cells[place] = ""
        cut.append(",".join(cells))
    Path("c.csv").write_text("\n".join(cut) + "\n")
    assert len(rows_of("c.csv")) == 2
