"""Second opinions: rows in a band have the scores of other weights, all others keep theirs."""

from __future__ import annotations

import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import moderate
from moderate.classify import replicas
from moderate.cli.main import run
from moderate.cluster.plan import plan_on_ray
from moderate.decode.scheduler import Scheduler
from moderate.errors import UsageError
from moderate.results.read import read_results
from moderate.run import second_opinions
from tests.support.bundles import model_table, write_card, write_model
from tests.support.pictures import encode, scene
from tests.support.scans import Place, Written, assert_same, make_corpus, read_kept
from tests.support.videos import make_video

Captured = pytest.CaptureFixture[str]
SUFFIXES = ("csv", "parquet", "jsonl")
CATEGORIES = ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
LIMITS = "".join(f"{name} = {{ review = 0.97, block = 0.99 }}\n" for name in CATEGORIES)
PLAIN = f'name = "plain"\n[categories]\n{LIMITS}'


def make_weights(folder: Path, labels: tuple[str, ...], seed: int, side: int) -> Path:
    write_model(folder, labels=labels, seed=seed, spread=400.0)
    table = model_table(categories={name: [name] for name in labels})
    table["preprocess"]["size"] = [side, side]
    write_card(folder, [table])
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that score all categories."""
    return make_weights(tmp_path_factory.mktemp("weights") / "light", CATEGORIES, 1, 64)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that score two of them, and want other pixels."""
    folder = tmp_path_factory.mktemp("weights") / "heavy"
    return make_weights(folder, ("nudity", "violence"), 2, 96)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a copy, one that is broken, an animation, an archive and a video."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encode(scene((300, 280), seed=number), "PNG"))
    shutil.copy(folder / "1.png", folder / "copy.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    frames = [scene((80, 60), seed=number) for number in (20, 21, 22)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=200)
    with zipfile.ZipFile(folder / "dump.zip", "w") as archive:
        for number in range(10, 16):
            archive.writestr(f"{number}.jpg", encode(scene((90, 70), seed=number), "JPEG"))
    make_video(folder / "clip.mp4", (scene((64, 48), seed=n // 10) for n in range(40)))
    return folder


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.toml").write_text(PLAIN)


def count_decoded(patch: pytest.MonkeyPatch) -> list[object]:
    """A list that gets each image which a decoder is given from now on."""
    given: list[object] = []
    assign = Scheduler._assign

    def counting(pool: Any, *arguments: Any, **named: Any) -> Any:
        given.append(arguments)
        return assign(pool, *arguments, **named)

    patch.setattr(Scheduler, "_assign", counting)
    return given


def arguments(images: Path, weights: Path, policy: str, *options: str) -> list[str]:
    inputs = [str(images), *(str(archive) for archive in images.glob("*.zip"))]
    common = [
        "--device=cpu",
        "--backend=torch",
        "--workers=1",
        "-q",
        "--state=state",
        "--video-every=1",
    ]
    return [*inputs, "--weights", str(weights), "--policy", policy, *common, *options]


def scan(images: Path, weights: Path, stem: str, policy: str = "plain.toml", *more: str) -> None:
    options = [f"--out={stem}.parquet", f"--summary={stem}-sum.json", *more]
    assert run(["scan", *arguments(images, weights, policy, *options)]) == 0


def rows(path: str) -> list[dict[str, Any]]:
    return list(read_results(path).rows())


def table(heavy: Path, low: float, high: float, more: str = "", name: str = "two") -> str:
    return (
        f'name = "{name}"\n[categories]\n{LIMITS}[[second_opinion]]\nweights = "{heavy}"\n'
        f'from = {low}\nto = {high}\ncategories = ["nudity"]\n{more}\n'
    )


def write_policy(path: str, *arguments: Any, **more: Any) -> str:
    Path(path).write_text(table(*arguments, **more))
    return path


def band(first: list[dict[str, Any]]) -> tuple[float, float]:
    """One that takes in some of the rows' scores of nudity, in the gaps between them."""
    scores = sorted({row["nudity"] for row in first if row["nudity"] is not None})
    third = len(scores) // 3
    low, high = (sum(scores[at - 1 : at + 1]) / 2 for at in (third, 2 * third))
    return round(low, 6), round(high, 6)


@pytest.fixture(scope="module")
def alone(images: Path, light: Path, heavy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of all images by each of the two weights alone."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("plain.toml").write_text(PLAIN)
        scan(images, light, "light", "plain.toml", "--out=light.jsonl")
        scan(images, heavy, "heavy")
    return folder


@pytest.fixture(scope="module")
def both(alone: Path) -> tuple[list[Any], list[Any]]:
    """The rows by each of the two weights alone."""
    return rows(str(alone / "light.parquet")), rows(str(alone / "heavy.parquet"))


@pytest.fixture(scope="module")
def policy(
    both: tuple[list[Any], list[Any]], heavy: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A policy that asks for the heavy weights on about a third of the rows."""
    path = str(tmp_path_factory.mktemp("policy") / "two.toml")
    return write_policy(path, heavy, *band(both[0]))


@dataclass(frozen=True)
class Scanned:
    """A scan by that policy: its results, its state, and how many images were decoded for it."""

    folder: Path
    decoded: int

    def result(self, suffix: str = "parquet") -> str:
        """The path of its rows."""
        return str(self.folder / f"two.{suffix}")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its rows."""
        return rows(self.result())

    @property
    def summary(self) -> Any:
        """Its summary."""
        return json.loads((self.folder / "two-sum.json").read_text())


@pytest.fixture(scope="module")
def two(
    images: Path, light: Path, policy: str, tmp_path_factory: pytest.TempPathFactory
) -> Scanned:
    """The images by the light weights, with second opinions of the heavy ones."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        decoded = count_decoded(patch)
        scan(images, light, "two", policy, "--out=two.csv", "--out=two.jsonl")
    return Scanned(folder, len(decoded))


def is_video(row: dict[str, Any]) -> bool:
    return bool(row["path"].endswith("clip.mp4"))


def expected_scores(
    both: tuple[list[Any], list[Any]], choose: Callable[[float, float], float] = lambda a, b: b
) -> dict[str, dict[str, Any]]:
    """For each image or frame in the band, the scores that count; by its path."""
    low, high = band(both[0])
    found = {}
    for first, second in zip(*both, strict=True):
        assert first["path"] == second["path"]
        if first["nudity"] is not None and low <= first["nudity"] <= high and not is_video(first):
            found[first["path"]] = {
                name: choose(first[name], second[name]) for name in ("nudity", "violence")
            }
    return found


def assert_scores(row: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    expected = {name: first[name] for name in CATEGORIES} | second
    for name, score in expected.items():
        assert row[name] == (None if score is None else pytest.approx(score, abs=1e-6)), name


def test_rows_in_the_band_have_the_second_scores_and_nothing_is_scored_twice(
    images: Path,
    light: Path,
    heavy: Path,
    both: tuple[list[Any], list[Any]],
    policy: str,
    two: Scanned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, asked = two.rows, expected_scores(both)
    for row, first in zip(found, both[0], strict=True):
        if is_video(row):
            continue
        path = row["path"]
        assert_scores(row, first, asked.get(path, {}))
        assert row["second_weights"] == ("heavy" if path in asked else None)
        before = pytest.approx(first["nudity"], abs=1e-6) if path in asked else None
        assert row["first_nudity"] == before
        assert row["second_error"] is None
        assert row["warnings"] == first["warnings"]
    paths = " ".join(asked)
    assert "dump.zip!/" in paths, paths
    assert "clip.mp4!/" in paths, paths
    assert ".png" in paths, paths
    assert len(asked) < len(found) - 6
    video = next(row for row in found if is_video(row))
    frames = [row for row in found if "clip.mp4!/" in row["path"]]
    assert video["nudity"] == max(row["nudity"] for row in frames)
    assert video["second_weights"] is None

    new = sum(row["duplicate_of"] is None for row in found if row["path"] in asked)
    summary = two.summary
    (opinion,), (cost,) = summary["second_opinions"], summary["throughput"]["second_opinions"]
    assert (opinion["rows"], opinion["failed"], cost["images"]) == (len(asked), 0, new)
    assert summary["audit"]["second_weights"] == "heavy"

    monkeypatch.chdir(two.folder)
    decoded = count_decoded(monkeypatch)
    scan(images, light, "again", policy)
    assert decoded == []
    again = json.loads(Path("again-sum.json").read_text())
    assert again["second_opinions"] == summary["second_opinions"]
    assert again["throughput"]["second_opinions"][0]["images"] == 0
    # The second scores are those of a scan by these weights, which finds them.
    Path("plain.toml").write_text(PLAIN)
    scan(images, heavy, "after")
    assert len(decoded) == two.decoded - 2 * new


def test_all_formats_have_the_same_columns_and_values(two: Scanned) -> None:
    schema = pq.read_schema(two.result())
    columns = ["second_weights", "second_error", "first_nudity", "first_violence"]
    assert schema.names[3:7] == columns
    kinds = [schema.field(name).type for name in columns]
    assert kinds == [pa.string(), pa.string(), pa.float32(), pa.float32()]
    in_csv, in_parquet, in_jsonl = (rows(two.result(suffix)) for suffix in SUFFIXES)
    for text, typed, line in zip(in_csv, in_parquet, in_jsonl, strict=True):
        for name in columns:
            assert line[name] == (
                pytest.approx(typed[name], rel=1e-7)
                if isinstance(typed[name], float)
                else typed[name]
            )
            assert (text[name] or None) == (None if line[name] is None else str(line[name]))
        own = set(typed) - set(columns)
        assert {n: text[n] for n in own} == {n: typed[n] for n in own}


def test_the_higher_score_counts_with_max_and_the_bounds_are_included(
    images: Path, light: Path, heavy: Path, both: tuple[list[Any], list[Any]]
) -> None:
    low, high = band(both[0])
    inside = [r["nudity"] for r in both[0] if r["nudity"] is not None and low < r["nudity"] < high]
    policy = write_policy("max.toml", heavy, min(inside), max(inside), more='combine = "max"')
    scan(images, light, "two", policy)
    asked = expected_scores(both, max)
    assert asked != expected_scores(both)
    for row, first in zip(rows("two.parquet"), both[0], strict=True):
        if not is_video(row):
            assert_scores(row, first, asked.get(row["path"], {}))
            assert (row["second_weights"] == "heavy") == (row["path"] in asked)


def test_what_the_second_weights_could_not_score_is_for_people(
    images: Path,
    light: Path,
    heavy: Path,
    both: tuple[list[Any], list[Any]],
    tmp_path: Path,
    capsys: Captured,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(heavy, broken)
    tensors = load_file(broken / "model.safetensors")
    for name, tensor in tensors.items():
        if name == "conv_stem.weight":  # finite, but the sums are not
            tensors[name] = torch.where(tensor > 0, 3e38, -3e38)
    save_file(tensors, broken / "model.safetensors")
    write_card(broken, [_table_of(heavy)])
    scan(images, light, "two", write_policy("two.toml", broken, *band(both[0])))
    asked = expected_scores(both)
    for row, first in zip(rows("two.parquet"), both[0], strict=True):
        if is_video(row):
            assert row["decision"] == "review"
            continue
        assert_scores(row, first, {})
        if row["path"] in asked:
            assert row["decision"] == "review", row
            assert "warning no_second_opinion: review" in row["reasons"]
            assert "no_second_opinion" in row["warnings"]
            assert row["second_error"].startswith("non_finite_score: ")
        else:
            assert row["decision"] == first["decision"]
            assert "no_second_opinion" not in (row["warnings"] or "")
    (opinion,) = json.loads(Path("two-sum.json").read_text())["second_opinions"]
    assert opinion["failed"] == opinion["rows"] == len(asked)
    # No other policy approves them, either.
    Path("lax.toml").write_text(PLAIN.replace("0.97", "1.0").replace("0.99", "1.0"))
    command = ["decide", "two.parquet", "--policy", "lax.toml", "--out", "lax.parquet", "-q"]
    assert run(command) == 0
    approved = {row["path"] for row in rows("lax.parquet") if row["decision"] == "approve"}
    assert approved
    assert not approved & set(asked)


def _table_of(heavy: Path) -> dict[str, Any]:
    table = model_table(categories={name: [name] for name in ("nudity", "violence")})
    table["preprocess"]["size"] = [96, 96]
    return table


def test_a_file_that_changed_meanwhile_has_no_second_opinion(
    images: Path,
    light: Path,
    both: tuple[list[Any], list[Any]],
    policy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = (images / "0.png").read_bytes()[:-1]
    monkeypatch.setattr(second_opinions, "read_file", lambda *_, **__: other)
    scan(images, light, "two", policy)
    found = {row["path"]: row for row in rows("two.parquet")}
    asked = expected_scores(both)
    files = {path for path in asked if "!/" not in path}
    assert files
    for path in asked:
        changed = (found[path]["second_error"] or "").startswith("read_error: the file has changed")
        assert changed == (path in files)
        if changed:
            assert found[path]["decision"] == "review"


def test_the_second_model_is_loaded_when_a_row_asks_for_it(
    images: Path, light: Path, heavy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    opened = replicas.open_scorer

    def noting(bundle: Any, *arguments: Any, **named: Any) -> Any:
        loaded.append(bundle.name)
        return opened(bundle, *arguments, **named)

    monkeypatch.setattr(replicas, "open_scorer", noting)
    scan(images, light, "none", write_policy("none.toml", heavy, 1.0, 1.0))
    assert loaded == ["light"]
    assert {row["second_weights"] for row in rows("none.parquet")} == {None}


def test_other_runs_have_no_trace_of_them(alone: Path) -> None:
    facts = {**read_results(str(alone / "light.jsonl")).facts, "policy_file": ""}
    texts = [json.dumps(facts), *(alone / f"light{end}" for end in (".jsonl", "-sum.json"))]
    texts = [text if isinstance(text, str) else text.read_text() for text in texts]
    assert not any("second_" in text or "first_nudity" in text for text in texts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("from = 0.8\nto = 0.2", "second_opinion.0: from (0.8) must not be above to (0.2)"),
        ("from = 0.1\nto = 0.2\nband = 1", "second_opinion.0.band: unknown key"),
        ("from = 0.1", "second_opinion.0.to: is missing"),
        ("from = 0.1\nto = 2.0", "second_opinion.0.to: use 1 or less"),
        ('from = 0.1\nto = 0.2\nweights = "not-there"', "second_opinion.0.weights: "),
        ('from = 0.1\nto = 0.2\nweights = "LIGHT"', "light are the weights of the scan itself"),
        (
            'from = 0.1\nto = 0.2\ncategories = ["drug_use"]',
            "second_opinion.0.weights: heavy score none of drug_use",
        ),
    ],
)
def test_mistakes_are_told_in_one_line_before_the_scan(
    images: Path, light: Path, heavy: Path, capsys: Captured, change: str, reason: str
) -> None:
    change = change.replace("LIGHT", str(light))
    named = "" if "weights" in change else f'weights = "{heavy}"\n'
    Path("bad.toml").write_text(f"{PLAIN}[[second_opinion]]\n{named}{change}\n")
    assert run(["scan", *arguments(images, light, "bad.toml", "--out=rows.csv")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("moderate: error")]) == 1
    assert reason in lines[-1]
    assert not Path("rows.csv").exists()


def test_only_the_policy_that_is_named_may_ask_for_them(
    images: Path, light: Path, policy: str, capsys: Captured
) -> None:
    Path("outer.toml").write_text(f'{PLAIN}[[override]]\nwhen = "a/**"\npolicy = "{policy}"\n')
    assert run(["scan", *arguments(images, light, "outer.toml", "--out=rows.csv")]) == 2
    assert "has second opinions of its own" in capsys.readouterr().err


def test_a_manifest_must_not_carry_a_column_of_the_same_name(
    images: Path, light: Path, policy: str, capsys: Captured
) -> None:
    Path("list.csv").write_text(f"path,second_weights\n{images}/0.png,mine\n")
    command = ["scan", "list.csv", "--keep", "second_weights", "--weights", str(light)]
    assert run([*command, "--policy", policy, "--out=rows.csv"]) == 2
    assert "--keep my_second_weights=second_weights" in capsys.readouterr().err


def test_decide_asks_for_no_second_opinions_that_are_not_there(
    two: Scanned,
    alone: Path,
    heavy: Path,
    both: tuple[list[Any], list[Any]],
    policy: str,
    capsys: Captured,
) -> None:
    whole, low = two.result(), band(both[0])[0]
    other = write_policy("other.toml", heavy, low, 1.0, name="other")
    stricter = Path("stricter.toml")
    stricter.write_text(Path(policy).read_text().replace("review = 0.97", "review = 0.2"))
    for source, by, problem in (
        (str(alone / "light.parquet"), policy, "light.parquet have none"),
        (whole, other, "two.parquet have others"),
    ):
        capsys.readouterr()
        assert run(["decide", source, "--policy", by, "--out", "made.parquet"]) == 2
        assert problem in capsys.readouterr().err
    for number, suffix in enumerate(("parquet", "csv")):
        command = ["decide", two.result(suffix), "--policy", str(stricter)]
        assert run([*command, "--out", f"made{number}.parquet"]) == 0
    capsys.readouterr()
    assert run(["decide", whole, "--policy", "plain.toml", "--out", "without.parquet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "which this policy does not ask for: their scores stay" in said
    # A way back: the facts still say what the scan asked for.
    assert run(["decide", "without.parquet", "--policy", policy, "--out", "back.parquet"]) == 0
    assert [row["decision"] for row in rows("back.parquet")] == [r["decision"] for r in two.rows]


def test_explain_tells_what_both_said(
    two: Scanned, both: tuple[list[Any], list[Any]], capsys: Captured
) -> None:
    path = next(iter(expected_scores(both)))
    first = next(row for row in both[0] if row["path"] == path)
    for suffix in SUFFIXES:
        capsys.readouterr()
        assert run(["explain", two.result(suffix), path, "--json"]) == 0
        explained = json.loads(capsys.readouterr().out)
        (image,) = explained["images"]
        opinion = image["second_opinion"]
        assert opinion["weights"] == "heavy"
        assert opinion["first_scores"]["nudity"] == pytest.approx(first["nudity"], abs=1e-6)
        assert explained["weights"]["second"][0]["name"] == "heavy"
        assert not any("second" in name or "first" in name for name in image["carried"])
        assert image["follows"] is True
    assert run(["explain", two.result(), path]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"first the weights of the scan: nudity {opinion['first_scores']['nudity']}" in text
    assert "second heavy: nudity" in text


def test_a_dry_run_says_how_many_had_one(
    images: Path, light: Path, policy: str, two: Scanned, capsys: Captured
) -> None:
    ahead = ["scan", *arguments(images, light, policy, "--dry-run")]
    ahead.remove("-q")
    assert run(ahead) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "second opinion by heavy" in text
    assert "is not known before a run" in text
    assert run([*ahead, f"--state={two.folder / 'state'}"]) == 0
    assert "of the images in run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_shares_of_the_inputs_have_them_too(
    images: Path, light: Path, policy: str, two: Scanned
) -> None:
    for number in (1, 2):
        scan(images, light, f"share{number}", policy, f"--shard={number}/2", f"--state=s{number}")
    shares = ["share1.parquet", "share2.parquet"]
    assert run(["merge", *shares, "--out", "merged.parquet", "-q"]) == 0
    merged = rows("merged.parquet")
    names = ("path", "decision", "nudity", "second_weights", "first_nudity", "duplicate_of")
    assert [[row[n] for n in names] for row in merged] == [
        [row[n] for n in names] for row in two.rows
    ]


def test_python_callers_have_the_columns(
    images: Path, light: Path, both: tuple[list[Any], list[Any]], policy: str
) -> None:
    files = [path for path in expected_scores(both) if path.endswith(".png")]
    data = Path(files[0]).read_bytes()
    pixels = Image.open(io.BytesIO(data))
    named = {"weights": str(light), "policy": policy, "device": "cpu", "backend": "torch"}
    with moderate.Moderator(**named) as moderator:
        for _ in range(2):
            made = moderator.moderate([files[0], data, pixels])
            assert [row.to_dict()["second_weights"] for row in made] == ["heavy"] * 3
            assert len({row.to_dict()["nudity"] for row in made}) == 1
    (row,) = moderate.scan(data, **named)
    assert row.to_dict()["first_nudity"] == made[0].to_dict()["first_nudity"]


def test_ray_refuses_them_by_name(images: Path, light: Path, policy: str) -> None:
    options = moderate.ScanOptions(
        inputs=(str(images),), weights=str(light), policy=policy, out=("rows/",), device="cpu"
    )
    with pytest.raises(UsageError, match="--engine ray: the policy two asks for second opinions"):
        plan_on_ray(options)
    fine = replace(options, policy="plain.toml")
    assert plan_on_ray(fine)[0].second == ()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(
    light: Path, heavy: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    inputs = make_corpus(corpus, 60)
    asks = write_policy(str(tmp_path / "killed.toml"), heavy, 0.0, 1.0)
    options = ("--backend=torch", "--policy", asks)
    whole, killed = (
        Place(tmp_path / name, corpus, inputs, str(light), options) for name in ("whole", "killed")
    )
    done = whole.run(whole.scan())
    assert (done.returncode, done.stderr) == (0, "")
    expected = Written.by(whole)
    everything = len(_outcomes(whole))
    with_second = sum(row["second_weights"] is not None for row in expected.rows)
    assert with_second > 20
    for wanted in (everything // 3, 2 * everything // 3):  # among the first, and the second scores
        with killed.start(killed.scan("--force")) as process:
            while process.poll() is None and len(_outcomes(killed)) < wanted:
                time.sleep(0.02)
            process.kill()
    assert len(_outcomes(killed)) >= everything // 3
    assert killed.run(killed.scan("--force")).returncode == 0
    assert_same(killed, expected)


def _outcomes(place: Place) -> list[Any]:
    return read_kept(place.state / "scores.sqlite3", "SELECT sha256, scope FROM outcomes")
