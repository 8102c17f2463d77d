"""Exports for Label Studio, FiftyOne and Coop, read as these programs read them."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from moderate import row_to_dict
from moderate.cli.main import run
from moderate.exports import coop, fiftyone, label_studio
from moderate.policy.load import load_policy
from moderate.results.targets import open_writers
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Column,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Inline,
    Row,
)
from moderate.uris import uri_of

HOSTILE = '<img src=x onerror=alert(1)>"\n,\x1b[31m\u202egpj'
DOCS = Path(__file__).parents[2] / "docs" / "warehouse.md"


def row(path: bytes, score: float | None = 0.9, uri: str | None = "", user: str = "") -> Row:
    is_url = path.startswith((b"http", b"memory"))
    ref = ImageRef(path, location=Inline(b"") if is_url else None, carried=(user or None,))
    error = ImageError(ErrorCode.TRUNCATED, HOSTILE) if score is None else None
    scores = dict(UNSCORED)
    if score is not None:
        scores |= {Category.NUDITY: float(np.float32(score)), Category.VIOLENCE: 0.01}
    return Row(
        ref,
        ImageFacts(30, 20, "png", 1, 9, "ab" * 32),
        scores,
        Decision.REVIEW if score is None or score < 0.5 else Decision.BLOCK,
        (HOSTILE,),
        error=error,
        uri=uri_of(ref) if uri == "" else uri,
    )


ROWS = [
    row(b"/in/a b.jpg"),
    row(b"/in/" + HOSTILE.replace("/", "").encode() + b".jpg"),
    row(b"/in/bad.jpg", None),
    row(b"/in/caf\xe9.jpg", 0.2),
    row(b"https://example.com/c.jpg", uri="https://example.com/c.jpg", user="item 7"),
    row(b"/in/a.zip!/d.jpg", uri="file:///in/a.zip#d.jpg"),
    row(b"memory://0", uri=None),
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    policy = load_policy("balanced")
    audit = {
        "tool": "moderate",
        "weights": "house",
        "weights_sha256": "cd" * 32,
        "policy_json": policy.policy.model_dump_json(),
    }
    with open_writers([str(tmp_path / "r.parquet")]) as (writer,):
        writer.start(audit, (Column("id", pa.string()),))
        for each in ROWS:
            writer.write(each)
        writer.commit({})
    return tmp_path


def exported(form: str, name: str) -> Path:
    assert run(["report", "r.parquet", "--report", f"{form}:{name}"]) == 0
    return Path(name)


def labelling_setup() -> ElementTree.Element:
    """The labelling setup of the page in docs."""
    text = DOCS.read_text()
    return ElementTree.fromstring(text[text.index("<View>") : text.index("</View>") + 7])


def test_label_studio_takes_the_tasks(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = json.loads(exported("label-studio", "tasks.json").read_text())
    setup = labelling_setup()
    (image,) = setup.iter("Image")
    assert image.attrib["value"] == "$image"
    controls = {each.attrib["name"]: each for each in setup.iter("Choices")}
    allowed = {
        name: {choice.attrib["value"] for choice in each.iter("Choice")}
        for name, each in controls.items()
    }
    assert allowed == {
        "decision": {each.value for each in Decision},
        "categories": {each.value for each in CATEGORIES},
    }
    for task in tasks:
        assert task.keys() <= {"data", "predictions"}
        assert isinstance(task["data"]["image"], str)
        assert len(task.get("predictions", ())) <= 1
        for prediction in task.get("predictions", ()):
            assert prediction.keys() == {"model_version", "score", "result"}
            assert prediction["model_version"] == "house@" + "cd" * 6
            assert 0 <= prediction["score"] <= 1
            for each in prediction["result"]:
                assert each.keys() == {"id", "from_name", "to_name", "type", "value"}
                assert controls[each["from_name"]].attrib["toName"] == each["to_name"]
                assert each["to_name"] == image.attrib["name"]
                assert each["type"] == "choices"
                assert set(each["value"]["choices"]) <= allowed[each["from_name"]]
    first, hostile, bad, other, url = tasks
    assert first["data"]["image"] == "file:///in/a%20b.jpg"
    chosen = {
        each["from_name"]: each["value"]["choices"] for each in first["predictions"][0]["result"]
    }
    assert chosen == {"decision": ["block"], "categories": ["nudity"]}
    assert first["predictions"][0]["score"] == first["data"]["scores"]["nudity"] == 0.9
    assert hostile["data"]["reasons"] == HOSTILE
    assert "predictions" not in bad, "nothing was predicted"
    assert bad["data"]["error_code"] == "truncated"
    assert other["data"]["image"] == "file:///in/caf%E9.jpg"
    assert url["data"]["image"] == "https://example.com/c.jpg"
    assert "2 rows have no task: their images are in memory" in capsys.readouterr().err


def test_a_project_of_label_studio_has_a_bound(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label_studio, "MOST_TASKS", 2)
    tasks = json.loads(exported("label-studio", "tasks.json").read_text())
    assert len(tasks) == 2
    assert "3 rows have no task: the file ends at 2 tasks" in capsys.readouterr().err


def test_no_rows_are_no_tasks(tmp_path: Path) -> None:
    export = label_studio.LabelStudioTasks(label_studio.ExportOptions())
    written: list[str] = []
    export.start(written.append, {})
    export.finish({})
    assert json.loads("".join(written)) == []


def as_fiftyone_reads(path: Path) -> dict[str, dict[str, Any]]:
    """Samples by their files as its `CSVDatasetImporter` makes them of a CSV and parsers."""
    parsers = {name: {"str": str, "float": float}[kind] for name, kind in fiftyone.FIELDS.items()}
    samples = {}
    with open(path) as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames is not None
        assert "filepath" in reader.fieldnames
        for cells in reader:
            name = cells.pop("filepath")
            assert os.path.isabs(name)
            samples[name] = {key: parsers[key](cells[key]) for key in parsers if cells[key]}
    return samples


def test_fiftyone_takes_the_samples(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = as_fiftyone_reads(exported("fiftyone", "labels.csv"))
    assert list(samples) == [
        "/in/a b.jpg",
        "/in/" + HOSTILE.replace("/", "") + ".jpg",
        "/in/bad.jpg",
    ]
    first, _, bad = samples.values()
    assert first["decision"] == "block"
    assert first["nudity"] == 0.9
    assert first["violence"] == 0.01
    assert first["reasons"] == HOSTILE
    assert bad["error_code"] == "truncated"
    assert "nudity" not in bad, "null is no value"
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert "4 rows are left out" in said
    assert "without a carriage return" in said
    reserved = {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "frames"}
    for name in fiftyone.FIELDS:
        assert name not in reserved
        assert not name.startswith("_")
        assert "." not in name


def test_coop_takes_the_items(results: Path) -> None:
    lines = exported("coop", "items.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    assert len(items) == len(ROWS)
    assert len({item["id"] for item in items}) == len(items)
    kinds = {
        "STRING": str,
        "NUMBER": float,
        "BOOLEAN": bool,
        "DATETIME": str,
        "ARRAY of IMAGE": list,
    }
    for item in items:
        assert item.keys() == {"id", "typeId", "data"}
        assert item["typeId"] == coop.ITEM_TYPE
        assert isinstance(item["id"], str)
        for name, value in item["data"].items():
            assert isinstance(value, kinds[coop.FIELDS[name]])
    first, _, bad, _, url, member, memory = items
    assert first["id"] == first["data"]["uri"] == "file:///in/a%20b.jpg"
    assert "images" not in first["data"], "nothing that Coop could fetch"
    assert first["data"]["reasons"] == HOSTILE
    assert bad["data"]["error_code"] == "truncated"
    assert "nudity" not in bad["data"]
    assert url["id"] == "item 7"
    assert url["data"]["images"] == ["https://example.com/c.jpg"]
    assert member["id"] == "file:///in/a.zip#d.jpg"
    assert memory["id"] == "memory://0"


def test_items_of_millions_of_images_are_replaced(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.results.existing.MAX_REPORT_BYTES", 100)
    assert exported("coop", "items.jsonl").stat().st_size > 100
    exported("coop", "items.jsonl")


def test_results_without_the_column_uri(results: Path) -> None:
    """As older versions wrote them: what their paths say is enough for most."""
    assert run(["decide", "r.parquet", "--policy", "balanced", "--out", "r.csv", "-q"]) == 0
    with open("r.csv", newline="") as file:
        cells = list(csv.reader(file))
    at = cells[0].index("uri")
    with open("r.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(c[:at] + c[at + 1 :] for c in cells)
    assert run(["report", "r.csv", "--report", "label-studio:old.json"]) == 0
    old = json.loads(Path("old.json").read_text())
    new = json.loads(exported("label-studio", "new.json").read_text())
    assert [task["data"]["image"] for task in old] == [task["data"]["image"] for task in new]


@pytest.mark.parametrize("form", ["fiftyone:x.csv", "label-studio:x.json"])
def test_a_relative_path_without_uri_is_told_with_what_to_do(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.csv").write_text(
        "path,status,decision\n./a.jpg,ok,block\nphotos/b.jpg,ok,block\n/in/c.jpg,ok,block\n"
        "memory://0,ok,block\n./a.zip!/d.jpg,ok,block\n"
    )
    assert run(["report", "r.csv", "--report", form]) == 0
    relative, others = [line for line in capsys.readouterr().err.splitlines() if " rows " in line]
    assert ": 2 rows " in relative
    assert "scan again" in relative
    assert ": 2 rows " in others


def test_results_whose_audit_facts_are_gone() -> None:
    export = label_studio.LabelStudioTasks(label_studio.ExportOptions())
    written: list[str] = []
    export.start(written.append, {})
    export.add(row_to_dict(replace(ROWS[0], ref=ImageRef(b"/in/a.jpg"))))
    export.finish({})
    (task,) = json.loads("".join(written))
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "moderate"
    assert [each["from_name"] for each in prediction["result"]] == ["decision"]
