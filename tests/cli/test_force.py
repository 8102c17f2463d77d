"""Every command that writes a file asks before it replaces what a person may have made."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.types import Category
from tests.support.pictures import encode, scene
from tests.support.scored import write_labels, write_results

Captured = pytest.CaptureFixture[str]
MINE = "# mine\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for key in [key for key in os.environ if key.startswith("MODERATE_")]:
        monkeypatch.delenv(key)
    scores = {Category.NUDITY: np.linspace(0, 1, 40)}
    write_results(tmp_path / "r.csv", scores)
    write_labels(tmp_path / "labels.csv", {Category.NUDITY: (scores[Category.NUDITY] > 0.5) * 1})
    return tmp_path


def refusal(capsys: Captured, *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "--force" in err
    return err


@pytest.mark.parametrize(
    ("command", "target", "again"),
    [
        (["decide", "r.csv", "--policy", "strict", "-q", "--out"], "x.csv", True),
        (["decide", "r.csv", "--policy", "strict", "-q", "--out"], "x.parquet", True),
        (["decide", "r.csv", "--policy", "strict", "-q", "--summary"], "x.md", True),
        (["eval", "r.csv", "--labels", "labels.csv", "-q", "--bootstrap", "0", "--out"], "x.html",
         True),
        (["report", "r.csv", "--out"], "x.json", True),
        (["diff", "r.csv", "r.csv", "--out"], "x.md", True),
        (["sample", "r.csv", "--by", "random", "--out"], "x.csv", False),
    ],
)  # fmt: skip
def test_what_is_replaced_unasked_is_of_the_command_s_own_kind(
    here: Path, capsys: Captured, command: list[str], target: str, again: bool
) -> None:
    Path(target).write_text(MINE)
    assert target in refusal(capsys, *command, target)
    assert Path(target).read_text() == MINE
    assert run([*command, target, "--force"]) == 0
    assert MINE not in Path(target).read_text("utf-8", "replace")
    if again:
        assert run([*command, target]) == 0
        return
    written = Path(target).read_text()
    assert target in refusal(capsys, *command, target)
    assert Path(target).read_text() == written


def test_refused_before_any_work(here: Path, capsys: Captured) -> None:
    """None of these gets as far as to miss its weights or labels."""
    Path("in").mkdir()
    Path("mine.toml").write_text(MINE)
    Path("mine.json").write_text(MINE)
    for command in (
        ["tune", "gone.csv", "--labels", "gone.csv", "--out", "mine.toml"],
        ["bench", "--weights", "gone", "--json", "mine.json"],
        ["scan", "in", "--weights", "gone", "--summary", "mine.json"],
    ):
        assert f"{command[-1]} exists and " in refusal(capsys, *command)
    assert Path("mine.toml").read_text() == Path("mine.json").read_text() == MINE


def test_force_from_the_environment_or_a_file(
    here: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in").mkdir()
    Path("in/a.png").write_bytes(encode(scene((80, 60)), "PNG"))
    command = ["scan", "in", "--weights", str(bundle), "--no-state", "-q", "--backend", "torch"]
    command += ["--out", "x.csv", "--csv-raw", "--csv-bom"]
    Path("force.toml").write_text("force = true\n")
    for setting in ("MODERATE_FORCE", "MODERATE_CONFIG"):
        Path("x.csv").write_text(MINE)
        Path("x.csv.meta.json").write_text(MINE)
        assert "x.csv exists" in refusal(capsys, *command)
        with monkeypatch.context() as patch:
            patch.setenv(setting, "1" if setting == "MODERATE_FORCE" else "force.toml")
            assert run(command) == 0
        assert Path("x.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,")
        assert json.loads(Path("x.csv.meta.json").read_text())["csv"] == "raw"


def test_test_cards_replace_their_own_and_leave_no_orphans(here: Path, capsys: Captured) -> None:
    command = ["testcards", "cards", "--size", "96"]
    assert run([*command, "--count", "2", "--format", "jpeg"]) == 0
    assert run(command) == 0
    with Path("cards/cards.csv").open(newline="") as file:
        listed = [row["file"] for row in csv.DictReader(file)]
    assert sorted(os.listdir("cards")) == sorted([*listed, "cards.csv"])
    assert len(listed) == 11

    Path("cards/holiday.png").write_text(MINE)  # is in nobody's way
    shutil.copy("cards/cards.csv", "kept.csv")
    for name, change in (
        ("clean_0.png", MINE),
        ("cards.csv", Path("cards/cards.csv").read_text().replace("approve", "block")),
        ("cards.csv", "file,label\nclean_0.png,1\n"),
    ):
        before = Path("cards", name).read_bytes()
        Path("cards", name).write_text(change)
        other = {file: Path("cards", file).read_bytes() for file in os.listdir("cards")}
        assert f"cards/{name} exists" in refusal(capsys, *command)
        assert {f: Path("cards", f).read_bytes() for f in os.listdir("cards")} == other
        Path("cards", name).write_bytes(before)
    assert run(["testcards", "kept.csv"]) == 2
    assert "kept.csv is a file; name a folder" in capsys.readouterr().err
    Path("cards/clean_0.png").unlink()
    Path("cards/clean_0.png").symlink_to(here / "labels.csv")
    labels = Path("labels.csv").read_bytes()
    assert "clean_0.png" in refusal(capsys, *command)
    assert run([*command, "--force"]) == 0
    assert Path("labels.csv").read_bytes() == labels
    assert not Path("cards/clean_0.png").is_symlink()
    assert Path("cards/holiday.png").read_text() == MINE
    assert Path("cards/cards.csv").read_bytes() == Path("kept.csv").read_bytes()
