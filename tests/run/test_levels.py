"""Rating levels by description, from the weights to results, decisions again and reports."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import moderate
from moderate.classify.bundle import load_bundle
from moderate.cli.main import run
from moderate.errors import WeightsError
from moderate.levels import most_severe
from moderate.results.read import read_results
from moderate.types import CATEGORIES
from tests.support import run_columns
from tests.support.bundles import model_table, write_card, write_model
from tests.support.pictures import encode, scene
from tests.support.videos import make_video

Captured = pytest.CaptureFixture[str]
SUFFIXES = ("csv", "parquet", "jsonl")
SEVEN = ("мирно", "静か", "ok", "x" * 24, "é", "=six, no", "🙂")
TWO = ("calm", "wild")
COMMON = ("--device=cpu", "--backend=torch", "-q")
LIMITS = "".join(f"{name} = {{ review = 0.97, block = 0.99 }}\n" for name in CATEGORIES)
PLAIN = f'name = "plain"\n[categories]\n{LIMITS}'


def levels_of(values: tuple[str, ...]) -> list[dict[str, str]]:
    """Levels of these values; each has a description of 150 characters."""
    return [
        {"value": value, "description": f"{n}".rjust(150, "é")} for n, value in enumerate(values)
    ]


def policy_text(values: tuple[str, ...]) -> str:
    tables = "".join(
        f'[[rating]]\nvalue = "{each["value"]}"\ndescription = "{each["description"]}"\n'
        'match = "description"\n'
        for each in levels_of(values)
    )
    return PLAIN.replace('"plain"', '"rated"') + tables


def make_weights(folder: Path, values: tuple[str, ...], **card: Any) -> Path:
    """One small model for the categories and one that matches levels."""
    write_model(folder / "main", seed=3)
    labels = tuple(f"level:{value}" for value in values)
    write_model(folder / "words", labels=(*labels, "none"), seed=6)
    models = [
        model_table(folder="main"),
        model_table(folder="words", activation="softmax", categories={}),
    ]
    write_card(folder, models, **{"levels": levels_of(values), **card})
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("seven"), SEVEN)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a copy, one that is broken, an animation and a video."""
    folder = tmp_path_factory.mktemp("images")
    stills = [scene((90, 80), seed=number) for number in range(5)]
    for number, still in enumerate(stills):
        (folder / f"{number}.png").write_bytes(encode(still, "PNG"))
    shutil.copy(folder / "1.png", folder / "copy.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    stills[0].save(folder / "moving.webp", save_all=True, append_images=stills[1:], lossless=True)
    make_video(folder / "clip.mp4", (scene((64, 48), seed=n // 10) for n in range(30)))
    return folder


@pytest.fixture(scope="module")
def scanned(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of both policies, and those of one again from what was kept."""
    folder = tmp_path_factory.mktemp("scanned")
    (folder / "plain.toml").write_text(PLAIN)
    (folder / "rated.toml").write_text(policy_text(SEVEN))
    for stem, options in (
        ("rated", ["--policy=rated.toml", "--summary=rated.html"]),
        ("again", ["--policy=rated.toml"]),
        ("plain", ["--policy=plain.toml", "--keep-labels"]),
        ("kept", ["--policy=rated.toml", "--keep-labels"]),
    ):
        with contextlib.chdir(folder):
            scan(images, weights, stem, "--frames=all", f"--summary={stem}.json", *options)
    return folder


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text(PLAIN)
    (tmp_path / "rated.toml").write_text(policy_text(SEVEN))
    (tmp_path / "two.toml").write_text(policy_text(TWO))


def scan(images: Path, weights: Path, stem: str, *options: str) -> None:
    """Rows of a scan in all formats."""
    outs = [f"--out={stem}.{suffix}" for suffix in SUFFIXES]
    more = ["--state=state", "--video-every=1", *COMMON, *outs, *options]
    assert run(["scan", str(images), "--weights", str(weights), *more]) == 0


def rows(path: str | Path) -> list[dict[str, Any]]:
    return list(read_results(str(path)).rows())


def last_error(capsys: Captured) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("moderate: error")]) == 1
    return lines[-1]


def columns(values: tuple[str, ...]) -> list[str]:
    return [f"label:words/level:{value}" for value in values]


def test_each_image_gets_the_level_that_fits_best(scanned: Path) -> None:
    found = [rows(scanned / f"rated.{suffix}") for suffix in SUFFIXES]
    assert found[0] == found[1] == found[2]
    assert read_results(str(scanned / "rated.csv")).labels == tuple(
        name.removeprefix("label:") for name in columns(SEVEN)
    )
    for row in found[0]:
        shares = [row[name] for name in columns(SEVEN)]
        if row["status"] == "error":
            assert (row["rating"], shares) == (None, [None] * 7)
            continue
        assert row["rating"] == SEVEN[shares.index(max(shares))]
        assert sum(shares) < 1.001
    ratings = [row["rating"] for row in found[0] if row["rating"]]
    assert len(set(ratings)) > 2
    summary = json.loads((scanned / "rated.json").read_text())
    assert summary["ratings"] == {value: ratings.count(value) for value in SEVEN}
    assert json.loads(summary["audit"]["levels"])[0] == ["мирно", "é" * 149 + "0"]
    assert "Ratings (best fitting description)" in (scanned / "rated.html").read_text()


def test_a_report_of_stored_results_counts_the_levels(scanned: Path) -> None:
    for stem, counted in (("rated", True), ("plain", False)):
        assert run(["report", str(scanned / f"{stem}.csv"), "--out=report.json"]) == 0
        report = json.loads(Path("report.json").read_text())
        assert ("ratings" in report) is counted
        if counted:
            summary = json.loads((scanned / "rated.json").read_text())
            assert report["ratings"] == summary["ratings"]


def test_what_was_kept_is_rated_by_columns_as_it_was_row_by_row(scanned: Path) -> None:
    for suffix in SUFFIXES:
        again, first = rows(scanned / f"again.{suffix}"), rows(scanned / f"rated.{suffix}")
        for row in (*again, *first):
            for name in run_columns.NAMES:
                del row[name]
        assert again == first
    counts = [json.loads((scanned / f"{s}.json").read_text()) for s in ("rated", "again")]
    assert counts[0]["ratings"] == counts[1]["ratings"]
    assert counts[1]["origins"]["reused"] > 5


def test_other_policies_write_what_they_did(scanned: Path) -> None:
    summary = json.loads((scanned / "plain.json").read_text())
    assert "ratings" not in summary
    assert all(row["rating"] is None for row in rows(scanned / "plain.csv"))


def test_the_most_severe_frame_rates_an_animation_and_a_video(scanned: Path) -> None:
    found = rows(scanned / "rated.csv")
    by_name = {Path(row["path"]).name: row for row in found}
    stills = [[by_name[f"{n}.png"][name] for name in columns(SEVEN)] for n in range(5)]
    decisive = most_severe(stills)
    moving = by_name["moving.webp"]
    assert moving["frames_scored"] == 5
    assert [moving[name] for name in columns(SEVEN)] == pytest.approx(stills[decisive], abs=1e-3)
    levels = [SEVEN.index(by_name[f"{n}.png"]["rating"]) for n in range(5)]
    assert SEVEN.index(moving["rating"]) == levels[decisive] == max(levels)
    frames = [row for row in found if "clip.mp4!/" in row["path"]]
    shares = [[row[name] for name in columns(SEVEN)] for row in frames]
    severest = frames[most_severe(shares)]
    video = by_name["clip.mp4"]
    assert len(frames) == 3
    assert [video[name] for name in columns(SEVEN)] == [severest[name] for name in columns(SEVEN)]
    assert video["rating"] == severest["rating"]
    assert SEVEN.index(video["rating"]) == max(SEVEN.index(row["rating"]) for row in frames)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_decide_gives_what_a_scan_by_that_policy_gives(scanned: Path, suffix: str) -> None:
    out, source = f"decided.{suffix}", str(scanned / f"plain.{suffix}")
    command = ["decide", source, "--policy=rated.toml", "--out", out, "-q"]
    assert run([*command, "--summary=decided.json"]) == 0
    scan_out = scanned / f"kept.{suffix}"
    if suffix == "parquet":
        tables = [pq.read_table(f).drop_columns(run_columns.NAMES) for f in (out, scan_out)]
        assert tables[0].equals(tables[1])
    else:
        texts = [run_columns.without(Path(f).read_bytes()) for f in (out, scan_out)]
        assert texts[0] == texts[1]
    counts = [json.loads(f.read_text()) for f in (Path("decided.json"), scanned / "kept.json")]
    assert counts[0]["ratings"] == counts[1]["ratings"]


def test_results_that_cannot_be_rated_so(scanned: Path, capsys: Captured) -> None:
    facts = json.loads((scanned / "rated.csv.meta.json").read_text())
    assert "levels" in facts
    table = pq.read_table(scanned / "plain.parquet").drop_columns(columns(SEVEN)[:1])
    pq.write_table(table.replace_schema_metadata(), "unrated.parquet")
    rated = str(scanned / "rated.csv")
    capsys.readouterr()
    assert run(["decide", "unrated.parquet", "--policy=rated.toml", "-q"]) == 2
    said = last_error(capsys)
    assert "the results have no scores of them (columns as label:MODEL/level:м" in said
    other = Path("rated.toml").read_text().replace("éé0", "ee0")
    Path("other.toml").write_text(other)
    assert run(["decide", rated, "--policy=other.toml", "-q"]) == 2
    said = last_error(capsys)
    assert "the results have scores of another description of level 'мирно'" in said
    assert "scan again" in said
    # What needs no ratings is decided all the same.
    assert run(["diff", "unrated.parquet", "--policy=rated.toml"]) == 0
    limits = '[labels."words/level:ok"]\nreview = 0.1\nblock = 0.2\n'
    Path("limits.toml").write_text(PLAIN + limits)
    assert run(["decide", rated, "--policy=limits.toml", "-q"]) == 2
    assert "labels.'words/level:ok': this is a rating level" in last_error(capsys)


def test_weights_for_other_levels_stop_a_scan_before_it_starts(
    images: Path, weights: Path, tmp_path: Path, capsys: Captured
) -> None:
    start = ["scan", str(images), "--no-state", *COMMON, "--weights"]
    assert run([*start, str(weights), "--policy=two.toml", "--out=out.csv"]) == 2
    said = last_error(capsys)
    assert "policy rated: rating: its levels match by description; the weights " in said
    assert "were built for the levels мирно, 静か" in said
    assert "moderate weights pull hf:REPOSITORY --prompts FILE --levels POLICY.toml" in said
    assert not Path("out.csv").exists()
    Path("limits.toml").write_text(PLAIN + '[labels."words/level:ok"]\nreview = 0.1\nblock = 0.2\n')
    assert run([*start, str(weights), "--policy=limits.toml"]) == 2
    assert "this is a rating level, which only rates" in last_error(capsys)
    turned = make_weights(tmp_path / "turned", SEVEN, levels=levels_of(SEVEN)[::-1])
    assert run([*start, str(turned), "--policy=rated.toml"]) == 2
    assert "were built for the levels in another order 🙂" in last_error(capsys)
    assert load_bundle(str(turned)).sha256 != load_bundle(str(weights)).sha256
    assert run([*start, "testcard", "--policy=rated.toml"]) == 2
    assert "the weights testcard were built for no rating levels" in last_error(capsys)


def test_two_levels_and_what_explains_and_exports_them(
    images: Path, tmp_path: Path, capsys: Captured
) -> None:
    weights = make_weights(tmp_path / "two", TWO)
    scan(images, weights, "two", "--policy=two.toml", "--limit=3")
    found = rows("two.csv")
    first = next(row for row in found if row["path"].endswith("/1.png"))
    assert {row["rating"] for row in found} <= {*TWO, None}
    capsys.readouterr()
    explain = ["explain", "two.parquet", "--state=state", first["path"]]
    assert run([*explain, "--json"]) == 0
    image = json.loads(capsys.readouterr().out)["images"][0]
    assert image["follows"] is True
    assert image["rating"] == first["rating"]
    assert image["rating_description"] == "é" * 149 + str(TWO.index(first["rating"]))
    probability = first[f"label:words/level:{first['rating']}"]
    assert image["rating_probability"] == pytest.approx(probability, abs=1e-7)
    assert run(explain) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"rating {first['rating']} {image['rating_probability']}: é" in said
    assert run(["report", "two.csv", "--shape=ratings", "--shape-document", "--out=two.json"]) == 0
    answers = json.loads(Path("two.json").read_text())["results"]
    assert [each.get("rating") for each in answers] == [row["rating"] for row in found]
    common = {"weights": str(weights), "backend": "torch", "policy": "two.toml"}
    row = next(iter(moderate.scan(images / "1.png", **common)))  # type: ignore[arg-type]
    assert row.views.rating == first["rating"]
    assert row.views.rating_probability == row.labels[f"words/level:{first['rating']}"]


def test_cards_of_levels_are_checked(tmp_path: Path, weights: Path) -> None:
    bundle = load_bundle(str(weights))
    assert bundle.level_labels == tuple(f"words/level:{value}" for value in SEVEN)
    assert bundle.models[1].summary() == "test_efficientnet: rating levels"
    for levels, said in (
        (levels_of(TWO)[:1], "levels: a scale has 2 to 7 levels"),
        (levels_of((*TWO, "other")), "no model, or more than one, has the labels level:calm"),
        (levels_of(("calm", "x" * 25)), "levels.1.value"),
        ([], "model.1.categories: no category is fed by any label"),
    ):
        with pytest.raises(WeightsError) as raised:
            load_bundle(str(make_weights(tmp_path / "odd", TWO, levels=levels)))
        assert said in str(raised.value)


def test_policy_check_says_what_a_scale_needs(capsys: Captured) -> None:
    assert run(["policy", "check", "two.toml"]) == 0
    out = capsys.readouterr().out
    assert "rating: 2 levels by description: calm, wild" in out
    assert "needs weights that were built for them: moderate weights pull hf:" in out
