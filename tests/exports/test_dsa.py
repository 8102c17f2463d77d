"""Statements of reasons: what the database takes, and nothing that it must not have."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.errors import PolicyError
from moderate.exports.dsa import FIELDS, StatementsOfReasons
from moderate.exports.interface import ExportOptions
from moderate.policy.load import load_policy, parse_policy
from moderate.policy.statements import STATEMENT_OF
from moderate.text import printable
from moderate.types import CATEGORIES
from tests.support.pictures import encode, scene
from tests.support.scored import write_results

# Version 2 of the API: what a statement may hold in the fields that are filled.
ALLOWED = {
    "category": {"STATEMENT_CATEGORY_OTHER_VIOLATION_TC", "STATEMENT_CATEGORY_VIOLENCE"},
    "automated_detection": {"Yes"},
    "automated_decision": {"AUTOMATED_DECISION_FULLY", "AUTOMATED_DECISION_PARTIALLY"},
    "content_type": {'["CONTENT_TYPE_IMAGE"]', '["CONTENT_TYPE_VIDEO"]'},
}
PLATFORM = """
[dsa]
decision_visibility = ["DECISION_VISIBILITY_CONTENT_REMOVED"]
decision_ground = "DECISION_GROUND_INCOMPATIBLE_CONTENT"
source_type = "SOURCE_VOLUNTARY"
automated_decision = "AUTOMATED_DECISION_PARTIALLY"
territorial_scope = ["DE", "FR"]
[dsa.categories.drug_use]
category = "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS"
keywords = ["KEYWORD_PROHIBITED_PRODUCTS"]
"""
BALANCED = Path(__file__).parents[2].joinpath("moderate/policy/presets/balanced.toml").read_text()
OWN = BALANCED.replace('name = "balanced"', 'name = "ours"')


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str = "x.csv") -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def written(rows: list[Mapping[str, Any]], **facts: str) -> list[dict[str, str]]:
    """The statements of rows that need have only what differs from a blocked image."""
    texts: list[str] = []
    export = StatementsOfReasons(ExportOptions())
    export.start(texts.append, {"run_id": "ab" * 16, "started": "2026-11-25T10:00:00Z", **facts})
    usual = {"path": "./a.png", "decision": "block", "reasons": "nudity 0.97 >= block 0.85"}
    scores: dict[str, Any] = dict.fromkeys(CATEGORIES, 0.01)
    usual |= {"sha256": "cd" * 32, "format": "png", **scores, "nudity": 0.97}
    for row in rows:
        export.add({**usual, **row})
    export.finish({})
    return list(csv.DictReader("".join(texts).splitlines()))


def test_blocked_images_alone_have_a_statement_and_it_has_no_name(tmp_path: Path) -> None:
    scores: dict[Any, Any] = {c: np.zeros(6, np.float32) for c in CATEGORIES}
    scores["nudity"][:] = (0.99, 0.6, 0.1, 0.97, 0.2, 0.0)
    scores["violence"][3:5] = (0.98, 0.999)
    write_results(tmp_path / "r.csv", scores, errors=2)
    assert run(["report", "r.csv", "--report", "dsa:x.csv"]) == 0
    rows = read()
    run_id = json.loads(Path("r.csv.meta.json").read_text())["run_id"]
    assert [row["puid"] for row in rows] == [f"moderate-{run_id}-{n}" for n in (1, 4, 5)]
    assert [row["category"] for row in rows] == [
        "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
        *("STATEMENT_CATEGORY_VIOLENCE", "STATEMENT_CATEGORY_VIOLENCE"),
    ]
    both = rows[1]
    assert json.loads(both["category_addition"]) == ["STATEMENT_CATEGORY_OTHER_VIOLATION_TC"]
    assert json.loads(both["category_specification"]) == ["KEYWORD_NUDITY"]
    assert both["decision_facts"].endswith("blocking: violence 0.98, nudity 0.97.")
    for row in rows:
        assert tuple(row) == FIELDS
        assert row["application_date"] == "2026-11-02"
        assert all(row[name] in values for name, values in ALLOWED.items())
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,500}", row["puid"])
        filled = {name for name, value in row.items() if value}
        assert filled - {"category_addition", "category_specification"} == {
            *ALLOWED, "decision_facts", "application_date", "puid"
        }  # fmt: skip
    assert ".jpg" not in Path("x.csv").read_text()


def test_a_scan_and_its_results_give_the_same_statements(bundle: Path) -> None:
    Path("in").mkdir()
    for number in range(4):
        Path(f"in/{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    Path("p.toml").write_text(re.sub(r"(review|block) = [\d.]+", r"\1 = 0.0", OWN) + PLATFORM)
    arguments = ["scan", "in", "--weights", str(bundle), "-q", "--policy", "p.toml"]
    assert run([*arguments, "--out", "r.parquet", "--report", "dsa:a.csv"]) == 0
    assert run(["report", "r.parquet", "--report", "dsa:b.csv"]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    assert len(read("a.csv")) == 4
    assert len({row["puid"] for row in read("a.csv")}) == 4
    # Decided again, it is another decision.
    assert run(["decide", "r.parquet", "--policy", "p.toml", "--out", "d.parquet"]) == 0
    assert run(["report", "d.parquet", "--report", "dsa:c.csv"]) == 0
    assert not {row["puid"] for row in read("a.csv")} & {row["puid"] for row in read("c.csv")}


def test_what_the_platform_says_in_its_policy_is_in_each_statement() -> None:
    policy = parse_policy(OWN + PLATFORM, "p").policy.model_dump_json()
    why = "sexual_activity 0.95 >= block 0.90; drug_use 0.96 >= block 0.90 (override x)"
    (row,) = written(
        [{"reasons": why, "sexual_activity": 0.95, "drug_use": 0.96}], policy_json=policy
    )
    assert row["decision_visibility"] == '["DECISION_VISIBILITY_CONTENT_REMOVED"]'
    assert row["decision_ground"] == "DECISION_GROUND_INCOMPATIBLE_CONTENT"
    assert row["source_type"] == "SOURCE_VOLUNTARY"
    assert row["automated_decision"] == "AUTOMATED_DECISION_PARTIALLY"
    assert row["territorial_scope"] == '["DE", "FR"]'
    assert row["category"] == "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS"
    assert json.loads(row["category_specification"]) == [
        *("KEYWORD_PROHIBITED_PRODUCTS", "KEYWORD_ADULT_SEXUAL_MATERIAL")
    ]
    assert set(STATEMENT_OF) == set(CATEGORIES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('decision_visibility = ["REMOVED"]', "dsa.decision_visibility"),
        ('territorial_scope = ["UK"]', "dsa.territorial_scope"),
        ('territorial_scope = "DE"', "dsa.territorial_scope: is not a list, got 'DE'"),
        ("categories = 3", "dsa.categories: is not a table, got 3"),
        ('territorial_scope = ["DE", "DE"]', "a value is there twice"),
        ('puid = "mine"', "dsa.puid: unknown key"),
        ('categories.nudity.category = "PORN"', "dsa.categories.nudity.category"),
        ('categories.hate.category = "STATEMENT_CATEGORY_VIOLENCE"', "dsa.categories.hate"),
        (
            'categories.nudity = {category = "STATEMENT_CATEGORY_VIOLENCE", keywords = ["a b"]}',
            "dsa.categories.nudity.keywords",
        ),
    ],
)
def test_values_that_the_database_does_not_have_are_refused(wrong: str, said: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(said)):
        parse_policy(f"{OWN}\n[dsa]\n{wrong}\n", "p")


def test_the_table_decides_nothing() -> None:
    Path("p.toml").write_text(OWN + PLATFORM)
    assert load_policy("p.toml").policy.model_copy(update={"dsa": None}) == (
        parse_policy(OWN, "p").policy
    )


def test_what_no_score_blocked_has_no_category() -> None:
    listed = {"reasons": "block list: nudity 0.9; asked for by J. Doe", "nudity": 0.9}
    unread = {"reasons": "error truncated: on_error block", **dict.fromkeys(CATEGORIES)}
    warned = {"reasons": "partly_seen: on_warning block", "violence": 0.99}
    label = {"reasons": "label m/NSFL 0.99 >= block 0.5"}
    rows = written([listed, unread, warned, label])
    for row in rows:
        assert (row["category"], row["category_specification"], row["decision_facts"]) == ("",) * 3
        assert row["puid"]
    assert [row["automated_decision"] for row in rows] == [
        *("AUTOMATED_DECISION_PARTIALLY", *("AUTOMATED_DECISION_FULLY",) * 3)
    ]


def test_a_video_has_one_statement_and_its_frames_none() -> None:
    frame = {"path": "./v.mp4!/00:00:01.000", "format": "mp4", "sha256": None}
    video = {"path": "./v.mp4", "format": "mp4"}
    (row,) = written([frame, frame, video])
    assert row["content_type"] == '["CONTENT_TYPE_VIDEO"]'
    assert row["puid"].endswith("-3")


@pytest.mark.parametrize(
    "hostile", ["=cmd|'/C calc'!A0", "+1", "@x", "\t=1", '"\n', "\x1b[31m", "é"]
)
def test_no_text_of_others_gets_in(hostile: str) -> None:
    policy = parse_policy(OWN, "p").policy.model_copy(
        update={"name": printable(hostile), "description": printable(hostile)}
    )
    names = dict.fromkeys(
        ("path", "run_id", "error_message", "label", "uri", "duplicate_of", "warnings"), hostile
    )
    row = {**names, "reasons": f"nudity 0.97 >= block 0.85 (override {hostile})", "extra": hostile}
    facts = {"weights": hostile, "policy": hostile, "run_id": hostile, "started": hostile}
    (made,) = written([row], policy_json=policy.model_dump_json(), **facts)
    for name, cell in made.items():
        assert cell.isascii()
        assert cell.isprintable()
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), name
        assert hostile not in cell
    assert re.fullmatch(r"moderate-[0-9a-f]{64}-1", made["puid"])
    assert made["application_date"] == ""


def test_results_without_a_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {name: np.ones(1, np.float32) for name in CATEGORIES}
    write_results(Path("r.csv"), scores, run_id="")
    assert run(["report", "r.csv", "--report", "dsa:x.csv"]) == 2
    assert "no unique id" in capsys.readouterr().err
    assert not Path("x.csv").exists()
