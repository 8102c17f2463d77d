"""The summary of a scan as a person reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from moderate.cli.main import run
from tests.support.pictures import encode, scene


def test_it_says_what_went_in_and_came_out_when_and_what_was_worst(
    tmp_path: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(6):
        (Path("in") / f"{number}.png").write_bytes(encode(scene((80, 60), number), "PNG"))
    (Path("in") / "copy.png").write_bytes((Path("in") / "0.png").read_bytes())
    (Path("in") / "broken.jpg").write_bytes(b"no image")
    for name in ("a.css", "b.css", "c.css", "d.css"):
        (Path("in") / name).write_text("body {}")
    targets = ["--out", "rows.csv", "--summary", "s.json", "--summary", "s.md"]
    options = ["--weights", str(bundle), "--no-state", "--backend", "torch"]
    assert run(["scan", "in", *targets, *options]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "inputs in" in lines
    assert "written rows.csv, s.json, s.md" in lines
    assert "rows 8: 7 images, 1 copy of them" in lines
    (when,) = (line for line in lines if line.startswith("when "))
    assert re.fullmatch(r"when \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, for \d+:\d\d:\d\d", when)
    skipped = lines.index("Skipped (no row)")
    assert lines[skipped + 1 : skipped + 5] == [
        "reason files for example",
        "not an image 4 in/a.css",
        "in/b.css",
        "in/c.css",
    ]
    told = json.loads(Path("s.json").read_text())
    worst = lines.index("Worst images")
    assert lines[worst + 1] == "score category decision image"
    assert lines[worst + 2 : worst + 7] == [
        f"{each['score']:.3f} {each['category']} {each['decision']} {each['path']}"
        for each in told["worst"]
    ]
    assert {each["path"] for each in told["worst"]} < {f"./in/{number}.png" for number in range(6)}
    assert (told["images"], told["copies"], told["rows"]) == (7, 1, 8)
    assert told["outputs"] == ["rows.csv", "s.json", "s.md"]
    assert told["worst"][0]["path"] in Path("s.md").read_text().replace("\\", "")
