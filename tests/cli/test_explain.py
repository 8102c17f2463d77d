"""`moderate explain`: the whole way from a real scan to a card."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from moderate.cli.main import run
from moderate.state.ledger import Ledger, RunStatus
from tests.support.pictures import encode, scene
from tests.support.reviewed import write_journal

Captured = pytest.CaptureFixture[str]
SUFFIXES = ("csv", "parquet", "jsonl")
ODD = b"caf\xe9.jpg"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A folder of pictures (one twice, one broken, one whose name is not UTF-8) and its results."""
    folder = tmp_path_factory.mktemp("scanned")
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    shutil.copy(images / "1.png", images / "copy.png")
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (images / "\x1b[31m\u202e.jpg").write_bytes(b"no image")
    Path(os.fsdecode(os.fsencode(images) + b"/" + ODD)).write_bytes(
        encode(scene((400, 300), seed=9), "JPEG")
    )
    (folder / "policy.toml").write_text(
        'name = "mine"\n[categories]\n'
        + "".join(
            f"{name} = {{ review = 0.0, block = {block} }}\n"
            for name, block in (
                ("nudity", 0.25),
                ("sexual_activity", 1.0),
                ("suggestive", 1.0),
                ("violence", 1.0),
                ("drug_use", 1.0),
            )
        )
    )
    here = Path.cwd()
    os.chdir(folder)
    try:
        arguments = ["scan", "images", "--weights", str(bundle), "--policy", "policy.toml", "-q"]
        outs = [f"--out=rows.{suffix}" for suffix in SUFFIXES]
        assert run([*arguments, *outs, "--state", "state"]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def rows(scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results to change, and the place to be in."""
    for key in [key for key in os.environ if key.startswith("MODERATE_")]:
        monkeypatch.delenv(key)
    shutil.copytree(scanned, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def explained(capsys: Captured, *arguments: str) -> dict[str, Any]:
    assert run(["explain", *arguments, "--json", "--state", "state"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def shown(capsys: Captured, *arguments: str) -> str:
    assert run(["explain", *arguments, "--state", "state"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    assert not {"\x1b", "\u202e", "\r"} & set(out)
    return out


def refused(capsys: Captured, *arguments: str) -> str:
    assert run(["explain", *arguments, "--state", "state"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("moderate: error: ")
    return err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_card_says_what_was_decided_why_and_by_what(
    rows: Path, capsys: Captured, suffix: str
) -> None:
    file = f"rows.{suffix}"
    facts = json.loads(Path("rows.csv.meta.json").read_text())
    truth = {row["path"]: row for row in pq.read_table("rows.parquet").to_pylist()}
    row = truth["./images/1.png"]
    said = explained(capsys, file, "images/1.png")
    (image,) = said["images"]
    assert said["matches"] == 1
    for name in ("path", "decision", "status", "sha256", "bytes", "format", "width", "rating"):
        assert image[name] == row[name]
    assert "; ".join(image["reasons"]) == row["reasons"]
    assert image["warnings"] == ["small_image"]
    assert image["follows"] is True
    for score in image["scores"]:
        assert score["score"] == pytest.approx(row[score["category"]], rel=1e-6)
        assert (score["review"], score["block"]) == (
            0.0, 0.25 if score["category"] == "nudity" else 1.0,
        )  # fmt: skip
        assert score["band"] == ("block" if score["score"] >= score["block"] else "review")
    digest = hashlib.sha256(Path("policy.toml").read_bytes()).hexdigest()
    assert said["policy"]["sha256"] == digest
    assert said["policy"]["thresholds_from"] == "results"
    assert said["weights"]["sha256"] == facts["weights_sha256"]
    assert said["run"]["id"] == facts["run_id"]
    text = shown(capsys, file, "images/1.png")
    lines = text.splitlines()
    assert lines[0].split() == [row["decision"].upper(), "./images/1.png"]
    assert lines[1].startswith("why ")
    assert row["reasons"].split("; ")[0] in lines[1]
    for part in ("mine", digest, facts["weights_sha256"], facts["run_id"], row["sha256"],
                 f"torch {facts['torch']}", f"timm {facts['timm']}", facts["precision"],
                 facts["started"], "small_image", "80 x 60",
                 "frames auto; views auto; embedded content warn"):  # fmt: skip
        assert part in text


def test_every_way_to_name_an_image(rows: Path, capsys: Captured) -> None:
    paths = [row["path"] for row in pq.read_table("rows.parquet").to_pylist()]
    digest = hashlib.sha256((rows / "images/2.png").read_bytes()).hexdigest()
    number = paths.index("./images/2.png") + 1
    for wanted in ("images/2.png", "./images/2.png", digest, digest[:8].upper(), f"row:{number}"):
        (image,) = explained(capsys, "rows.csv", wanted)["images"]
        assert (image["path"], image["row"]) == ("./images/2.png", number)
    for wanted in ("images/caf\\xe9.jpg", os.fsdecode(b"images/" + ODD)):
        (image,) = explained(capsys, "rows.jsonl", wanted)["images"]
        assert image["path"] == "./images/caf\\xe9.jpg"
        assert image["path_bytes"] == "Li9pbWFnZXMvY2Fm6S5qcGc="
    assert "not UTF-8" in shown(capsys, "rows.parquet", "images/caf\\xe9.jpg")


def test_duplicates_are_told_together(rows: Path, capsys: Captured) -> None:
    digest = hashlib.sha256((rows / "images/1.png").read_bytes()).hexdigest()
    said = explained(capsys, "rows.csv", digest)
    assert [image["path"] for image in said["images"]] == ["./images/1.png", "./images/copy.png"]
    assert [image["duplicate_of"] for image in said["images"]] == [None, "./images/1.png"]
    assert "same as   ./images/1.png" in shown(capsys, "rows.csv", digest)


def test_an_error_and_a_hostile_name(rows: Path, capsys: Captured) -> None:
    (image,) = explained(capsys, "rows.csv", "images/broken.jpg")["images"]
    assert image["status"] == "error"
    assert [score["band"] for score in image["scores"]] == [None] * 5
    text = shown(capsys, "rows.csv", "images/broken.jpg")
    assert f"{image['error_code']}: " in text
    assert text.count("not scored") == 5
    text = shown(capsys, "rows.csv", "images/\x1b[31m\u202e.jpg")
    assert "\\x1b[31m\\u202e.jpg" in text


def test_ten_cards_and_how_many_more(rows: Path, capsys: Captured) -> None:
    header, *lines = Path("rows.csv").read_text().splitlines()
    line = next(line for line in lines if line.startswith("./images/0.png"))
    Path("rows.csv").write_text("\n".join([header, *[line] * 1234]) + "\n")
    digest = hashlib.sha256((rows / "images/0.png").read_bytes()).hexdigest()
    text = shown(capsys, "rows.csv", digest)
    assert text.count("./images/0.png") == 10
    assert "and 1,224 more of 1,234 rows that match" in text
    said = explained(capsys, "rows.csv", digest)
    assert (len(said["images"]), said["matches"]) == (10, 1234)


def test_nothing_found_is_one_line_with_close_names(rows: Path, capsys: Captured) -> None:
    err = refused(capsys, "rows.csv", "images/cpy.png")
    assert "no row of rows.csv is of images/cpy.png" in err
    assert "close: ./images/copy.png" in err
    assert "close" not in refused(capsys, "rows.csv", "/somewhere/quite/else.bmp")
    assert "has no row 99" in refused(capsys, "rows.csv", "row:99")
    assert "has no row 0" in refused(capsys, "rows.csv", "row:0")
    refused(capsys, "rows.csv", "0" * 8)
    refused(capsys, "rows.csv", "")
    assert "gone.csv" in refused(capsys, "gone.csv", "row:1")
    assert ".parquet" in refused(capsys, "rows.xls", "row:1")
    Path("cut.parquet").write_bytes(Path("rows.parquet").read_bytes()[:-50])
    assert "not readable Parquet" in refused(capsys, "cut.parquet", "row:1")


def test_without_facts_or_ledger_it_says_so(rows: Path, capsys: Captured) -> None:
    os.unlink("rows.csv.meta.json")
    text = shown(capsys, "rows.csv", "row:1")
    assert "no audit facts: rows.csv.meta.json is missing" in text
    assert text.count("not recorded") > 10
    assert run(["explain", "rows.parquet", "row:1", "--state", "nowhere"]) == 0
    assert "note      no runs are recorded in nowhere" in capsys.readouterr().out
    assert not Path("nowhere").exists()


def test_a_file_that_was_changed_says_so(rows: Path, capsys: Captured) -> None:
    text = Path("rows.csv").read_text()
    decision = explained(capsys, "rows.csv", "images/0.png")["images"][0]["decision"]
    other = {"block": "approve", "review": "approve", "approve": "block"}[decision]
    before, line, after = text.partition("./images/0.png,")
    changed = after.replace(f",ok,{decision},", f",ok,{other},", 1)
    Path("rows.csv").write_text(before + line + changed)
    assert Path("rows.csv").read_text() != text
    said = explained(capsys, "rows.csv", "images/0.png")
    assert said["images"][0]["follows"] is False
    assert any("was changed" in note for note in said["notes"])
    shown_text = shown(capsys, "rows.csv", "images/0.png")
    assert "PROBLEM" in shown_text
    assert "was changed" in " ".join(shown_text.split())


def record(facts: dict[str, str], outputs: dict[str, str], policy: str) -> None:
    ledger = Ledger(Path("ledger"))
    active = ledger.begin(
        run_id=facts["run_id"], command=["moderate", "scan", "images"],
        started=datetime(2024, 1, 2, tzinfo=UTC), version="0", inputs=["images"],
        targets=list(outputs),
    )  # fmt: skip
    active.update(facts=facts)
    active.save_policy(facts["policy_sha256"], "mine", policy)
    active.end(RunStatus.COMPLETED, outputs=outputs)
    ledger.close()


def in_ledger(capsys: Captured, file: str, wanted: str) -> dict[str, Any]:
    assert run(["explain", file, wanted, "--json", "--state", "ledger"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_ledger_adds_host_command_and_thresholds(rows: Path, capsys: Captured) -> None:
    meta = Path("rows.csv.meta.json")
    facts = json.loads(meta.read_text())
    record(facts, {"/x/rows.csv": facts["sha256"]}, Path("policy.toml").read_text())
    said = in_ledger(capsys, "rows.csv", "row:1")
    assert said["ledger"]["command"] == ["moderate", "scan", "images"]
    assert said["ledger"]["status"] == "completed"
    assert said["policy"]["thresholds_from"] == "results"
    assert said["notes"] == []
    assert run(["explain", "rows.csv", "row:1", "--state", "ledger"]) == 0
    assert "command   moderate scan images" in capsys.readouterr().out
    del facts["policy_json"]
    meta.write_text(json.dumps(facts))
    said = in_ledger(capsys, "rows.csv", "row:1")
    assert said["policy"]["thresholds_from"] == "ledger"
    assert said["images"][0]["scores"][0]["block"] == 0.25
    facts["sha256"] = "0" * 64
    del facts["run_id"]
    meta.write_text(json.dumps(facts))
    said = in_ledger(capsys, "rows.csv", "row:1")
    assert said["ledger"] is None
    assert any("has no record in ledger" in note for note in said["notes"])
    assert any("was changed, or is of another run" in note for note in said["notes"])


def test_what_the_ledger_contradicts_is_said(rows: Path, capsys: Captured) -> None:
    facts = json.loads(Path("rows.csv.meta.json").read_text())
    record(facts, {"/x/rows.csv": "0" * 64}, Path("policy.toml").read_text())
    notes = in_ledger(capsys, "rows.csv", "row:1")["notes"]
    assert notes == ["rows.csv is not as its run wrote it, by the ledger's digests"]
    other = json.loads(facts["policy_json"])
    other["categories"]["nudity"]["block"] = 0.5
    facts["policy_json"] = json.dumps(other)
    Path("rows.csv.meta.json").write_text(json.dumps(facts))
    notes = in_ledger(capsys, "rows.csv", "row:1")["notes"]
    assert any("not the one of that digest in the ledger" in note for note in notes)
    facts["policy_json"] = "{}"
    Path("rows.csv.meta.json").write_text(json.dumps(facts))
    said = in_ledger(capsys, "rows.csv", "row:1")
    assert said["policy"]["thresholds_from"] == "ledger"
    assert any("none that this version can read" in note for note in said["notes"])


def test_a_ledger_that_cannot_be_read_costs_its_part_alone(rows: Path, capsys: Captured) -> None:
    Path("ledger").write_text("a file, no folder")
    said = in_ledger(capsys, "rows.csv", "row:1")
    assert said["ledger"] is None
    assert len(said["notes"]) == 1
    assert said["images"]


def test_carried_columns_and_a_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["testcards", "cards", "--count", "1"]) == 0
    card = next(Path("cards").rglob("*.*"))
    Path("list.csv").write_text(f"file,id,note\n{card},7,=x\n")
    capsys.readouterr()
    arguments = ["scan", "list.csv", "--keep", "id", "--keep", "note", "--weights", "testcard"]
    assert run([*arguments, "-q", "--state", "state", "--out=r.parquet", "--out=r.csv"]) == 0
    assert "is a demonstration" in capsys.readouterr().err, "also with -q"
    said = explained(capsys, "r.parquet", "row:1")
    assert said["images"][0]["carried"] == {"id": "7", "note": "=x"}
    text = shown(capsys, "r.csv", "row:1")
    assert "carried   id = 7" in text
    assert "note = =x" in text
    assert "purpose: demo" in text
    assert "is a demonstration" in text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_people_decided_heads_the_card(rows: Path, capsys: Captured, suffix: str) -> None:
    file, final = f"rows.{suffix}", f"final.{suffix}"
    number = explained(capsys, file, "images/1.png")["images"][0]["row"]
    machine = explained(capsys, file, "images/1.png")["images"][0]["decision"]
    assert machine != "approve"
    write_journal(Path("j"), Path(file), [(number, "ada", "approve")])
    assert run(["decide", file, "--decisions", "j", "--out", final, "-q"]) == 0
    capsys.readouterr()
    (image,) = explained(capsys, final, "images/1.png")["images"]
    assert (image["final_decision"], image["decided_by"]) == ("approve", "ada")
    assert (image["decision"], image["follows"]) == (machine, True)
    assert image["carried"] == {}
    lines = shown(capsys, final, "images/1.png").splitlines()
    assert lines[0].split() == ["APPROVE", "./images/1.png"]
    assert lines[1].split()[:3] == ["decided", "by", "ada,"]
    assert lines[1].split()[3] == image["decided_at"]
    assert lines[2].split() == ["machine", machine]
    assert lines[3].startswith("why ")
    (other,) = explained(capsys, final, "images/0.png")["images"]
    assert other["final_decision"] is None
    assert shown(capsys, final, "images/0.png").splitlines()[1].startswith("why ")
