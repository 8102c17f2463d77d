"""Shapes of hosted services: what their clients make of our answers, and the exact forms."""

from __future__ import annotations

import json
import subprocess
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moderate
from moderate.cli.main import run
from moderate.errors import UsageError
from moderate.exports.catalogue import SHAPES
from moderate.exports.forms import split_shaped
from moderate.exports.interface import ExportOptions, ExportTarget
from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    StoredObject,
)
from tests.support.deciding import judged
from tests.support.hosted_clients import CLIENTS, rekognition_manifest, rekognition_summary
from tests.support.pictures import encode, scene
from tests.support.scans import COMMAND
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]

RUN = "63de343e7291c86d71869cd5bff7a7f7"
EVIL = b'./\x1b[2J\x9b</script>"\\\n\xe2\x80\xae\xe2\x80\xa8\xc2\x85,;{}\x00\xff.jpg'
CLEAN = dict.fromkeys(CATEGORIES, 0.02)
SEEN = CLEAN | {Category.NUDITY: 0.97, Category.SEXUAL_ACTIVITY: 0.9}
BALANCED = load_policy("balanced").policy


def make(path: bytes, scores: Mapping[Any, float | None], policy: Policy = BALANCED) -> Row:
    exact = {k: None if v is None else float(np.float32(v)) for k, v in scores.items()}
    decision, reasons, views, *_ = judged(policy, exact)
    # Named by its URL, as an image of a list of URLs is.
    ref = ImageRef(path, location=StoredObject("s3:") if path.startswith(b"s3:") else None)
    return Row(ref, ImageFacts(), exact, decision, reasons, views=views, run_id=RUN)


def failed(path: bytes, code: ErrorCode = ErrorCode.TRUNCATED, said: str = "cut off") -> Row:
    error = ImageError(code, said)
    decision, reasons = judged(BALANCED, UNSCORED, (), error)[:2]
    return Row(ImageRef(path), ImageFacts(), UNSCORED, decision, reasons, error=error, run_id=RUN)


ROWS = [
    make(b"./clean.jpg", CLEAN),
    failed(b"./cut.jpg"),
    make(b"s3://bucket/seen.jpg", SEEN),
    make(EVIL, CLEAN),
    failed(EVIL + b".png", ErrorCode.BAD_URL, "\x1b[2J\u202e\ud800\x00<b>"),
    make(b"./nothing-scored.jpg", UNSCORED),
    failed(b"./fault.jpg", ErrorCode.INTERNAL_ERROR),
]
PASSING = [True, False, False, True, False, False, False]


def called(row: Row) -> str:
    """What answers call the image of a row."""
    cells = row.to_dict()
    return cells.get("uri") or cells["path"]


def shaped(rows: list[Row], name: str, *, document: bool = True, policy: str = "balanced") -> Any:
    return moderate.to_shape(rows, name, policy=policy, document=document)


def write_text(rows: list[Row], name: str, *, document: bool, **facts: str) -> str:
    parts: list[str] = []
    export = ExportTarget(name, "-", SHAPES[name]).form_class()(ExportOptions(document=document))
    facts = {"run_id": RUN, "policy_json": BALANCED.model_dump_json(), **facts}
    export.start(parts.append, facts)
    for row in rows:
        export.add(row.to_dict())
    export.finish({**facts, "ended": "2026-04-12T07:13:32.407Z"})
    return "".join(parts)


# Clients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIENTS)
def test_no_client_breaks_and_none_lets_a_failed_image_pass(name: str) -> None:
    document = json.loads(write_text(ROWS, name, document=True))
    for client in CLIENTS[name]:
        assert client(document) == PASSING, client.__name__


def test_a_reader_of_manifests_sees_what_was_handled_and_no_failed_image() -> None:
    lines = write_text(ROWS, "rekognition", document=False)
    verdicts = rekognition_manifest(lines)
    names = list(map(called, ROWS))
    assert names[2] == "s3://bucket/seen.jpg"
    assert verdicts == {names[0]: True, names[2]: False, names[3]: True}
    summary = json.loads(write_text(ROWS, "rekognition", document=True))
    assert rekognition_summary(summary) == [names[1], *names[4:]]
    assert verdicts.keys() | set(rekognition_summary(summary)) == set(names)


@pytest.mark.parametrize("document", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_hostile_names_are_ascii_and_split_no_line(name: str, document: bool) -> None:
    text = write_text(ROWS, name, document=document)
    assert text.isascii()
    assert text.endswith("\n")
    assert text.replace("\n", "").isprintable()
    if document:
        json.loads(text)
    else:
        lines = text.splitlines()
        assert len(lines) == (3 if name == "rekognition" else len(ROWS))
        assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize("name", SHAPES)
def test_no_rows_are_a_whole_document_and_no_lines(name: str) -> None:
    document = json.loads(write_text([], name, document=True))
    assert write_text([], name, document=False) == ""
    if name in CLIENTS:
        assert all(client(document) == [] for client in CLIENTS[name])


# Forms --------------------------------------------------------------------------------------------


def test_scores() -> None:
    document = json.loads(write_text(ROWS, "scores", document=True))
    results = document.pop("results")
    assert document == {
        "moderation_id": "63de343e-7291-c86d-7186-9cd5bff7a7f7",
        "credits_used": 3.0,
        "total_images": 7,
        "status": "completed",
        "completed_at": "2026-04-12 07:13:32.407000",
    }
    assert results == shaped(ROWS, "scores", document=False)
    assert results[0] == {
        "label": "safe", "nsfw_score": 0.02, "safe_score": 0.98, "confidence": 0.98,
    }  # fmt: skip
    assert results[2]["label"] == "nsfw"
    assert results[1]["error"] == {"code": "truncated", "message": "cut off"}
    assert results[5]["error"]["code"] == "not_scored"
    none = json.loads(write_text(ROWS[-1:], "scores", document=True))
    assert (none["status"], none["credits_used"]) == ("failed", 0.0)
    assert isinstance(none["credits_used"], float)


def test_the_time_is_in_utc_and_never_missing() -> None:
    text = write_text(ROWS, "scores", document=True, started="2026-04-12T09:13:32+02:00")
    assert json.loads(text)["completed_at"] == "2026-04-12 07:13:32.407000"
    said = datetime.fromisoformat(shaped(ROWS, "scores")["completed_at"]).replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - said).total_seconds()) < 3600


def test_flags() -> None:
    scores = {c: n / 10 for n, c in enumerate(CATEGORIES, 1)} | {Category.VIOLENCE: None}
    (answer,) = shaped([make(b"./a.jpg", scores)], "flags", document=False)
    assert answer == {
        "detect-moderation": {
            "flags": [
                {"name": "Nudity", "confidence": 0.1},
                {"name": "Sexual Activity", "confidence": 0.2},
                {"name": "Suggestive", "confidence": 0.3},
                {"name": "Drug Use", "confidence": 0.5},
            ]
        }
    }


def test_booleans() -> None:
    document = shaped(ROWS, "booleans")
    assert document == {
        "model": "moderate",
        "requestId": "63de343e-7291-c86d-7186-9cd5bff7a7f7",
        "inputCount": 7,
        "cost": 0.0,
        "currency": "USD",
        "truncated": False,
        "has_nsfw_concepts": [False, True, True, False, True, True, True],
        "is_nsfw": True,
        "failed": [1, 4, 5, 6],
    }
    first, second, *_ = shaped(ROWS, "booleans", document=False)
    assert set(first) == set(document) - {"failed"}
    assert (first["inputCount"], first["has_nsfw_concepts"], first["is_nsfw"]) == (
        1,
        [False],
        False,
    )
    assert second["error"]["code"] == "truncated"


def test_ratings() -> None:
    document = shaped(ROWS, "ratings")
    assert document["taskId"] == "63de343e-7291-c86d-7186-9cd5bff7a7f7"
    assert document["results"][:3] == [
        {"url": called(ROWS[0]), "rating": "general"},
        {"url": called(ROWS[1]), "error": {"code": "truncated", "message": "cut off"}},
        {"url": "s3://bucket/seen.jpg", "rating": "explicit"},
    ]
    without = BALANCED.model_copy(update={"rating": ()})
    (unrated,) = shaped([make(b"./a.jpg", CLEAN, without)], "ratings", document=False)
    assert unrated["error"]["code"] == "not_scored"


def test_risk() -> None:
    answers = shaped(ROWS, "risk")
    assert answers == shaped(ROWS, "risk", document=False) == shaped(ROWS, "risk")
    assert len({answer["data"].pop("job_id") for answer in answers}) == len(ROWS)
    assert answers[:3] == [
        {
            "code": 200,
            "message": "OK",
            "data": {"status": state, "res_data": {"check_result": risk}},
        }
        for state, risk in (("COMPLETED", "low"), ("ERROR", ""), ("COMPLETED", "high"))
    ]


def test_rekognition_lists_what_the_policy_does_not_approve() -> None:
    scores = CLEAN | {Category.NUDITY: 0.3, Category.SEXUAL_ACTIVITY: 0.29, Category.DRUG_USE: 0.9}
    row = make(b"./a.jpg", scores)
    (line,) = shaped([row], "rekognition", document=False)
    assert line == {
        "source-ref": called(row),
        "detect-moderation-labels": {
            "ModerationLabels": [
                _label("Explicit", "", 1, 30.0),
                _label("Drugs & Tobacco", "", 1, 90.0),
                _label("Explicit Nudity", "Explicit", 2, 30.0),
                _label("Drugs & Tobacco Paraphernalia & Use", "Drugs & Tobacco", 2, 90.0),
            ],
            "ModerationModelVersion": "7.0",
            "ContentTypes": [],
        },
    }


def _label(name: str, parent: str, level: int, confidence: float) -> dict[str, Any]:
    return {
        "Confidence": confidence, "Name": name, "ParentName": parent, "TaxonomyLevel": level,
    }  # fmt: skip


def test_the_summary_counts_lines_and_says_what_nobody_looked_for() -> None:
    rows = [make(b"./a.jpg", CLEAN | {Category.VIOLENCE: None}), *ROWS[1:3]]
    assert shaped(rows, "rekognition") == {
        "version": "1.0",
        "statistics": {"total-json-lines": 3, "valid-json-lines": 2, "invalid-json-lines": 1},
        "errors": [
            {
                "line-numer": 2,
                "line-number": 2,
                "source-ref": called(ROWS[1]),
                "code": "truncated",
                "message": "cut off",
            }
        ],
        "labels-not-looked-for": ["Graphic Violence"],
    }


SEVERITIES = [(0.0, 0), (0.149, 0), (0.15, 2), (0.299, 2), (0.3, 4), (0.849, 4), (0.85, 6), (1, 6)]


@pytest.mark.parametrize(("score", "severity"), SEVERITIES)
def test_azure(score: float, severity: int) -> None:
    scores = CLEAN | {Category.VIOLENCE: score, Category.DRUG_USE: 1.0}
    (answer,) = shaped([make(b"./a.jpg", scores)], "azure", document=False)
    assert answer == {
        "categoriesAnalysis": [
            {"category": "Hate", "severity": None},
            {"category": "SelfHarm", "severity": None},
            {"category": "Sexual", "severity": 0},
            {"category": "Violence", "severity": severity},
        ]
    }
    for category in CATEGORIES[:3]:
        row = make(b"./a.jpg", CLEAN | {category: score})
        assert shaped([row], "azure")[0]["categoriesAnalysis"][2]["severity"] == severity


def test_azure_says_why_an_image_failed() -> None:
    answers = shaped(ROWS, "azure")
    assert answers[1]["error"] == {
        "code": "InvalidRequestBody", "message": "cut off", "innererror": {"code": "truncated"},
    }  # fmt: skip
    assert answers[6]["error"]["code"] == "InternalError"


LIKELIHOODS = [
    *((0.149, "VERY_UNLIKELY"), (0.15, "UNLIKELY"), (0.299, "UNLIKELY"), (0.3, "POSSIBLE")),
    *((0.574, "POSSIBLE"), (0.576, "LIKELY"), (0.849, "LIKELY"), (0.85, "VERY_LIKELY")),
]


@pytest.mark.parametrize(("score", "likelihood"), LIKELIHOODS)
def test_safesearch(score: float, likelihood: str) -> None:
    for category, key in zip(CATEGORIES, ("adult", "adult", "racy", "violence", ""), strict=True):
        row = make(b"./a.jpg", CLEAN | {category: score})
        (response,) = shaped([row], "safesearch")["responses"]
        expected = dict.fromkeys(("adult", "violence", "racy"), "VERY_UNLIKELY")
        expected |= dict.fromkeys(("spoof", "medical"), "UNKNOWN")
        assert response == {
            "safeSearchAnnotation": expected | ({key: likelihood} if key else {}),
            "context": {"uri": called(row)},
        }


def test_safesearch_says_why_an_image_failed() -> None:
    responses = shaped(ROWS, "safesearch")["responses"]
    assert responses[1]["error"] == {"code": 3, "message": "truncated: cut off"}
    assert responses[6]["error"]["code"] == 13


def test_what_nobody_looked_for_is_unknown_and_not_low() -> None:
    for missing, sexual, adult in (
        (Category.SEXUAL_ACTIVITY, None, "UNKNOWN"),
        (Category.SUGGESTIVE, 0, "VERY_UNLIKELY"),  # raises a severity, and is not what it is for
    ):
        row = make(b"./a.jpg", CLEAN | {missing: None, Category.VIOLENCE: None})
        found = {e["category"]: e["severity"] for e in shaped([row], "azure")[0][ANALYSIS]}
        assert (found["Sexual"], found["Violence"]) == (sexual, None)
        safe = shaped([row], "safesearch")["responses"][0]["safeSearchAnnotation"]
        assert (safe["adult"], safe["violence"]) == (adult, "UNKNOWN")
        assert safe["racy"] == ("UNKNOWN" if missing == Category.SUGGESTIVE else "VERY_UNLIKELY")
    known = make(b"./a.jpg", CLEAN | {Category.NUDITY: 0.9, Category.SEXUAL_ACTIVITY: None})
    assert shaped([known], "azure")[0][ANALYSIS][2]["severity"] == 6
    responses = shaped([known], "safesearch")["responses"]
    assert responses[0]["safeSearchAnnotation"]["adult"] == "VERY_LIKELY"


ANALYSIS = "categoriesAnalysis"


def test_a_row_is_held_to_the_thresholds_of_its_override(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    lines = Path(moderate.__file__).parent / "policy/presets/balanced.toml"
    override = '\n[[override]]\nwhen = "art/**"\ncategories.nudity = { review = 0.8 }\n'
    policy.write_text(lines.read_text() + override)
    rows = [make(path, CLEAN | {Category.NUDITY: 0.5}) for path in (b"./a.jpg", b"./art/a.jpg")]
    answers = shaped(rows, "azure", policy=str(policy))
    assert [answer[ANALYSIS][2]["severity"] for answer in answers] == [4, 2]
    both = shaped(rows, "rekognition", document=False, policy=str(policy))
    labels = [len(line["detect-moderation-labels"]["ModerationLabels"]) for line in both]
    assert labels == [2, 0]


# Python -------------------------------------------------------------------------------------------


def test_python_is_told_what_it_got_wrong() -> None:
    with pytest.raises(UsageError, match="did you mean 'scores'"):
        moderate.to_shape(ROWS, "score")
    with pytest.raises(UsageError, match="pass policy="):
        moderate.to_shape(ROWS, "azure")
    with pytest.raises(UsageError, match="takes rows, not one Row"):
        moderate.to_shape(ROWS[0], "flags")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes rows of a scan or a Moderator, not dict"):
        moderate.to_shape([{"a": 1}], "flags")  # type: ignore[list-item]
    assert moderate.to_shape(iter(ROWS), "flags") == shaped(ROWS, "flags")


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scores", "rekognition"])
def test_a_scan_and_its_results_give_the_same_answers(
    name: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for number in range(2):
        Path(f"images/{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    Path("images/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    scan = ["scan", "images", "--weights", str(bundle), "-q", "--shape", name]
    lines = [*scan, "--out", "r.csv", "--out", "a.jsonl", "--out", "second.jsonl"]
    assert run(lines) == 0
    document = [*scan, "--shape-document", "--out", "a.json", "--out", "rows.jsonl"]
    assert run([*document, "--out", "r.parquet"]) == 0
    report = ["report", "--shape", name]
    assert run([*report, "r.csv", "--out", "b.jsonl"]) == 0
    assert run([*report, "r.parquet", "--out", "b.json", "--shape-document"]) == 0
    assert Path("b.jsonl").read_bytes() == Path("a.jsonl").read_bytes()
    assert Path("second.jsonl").read_bytes() == Path("a.jsonl").read_bytes()
    assert Path("b.json").read_bytes() == Path("a.json").read_bytes()
    assert len(Path("rows.jsonl").read_text().splitlines()) == 3  # rows, whatever the document is
    assert "nudity" in json.loads(Path("rows.jsonl").read_text().splitlines()[0])
    assert json.loads(Path("a.jsonl.meta.json").read_text())["export"] == name
    assert Path("a-summary.json").exists() == (name == "rekognition")


def test_the_summary_stands_beside_the_manifest_and_is_replaced_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r.csv", {CATEGORIES[0]: np.array([0.1, 0.9])}, errors=1)
    command = ["report", "r.csv", "--shape", "rekognition", "--out", "m.jsonl"]
    assert run(command) == run(command) == 0
    (unhandled,) = rekognition_summary(json.loads(Path("m-summary.json").read_text()))
    assert unhandled.endswith("/bad-0.jpg")
    assert list(rekognition_manifest(Path("m.jsonl").read_text()).values()) == [True, False]
    Path("m.jsonl").unlink()
    Path("m-summary.json").write_text("mine\n")
    assert run(command) == 2
    assert "m-summary.json exists and was changed since" in capsys.readouterr().err
    assert not Path("m.jsonl").exists()


def test_the_summary_of_a_manifest_in_a_store_is_beside_it_in_the_store() -> None:
    out = ["rows.csv", "s3://bucket/m.v1.jsonl?region=eu-west-1", "-.jsonl"]
    rows, targets = split_shaped(out, "rekognition", document=False)
    assert rows == ["rows.csv"]
    assert [(each.target, each.document) for each in targets] == [
        ("s3://bucket/m.v1.jsonl?region=eu-west-1", None),
        ("-", None),  # nowhere to put it
        ("s3://bucket/m.v1-summary.json?region=eu-west-1", True),
    ]


def test_results_without_their_policy_are_refused_where_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r.csv", {CATEGORIES[0]: np.array([0.1])})
    Path("r.csv.meta.json").unlink()
    assert run(["report", "r.csv", "--shape", "azure", "--out", "a.jsonl"]) == 2
    assert "do not say by which policy they were decided" in capsys.readouterr().err
    assert not Path("a.jsonl").exists()
    assert run(["report", "r.csv", "--shape", "flags", "--out", "f.jsonl"]) == 0
    assert run(["report", "r.csv", "--shape", "flags", "--out", "f.jsonl", "--json"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "score", "--out", "x.jsonl"], "did you mean 'scores'?"),
        (["--shape", "scores", "--out", "x.json"], "or add --shape-document"),
        (["--shape", "scores", "--out", "x.csv"], "--out FILE.jsonl"),
        (["--shape", "scores", "--shape-document", "--out", "x.jsonl"], "--out FILE.json"),
    ],
)
def test_a_shape_without_a_file_for_it_is_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r.csv", {CATEGORIES[0]: np.array([0.1])})
    assert run(["report", "r.csv", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_lines_and_a_document_are_not_made_at_once() -> None:
    with pytest.raises(UsageError, match=r"^--out x\.json: that is for --shape-document"):
        split_shaped(["rows.csv", "x.jsonl", "x.json"], "scores", document=False)


@pytest.mark.parametrize("name", SHAPES)
def test_standard_output_has_the_answers_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r.csv", {CATEGORIES[0]: np.array([0.1, 0.9])}, errors=1)
    for target, more in (("x.jsonl", []), ("x.json", ["--shape-document"])):
        command = ["report", "r.csv", "--shape", name, *more, "--out"]
        assert run([*command, target]) == 0
        capfd.readouterr()
        assert run([*command, f"-{Path(target).suffix}"]) == 0
        assert capfd.readouterr().out == Path(target).read_text()


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write_results(tmp_path / "r.csv", {CATEGORIES[0]: np.full(5000, 0.5)})
    command = [*COMMAND, "report", "r.csv", "--shape", "scores", "--out", "-.jsonl"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    assert json.loads(process.stdout.readline())["label"] == "safe"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


@pytest.mark.parametrize("name", SHAPES)
def test_memory_does_not_grow_with_the_number_of_images(name: str) -> None:
    rows = [row.to_dict() for row in ROWS]
    facts = {"run_id": RUN, "policy_json": BALANCED.model_dump_json()}
    export = ExportTarget(name, "-", SHAPES[name]).form_class()(ExportOptions(document=True))

    def add(count: int) -> None:
        for number in range(count):
            export.add(rows[number % len(rows)])

    export.start(lambda text: None, facts)
    add(100)
    tracemalloc.start()
    try:
        add(4000)
        export.finish(facts)
        assert tracemalloc.get_traced_memory()[1] < 120_000
    finally:
        tracemalloc.stop()
