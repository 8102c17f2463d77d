"""Text of untrusted files in every report that is a file: shown as text, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.text import printable
from moderate.types import CATEGORIES
from tests.support.scored import drawn, write_labels, write_results

EVIL = "\x1b[2J\x9b1A\u202e<script>alert(1)</script>|[x](http://y)\n# head\n\x85\x00\ud800"
CASES = {
    "report": ["report", "FILE"],
    "trend": ["report", "--trend", "FILE"],
    "decide": ["decide", "FILE", "--policy", "strict"],
    "diff": ["diff", "FILE", "--policy", "strict"],
    "eval": ["eval", "FILE", "--labels", "l.csv", "--bootstrap", "0", "--slice", f"k{EVIL[:-1]}"],
}
FORMATS = dict.fromkeys(CASES, (".md", ".json")) | {"eval": (".md", ".json", ".html")}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Results with EVIL wherever text may stand, in a file whose name is not UTF-8 either."""
    monkeypatch.chdir(tmp_path)
    scores, labels = drawn(np.random.default_rng(1), 100)
    write_results(tmp_path / "r.jsonl", {CATEGORIES[0]: scores}, errors=2)
    write_labels(tmp_path / "l.csv", {CATEGORIES[0]: labels})
    name = os.fsdecode(b"r\xff\x1b[2J\xe2\x80\xae.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    for row in rows:
        row["warnings"] = row["reasons"] = row["rating"] = row["format"] = EVIL
        row[f"k{EVIL[:-1]}"] = EVIL
        if row["status"] == "error":
            row |= {"error_code": EVIL, "error_message": EVIL, "path": f"./{EVIL}"}
    with open(name, "w") as made:
        made.writelines(json.dumps(row) + "\n" for row in rows)
    facts = json.loads((tmp_path / "r.jsonl.meta.json").read_text())
    for key in ("weights", "policy", "device", "precision", "run_id", "version", "weights_sha256"):
        facts[key] = EVIL
    with open(f"{name}.meta.json", "w") as made:
        json.dump(facts, made)
    return name


@pytest.mark.parametrize(
    ("case", "suffix"), [(case, suffix) for case in CASES for suffix in FORMATS[case]]
)
def test_no_report_passes_on_controls_markup_or_lines(
    file: str, capsys: pytest.CaptureFixture[str], case: str, suffix: str
) -> None:
    option = "--summary" if case == "decide" else "--out"
    arguments = [file if part == "FILE" else part for part in CASES[case]]
    assert run([*arguments, option, f"made{suffix}"]) == 0
    text = Path(f"made{suffix}").read_bytes().decode("utf-8")
    if suffix == ".json":
        json.loads(text)
        return
    assert [char for char in text if printable(char) != char and char != "\n"] == []
    assert "\n# head" not in text
    if suffix == ".html":
        assert "<script" not in text
    else:
        assert "](http" not in text.replace("\\]", "")
        tables = [line for line in text.split("\n") if line.startswith("|")]
        for line in tables:
            assert line.endswith("|")


def test_scan_shows_the_same_care(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    name = os.fsencode(EVIL[:-2].replace("/", "").replace("\x00", "")) + b"\xff.jpg"
    with open(os.path.join(b"in", name), "wb") as image:
        image.write(b"no image")
    options = ["--weights", str(bundle), "--no-state", "--summary", "s.md", "--summary", "s.json"]
    assert run(["scan", "in", *options]) in (0, 2)  # nothing could be scored
    text = Path("s.md").read_text()
    assert [char for char in text if printable(char) != char and char != "\n"] == []
    assert "\n# head" not in text
    json.loads(Path("s.json").read_text())
