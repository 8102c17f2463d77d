"""The worked example of docs/python-api.md, run as it stands."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import moderate

PAGE = Path(__file__).parents[1] / "docs" / "python-api.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_names_every_option_and_fact() -> None:
    words = set(re.findall(r"\w+", PAGE.read_text("utf-8")))
    classes = (moderate.ScanOptions, moderate.InputOptions, moderate.VideoOptions)
    for each in (*classes, moderate.Limits, moderate.ImageFacts):
        assert {field.name for field in fields(each)} - words - {"config"} == set()


def test_the_example_runs_and_gives_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(printed):
        for block in BLOCK.findall(PAGE.read_text("utf-8")):
            exec(compile(block, str(PAGE), "exec"), names)
    first, counts, *_, second_scan, block, clean, same, other, broken = (
        printed.getvalue().splitlines()
    )
    assert first.startswith("22 cards/") or first.startswith("22 ./cards/")
    assert "approve" in counts
    assert "{'reused'}" in second_scan
    assert block.split()[:2] == ["memory://0", "block"]
    assert clean.split()[1] == same.split()[1] == other.split()[1] == "approve"
    assert broken.split()[2] == "not_an_image"
    assert pq.read_schema("results.parquet").equals(moderate.to_table([]).schema)
    assert json.loads(Path("summary.json").read_text())["rows"] == 22
