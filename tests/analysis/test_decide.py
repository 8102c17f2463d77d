"""Decisions again from stored scores: what a scan by that policy would have written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.analysis.decide import DecideOptions, redecide
from moderate.analysis.pieces import MOST_ROWS
from moderate.cli.main import run
from moderate.errors import InputError, OutputError, PolicyError, UsageError
from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.report.decide import report
from moderate.report.files import render
from moderate.results.parquet_writer import ROW_GROUP_ROWS, ParquetResultWriter
from moderate.results.read import read_results
from moderate.results.schema import COLUMNS
from moderate.results.targets import open_writers
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Column,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Views,
    Warn,
)
from moderate.version import __version__
from tests.support import run_columns
from tests.support.pictures import encode, scene
from tests.support.videos import make_video

SUFFIXES = ("csv", "parquet", "jsonl")
DECIDED = {"decision", "reasons", "label", "nsfw_score", "safe_score", "confidence", "risk",
           "is_nsfw", "rating"}  # fmt: skip
OF_A_RUN = ("run_id", "started", "ended", "sha256", "decided", "decided_from", "decided_version")
ODD = b'caf\xe9, "x".jpg'
LIMITS = """
[categories]
nudity = { review = 0.2, block = 0.4 }
sexual_activity = { review = 0.3, block = 0.7 }
suggestive = { review = 0.2, block = 0.9 }
violence = { review = 0.1, block = 0.45 }
drug_use = { review = 0.4, block = 0.6 }
"""
MINE = """
name = "mine"
on_error = "block"
on_unscored = "review"
[on_warning]
small_image = "review"
""" + LIMITS + """
[[rating]]
value = "low, or none"
description = "the rest"
[[rating]]
value = "high"
description = "some"
any = { nudity = 0.35, violence = 0.3 }
[bands]
categories = ["violence", "nudity"]
nsfw_above = 0.3
risk_mid_from = 0.25
risk_high_above = 0.4
[[override]]
when = "deep/**"
name = "deep"
policy = "strict"
[[override]]
when = "tenant = shop"
on_error = "review"
[override.categories]
nudity = { block = 0.25 }
"""  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Path]:
    """Pictures of all sorts with a manifest and a video, and what scans by policies made of them.

    Scores are the same, by one weights file.
    """
    folder = tmp_path_factory.mktemp("redecide")
    images = folder / "images"
    (images / "deep").mkdir(parents=True)
    for number in range(9):
        size = (400, 300) if number % 2 else (80, 60)
        (images / f"{number}.png").write_bytes(encode(scene(size, seed=number), "PNG"))
    shutil.copy(images / "1.png", images / "deep" / "copy.png")
    shutil.copy(images / "2.png", images / "deep" / "=1+1.png")
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    Path(os.fsdecode(os.fsencode(images) + b"/" + ODD)).write_bytes(
        encode(scene((400, 300), seed=9), "JPEG")
    )
    frames = (scene((64, 48), seed=number // 10) for number in range(40))
    whole = make_video(images / "clip.mp4", frames).read_bytes()
    (images / "cut.ts").write_bytes(whole[: len(whole) // 2])
    manifest = pa.table({
        "path": [f"images/{n}.png" for n in range(9)] + ["images/broken.jpg"],
        "tenant": ["shop", "forum", None, "=x", "shop", "a,b", 'q"q', "shop", "\tx\ny", "shop"],
        "count": [1, 2, 3, None, 5, 6, 7, 8, 9, 10],
        "ratio": pa.array([0.1, 1.0, 1e-7, None, 2.5, 3.0, 0.3, 0.2, 1e20, 0.1], pa.float32()),
        "at": pa.array([datetime(2026, 1, n + 1, tzinfo=UTC) for n in range(10)]),
        "tags": pa.array([["a"], [], None, ["x", "y"], *[["b"]] * 6]),
    })  # fmt: skip
    pq.write_table(manifest, folder / "manifest.parquet")
    blocked = hashlib.sha256((images / "4.png").read_bytes()).hexdigest()
    cleared = hashlib.sha256((images / "7.png").read_bytes()).hexdigest()
    lists = (
        f'[[block]]\nsha256 = "{blocked}"\nreason = "known, bad"\n'
        f'[[ignore]]\nsha256 = "{cleared}"\nreason = "looked at"\nexpires = 2999-01-01\n'
    )
    (folder / "mine.toml").write_text(MINE + lists)
    (folder / "plain.toml").write_text('name = "plain"\n' + LIMITS)
    here = Path.cwd()
    os.chdir(folder)
    keep = [f"--keep={name}" for name in ("tenant", "count", "ratio", "at", "tags")]
    inputs = [["images", "--video-every=1"], ["manifest.parquet", *keep]]
    try:
        for number, given in enumerate(inputs):
            for policy in ("plain.toml", "mine.toml", "strict"):
                stem = f"{Path(policy).stem}{number}"
                outs = [f"--out={stem}.{suffix}" for suffix in SUFFIXES]
                arguments = ["scan", *given, "--weights", str(bundle), "--policy", policy, "-q"]
                more = ["--summary", f"{stem}.json", "--state", "state"]
                assert run([*arguments, *outs, *more]) == 0
        yield folder
    finally:
        os.chdir(here)


def column_of(path: str, name: str) -> list[Any]:
    return [row[name] for row in read_results(path).rows()]


def facts_of(path: str) -> dict[str, str]:
    return {k: v for k, v in read_results(path).facts.items() if k not in OF_A_RUN}


@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("policy", ["mine.toml", "strict"])
def test_the_same_bytes_as_a_scan_by_that_policy(
    place: Path, tmp_path: Path, policy: str, number: int, source: str
) -> None:
    """Text to text, and table to table: decisions, reasons, views, and all that was there."""
    given = f"plain{number}.{source}"
    out = str(tmp_path / f"out.{source}")
    made = redecide(DecideOptions(given, policy, [out]))
    expected = f"{Path(policy).stem}{number}.{source}"
    assert made.summary.rows > 9
    assert np.diag(made.changes).sum() < made.summary.rows  # else it would prove nothing
    if source == "parquet":
        tables = [pq.read_table(file).drop_columns(run_columns.NAMES) for file in (out, expected)]
        assert tables[0].equals(tables[1])
        assert (
            pq.read_schema(out).remove_metadata().equals(pq.read_schema(expected).remove_metadata())
        )
    else:
        got, scanned = Path(out).read_bytes(), Path(expected).read_bytes()
        assert run_columns.without(got) == run_columns.without(scanned)
    for name in run_columns.NAMES:
        assert column_of(out, name) == column_of(given, name)
    assert facts_of(out).items() >= facts_of(expected).items()


@pytest.mark.parametrize("source", SUFFIXES)
def test_any_format_into_any_other(place: Path, tmp_path: Path, source: str) -> None:
    outs = [str(tmp_path / f"out.{suffix}") for suffix in SUFFIXES]
    redecide(DecideOptions(f"plain0.{source}", "strict", outs))
    for out, suffix in ((outs[0], "csv"), (outs[2], "jsonl")):
        scanned = run_columns.without(Path(f"strict0.{suffix}").read_bytes())
        assert run_columns.without(Path(out).read_bytes()) == scanned
    tables = [
        pq.read_table(file).drop_columns(run_columns.NAMES) for file in (outs[1], "strict0.parquet")
    ]
    assert tables[0].equals(tables[1])
    carried = [str(tmp_path / f"carried.{suffix}") for suffix in SUFFIXES]
    redecide(DecideOptions(f"plain1.{source}", "strict", carried))
    for path in carried:  # values that a format has no type for are text from there on
        rows = list(read_results(path).rows())
        assert [row["tenant"] for row in rows][:5] == ["shop", "forum", None, "=x", "shop"]
        assert [row["count"] and int(row["count"]) for row in rows][:5] == [1, 2, 3, None, 5]


def test_deciding_back_gives_the_first_file(place: Path, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        there, back = (str(tmp_path / f"{name}.{suffix}") for name in ("there", "back"))
        redecide(DecideOptions(f"plain1.{suffix}", "strict", [there]))
        redecide(DecideOptions(there, "plain.toml", [back]))
        first = Path(f"plain1.{suffix}")
        if suffix == "parquet":
            assert pq.read_table(back).equals(pq.read_table(first))
        else:
            assert Path(back).read_bytes() == first.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_audit_facts(place: Path, tmp_path: Path, suffix: str) -> None:
    source, out = f"plain0.{suffix}", str(tmp_path / f"out.{suffix}")
    before = datetime.now(UTC)
    redecide(DecideOptions(source, "strict", [out]))
    was, facts, loaded = read_results(source).facts, read_results(out).facts, load_policy("strict")
    assert facts["decided_from"] == hashlib.sha256(Path(source).read_bytes()).hexdigest()
    assert before.timestamp() - 1 < datetime.fromisoformat(facts["decided"]).timestamp()
    assert facts["decided_version"] == __version__
    assert (facts["policy"], facts["policy_sha256"]) == ("strict", loaded.sha256)
    assert Policy.model_validate_json(facts["policy_json"]) == loaded.policy
    changed = {"policy", "policy_file", "policy_sha256", "policy_json", "sha256"}
    assert {k: v for k, v in was.items() if k not in changed} == {
        k: v for k, v in facts.items() if k in was and k not in changed
    }
    assert facts["run_id"] == was["run_id"]
    assert not read_results(out).mismatch


def test_counts_are_those_of_a_scan(place: Path, tmp_path: Path) -> None:
    expected = json.loads(Path("mine0.json").read_text())
    decided = tmp_path / "d.json"
    summaries = [str(decided), str(tmp_path / "d.md")]
    options = DecideOptions("plain0.parquet", "mine.toml", [], summaries)
    redecide(options, lambda done, target: render(report(done), target))
    made = json.loads(decided.read_text())
    for key in ("rows", "scored", "errors", "decisions", "categories", "error_codes", "warnings",
                "error_examples"):  # fmt: skip
        assert made[key] == expected[key], key
    counts = [list(row.values()) for row in made["transitions"].values()]
    assert sum(map(sum, counts)) == made["rows"]
    assert made["changed"] == sum(map(sum, counts)) - sum(counts[n][n] for n in range(3)) > 0
    assert "decisions changed" in (tmp_path / "d.md").read_text()


def made_row(number: int, path: bytes, carried: tuple[Any, ...] = ()) -> Row:
    generator = np.random.default_rng(number)
    if number % 13 == 5:
        error = ImageError(ErrorCode.TRUNCATED, "cut")
        return Row(ImageRef(path, carried=carried), ImageFacts(), UNSCORED, Decision.REVIEW,
                   ("error truncated: on_error review",), error=error)  # fmt: skip
    drawn = generator.random(len(CATEGORIES)).astype(np.float32)
    scores: dict[Any, float | None] = dict(zip(CATEGORIES, map(float, drawn), strict=True))
    warnings = (Warn.ANIMATED,) if number % 3 == 0 else ()
    facts = ImageFacts(30, 20, "png", 1, 2**40, hashlib.sha256(path).hexdigest(), warnings)
    return Row(ImageRef(path, carried=carried), facts, scores, Decision.REVIEW, ("x",), Views())


def write(paths: Sequence[str], rows: Sequence[Row], columns: tuple[Column, ...] = ()) -> None:
    with open_writers(paths) as writers:
        for writer in writers:
            writer.start(
                {"tool": "moderate", "run_id": "r", "weights": "w", "weights_sha256": "0"}, columns
            )
            for row in rows:
                writer.write(row)
            writer.commit({})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows(tmp_path: Path, suffix: str) -> None:
    source, out = str(tmp_path / f"in.{suffix}"), str(tmp_path / f"out.{suffix}")
    write([source], [], (Column("tenant", pa.string()),))
    made = redecide(DecideOptions(source, "strict", [out]))
    assert made.summary.rows == 0
    read = read_results(out)
    assert list(read.rows()) == []
    assert read.facts["policy"] == "strict"
    assert read.carried == (() if suffix == "jsonl" else ("tenant",))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_from_before_some_columns(tmp_path: Path, suffix: str) -> None:
    """As older versions wrote it, without duplicate_of, and one of little but scores."""
    source = tmp_path / "in.parquet"
    write([str(source)], [made_row(n, b"./%d" % n) for n in range(30)])
    table = pq.read_table(source)
    for lost in (["duplicate_of"], sorted(set(table.column_names) - {
        "path", "status", "decision", "nudity", "violence"})):  # fmt: skip
        old, out = str(tmp_path / f"old.{suffix}"), str(tmp_path / f"out.{suffix}")
        store(table.drop_columns(lost), old)
        redecide(DecideOptions(old, "strict", [out]))
        read = read_results(out)
        assert read.columns == tuple(column.name for column in COLUMNS)
        rows = list(read.rows())
        assert len(rows) == 30
        failed = [row for row in rows if row["status"] == "error"]
        code = "unknown" if "error_code" in lost else "truncated"
        assert {row["reasons"] for row in failed} == {f"error {code}: on_error block"}
        if "drug_use" in lost:
            assert all(row["decision"] != "approve" for row in rows)
            unscored = "drug_use not scored: on_unscored review"
            reviewed = [row for row in rows if row["decision"] == "review"]
            assert reviewed
            assert all(unscored in row["reasons"] for row in reviewed)
            assert all(row["drug_use"] is None for row in rows)


def store(table: Any, path: str) -> None:
    """A table as another tool would write it; text as this one does."""
    if path.endswith(".parquet"):
        pq.write_table(table, path)
    elif path.endswith(".jsonl"):
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        lines = [",".join(table.column_names)]
        for row in table.to_pylist():
            lines.append(",".join("" if v is None else str(v).lower() for v in row.values()))
        Path(path).write_text("\n".join(lines) + "\n")


def test_large_files_come_in_parts_of_a_scan_s_size(tmp_path: Path) -> None:
    count = MOST_ROWS + ROW_GROUP_ROWS // 2
    few = tmp_path / "few.parquet"
    write([str(few)], [made_row(n, b"./%d" % n) for n in range(100)])
    table = pa.concat_tables([pq.read_table(few)] * (count // 100 + 1)).slice(0, count)
    source, out = str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")
    pq.write_table(table, source, row_group_size=count)
    redecide(DecideOptions(source, "balanced", [out]))
    with pq.ParquetFile(out) as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        assert groups == [ROW_GROUP_ROWS] * (count // ROW_GROUP_ROWS) + [ROW_GROUP_ROWS // 2]
        kept = [name for name in table.column_names if name not in DECIDED]
        assert file.read(kept).equals(table.select(kept))
    redecide(DecideOptions(str(few), "balanced", [str(tmp_path / "small.parquet")]))
    small = pq.read_table(tmp_path / "small.parquet")
    again = pq.read_table(out).slice(100_000, 100)
    assert again.equals(small)


def test_carried_values_of_json_keep_what_they_are(tmp_path: Path) -> None:
    values = [1, 2.5, None, "=text", True, [1, {"a": None}], "\ud800", "x\u2028\x00", {"k": "ü"}]
    source = tmp_path / "in.jsonl"
    rows = [made_row(n, b"./%d" % n, (value, n)) for n, value in enumerate(values)]
    write([str(source)], rows, (Column("odd", pa.string()), Column("n", pa.int64())))
    outs = [str(tmp_path / f"out.{suffix}") for suffix in SUFFIXES]
    redecide(DecideOptions(str(source), "balanced", outs))
    before, after = (
        [json.loads(line) for line in Path(path).read_bytes().split(b"\n")[:-1]]
        for path in (source, outs[2])
    )
    assert [row["odd"] for row in before] == [row["odd"] for row in after] == values
    table = pq.read_table(outs[1])
    assert table["n"].to_pylist() == list(range(len(values)))
    assert table["odd"].type == pa.string()
    assert table["odd"].to_pylist()[:5] == ["1", "2.5", None, "=text", "true"]


def test_a_missing_or_foreign_sidecar_is_said(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    write([str(source)], [made_row(n, b"./%d" % n) for n in range(3)])
    source.write_bytes(source.read_bytes().replace(b"./1,", b"./9,"))
    made = redecide(DecideOptions(str(source), "strict"))
    assert made.notes == (
        "The audit facts beside the source describe another file: its digest is not theirs.",
    )
    Path(f"{source}.meta.json").unlink()
    out = str(tmp_path / "out.csv")
    made = redecide(DecideOptions(str(source), "strict", [out]))
    assert made.notes == (
        "The source has no audit facts: which weights gave the scores is not known.",
    )
    assert {"policy", "decided_from", "sha256"} <= set(read_results(out).facts)


def test_targets_that_are_inputs_are_refused(tmp_path: Path) -> None:
    source, link = str(tmp_path / "in.csv"), str(tmp_path / "link.csv")
    write([source], [made_row(1, b"./1")])
    os.link(source, link)
    policy = tmp_path / "p.toml"
    policy.write_text('name = "p"\n' + LIMITS)
    held = Path(source).read_bytes()
    for out in (source, link):
        with pytest.raises(UsageError, match="is an input; write the results elsewhere"):
            redecide(DecideOptions(source, "strict", [out]))
    other = str(tmp_path / "o.csv")
    with pytest.raises(UsageError, match="would be written twice"):
        redecide(DecideOptions(source, "strict", [other, other]))
    with pytest.raises(UsageError, match=r"meta\.json is an input"):
        redecide(DecideOptions(source, "strict", [], [f"{source}.meta.json"]))
    with pytest.raises(OutputError, match="there is no folder"):
        redecide(DecideOptions(source, "strict", [str(tmp_path / "none" / "o.csv")]))
    with pytest.raises(PolicyError, match="no policy"):
        redecide(DecideOptions(source, "strictly", [other]))
    listed = tmp_path / "blocked.csv"
    listed.write_text(f"sha256,reason\n{'a' * 64},seen before\n")
    policy.write_text('name = "p"\nblock_file = "blocked.csv"\n' + LIMITS)
    with pytest.raises(UsageError, match=r"blocked\.csv is an input"):
        redecide(DecideOptions(source, str(policy), [str(listed)]))
    listed.unlink()
    assert Path(source).read_bytes() == held
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.csv", "in.csv.meta.json", "link.csv", "p.toml"]  # fmt: skip


def test_files_appear_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, csv_out = str(tmp_path / "in.csv"), tmp_path / "out.csv"
    write([source], [made_row(1, b"./1")])
    write([str(csv_out)], [made_row(2, b"./of-yesterday")])
    of_yesterday = csv_out.read_bytes()
    targets = [str(csv_out), str(tmp_path / "out.parquet")]

    def full(writer: ParquetResultWriter, facts: dict[str, str]) -> None:
        raise OutputError("cannot write: the disk is full")

    monkeypatch.setattr(ParquetResultWriter, "seal", full)
    with pytest.raises(OutputError, match="the disk is full"):
        redecide(DecideOptions(source, "strict", targets))
    assert csv_out.read_bytes() == of_yesterday
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.csv", "in.csv.meta.json", "out.csv", "out.csv.meta.json"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("a.csv", b"path,status,decision,nudity\n./a,ok,approve,1.5\n", "not a score from 0 to 1"),
        ("a.csv", b"path,status,decision\n./a,ok,approve\n./b,ok\n", "2 cells where the header"),
        ("a.csv", b"a,b\n1,2\n", "not a results file"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b'path,status,decision\n"./a,ok,approve\n', "line"),
        ("a.csv", b"path,status,decision\n./a\xff,ok,approve\n", "not UTF-8"),
        ("a.csv", b"path,status,decision\n./a,ok,maybe\n", "none of approve, review, block"),
        ("a.jsonl", b"[1]\n", "where an object is expected"),
        ("a.jsonl", b'{"path": "./a", "status": "ok", "decision": "x"}\n', "none of approve"),
        ("a.parquet", b"PAR1 nonsense PAR1", "not readable Parquet"),
        ("a.txt", b"x", "the suffix is one of"),
    ],
)  # fmt: skip
def test_nonsense_is_one_clear_line(tmp_path: Path, name: str, data: bytes, line: str) -> None:
    source = tmp_path / name
    source.write_bytes(data)
    with pytest.raises((InputError, UsageError), match=line):
        redecide(DecideOptions(str(source), "strict", [str(tmp_path / "out.csv")]))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_today_decides_what_is_cleared(tmp_path: Path) -> None:
    source = str(tmp_path / "in.parquet")
    write([source], [made_row(1, b"./1")])
    digest = hashlib.sha256(b"./1").hexdigest()
    for expires, decision in ((date(2000, 1, 1), "block"), (date(2999, 1, 1), "approve")):
        policy = tmp_path / f"{expires.year}.toml"
        limits = LIMITS.replace("review = 0.1, block = 0.45", "review = 0.0, block = 0.0")
        policy.write_text(
            f'name = "p"\n{limits}\n[[ignore]]\nsha256 = "{digest.upper()}"\n'
            f'reason = "seen"\nexpires = {expires}\n'
        )
        out = str(tmp_path / "out.parquet")
        redecide(DecideOptions(source, str(policy), [out]))
        (row,) = read_results(out).rows()
        assert row["decision"] == decision
        assert row["reasons"].startswith("cleared until 2999-01-01: seen") == (decision != "block")
