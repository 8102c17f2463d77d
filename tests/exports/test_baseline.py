"""Baselines: what was found before fails no check again, whatever form it is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junitparser import JUnitXml, Skipped

from moderate.cli.main import run
from moderate.errors import InputError, UsageError
from moderate.exports.baseline import Baseline, read_baseline
from moderate.exports.interface import ExportOptions
from moderate.text import path_text
from moderate.types import Category
from tests.support.findings import HOSTILE, document, error_row, row, workflow_commands
from tests.support.pictures import encode, scene
from tests.support.scored import digest, write_results

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def baseline_of(form: str, *rows: Mapping[str, Any]) -> Baseline:
    """The baseline that is read from a report of these rows."""
    name = {"sarif": "known.sarif", "gitlab": "known.json"}[form]
    Path(name).write_text(document(form, rows)[0])
    return read_baseline(name)


def state(baseline: Baseline, each: Mapping[str, Any]) -> str:
    (result,) = json.loads(document("sarif", [each], ExportOptions(baseline=baseline))[0])["runs"][
        0
    ]["results"]
    return str(result["baselineState"])


@pytest.mark.parametrize("form", ["sarif", "gitlab"])
def test_a_finding_is_known_by_path_or_content_by_each_rule_and_no_milder(form: str) -> None:
    both = "nudity 0.91 >= review 0.30; violence 0.50 >= review 0.30"
    known = baseline_of(form, row("./a.jpg"), row("./b.jpg", "review", both), error_row("./c.jpg"))
    assert known.count == 3
    cases = {
        "unchanged": [
            row("./a.jpg"),
            row("./a.jpg", "review"),
            row("./a.jpg", sha256=digest("other content")),
            row("./moved.jpg", sha256=digest("./a.jpg")),
            row("./b.jpg", "review", both),
            row("./b.jpg", "review", "violence 0.40 >= review 0.30"),
            error_row("./c.jpg"),
        ],
        "updated": [
            row("./a.jpg", reasons="violence 0.91 >= block 0.85"),
            row("./a.jpg", reasons="nudity 0.9 >= block 0.85; violence 0.9 >= block 0.85"),
            row("./b.jpg"),
            row("./c.jpg"),
            error_row("./c.jpg", "decode_timeout"),
        ],
        "new": [row("./d.jpg"), error_row("./d.jpg")],
    }
    for expected, rows in cases.items():
        for each in rows:
            assert state(known, each) == expected, each


@pytest.mark.parametrize("form", ["sarif", "gitlab"])
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_known_again(form: str, name: str) -> None:
    known = baseline_of(form, row(f"./{name}", sha256=None))
    assert state(known, row(f"./{name}")) == "unchanged"
    assert state(known, row(f"./x{name}")) == "new"


@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=4).map(b"/".join))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_name_is_known_again_from_any_report(path: bytes) -> None:
    path = b"./" + path.replace(b"\0", b"0")
    each = row(path_text(path), sha256=None)
    if each["path"].encode() != path:
        each["path_bytes"] = path
    for form in ("sarif", "gitlab"):
        known = baseline_of(form, each)
        assert state(known, each) == "unchanged"
    log = json.loads(Path("known.sarif").read_text())
    location = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert unquote_to_bytes(urlsplit(location["uri"]).path) == os.path.normpath(
        path if "uriBaseId" in location else os.path.join(os.getcwdb(), path)
    )


def test_forms_leave_out_or_mark_what_the_baseline_has() -> None:
    known = ExportOptions(baseline=baseline_of("sarif", row("./a.jpg")))
    rows = [row("./a.jpg"), row("./b.jpg")]
    assert [
        each["location"]["path"] for each in json.loads(document("gitlab", rows, known)[0])
    ] == ["b.jpg"]
    assert [each["file"] for each in workflow_commands(document("github", rows, known)[0])] == [
        "b.jpg"
    ]
    (suite,) = JUnitXml.fromstring(document("junit", rows, known)[0].encode())
    assert (suite.tests, suite.failures, suite.skipped) == (2, 1, 1)
    assert isinstance(next(iter(suite)).result[0], Skipped)


def test_sarif_of_others_is_read_by_rule_and_level() -> None:
    result = {
        "ruleId": "nudity",
        "message": {"text": "x"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": "a%20b.jpg"}}}],
    }
    runs = [{"results": [result, {"message": {"text": "no place"}, "level": "note"}]}, {}]
    Path("x.sarif").write_text(json.dumps({"runs": runs}))
    known = read_baseline("x.sarif")
    assert state(known, row("./a b.jpg", "review")) == "unchanged"
    assert state(known, row("./a b.jpg")) == "updated"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.sarif", None, "cannot read x.sarif: "),
        ("x.json", "{", "it is not JSON"),
        ("x.json", "[" * 100_000, "it is not JSON"),
        ("x.json", '{"a": 1}', "it is neither SARIF nor a GitLab report"),
        ("x.json", "[1]", "a finding in it has not the form of one"),
        ("x.json", '[{"severity": []}]', "a finding in it has not the form of one"),
        ("x.sarif", '{"runs": [{"results": [{"locations": []}]}]}', "has not the form of one"),
        ("x.sarif", '{"runs": [7]}', "a finding in it has not the form of one"),
        ("x.csv", "a,b\n1,2\n", "not a results file"),
    ],
)
def test_what_is_no_baseline_is_refused_in_a_line(
    name: str, text: str | None, said: str, capsys: Captured
) -> None:
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_baseline(name)
    write_results(Path("r.csv"), {Category.NUDITY: np.array([0.99])})
    assert run(["report", "r.csv", "--baseline", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_baseline_that_cannot_be_read_says_why() -> None:
    with pytest.raises(InputError, match=r"^cannot read gone\.sarif: .*No such file"):
        read_baseline("gone.sarif")
    os.mkfifo("pipe.sarif")
    with pytest.raises(InputError, match=r"^cannot read pipe\.sarif: .*not a regular file"):
        read_baseline("pipe.sarif")


def test_only_known_forms_are_baselines() -> None:
    with pytest.raises(UsageError, match="a report in the form sarif"):
        read_baseline("x.xml")
    with pytest.raises(UsageError, match="fetch it first"):
        read_baseline("s3://bucket/x.sarif")


def test_stored_results_are_checked_against_a_baseline(capsys: Captured) -> None:
    scores = np.array([0.0, 0.5, 0.99, 0.99], np.float32)
    write_results(Path("r.csv"), {Category.NUDITY: scores})
    write_results(Path("old.parquet"), {Category.NUDITY: scores[:3]})
    assert run(["report", "r.csv", "--fail-on", "never"]) == 0
    assert run(["report", "r.csv", "--fail-on", "block", "--max-listed", "1"]) == 1
    err = capsys.readouterr().err
    assert "2 images at or above --fail-on block (the first 1; --max-listed lists more):" in err
    assert "./2.jpg" in err
    assert "./3.jpg" not in err
    command = ["report", "r.csv", "--baseline", "old.parquet", "--json"]
    assert run([*command, "--fail-on", "review"]) == 1
    out, err = capsys.readouterr()
    assert "Findings: 1 new, 2 in the baseline old.parquet." in err
    assert "Findings: 1 new, 2 in the baseline old.parquet." in json.loads(out)["notes"]
    assert "1 image at or above --fail-on review:" in err
    assert "./3.jpg" in err
    assert "./2.jpg" not in err
    for form, name in (("sarif", "r.sarif"), ("gitlab", "r.json")):
        assert run(["report", "r.csv", "--report", f"{form}:{name}"]) == 0
        assert run(["report", "r.csv", "--baseline", name, "--fail-on", "review"]) == 0
        refused = [*command[:2], "--baseline", name, "--report", f"{form}:{name}"]
        assert run(refused) == 2
        assert "is an input" in capsys.readouterr().err
    assert run(["report", "--trend", "r.csv", "--baseline", "r.sarif"]) == 2


def test_a_scan_fails_for_new_findings_alone(bundle: Path, capsys: Captured) -> None:
    Path("images").mkdir()
    for number in range(2):
        Path(f"images/{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    Path("images/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    scan = ["scan", "images", "--weights", str(bundle), "-q", "--no-state", "--policy", "p.toml"]
    policy = Path("p.toml")
    limits = "{ review = 0.0, block = 0.0 }"
    lines = [f"{name.value} = {limits}" for name in Category]
    policy.write_text("\n".join(["name = 'p'", "[categories]", *lines]) + "\n")
    assert run([*scan, "--fail-on", "review", "--report", "sarif:known.sarif"]) == 1
    capsys.readouterr()
    known = ["--baseline", "known.sarif"]
    assert run([*scan, "--fail-on", "review", *known, "--summary", "s.json"]) == 0
    counts = json.loads(Path("s.json").read_text())
    assert counts["baseline"] == {
        "file": "known.sarif",
        "unchanged": {"review": 1, "block": 2},
        "new": {"review": 0, "block": 0},
    }
    assert "Findings: 0 new, 3 in the baseline known.sarif." in counts["notes"]
    assert "Findings: 0 new, 3 in the baseline known.sarif." in capsys.readouterr().err
    Path("images/2.png").write_bytes(encode(scene((80, 60), seed=2), "PNG"))
    assert run([*scan, "--fail-on", "block", *known]) == 1
    err = capsys.readouterr().err
    assert "1 image at or above --fail-on block:" in err
    assert "./images/2.png" in err
    assert "./images/1.png" not in err
    assert run([*scan, *known, "--report", "sarif:known.sarif"]) == 2
    assert "is an input" in capsys.readouterr().err
