"""Scores of the networks' own labels: columns of the results, kept in the state, in policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import moderate
from moderate.cli.main import run
from moderate.decode.scheduler import Scheduler
from moderate.results.read import read_results
from tests.support import run_columns
from tests.support.bundles import model_table, write_card, write_model
from tests.support.mixed import mixed_folder

Captured = pytest.CaptureFixture[str]
SUFFIXES = ("csv", "parquet", "jsonl")
NAMES = ("safety/NSFL", "safety/NSFW", "safety/SFW", "arms/=a rifle, loaded", "arms/none")
LIMITS = "".join(
    f"{name} = {{ review = 0.97, block = 0.99 }}\n"
    for name in ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
)
PLAIN = f'name = "plain"\n[categories]\n{LIMITS}'
GORE = f"""
name = "gore"
[categories]
{LIMITS}
[labels."safety/NSFL"]
review = 0.3
block = 0.5
[labels."arms/=a rifle, loaded"]
review = 0.4
block = 0.8
[[override]]
when = "deep/**"
name = "deep"
[override.labels]
"safety/NSFL" = {{ block = 0.7 }}
"safety/SFW" = {{ review = 0.2, block = 0.6 }}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composite of two small models."""
    folder = tmp_path_factory.mktemp("composite")
    write_model(folder / "safety", labels=("NSFL", "NSFW", "SFW"), seed=3)
    write_model(folder / "arms", labels=("=a rifle, loaded", "none"), seed=4)
    feeds: dict[str, dict[str, Any]] = {
        "safety": {"nudity": ["NSFW"], "violence": ["NSFL"]},
        "arms": {"violence": ["=a rifle, loaded"]},
    }
    models = [model_table(folder=name, categories=feeds[name]) for name in feeds]
    write_card(folder, models, name="both")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_folder(tmp_path_factory.mktemp("images"), 8, 40)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text(PLAIN)
    (tmp_path / "gore.toml").write_text(GORE)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Images that a decoder was given."""
    given: list[object] = []
    assign = Scheduler._assign

    def counting(pool: Any, *arguments: Any, **named: Any) -> Any:
        given.append(arguments)
        return assign(pool, *arguments, **named)

    monkeypatch.setattr(Scheduler, "_assign", counting)
    return given


def scan(images: Path, weights: Path, stem: str, *options: str) -> None:
    """Rows of a scan in all formats, by `plain.toml` where options name no policy."""
    outs = [f"--out={stem}.{suffix}" for suffix in SUFFIXES]
    policy = () if "--policy" in options else ("--policy", "plain.toml")
    arguments = [str(images), "--weights", str(weights), "--device=cpu", "--backend=torch", "-q"]
    more = ["--state=state", "--video-every=1", *outs, *policy, *options]
    assert run(["scan", *arguments, *more]) == 0


def rows(path: str) -> list[dict[str, Any]]:
    return list(read_results(path).rows())


def last_error(capsys: Captured) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("moderate: error")]) == 1
    return lines[-1]


def test_every_format_has_a_column_of_float32_for_each_label(images: Path, weights: Path) -> None:
    scan(images, weights, "kept", "--keep-labels")
    columns = [f"label:{name}" for name in NAMES]
    by_format = [rows(f"kept.{suffix}") for suffix in SUFFIXES]
    assert by_format[0] == by_format[1] == by_format[2]
    scored = [row for row in by_format[0] if row["status"] == "ok"]
    failed = [row for row in by_format[0] if row["status"] == "error"]
    assert len(scored) == 14  # 9 images, 4 frames and the video
    assert failed
    for row in scored:
        assert row["nudity"] == row["label:safety/NSFW"]
        assert row["violence"] == max(row["label:safety/NSFL"], row["label:arms/=a rifle, loaded"])
    for row in failed:
        assert [row[column] for column in columns] == [None] * 5
    schema = pq.read_schema("kept.parquet")
    assert schema.names[-5:] == columns
    assert {schema.field(column).type for column in columns} == {pa.float32()}
    assert list(json.loads(Path("kept.jsonl").read_text().splitlines()[0]))[-5:] == columns
    assert read_results("kept.csv").labels == NAMES
    assert read_results("kept.csv").carried == ()
    video = [row for row in scored if "clip.mp4" in row["path"]]
    for column in columns:
        assert video[-1][column] == max(row[column] for row in video[:-1])


def test_without_the_option_there_are_none(images: Path, weights: Path) -> None:
    scan(images, weights, "plain")
    assert read_results("plain.csv").labels == ()
    assert "label:" not in Path("plain.csv").read_text()


def test_what_was_scored_without_labels_is_scored_again_with_them(
    images: Path, weights: Path, decoded: list[object]
) -> None:
    scan(images, weights, "plain")
    first = len(decoded)
    scan(images, weights, "again")
    reused = len(decoded) - first  # frames of videos, which are never kept
    scan(images, weights, "kept", "--keep-labels")
    assert len(decoded) - first - reused > reused
    before = len(decoded)
    scan(images, weights, "kept again", "--keep-labels")
    assert len(decoded) - before == reused
    for suffix in SUFFIXES:
        again, first_rows = rows(f"kept again.{suffix}"), rows(f"kept.{suffix}")
        for row in (*again, *first_rows):
            for name in run_columns.NAMES:
                del row[name]
        assert again == first_rows
    # A policy with labels has use for what is kept already.
    scan(images, weights, "gore", "--policy", "gore.toml")
    assert len(decoded) - before == 2 * reused


def test_a_policy_has_the_labels_that_it_needs(images: Path, weights: Path) -> None:
    scan(images, weights, "gore", "--policy", "gore.toml")
    assert read_results("gore.csv").labels == (NAMES[0], NAMES[3], NAMES[2])
    found = rows("gore.csv")
    reasons = "; ".join(row["reasons"] for row in found)
    assert "label safety/NSFL 0." in reasons
    assert "label arms/=a rifle, loaded 0." in reasons
    for row in found:
        if row["status"] == "error" or "clip.mp4" in row["path"] or "deep" in row["path"]:
            continue
        gore, rifle = row["label:safety/NSFL"], row["label:arms/=a rifle, loaded"]
        at_most = "block" if gore >= 0.5 or rifle >= 0.8 else None
        if at_most:
            assert row["decision"] == "block"
        if gore >= 0.5:
            assert f"label safety/NSFL {gore:.2f} >= block 0.50" in row["reasons"]
    assert len({row["decision"] for row in found if row["status"] == "ok"}) > 1
    video = next(row for row in found if row["path"].endswith("clip.mp4"))
    if "label" in video["reasons"]:
        assert " at 00:00:0" in video["reasons"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_decide_gives_what_a_scan_by_that_policy_gives(
    images: Path, weights: Path, suffix: str
) -> None:
    scan(images, weights, "kept", "--keep-labels")
    scan(images, weights, "gore", "--keep-labels", "--policy", "gore.toml")
    out = f"decided.{suffix}"
    assert run(["decide", f"kept.{suffix}", "--policy", "gore.toml", "--out", out, "-q"]) == 0
    assert [row["decision"] for row in rows(out)] != [row["decision"] for row in rows("kept.csv")]
    if suffix == "parquet":
        tables = [pq.read_table(f).drop_columns(run_columns.NAMES) for f in (out, "gore.parquet")]
        assert tables[0].equals(tables[1])
    else:
        texts = [run_columns.without(Path(f).read_bytes()) for f in (out, f"gore.{suffix}")]
        assert texts[0] == texts[1]


def test_what_else_takes_a_policy_takes_its_labels(
    images: Path, weights: Path, capsys: Captured
) -> None:
    scan(images, weights, "kept", "--keep-labels")
    scan(images, weights, "gore", "--policy", "gore.toml")
    assert run(["diff", "kept.parquet", "--policy", "gore.toml", "--out", "diff.json"]) == 0
    changed = json.loads(Path("diff.json").read_text())["changed"]
    pairs = zip(rows("kept.csv"), rows("gore.csv"), strict=True)
    assert changed == sum(a["decision"] != b["decision"] for a, b in pairs) > 0
    capsys.readouterr()
    assert run(["explain", "gore.parquet", "--json", "--state=state", "row:1"]) == 0
    explained = json.loads(capsys.readouterr().out)["images"][0]
    assert explained["follows"] is True
    labels = {each["label"]: each for each in explained["labels"]}
    assert labels["safety/NSFL"]["review"] == 0.3
    first = rows("gore.csv")[0]["label:safety/NSFL"]
    assert labels["safety/NSFL"]["score"] == pytest.approx(first, abs=1e-7)
    assert run(["explain", "gore.parquet", "--state=state", "row:1"]) == 0
    assert "review from 0.3" in " ".join(capsys.readouterr().out.split())


def test_a_label_that_is_not_there_is_one_error(
    images: Path, weights: Path, capsys: Captured
) -> None:
    Path("odd.toml").write_text(PLAIN + '[labels."safety/nope"]\nreview = 0.1\nblock = 0.2\n')
    common = ["scan", str(images), "--weights", str(weights), "--no-state", "--backend=torch", "-q"]
    assert run([*common, "--policy", "odd.toml"]) == 2
    said = last_error(capsys)
    assert "labels.'safety/nope': the weights both have no such label" in said
    assert "safety/NSFL" in said
    scan(images, weights, "plain")
    scan(images, weights, "kept", "--keep-labels")
    capsys.readouterr()
    assert run(["decide", "plain.csv", "--policy", "gore.toml", "-q"]) == 2
    assert "no column label:safety/NSFL; scan again" in last_error(capsys)
    assert run(["decide", "kept.csv", "--policy", "odd.toml", "-q"]) == 2
    assert "no column label:safety/nope; they have safety/NSFL" in last_error(capsys)
    assert run(["diff", "plain.csv", "--policy", "gore.toml"]) == 2
    assert "no column label:safety/NSFL" in last_error(capsys)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[labels."NSFL"]\nreview = 0.1\nblock = 0.2', "a label is named MODEL/LABEL"),
        ('[labels."a/b; c"]\nreview = 0.1\nblock = 0.2', "separates reasons"),
        ('[labels."a/b"]\nreview = 0.1', "labels.a/b.block"),
        ('[labels."a/b"]\nreview = 0.3\nblock = 0.2', "must not be above block"),
        (
            '[[override]]\nwhen = "x"\n[override.labels]\n"a/b" = { review = 0.1 }',
            "labels.a/b.block",
        ),
        ('[[override]]\nwhen = "label:a/b = 1"\non_error = "block"', "thresholds of labels go"),
    ],
)
def test_a_policy_names_labels_as_they_are(table: str, said: str, capsys: Captured) -> None:
    Path("odd.toml").write_text(PLAIN + table + "\n")
    assert run(["policy", "check", "odd.toml"]) == 2
    assert said in last_error(capsys)


def test_two_labels_of_one_name_are_refused(images: Path, tmp_path: Path, capsys: Captured) -> None:
    write_model(tmp_path / "w", labels=("a", "b"))
    models = [model_table(categories={name: ["a"]}) for name in ("nudity", "violence")]
    write_card(tmp_path / "w", models, name="twice")
    common = [
        "scan",
        str(images),
        "--weights",
        str(tmp_path / "w"),
        "--no-state",
        "--backend=torch",
        "-q",
    ]
    assert run(common) == 0
    assert run([*common, "--keep-labels"]) == 2
    assert "two labels called 'twice/a'" in last_error(capsys)


def test_a_carried_column_cannot_pass_for_a_label(
    images: Path, weights: Path, capsys: Captured
) -> None:
    manifest = pa.table({"path": [str(images / "1.png")], "label:safety/NSFL": [0.0]})
    pq.write_table(manifest, "manifest.parquet")
    common = [
        "scan",
        "manifest.parquet",
        "--weights",
        str(weights),
        "--no-state",
        "--backend=torch",
        "-q",
    ]
    assert run([*common, "--keep", "label:safety/NSFL"]) == 2
    assert "--keep original_label:safety/NSFL=" in last_error(capsys)
    assert run([*common, "--keep", "original=label:safety/NSFL", "--out", "out.csv"]) == 0
    assert rows("out.csv")[0]["original"] == "0.0"


@pytest.mark.parametrize("value", ["1.5", "much"])
def test_what_no_label_can_have_is_an_error(
    images: Path, weights: Path, capsys: Captured, value: str
) -> None:
    scan(images, weights, "gore", "--policy", "gore.toml")
    head, first, *rest = Path("gore.csv").read_text().splitlines()
    changed = first.rpartition(",")[0] + "," + value
    Path("gore.csv").write_text("\n".join([head, changed, *rest]) + "\n")
    capsys.readouterr()
    assert run(["decide", "gore.csv", "--policy", "gore.toml", "-q"]) == 2
    assert f"label:safety/SFW: {value!r}".replace("'1.5'", "1.5") in last_error(capsys)


def test_python_has_them_too(images: Path, weights: Path) -> None:
    image, common = images / "1.png", {"weights": str(weights), "backend": "torch"}
    found = list(moderate.scan(image, **common, keep_labels=True))  # type: ignore[arg-type]
    assert tuple(found[0].labels) == NAMES
    assert all(isinstance(score, float) for score in found[0].labels.values())
    assert next(iter(moderate.scan(image, **common))).labels == {}  # type: ignore[arg-type]
