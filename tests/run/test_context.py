"""Overrides and lists in a scan: whole runs over folders, an archive, a manifest and a video."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from moderate import Decision, Row
from moderate.cli.main import run
from moderate.decode.video import VideoOptions
from moderate.policy.judge import Judge
from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.run.options import ScanOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.scan import plan
from moderate.types import CATEGORIES, Status
from tests.support.oracle import asked, decide, views
from tests.support.pictures import encode, scene
from tests.support.videos import make_video

Captured = pytest.CaptureFixture[str]

BASE = load_policy("balanced").text.partition("[[rating]]")[0]
OVERRIDES = """
[[override]]
name = "avatars"
when = "avatars/**"
policy = "strict"

[[override]]
name = "medical"
when = "medical/**"
policy = "medical.toml"
"""


def lenient() -> str:
    """Approves everything that is scored."""
    limits = "{ review = 1.0, block = 1.0 }"
    return 'name = "lenient"\n[categories]\n' + "".join(f"{n} = {limits}\n" for n in CATEGORIES)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three folders and an archive with the same pictures, one of them broken, and policies."""
    monkeypatch.chdir(tmp_path)
    pictures = {f"{n}.png": encode(scene((80, 60), seed=n), "PNG") for n in range(3)}
    pictures["broken.png"] = pictures["0.png"][:-40]
    with zipfile.ZipFile("dump.zip", "w") as archive:
        for folder in ("avatars", "medical", "other"):
            Path("in", folder).mkdir(parents=True)
            for name, data in pictures.items():
                Path("in", folder, name).write_bytes(data)
                archive.writestr(f"deep/{folder}/{name}", data)
    Path("medical.toml").write_text(lenient())
    Path("mine.toml").write_text(BASE + OVERRIDES)
    return tmp_path


def scan(*inputs: str, bundle: Path, today: date | None = None, **options: Any) -> list[Row]:
    asked_for = ScanOptions(inputs=inputs, weights=str(bundle), policy="mine.toml", device="cpu")
    planned = plan(replace(asked_for, **options))
    columns = planned.judge.columns
    job = replace(planned, judge=Judge.of(planned.policy, today, columns))
    with LocalEngine(job) as engine:
        return [item for item in engine.rows() if isinstance(item, Row)]


def own(name: str) -> Policy:
    return load_policy(
        {"avatars": "strict", "medical": "medical.toml"}.get(name, "mine.toml")
    ).policy


def digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def listed(kind: str, sha256: str, reason: str, expires: str = "") -> str:
    more = f"expires = {expires}\n" if expires else ""
    return f'[[{kind}]]\nsha256 = "{sha256}"\nreason = "{reason}"\n{more}'


def test_folders_and_members_are_held_to_their_own_policies(place: Path, bundle: Path) -> None:
    rows = scan("in", "dump.zip", bundle=bundle)
    assert len(rows) == 24
    plain = scan("in", "dump.zip", bundle=bundle, policy="balanced")
    decisions: dict[str, set[Decision]] = {}
    for row, before in zip(rows, plain, strict=True):
        folder = row.ref.path.decode().rpartition("/")[0].rpartition("/")[2]
        policy = own(folder)
        decision, reasons = decide(policy, row.scores, row.facts.warnings, row.error)
        ending = "" if folder == "other" else f" (override {folder})"
        assert row.decision is decision
        assert row.reasons == tuple(reason + ending for reason in reasons)
        assert row.views == views(policy, row.scores)
        assert (row.scores, row.facts, row.error) == (before.scores, before.facts, before.error)
        if row.error is None:
            decisions.setdefault(folder, set()).add(row.decision)
        else:
            assert row.decision is (Decision.BLOCK if folder == "avatars" else Decision.REVIEW)
    assert decisions["medical"] == {Decision.APPROVE}
    assert Decision.APPROVE not in decisions["avatars"] | decisions["other"]


def test_a_column_of_a_manifest_chooses(place: Path, bundle: Path, capsys: Captured) -> None:
    lines = ["file,source", "in/other/0.png,clinic", "in/other/1.png,", "in/other/2.png,forum"]
    Path("list.csv").write_text("\n".join(lines) + "\n")
    when = '[[override]]\nname = "clinic"\nwhen = "source = clinic"\npolicy = "medical.toml"\n'
    Path("mine.toml").write_text(BASE + when)
    arguments = ["scan", "list.csv", "in/medical/0.png", "--weights", str(bundle), "-q",
                 "--policy", "mine.toml", "--out=rows.csv", "--out=rows.parquet",
                 "--summary=s.json"]  # fmt: skip
    assert run([*arguments, "--keep", "source"]) == 0
    with open("rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == ["clinic", "", "forum", ""]
    assert [row["decision"] == "approve" for row in rows] == [True, False, False, False]
    assert rows[0]["reasons"].endswith("(override clinic)")
    assert json.loads(Path("s.json").read_text())["notes"] == []
    for file in ("rows.csv", "rows.parquet"):
        said = explained(capsys, file, "row:1")
        assert said["follows"] is True
        assert said["scores"][0]["block"] == 1.0
        assert explained(capsys, file, "row:2")["scores"][0]["block"] == 0.85
    # Without --keep nobody carries the column, and it is said that the override has no effect.
    assert run(arguments) == 0
    (note,) = json.loads(Path("s.json").read_text())["notes"]
    assert "--keep source" in note
    capsys.readouterr()


def explained(capsys: Captured, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["explain", *arguments, "--json"]) == 0
    image: dict[str, Any] = json.loads(capsys.readouterr().out)["images"][0]
    return image


def test_lists_hold_for_every_copy_until_they_expire(place: Path, bundle: Path) -> None:
    cleared, both, broken = (digest(f"in/other/{n}.png") for n in ("0", "1", "broken"))
    Path("mine.toml").write_text(
        BASE
        + OVERRIDES
        + listed("ignore", cleared.upper(), "press photo", "2026-06-02")
        + listed("ignore", both, "cleared too", "2030-01-01")
        + listed("ignore", broken, "nobody saw it", "2030-01-01")
        + listed("block", both, "known")
    )
    plain = scan("in", "dump.zip", bundle=bundle, policy="balanced")
    for today, in_force in ((date(2026, 6, 1), True), (date(2026, 6, 2), False)):
        rows = scan("in", "dump.zip", bundle=bundle, today=today)
        for row, before in zip(rows, plain, strict=True):
            assert row.scores == before.scores
            name = row.ref.name
            if name == b"broken.png":
                assert row.status is Status.ERROR
                assert row.decision is not Decision.APPROVE
            elif name == b"1.png":
                assert (row.decision, row.reasons) == (Decision.BLOCK, ("block list: known",))
            elif name == b"0.png" and in_force:
                assert row.decision is Decision.APPROVE
                assert row.reasons == ("cleared until 2026-06-02: press photo",)
            elif name == b"0.png" and b"/avatars/" in row.ref.path:
                assert row.decision is not Decision.APPROVE
                assert row.reasons[0].endswith("(override avatars)")


def test_the_summary_counts_by_each_rows_own_thresholds_and_notes_what_expired(
    place: Path, bundle: Path
) -> None:
    Path("cleared.csv").write_text(
        f"sha256,reason,expires\n{digest('in/other/0.png')},old,2020-01-01\n"
        f"{'0' * 64},x,2020-01-01\n"
    )
    Path("mine.toml").write_text('ignore_file = "cleared.csv"\n' + BASE + OVERRIDES)
    arguments = ["scan", "in", "--weights", str(bundle), "--policy", "mine.toml", "-q"]
    assert run([*arguments, "--summary=s.json", "--out=rows.parquet"]) == 0
    summary = json.loads(Path("s.json").read_text())
    assert summary["notes"] == ["2 entries of the ignore list have expired: without effect."]
    expected = {name.value: dict.fromkeys(("approve", "review", "block", "unscored"), 0)
                for name in CATEGORIES}  # fmt: skip
    for row in scan("in", bundle=bundle):
        if row.error is None:
            policy = own(row.ref.path.decode().split("/")[-2])
            for name, band in zip(CATEGORIES, asked(policy, row.scores), strict=True):
                expected[name.value][band] += 1
    assert summary["categories"] == expected
    facts = summary["audit"]
    policy = Policy.model_validate_json(facts["policy_json"])
    assert policy == load_policy("mine.toml").policy
    assert facts["policy_sha256"] == load_policy("mine.toml").sha256
    assert policy.list_files["ignore_file"].entries == 2


def test_explain_follows_overrides_and_lists(place: Path, bundle: Path, capsys: Captured) -> None:
    Path("blocked.csv").write_text(f"sha256,reason\n{digest('in/other/1.png')},known\n")
    entry = listed("ignore", digest("in/other/0.png"), "press photo", "2999-01-01")
    Path("mine.toml").write_text('block_file = "blocked.csv"\n' + BASE + OVERRIDES + entry)
    arguments = ["scan", "in", "--weights", str(bundle), "--policy", "mine.toml", "-q"]
    outs = ["rows.csv", "rows.parquet", "rows.jsonl"]
    assert run([*arguments, *(f"--out={out}" for out in outs)]) == 0
    for name in ("mine.toml", "medical.toml", "blocked.csv"):
        Path(name).unlink()
    for out in outs:
        said = explained(capsys, out, "in/avatars/2.png")
        assert said["follows"] is True
        assert said["scores"][0]["block"] == 0.6
        said = explained(capsys, out, "in/medical/2.png")
        assert (said["follows"], said["scores"][0]["block"]) == (True, 1.0)
        said = explained(capsys, out, "in/other/0.png")
        assert (said["follows"], said["decision"]) == (True, "approve")
        # The entries of a file are not kept with the results: it cannot be told.
        said = explained(capsys, out, "in/other/1.png")
        assert (said["follows"], said["decision"]) == (None, "block")
    text = Path("rows.csv").read_text()
    line = next(line for line in text.splitlines() if line.startswith("./in/medical/2.png"))
    other = text.replace(line, line.replace(",ok,approve,", ",ok,block,"))
    assert other != text
    Path("rows.csv").write_text(other)
    assert explained(capsys, "rows.csv", "in/medical/2.png")["follows"] is False


def test_frames_and_their_video(place: Path, bundle: Path) -> None:
    (place / "clips").mkdir()
    file = make_video(place / "clips/clip.mp4", (scene((64, 48), seed=n // 10) for n in range(20)))
    override = '[[override]]\nname = "clips"\nwhen = "clips/*.mp4"\npolicy = "strict"\n'
    Path("mine.toml").write_text(BASE + override)
    video = VideoOptions(1.0)
    frames_and_video = scan("clips", bundle=bundle, video=video)
    assert len(frames_and_video) == 3
    for row in frames_and_video:
        assert row.views == views(load_policy("strict").policy, row.scores)
        assert all(reason.endswith(" (override clips)") for reason in row.reasons)
    whole = frames_and_video[-1]
    assert any(" at 00:00:0" in reason for reason in whole.reasons)
    # Its list entry is for the file: it decides on the file's row, whatever the frames are.
    for entry, decision in (
        (listed("ignore", digest(str(file)), "seen by two", "2999-01-01"), Decision.APPROVE),
        (listed("block", digest(str(file)), "known"), Decision.BLOCK),
    ):
        Path("mine.toml").write_text(BASE + override + entry)
        *frames, row = scan("clips", bundle=bundle, video=video)
        assert row.decision is decision
        assert len(row.reasons) == 1
        assert [f.decision for f in frames] == [f.decision for f in frames_and_video[:-1]]


def test_a_changed_policy_decides_anew_from_kept_scores(
    place: Path, bundle: Path, capsys: Captured
) -> None:
    arguments = ["scan", "in", "--weights", str(bundle), "--policy", "mine.toml", "-q"]
    assert run([*arguments, "--summary=s.json"]) == 0
    Path("mine.toml").write_text(BASE + OVERRIDES + listed("block", digest("in/other/0.png"), "k"))
    shutil.rmtree("in/avatars")
    assert run([*arguments, "--summary=s.json"]) == 0
    summary = json.loads(Path("s.json").read_text())
    assert summary["decisions"]["block"] >= 2
    assert summary["origins"]["new"] == 0
    capsys.readouterr()
