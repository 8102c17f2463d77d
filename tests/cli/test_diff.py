"""`moderate diff`: two results, or two policies, row by row."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moderate.analysis.diff import compare_policies, compare_results
from moderate.cli.main import run
from moderate.policy.load import load_policy
from moderate.types import CATEGORIES, Decision
from tests.support.oracle import asked, decide

Captured = pytest.CaptureFixture[str]
SUFFIXES = ("csv", "parquet", "jsonl")
NAMES = [category.value for category in CATEGORIES]
Scored = tuple[str, str, list[float | None]]
"""Path, decision, scores; the decision `error` stands for a row with an error."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(path: str, rows: Sequence[Scored], policy: str = "balanced", weights: str = "w") -> None:
    """A results file, as JSON Lines or by way of them."""
    lines = []
    for name, decision, scores in rows:
        failed = decision == "error"
        row: dict[str, Any] = {"path": name, "status": "error" if failed else "ok"}
        row["decision"] = "review" if failed else decision
        lines.append(json.dumps(row | dict(zip(NAMES, scores, strict=True))))
    stem = Path(path).stem
    text = Path(f"{stem}.jsonl")
    text.write_text("".join(line + "\n" for line in lines))
    loaded = load_policy(policy)
    facts = {
        "weights": weights, "weights_sha256": weights * 4, "policy": policy,
        "policy_sha256": loaded.sha256, "policy_json": loaded.policy.model_dump_json(),
    }  # fmt: skip
    Path(f"{text}.meta.json").write_text(json.dumps(facts))


def drawn(seed: int, count: int = 400) -> list[Scored]:
    """Rows by `balanced`; paths repeat."""
    chance = random.Random(seed)
    policy = load_policy("balanced").policy
    rows: list[Scored] = []
    for _ in range(count):
        path = f"./{chance.randrange(count // 2)}.jpg"
        if chance.random() < 0.1:
            rows.append((path, "error", [None] * 5))
            continue
        scores = [chance.choice([None, 0.25, 0.3, 0.5, 0.9, 0.125]) for _ in CATEGORIES]
        decision, _ = decide(policy, dict(zip(CATEGORIES, scores, strict=True)), (), None)
        rows.append((path, decision.value, scores))
    return rows


def naive(before: Sequence[Scored], after: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    waiting: dict[str, list[Scored]] = defaultdict(list)
    for row in after:
        waiting[row[0]].append(row)
    return [(row, waiting[row[0]].pop(0)) for row in before if waiting[row[0]]]


def test_two_results_as_one_would_by_hand() -> None:
    before, after = drawn(1), drawn(2, 300)
    store("a.jsonl", before)
    store("b.jsonl", after, weights="v")
    found = compare_results("a.jsonl", "b.jsonl", top=1000)
    pairs = naive(before, after)
    said = {"error": "review"}
    expected = Counter((said.get(a[1], a[1]), said.get(b[1], b[1])) for a, b in pairs)
    for row, column in itertools.product(Decision, Decision):
        assert found.transitions[row.severity, column.severity] == expected[row, column]
    assert found.matched == len(pairs) > 50
    assert found.only_before == len(before) - len(pairs) > 0
    assert found.only_after == len(after) - len(pairs) > 0
    left = Counter(row[0] for row in before)
    left.subtract(a[0] for a, _ in pairs)
    assert Counter(found.examples_before) == +left
    changes = [
        max([abs(x - y) for x, y in zip(a[2], b[2], strict=True)
             if x is not None and y is not None], default=0.0)
        for a, b in pairs
    ]  # fmt: skip
    assert found.scores_changed == sum(change > 0 for change in changes)
    assert found.largest_change == pytest.approx(max(changes), abs=1e-6)
    policy = load_policy("balanced").policy
    order = ["approve", "review", "block"]
    assert found.bands is not None
    for index, category in enumerate(CATEGORIES):
        moves: Counter[str] = Counter()
        for a, b in pairs:
            was, now = (asked(policy, dict(zip(CATEGORIES, r[2], strict=True)))[index]
                        for r in (a, b))  # fmt: skip
            if "unscored" in (was, now):
                moves["appeared"] += was == "unscored" != now
                moves["vanished"] += now == "unscored" != was
            else:
                moves["stricter"] += order.index(now) > order.index(was)
                moves["milder"] += order.index(now) < order.index(was)
        made = found.bands[category.value]
        assert (made.stricter, made.milder, made.appeared, made.vanished) == tuple(
            moves[key] for key in ("stricter", "milder", "appeared", "vanished")
        )
        assert made.moved == moves.total() > 0
    ranks = [
        (abs(order.index(m.after) - order.index(m.before)), m.score_change) for m in found.moved
    ]
    assert ranks == sorted(ranks, reverse=True)
    scored = [any(s is not None for s in a[2]) and any(s is not None for s in b[2])
              for a, b in pairs]  # fmt: skip
    turned = [a[1].replace("error", "review") != b[1].replace("error", "review") for a, b in pairs]
    assert len(ranks) == sum(
        known and (change > 0 or other)
        for known, change, other in zip(scored, changes, turned, strict=True)
    )
    unscored = sum(not known and other for known, other in zip(scored, turned, strict=True))
    assert found.without_scores == unscored > 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_formats_do_not_differ(suffix: str, capsys: Captured) -> None:
    store("a.jsonl", drawn(3))
    assert run(["decide", "a.jsonl", "--policy", "balanced", "--out", f"b.{suffix}", "-q"]) == 0
    assert run(["diff", "a.jsonl", f"b.{suffix}", "--json", "--fail-on-change"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["changed"], made["scores_changed"], made["matched"]) == (0, 0, 400)
    assert made["same_weights"] is made["same_policy"] is True
    assert made["moved"] == []


def test_two_policies_are_as_two_files_of_them(capsys: Captured) -> None:
    store("a.jsonl", drawn(4))
    for policy in ("strict", "permissive"):
        assert run(["decide", "a.jsonl", "--policy", policy, "--out", f"{policy}.csv", "-q"]) == 0
    by_files = compare_results("strict.csv", "permissive.csv")
    by_policies = compare_policies("a.jsonl", ["strict", "permissive"])
    assert (by_files.transitions == by_policies.transitions).all()
    assert by_files.changed > 100
    assert by_files.bands == by_policies.bands
    assert by_files.moved == by_policies.moved
    assert by_files.before.policy_sha256 == by_policies.before.policy_sha256
    assert by_policies.after.policy == "permissive"
    alone = compare_policies("a.jsonl", ["strict"])
    assert alone.before.policy == "balanced"
    assert (alone.transitions == compare_results("a.jsonl", "strict.csv").transitions).all()


def test_what_people_are_told(capsys: Captured) -> None:
    store("a.jsonl", [("./x", "approve", [0.1] * 5), ("./gone\x1b", "block", [0.9] * 5),
                      ("./s", "review", [0.5, None, 0.5, 0.5, 0.5])])  # fmt: skip
    store("b.jsonl", [("./s", "review", [0.5, 0.1, 0.4, 0.5, 0.5]), ("./x", "block", [0.9] * 5),
                      ("./new", "approve", [0.0] * 5)], "strict", "v")  # fmt: skip
    assert run(["diff", "a.jsonl", "b.jsonl", "--fail-on-change"]) == 1
    text = capsys.readouterr().out
    assert "1 of 2 decisions changed (50.0 %)" in text
    whole = " ".join(text.split())
    assert "weights: different, w (wwww) and v (vvvv)" in whole
    balanced, strict = load_policy("balanced").sha256, load_policy("strict").sha256
    assert f"policies: different, balanced ({balanced}) and strict ({strict})" in whole
    assert "rows: 1 only before, 1 only after" in whole
    assert "./gone\\x1b" in text
    assert "\x1b" not in text
    assert "scores: 2 rows with another score, by 0.8000 at the most" in whole
    assert text.index(" ./x\n") < text.index(" ./s\n")  # the decision before the score
    assert (
        run(["diff", "a.jsonl", "b.jsonl", "--top", "0", "--out", "r.md", "--out", "r.json"]) == 0
    )
    assert capsys.readouterr().out == ""
    assert json.loads(Path("r.json").read_text())["only_after"] == {"rows": 1, "first": []}
    assert "## Categories" in Path("r.md").read_text()


def test_rows_without_scores_are_blamed_on_nothing_and_counted_apart(capsys: Captured) -> None:
    errors = [(f"./{n}", "error", [None] * 5) for n in range(20)]
    deep = f"./{'folder/' * 20}image.jpg"
    store("a.jsonl", [*errors, (deep, "review", [0.1, 0.1, 0.1, 0.7, None])])
    found = compare_policies("a.jsonl", ["balanced", "strict"])
    assert (found.changed, found.without_scores) == (21, 20)
    assert [(m.path, m.category) for m in found.moved] == [(deep, "violence")]
    assert run(["diff", "a.jsonl", "--policy", "balanced", "--policy", "strict"]) == 0
    text = capsys.readouterr().out
    row = f"review  block   violence        0.7000 0.7000 {deep}"
    assert row in text.splitlines()
    assert "without scores: 20 of the changed decisions" in text
    assert run(["diff", "a.jsonl", "--policy", "strict", "--out", "r.md", "--out", "r.json"]) == 0
    assert deep in Path("r.md").read_text()
    assert json.loads(Path("r.json").read_text())["changed_without_scores"] == 20
    # A decision that turned although no score and no band did is no category's doing.
    store("b.jsonl", [(deep, "block", [0.1, 0.1, 0.1, 0.7, None])])
    (moved,) = compare_results("a.jsonl", "b.jsonl").moved
    assert (moved.category, moved.score_before, moved.score_after) == (None, None, None)


def test_rows_that_a_category_turned_come_before_those_of_other_reasons() -> None:
    unscored = [(f"./{n}", "approve", [0.0, None, 0.0, 0.0, 0.0]) for n in range(20)]
    store("a.jsonl", [*unscored, ("./turned", "approve", [0.2, None, 0.0, 0.0, 0.0])])
    found = compare_policies("a.jsonl", ["balanced", "strict"], top=2)  # strict reviews unscored
    assert [(m.path, m.category) for m in found.moved] == [("./turned", "nudity"), ("./0", None)]


def test_nothing_recorded_is_said_and_nothing_made_up(capsys: Captured) -> None:
    store("a.jsonl", [("./x", "approve", [0.1] * 5)])
    store("b.jsonl", [("./x", "approve", [0.1] * 5)])
    Path("b.jsonl.meta.json").unlink()
    found = compare_results("a.jsonl", "b.jsonl")
    assert found.bands is None
    assert run(["diff", "a.jsonl", "b.jsonl"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "weights: not known to be the same, w (wwww) and not recorded" in text
    assert "The policy of a side is not recorded" in text
    Path("b.jsonl.meta.json").write_text(json.dumps({"policy_json": '{"name": 1}'}))
    assert compare_results("a.jsonl", "b.jsonl").bands is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_files(suffix: str) -> None:
    store("a.jsonl", [])
    store("b.jsonl", [("./x", "approve", [0.1] * 5)])
    for name in ("a", "b"):
        out = f"{name}2.{suffix}"
        assert run(["decide", f"{name}.jsonl", "--policy", "balanced", "--out", out, "-q"]) == 0
    found = compare_results(f"a2.{suffix}", f"b2.{suffix}")
    assert (found.matched, found.only_before, found.only_after) == (0, 0, 1)
    assert compare_results(f"a2.{suffix}", f"a2.{suffix}").changed == 0
    assert compare_policies(f"a2.{suffix}", ["strict", "balanced"]).matched == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.jsonl"], "give two results files, or one and --policy"),
        (["a.jsonl", "a.jsonl", "--policy", "strict"], "give two results files, or one and"),
        (["a.jsonl", *["--policy", "strict"] * 3], "give two results files, or one and"),
        (["a.jsonl", "none.csv"], "cannot read none.csv"),
        (["a.jsonl", "a.jsonl", "--out", "a.jsonl"], "the suffix decides the format"),
        (["a.jsonl", "a.jsonl", "--out", "a.jsonl.meta.json"], "is an input"),
        (["a.jsonl", "bad.jsonl"], "line 1 of bad.jsonl"),
        (["a.jsonl", "--policy", "strictly"], "no policy 'strictly'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: Captured) -> None:
    store("a.jsonl", [("./x", "approve", [0.1] * 5)])
    Path("bad.jsonl").write_text("nonsense\n")
    assert run(["diff", *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
