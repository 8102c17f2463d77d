"""Categories that a run's weights bring along, from the scan to what is made of its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import moderate
from moderate.classify.classifier import Scored
from moderate.cli.main import run
from moderate.cluster.tables import table_of, undecided_rows
from moderate.decode.parts import Part
from moderate.decode.scheduler import Scheduler
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.run.highest import highest
from moderate.types import UNSCORED, Category, Decision, ImageFacts, ImageRef, Row
from tests.support.bundles import model_table, write_card, write_model
from tests.support.mixed import mixed_folder

Captured = pytest.CaptureFixture[str]
SUFFIXES = ("csv", "parquet", "jsonl")
LIMITS = "".join(
    f"{name} = {{ review = 0.99, block = 1.0 }}\n"
    for name in ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
)
PLAIN = f'name = "plain"\n[categories]\n{LIMITS}'
GAMBLING = f"""
name = "gambling"
[categories]
{LIMITS}
[categories.own.gambling]
review = 0.614
block = 0.64
[[rating]]
value = "G"
description = "all else"
[[rating]]
value = "M"
description = "some"
any = {{ gambling = 0.62 }}
[[override]]
when = "deep/**"
name = "deep"
[override.categories.own]
gambling = {{ block = 0.9 }}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models, of which both feed one own category and one another, calibrated."""
    folder = tmp_path_factory.mktemp("composite")
    write_model(folder / "safety", labels=("NSFL", "NSFW", "dice"), seed=3)
    write_model(folder / "arms", labels=("rifle", "cards", "none"), seed=4)
    feeds: dict[str, dict[str, Any]] = {
        "safety": {"nudity": ["NSFW"], "violence": ["NSFL"], "own": {"gambling": ["dice"]}},
        "arms": {"own": {"weapons": ["rifle"], "gambling": [["cards", "none"]]}},
    }
    models = [model_table(folder=name, categories=feeds[name]) for name in feeds]
    write_card(
        folder,
        models,
        name="both",
        combine={"gambling": "mean"},
        covers={"weapons": "rifles alone"},
        calibration={"weapons": {"temperature": 2.0}},
    )
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_folder(tmp_path_factory.mktemp("images"), 6, 30)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text(PLAIN)
    (tmp_path / "gambling.toml").write_text(GAMBLING)


def scan(images: Path, weights: Path, stem: str, *options: str, policy: str = "gambling") -> None:
    """Rows of a scan in all formats."""
    outs = [f"--out={stem}.{suffix}" for suffix in SUFFIXES]
    arguments = [str(images), "--weights", str(weights), "--device=cpu", "--backend=torch", "-q"]
    more = [f"--policy={policy}.toml", "--state=state", "--video-every=1", *outs, *options]
    assert run(["scan", *arguments, *more]) == 0


def rows(path: str) -> list[dict[str, Any]]:
    return list(read_results(path).rows())


def test_scores_are_combined_calibrated_and_decided_by_in_every_format(
    images: Path, weights: Path
) -> None:
    scan(images, weights, "a", "--keep-labels", "--summary=a.json", "--summary=a.html")
    by_format = [rows(f"a.{suffix}") for suffix in SUFFIXES]
    assert by_format[0] == by_format[1] == by_format[2]
    schema = pq.read_schema("a.parquet")
    place = schema.names.index("drug_use")
    assert schema.names[place + 1 : place + 4] == ["gambling", "weapons", "label"]
    assert schema.field("gambling").type == pa.float32()
    assert list(json.loads(Path("a.jsonl").read_text().splitlines()[0])) == schema.names
    assert read_results("a.csv").own_categories == ("gambling", "weapons")
    assert read_results("a.csv").carried == ()
    scored = [row for row in by_format[0] if row["status"] == "ok"]
    assert len(scored) == 11  # 7 images, 3 frames and the video
    for row in scored:
        if "clip.mp4" not in row["path"] or "!/" in row["path"]:
            cards = min(row["label:arms/cards"] + row["label:arms/none"], 1)
            mean = (row["label:safety/dice"] + cards) / 2
            assert row["gambling"] == pytest.approx(mean, abs=1e-6)
        limit = 0.9 if "/deep/" in row["path"] else 0.64
        expected = "block" if row["gambling"] >= limit else "review"
        if row["decision"] != "approve":
            assert "gambling" in row["reasons"]
        assert (row["decision"] != "approve") == (row["gambling"] >= 0.614)
        assert row["decision"] in (expected, "approve")
        assert row["rating"] == ("M" if row["gambling"] >= 0.62 else "G")
        assert row["sexual_activity"] is None
    assert {row["decision"] for row in scored} == {"approve", "review", "block"}
    failed = [row for row in by_format[0] if row["status"] == "error"]
    assert [row["gambling"] for row in failed] == [None] * len(failed)
    frames = [row for row in scored if "clip.mp4!/" in row["path"]]
    video = next(row for row in scored if row["path"].endswith("clip.mp4"))
    assert video["gambling"] == max(row["gambling"] for row in frames)
    assert "gambling at 00:00:0" in video["highest_at"]
    summary = json.loads(Path("a.json").read_text())
    counted = summary["categories"]["gambling"]
    assert sum(counted.values()) == len(scored)
    assert counted["block"] >= 1
    assert "weapons" not in summary["categories"]
    assert any("no thresholds for weapons: its scores" in note for note in summary["notes"])
    assert summary["coverage"]["covers"] == {"weapons": "rifles alone"}
    assert '"name":"weapons"' in Path("a.html").read_text().replace(" ", "")


def test_a_second_run_takes_the_scores_from_the_state(
    images: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(images, weights, "a")
    given: list[object] = []
    assign = Scheduler._assign

    def counting(pool: Any, *arguments: Any, **named: Any) -> Any:
        given.append(arguments)
        return assign(pool, *arguments, **named)

    monkeypatch.setattr(Scheduler, "_assign", counting)
    (images / "clip.mp4").rename(images / "clip.bak")  # videos are looked at in every run
    try:
        scan(images, weights, "b", policy="plain")
        scan(images, weights, "c")
    finally:
        (images / "clip.bak").rename(images / "clip.mp4")
    assert not given
    before = {row["path"]: row for row in rows("a.parquet") if "clip" not in row["path"]}
    for row in rows("c.parquet"):
        if "clip" in row["path"]:
            continue
        changed = {"origin", "run_id"}
        assert {k: v for k, v in row.items() if k not in changed} == {
            k: v for k, v in before[row["path"]].items() if k not in changed
        }
    assert rows("c.csv") == rows("c.parquet") == rows("c.jsonl")
    assert {row["decision"] for row in rows("b.csv") if row["status"] == "ok"} == {"approve"}


def test_shares_are_merged_to_what_one_run_writes(images: Path, weights: Path) -> None:
    scan(images, weights, "whole", "--rescore", "--summary=whole.json")
    for share in (1, 2):
        scan(images, weights, f"share{share}", f"--shard={share}/2", "--rescore")
    for suffix in SUFFIXES:
        shares = [f"share{share}.{suffix}" for share in (1, 2)]
        more = ["--summary=merged.json", "--summary=merged.html"] if suffix == "csv" else []
        assert run(["merge", *shares, "--out", f"merged.{suffix}", *more]) == 0
        left_out = {"run_id", "scored_at", "origin"}
        merged, whole = rows(f"merged.{suffix}"), rows(f"whole.{suffix}")
        assert [{k: v for k, v in row.items() if k not in left_out} for row in merged] == [
            {k: v for k, v in row.items() if k not in left_out} for row in whole
        ]
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("whole", "merged"))
    for key in ("categories", "worst", "decisions"):
        assert one[key] == two[key]


def test_partitions_are_read_back(images: Path, weights: Path) -> None:
    outs = ["--out=parts/", "--partition-by=label"]
    arguments = [str(images), "--weights", str(weights), "--device=cpu", "--backend=torch", "-q"]
    assert run(["scan", *arguments, "--policy=gambling.toml", "--no-state", *outs]) == 0
    file = next(Path("parts").rglob("*.parquet"))
    assert read_results(str(file)).own_categories == ("gambling", "weapons")


def test_decisions_are_taken_again(images: Path, weights: Path, capsys: Captured) -> None:
    scan(images, weights, "a")
    scan(images, weights, "plain", policy="plain")
    for suffix in SUFFIXES:
        again = ["decide", f"plain.{suffix}", "--policy=gambling.toml", f"--out=d.{suffix}"]
        assert run([*again, "--summary=d.json"]) == 0
        by_path = {row["path"]: row for row in rows(f"a.{suffix}")}
        for row in rows(f"d.{suffix}"):
            of_scan = by_path[row["path"]]
            for column in ("decision", "reasons", "rating", "gambling", "segments"):
                assert row[column] == of_scan[column]
    assert "gambling" in json.loads(Path("d.json").read_text())["categories"]
    Path("other.toml").write_text(GAMBLING.replace("gambling", "drones"))
    capsys.readouterr()
    assert run(["decide", "a.csv", "--policy=other.toml", "--out=o.csv"]) == 2
    error = capsys.readouterr().err
    assert "categories.own.drones: the results have no column drones; they have gambling" in error


def test_python_rows_have_the_columns(images: Path, weights: Path) -> None:
    found = list(
        moderate.scan(
            str(images / "1.png"), weights=str(weights), policy="gambling.toml", device="cpu"
        )
    )
    row = found[0].to_dict()
    names = list(row)
    assert names[names.index("drug_use") + 1] == "gambling"
    assert row["gambling"] == found[0].labels["gambling"]
    assert moderate.to_table(found).column("weapons").to_pylist() == [row["weapons"]]
    options = {"weights": str(weights), "policy": "gambling.toml", "device": "cpu"}
    with moderate.Moderator(**options) as moderator:  # type: ignore[arg-type]
        (alone,) = moderator.moderate([(images / "1.png").read_bytes()])
    assert alone.labels["gambling"] == pytest.approx(row["gambling"], abs=1e-6)


def test_the_highest_part_of_an_image_is_that_of_an_own_category_too() -> None:
    parts = [Part(0, 0), Part(1, 400)]
    scored = [Scored(UNSCORED, (0.2,)), Scored(UNSCORED, (0.7,))]
    found = highest(scored, parts, ("gambling",))
    assert (found.labels, found.places) == ((0.7,), "gambling at frame 2, 0.4 s")


def test_rows_of_a_fragment_come_back_with_their_own_categories() -> None:
    ref = ImageRef(b"a.jpg")
    row = Row(
        ref,
        ImageFacts(),
        {**UNSCORED, Category.NUDITY: 0.5},
        Decision.APPROVE,
        (),
        labels={"gambling": 0.25, "m/x": 0.75},
    )
    table = table_of([row], load_policy("balanced").policy, (), ("gambling", "m/x"), {})
    (back,) = undecided_rows(table, [ref])
    assert back.labels == row.labels


def test_what_the_weights_do_not_feed_is_refused_in_one_line(
    images: Path, weights: Path, capsys: Captured
) -> None:
    Path("other.toml").write_text(GAMBLING.replace("gambling", "drones"))
    arguments = [str(images), "--weights", str(weights), "--no-state", "--out=x.csv"]
    assert run(["scan", *arguments, "--policy=other.toml"]) == 2
    assert (
        "policy drones: categories.own.drones: the weights both feed no such category; of their "
        "own, they feed gambling, weapons"
    ) in capsys.readouterr().err
    Path("list.csv").write_text(f"path,weapons\n{images}/1.png,1\n")
    more = ["--weights", str(weights), "--no-state", "--out=x.csv", "--policy=plain.toml"]
    assert run(["scan", "list.csv", "--keep=weapons", *more]) == 2
    assert "the weights both have a category of that name" in capsys.readouterr().err


def test_a_dry_run_says_what_decides_nothing(images: Path, weights: Path, capsys: Captured) -> None:
    arguments = [str(images), "--weights", str(weights), "--no-state", "--dry-run"]
    assert run(["scan", *arguments, "--policy=plain.toml", "--device=cpu"]) == 0
    assert "has no thresholds for gambling, weapons: their scores" in " ".join(
        capsys.readouterr().out.split()
    )
