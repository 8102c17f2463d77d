"""A short form of benchmarks/weights.py: its counts are those of the rows, its errors one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moderate
from moderate.policy.load import load_policy
from tests.support.bundles import make_bundle
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "weights.py"
PAGE = ROOT / "docs" / "weights-measured.md"


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six ordinary images, one of them twice and one broken, and three of firearms."""
    root = tmp_path_factory.mktemp("images")
    for folder, seeds in (("ordinary", range(6)), ("firearms", range(6, 9))):
        (root / folder).mkdir()
        for seed in seeds:
            data = encode(scene((96, 80), seed), "JPEG")
            (root / folder / f"{seed}.jpg").write_bytes(data)
    (root / "ordinary" / "copy.jpg").write_bytes((root / "ordinary" / "0.jpg").read_bytes())
    (root / "ordinary" / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    return root


def test_its_counts_are_those_of_the_rows(images: Path, bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=3)
    page, out = tmp_path / "page.md", tmp_path / "out.json"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    done = bench(
        *(images, "--weights", bundle, other, "--policies", "balanced", "permissive"),
        *("--cost-images", "8", "--page", page, "--json", out),
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(out.read_text())
    names = [bundle.name, other.name]
    assert [each["weights"] for each in read["cost"]] == names
    assert all(each["milliseconds"] > 0 for each in read["cost"])

    rows = {
        (weights.name, folder): [
            row
            for row in moderate.scan(images / folder, weights=str(weights), device="cpu")
            if row.ref.name not in (b"copy.jpg", b"broken.jpg")
        ]
        for weights in (bundle, other)
        for folder in ("ordinary", "firearms")
    }
    expected, flagged_by, highest = {}, {}, {}
    for policy in ("balanced", "permissive"):
        categories = load_policy(policy).policy.categories
        for (weights, folder), scored in rows.items():
            for category in moderate.Category:
                if folder == "firearms" and category != moderate.Category.VIOLENCE:
                    continue
                scores = [row.scores[category] for row in scored]
                limits = categories[category]
                flagged = [score >= limits.review for score in scores]
                expected[policy, folder, weights, category.value] = [
                    [sum(flagged), len(scored)],
                    [sum(score >= limits.block for score in scores), len(scored)],
                ]
                highest[folder, weights, category.value] = max(scores)
                flagged_by[policy, folder, weights, category.value] = flagged
    found = {
        tuple(each[key] for key in ("policy", "folder", "weights", "category")): [
            each["at_review"],
            each["at_block"],
        ]
        for each in read["reached"]
    }
    assert found == expected
    for each in read["reached"]:
        key = (each["folder"], each["weights"], each["category"])
        assert each["highest"] == pytest.approx(highest[key], abs=1e-5)
    assert any(count for (count, _), _ in found.values())  # something is flagged, not everything
    assert any(count < total for (count, total), _ in found.values())

    for each in read["decisions"]:
        if each["policy"] == "balanced":
            decided = [row.decision.value for row in rows[each["weights"], each["folder"]]]
            assert [each[d] for d in ("approve", "review", "block")] == [
                decided.count(d) for d in ("approve", "review", "block")
            ]
    assert len(read["agreement"]) == 6  # five categories on ordinary images, one on firearms
    for each in read["agreement"]:
        first, second = (
            flagged_by["balanced", each["folder"], weights, each["category"]] for weights in names
        )
        assert [each["by_first"], each["by_second"]] == [sum(first), sum(second)]
        assert each["both"] == sum(a and b for a, b in zip(first, second, strict=True))
        assert each["either"] == sum(a or b for a, b in zip(first, second, strict=True))

    written = page.read_text()
    assert written.startswith("before\n<!-- measured: begin -->\nMeasured on ")
    assert written.endswith("<!-- measured: end -->\nafter\n")
    assert "old" not in written.splitlines()
    assert "| ordinary | none | 6 | 1 | 1 |" in written
    assert "| firearms | violence | 3 | 0 | 0 |" in written
    assert "Unmeasured, for lack of images: recall on nudity, sexual_activity" in written
    assert done.stdout in written


def test_shares_have_exact_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    from weights import Share

    # Clopper-Pearson bounds as scipy.stats.binomtest gives them.
    assert str(Share(273, 292)) == "93.5 % (90.0 to 96.0), 273 of 292"
    assert str(Share(0, 17)) == "0.0 % (0.0 to 19.5), 0 of 17"
    assert str(Share(0, 0)) == "–"


@pytest.mark.parametrize("what", ["folder", "empty", "weights", "page", "policy", "label"])
def test_what_cannot_be_measured_is_one_line(
    images: Path,
    bundle: Path,
    tmp_path: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    import weights as benchmark

    root, weights, options = images, str(bundle), ["--cost-images", "1"]
    page = tmp_path / "page.md"
    page.write_text("a page without marks\n")
    if what == "folder":
        root = tmp_path / "root"
        (root / "holiday").mkdir(parents=True)
    elif what == "empty":
        root = tmp_path / "root"
        (root / "ordinary").mkdir(parents=True)
    elif what == "weights":
        weights = "not-installed"
    elif what == "policy":
        options += ["--policies", "nothing"]
    elif what == "page":
        options += ["--page", str(page)]
    else:
        options += ["--label", "knives=knife"]
    try:
        code: object = benchmark.main([str(root), "--weights", weights, *options])
    except SystemExit as ended:  # of the options' parser
        code = ended.code
    assert code == 2
    *before, last = capsys.readouterr().err.strip().splitlines()
    assert {"folder": "holiday", "empty": "ordinary", "weights": "not-installed",
            "policy": "nothing", "page": "page.md", "label": "knife"}[what] in last  # fmt: skip
    if what != "label":
        assert not before
    assert page.read_text() == "a page without marks\n"


def test_the_page_of_measured_figures_is_made_by_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    measured = text.partition("<!-- measured: begin -->")[2].partition("<!-- measured: end -->")[0]
    assert "### False alarms on ordinary images" in measured
    assert "Unmeasured, for lack of images: recall on nudity" in measured
    assert os.sep + "tmp" not in text
