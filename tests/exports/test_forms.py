"""Exports: written whole with their facts, alike from a scan and from its results, and replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.types import CATEGORIES
from tests.support.pictures import encode, scene
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]


def scores(count: int) -> dict[object, object]:
    return {name: np.linspace(0, 1, count, dtype=np.float32) for name in CATEGORIES}


def test_a_scan_and_its_results_give_the_same_document(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(3):
        Path(f"images/{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    Path("images/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    arguments = ["scan", "images", "--weights", str(bundle), "-q", "--report", "junit:a.xml"]
    assert run([*arguments, "--out", "r.csv", "--out", "r.parquet"]) == 0
    for source in ("r.csv", "r.parquet"):
        assert run(["report", source, "--report", "junit:b.xml"]) == 0
        assert Path("b.xml").read_bytes() == Path("a.xml").read_bytes()
        facts = json.loads(Path("b.xml.meta.json").read_text())
        assert facts["export"] == "junit"
        assert facts["run_id"] == json.loads(Path("r.csv.meta.json").read_text())["run_id"]


def test_a_scan_that_carries_columns_and_one_of_a_share_give_documents_of_all_rows(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Path(f"{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    Path("bad.png").write_bytes(b"no image")
    Path("m.csv").write_text("path,id\n0.png,item 0\n1.png,item 1\n2.png,\nbad.png,item 3\n")
    begin = ["scan", "m.csv", "--weights", str(bundle), "-q", "--force", "--out", "r.parquet"]
    forms = ["coop:r.jsonl", "sarif:r.sarif", "junit:r.xml"]
    for more in ([], ["--shard", "1/1"], ["--keep-labels"]):
        reports = [each for form in forms for each in ("--report", form)]
        assert run([*begin, "--keep", "id", *more, *reports]) == 0
        items = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
        assert [item["id"] for item in items if not item["id"].startswith("file:")] == [
            "item 0", "item 1", "item 3",
        ]  # fmt: skip
        for form in forms:
            kind, _, name = form.partition(":")
            assert run(["report", "r.parquet", "--report", f"{kind}:again-{name}", "--force"]) == 0
            assert Path(f"again-{name}").read_bytes() == Path(name).read_bytes()
    # A baseline looks at rows while they are counted.
    known = ["--keep", "id", "--fail-on", "review", "--baseline", "r.sarif"]
    assert run([*begin, *known]) == 0
    assert run([*begin, *known, "--shard", "1/1"]) == 0


def test_only_an_unchanged_export_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r.csv", scores(3))
    command = ["report", "r.csv", "--report", "junit:x.xml"]
    assert run(command) == run(command) == 0
    Path("x.xml").write_text(Path("x.xml").read_text() + "<!-- mine -->\n")
    assert run(command) == 2
    assert "was changed since moderate wrote it; add --force" in capsys.readouterr().err
    assert "mine" in Path("x.xml").read_text()
    assert run([*command, "--force"]) == 0
    Path("x.xml.meta.json").unlink()
    assert run(command) == 2
    assert "x.xml.meta.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report", "junit"], "write FORMAT:FILE"),
        (["--report", "junti:x.xml"], "did you mean 'junit'?"),
        (["--report", "junit:x.txt"], "junit goes to files that end in .xml"),
        (["--report", "junit:x.xml", "--report", "junit:./x.xml"], "would be written twice"),
        (["--report", "junit:-", "--report", "junit:-"], "only one file can go to standard output"),
        (["--report", "junit:none/x.xml"], "there is no folder"),
        (["--shape-document"], "--shape-document goes with --shape"),
    ],
)
def test_targets_that_cannot_be_written_are_refused_before_any_work(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r.csv", scores(3))
    before = sorted(tmp_path.iterdir())
    assert run(["report", "r.csv", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
