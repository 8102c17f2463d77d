"""`moderate merge`: the results of all shares read as those of one run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.analysis import shard_rows
from moderate.cli.main import run
from moderate.results.read import read_results
from moderate.sources.subset import PLACE_COLUMNS
from tests.support.pictures import encode, scene
from tests.support.scans import make_corpus
from tests.support.videos import make_video

Captured = pytest.CaptureFixture[str]
SHARES = 3
FORMS = ("csv", "jsonl", "parquet")

_CSV = re.compile(rb",(new|changed|reused|duplicate),[0-9a-f]*,[0-9TZ:-]*,(ok|error),")
_JSON = re.compile(rb'"run_id": "\w+", "scored_at": [^,]*, ')


def of_any_run(data: bytes) -> bytes:
    """CSV or JSON Lines without run_id and scored_at, otherwise to the byte."""
    return _JSON.sub(b"", _CSV.sub(rb",\1,\2,", data))


def scan(
    folder: Path, name: str, bundle: Path, *more: str, inputs: list[str] | None = None
) -> None:
    """A scan whose rows are in every form: `name`.csv and so on, and the folder `name`."""
    targets = [f"--out={folder}/{name}.{form}" for form in FORMS]
    command = ["scan", *(inputs or ["in"]), "--weights", str(bundle), "--device", "cpu", "-q"]
    command += ["--no-state", "--batch-size", "1", f"--summary={folder}/{name}.json"]
    command += [*targets, f"--out={folder}/{name}/", "--partition-by=decision,date"]
    assert run([*command, *more]) == 0


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A folder with one whole scan and all shares of it."""
    folder = tmp_path_factory.mktemp("merge")
    inputs = make_corpus(folder / "in", 45)
    frames = (scene((64, 48), seed=number // 10) for number in range(30))
    make_video(folder / "in" / "first" / "0000-clip.mp4", frames)
    shutil.copy(folder / "in" / "first" / "0000-clip.mp4", folder / "in" / "second" / "z.mp4")
    before = Path.cwd()
    os.chdir(folder / "in")
    try:
        options = ("--keep", "id", "--video-every", "1", "--embedded", "score")
        scan(folder, "whole", bundle, *options, inputs=inputs)
        for index in range(1, SHARES + 1):
            more = (*options, "--shard", f"{index}/{SHARES}")
            scan(folder, str(index), bundle, *more, inputs=inputs)
    finally:
        os.chdir(before)
    return folder


def shards(folder: Path, form: str) -> list[str]:
    """In no order."""
    end = "" if form == "folder" else f".{form}"
    return [f"{folder}/{index}{end}" for index in (2, 3, 1)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in ("run_id", "scored_at")}
        for row in read_results(str(path)).rows()
    ]


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_one_run_to_the_byte(scanned: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"merged.{form}"
    assert run(["merge", *shards(scanned, form), "--out", str(out), "-q"]) == 0
    whole = scanned / f"whole.{form}"
    if form != "parquet":
        assert of_any_run(out.read_bytes()) == of_any_run(whole.read_bytes())
    else:
        merged, expected = pq.read_table(out), pq.read_table(whole)
        assert merged.schema.equals(expected.schema)
        dropped = ["run_id", "scored_at"]
        assert merged.drop_columns(dropped).equals(expected.drop_columns(dropped))
    rows = rows_of(out)
    # There is something to it: copies across shares, videos with rows of their own, errors.
    shares = [{row["path"] for row in rows_of(scanned / f"{n}.csv")} for n in (1, 2, 3)]
    owner = {path: number for number, paths in enumerate(shares) for path in paths}
    copies = [row for row in rows if row["duplicate_of"]]
    assert any(owner[row["path"]] != owner[row["duplicate_of"]] for row in copies)
    assert sum("!/00:00:" in row["path"] for row in rows) == 6
    assert any(row["status"] == "error" for row in rows)
    assert not set(PLACE_COLUMNS) & set(rows[0])


def test_a_partitioned_folder_comes_back_in_order(scanned: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.jsonl"
    assert run(["merge", *shards(scanned, "folder"), "--out", str(out), "-q"]) == 0
    assert of_any_run(out.read_bytes()) == of_any_run((scanned / "whole.jsonl").read_bytes())
    again = tmp_path / "divided"
    command = ["merge", *shards(scanned, "folder"), "--out", f"{again}/", "-q"]
    assert run([*command, "--partition-by", "decision,date"]) == 0
    expected = sorted(os.listdir(scanned / "whole"))
    assert sorted(os.listdir(again)) == expected
    for name in expected:
        (merged,) = again.glob(f"{name}/*/*.parquet")
        (whole,) = (scanned / "whole").glob(f"{name}/*/*.parquet")
        paths = [
            pq.read_table(file, columns=["path"], partitioning=None) for file in (merged, whole)
        ]
        assert paths[0].equals(paths[1])


def test_the_summary_is_that_of_one_run(scanned: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.json"
    command = ["merge", *shards(scanned, "csv"), "--summary", str(out), "-q"]
    assert run([*command, "--summary", str(tmp_path / "page.html")]) == 0
    merged, whole = json.loads(out.read_text()), json.loads((scanned / "whole.json").read_text())
    audits = [each.pop("audit") for each in (merged, whole)]
    for each in (merged, whole):
        for key in ("generator", "outputs", "throughput"):
            del each[key]
    assert merged == whole
    for key in ("weights_sha256", "policy_sha256", "looked_at", "sandbox", "device", "backend"):
        assert audits[0][key] == audits[1][key]
    assert len(audits[0]["run_id"].split("; ")) == SHARES
    parts = json.loads(audits[0]["merged_from"])
    assert [part["shard"] for part in parts] == ["1/3", "2/3", "3/3"]
    assert [part["sha256"] for part in parts] == [
        read_results(f"{scanned}/{number}.csv").sha256 for number in (1, 2, 3)
    ]
    assert "<html" in (tmp_path / "page.html").read_text()


def test_audit_facts_of_all_are_in_the_file(scanned: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.csv"
    assert run(["merge", *shards(scanned, "csv"), "--out", str(out), "-q"]) == 0
    merged = read_results(str(out))
    assert not merged.mismatch
    whole = read_results(f"{scanned}/whole.csv").facts
    differing = {key for key in merged.facts if merged.facts[key] != whole.get(key)}
    made = {"merged_from", "merged_shards", "merged", "merged_version"}
    assert differing == {"run_id", "started", "ended", "sha256", *made}
    assert run(["merge", *shards(scanned, "csv"), "--out", str(out), "-q"]) == 0, "our own file"
    assert run(["report", str(out)]) == 0


def test_documents_and_exit_codes(scanned: Path, tmp_path: Path, capsys: Captured) -> None:
    command = ["merge", *shards(scanned, "parquet"), "-q"]
    document = tmp_path / "all.xml"
    assert run([*command, "--report", f"junit:{document}"]) == 0
    assert document.read_text().count("<testcase") == len(rows_of(scanned / "whole.csv"))
    assert run([*command, "--fail-on", "review", "--max-listed", "2"]) == 1
    listed = capsys.readouterr().err.splitlines()
    assert "at or above --fail-on review" in listed[0]
    assert len(listed) == 3
    assert run([*command, "--max-error-rate", "0.01"]) == 2
    assert "over --max-error-rate 1.0%" in capsys.readouterr().err
    (tmp_path / "mine.csv").write_text("a person's work\n")
    assert run([*command, "--out", str(tmp_path / "mine.csv")]) == 2
    assert "--force" in capsys.readouterr().err
    share = scanned / "1.parquet"
    assert run([*command, "--out", str(share), "--force"]) == 2
    assert "1.parquet is an input; write the results elsewhere" in capsys.readouterr().err


def test_many_runs_and_small_batches_give_the_same(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_rows, "_BATCH_ROWS", 3)
    monkeypatch.setattr(shard_rows, "_SORTED_ROWS", 5)
    monkeypatch.setattr(shard_rows, "_MOST_RUNS", 2)
    out = tmp_path / "merged.csv"
    assert run(["merge", *shards(scanned, "folder"), "--out", str(out), "-q"]) == 0
    assert of_any_run(out.read_bytes()) == of_any_run((scanned / "whole.csv").read_bytes())


def edited_facts(path: Path, **changes: str | None) -> None:
    """Change audit facts beside a file; None takes one away."""
    beside = Path(f"{path}.meta.json")
    facts = {**json.loads(beside.read_text()), **changes}
    beside.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))


def edited_json(key: str, name: str, value: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        facts = json.loads(Path(f"{path}.meta.json").read_text())
        edited_facts(path, **{key: json.dumps({**json.loads(facts[key]), name: value})})

    return edit


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda p: edited_facts(p, version="0.0.9"),
         "1.csv and 2.csv: the version of moderate differs: 0.1.0, 0.0.9"),
        (lambda p: edited_facts(p, weights_sha256="ab"), "the weights (weights_sha256) differs"),
        (lambda p: edited_facts(p, policy_sha256="ab"), "(policy_sha256) differs: balanced "),
        (lambda p: edited_facts(p, precision="bf16"), "--precision differs: fp32, bf16"),
        (lambda p: edited_facts(p, looked_at="frames 1"), "(looked_at) differs"),
        (lambda p: edited_facts(p, new_fact="x"), "new_fact differs: none, x"),
        (lambda p: edited_facts(p, shard="2/4"),
         "1.csv is share 1 of 3, 2.csv share 2 of 4: they are of different divisions"),
        (lambda p: edited_facts(p, shard="3/3"), "are both share 3 of 3"),
        (lambda p: edited_facts(p, shard="5/3"), "2.csv: its audit facts of a share are damaged"),
        (lambda p: edited_facts(p, shard_counts="{}"), "its audit facts of a share are damaged"),
        (lambda p: edited_facts(p, shard_options="[]"), "its audit facts of a share are damaged"),
        (lambda p: edited_facts(p, shard_counts=None), "lacks the audit facts of the end"),
        (lambda p: edited_facts(p, shard=None), "2.csv is not a share: it was written without"),
        (lambda p: Path(f"{p}.meta.json").unlink(), "2.csv has no audit facts beside it"),
        (lambda p: p.write_bytes(p.read_bytes()[:-200]), "or is cut off; scan that share again"),
        (edited_json("shard_options", "max_file_size", 5),
         "1.csv and 2.csv: --max-file-size differs: 10485760, 5"),
        (edited_json("shard_options", "limit", 5), "2.csv was written with --limit"),
        (edited_json("shard_options", "only", "new"), "2.csv was written with --only"),
        (edited_json("shard_counts", "inputs", 5), "the inputs differ: "),
        (edited_json("shard_counts", "inputs_sha256", "5"),
         "the inputs differ in their names, or in their order"),
        (edited_json("shard_counts", "rows", 5), "and its audit facts say 5"),
        (edited_json("shard_counts", "skipped", {"not_an_image": 77}), "and 77 without"),
    ],
)  # fmt: skip
def test_a_share_that_is_not_of_the_scan_is_one_line(
    scanned: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Path], None], line: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        for end in ("", ".meta.json"):
            shutil.copy(scanned / f"{number}.csv{end}", f"{number}.csv{end}")
    edit(tmp_path / "2.csv")
    assert run(["merge", "1.csv", "2.csv", "3.csv", "--out", "out.csv", "-q"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told
    assert not Path("out.csv").exists()


def test_missing_and_mixed_shares_are_one_line(
    scanned: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scanned)
    for names, line in (
        (
            ["1.csv", "3.csv"],
            "share 2 of 3 is missing; there are 1, 3: add the results of 'moderate scan --shard 2",
        ),
        (["2.csv"], "share 1 of 3 and 1 more is missing; there are 2"),
        (["1.csv", "2.csv", "3.csv", "2.csv"], "2.csv is named twice"),
        (["1.csv", "2.csv", "3.csv", "2.jsonl"], "2.csv and 2.jsonl are both share 2 of 3"),
        (["1.csv", "2.jsonl", "3.csv"], "of different forms: CSV, JSON Lines"),
        (["whole.csv"], "whole.csv is not a share"),
        (["in"], "in holds what moderate did not write there"),
        (["none.csv"], "none.csv"),
        (["1.json"], "the suffix is one of"),
    ):
        assert run(["merge", *names, "-q"]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert line in told


def test_rows_that_are_moved_or_twice_are_noticed(
    scanned: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        for end in ("", ".meta.json"):
            shutil.copy(scanned / f"{number}.csv{end}", f"{number}.csv{end}")
    with open("1.csv", newline="") as file:
        header, *rows = list(csv.reader(file))

    def rewritten(cells: list[list[str]]) -> None:
        import hashlib

        with open("1.csv", "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *cells])
        edited_facts(Path("1.csv"), sha256=hashlib.sha256(Path("1.csv").read_bytes()).hexdigest())

    place = header.index(PLACE_COLUMNS[0])
    with open("2.csv", newline="") as file:
        taken = next(csv.DictReader(file))[PLACE_COLUMNS[0]]
    last = str(10**6)
    for cells, line in (
        ([rows[1], rows[0], *rows[2:]], "1.csv: its rows are not in the order"),
        (sorted([*rows[1:], [*rows[0][:place], taken, *rows[0][place + 1 :]]],
                key=lambda row: int(row[place])), "has the same row in more than one share"),
        ([*rows[:-1], [*rows[-1][:place], last, *rows[-1][place + 1 :]]], "not all of one scan"),
        ([*rows[:-1], [*rows[-1][:place], "x", *rows[-1][place + 1 :]]], "is not a number of"),
        ([*rows[:-1], [*rows[-1][:place], "", *rows[-1][place + 1 :]]], "is not a number of"),
    ):  # fmt: skip
        rewritten(cells)
        assert run(["merge", "1.csv", "2.csv", "3.csv", "--out", "out.csv", "-q"]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert line in told
        assert not Path("out.csv").exists()


def test_shares_without_rows_and_shares_decided_again(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(3):
        (Path("in") / f"{number}.png").write_bytes(encode(scene((60, 40), seed=number % 2), "PNG"))
    scan(tmp_path, "whole", bundle)
    for index in range(1, 9):
        scan(tmp_path, str(index), bundle, "--shard", f"{index}/8")
    names = range(1, 9)
    assert any(not rows_of(tmp_path / f"{n}.csv") for n in names)
    for form in FORMS:
        shares = [f"{n}.{form}" for n in names]
        assert run(["merge", *shares, "--out", f"merged.{form}", "-q"]) == 0
        assert rows_of(tmp_path / f"merged.{form}") == rows_of(tmp_path / f"whole.{form}")
    assert [row["origin"] for row in rows_of(tmp_path / "merged.csv")] == [
        "new",
        "new",
        "duplicate",
    ]
    for name in ("whole", *names):
        assert (
            run(["decide", f"{name}.csv", "--policy", "strict", "--out", f"d{name}.csv", "-q"]) == 0
        )
    assert run(["merge", *(f"d{n}.csv" for n in names), "--out", "d.csv", "-q"]) == 0
    assert of_any_run(Path("d.csv").read_bytes()) == of_any_run(Path("dwhole.csv").read_bytes())


def test_a_manifest_whose_column_is_called_like_a_place_is_refused(
    tmp_path: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.csv").write_text("path,shard_row\na.png,1\n")
    command = ["scan", "m.csv", "--weights", str(bundle), "-q", "--shard", "1/2", "--keep"]
    assert run([*command, "shard_row"]) == 2
    assert "--keep my_shard_row=shard_row" in capsys.readouterr().err
    assert run([*command, "my_row=shard_row"]) in (0, 2)
    assert "shard_row" not in capsys.readouterr().err


def test_types_of_carried_columns_are_kept(scanned: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.parquet"
    assert run(["merge", *shards(scanned, "jsonl"), "--out", str(out), "-q"]) == 0
    assert pq.read_schema(out).field("id").type == pa.string()
    assert rows_of(out) == rows_of(scanned / "whole.parquet")
