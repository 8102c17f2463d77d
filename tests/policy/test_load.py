"""A policy's name tells a preset from an edited copy of it, and its file is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderate.cli.main import run
from moderate.policy.load import PRESETS, load_policy, parse_policy

Captured = pytest.CaptureFixture[str]
PLAIN = load_policy("balanced").text
EDITED = PLAIN.replace("0.85", "0.80")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_and_their_copies_keep_the_name(preset: str) -> None:
    text = load_policy(preset).text
    assert load_policy(preset).policy.name == preset
    assert load_policy(preset).file is None
    Path("copy.toml").write_text(f"# mine\n{text}")
    assert load_policy("copy.toml").policy.name == preset


def test_an_edited_copy_is_not_called_as_the_preset() -> None:
    assert EDITED != PLAIN
    Path("mine.toml").write_text(EDITED)
    loaded = load_policy("mine.toml")
    assert loaded.policy.name == "balanced (edited)"
    assert loaded.shown_name == f"balanced (edited), from {Path('mine.toml').absolute()}"
    # The text alone is enough, as the ledger keeps it.
    assert parse_policy(EDITED, "kept").policy.name == "balanced (edited)"
    own = EDITED.replace('name = "balanced"', 'name = "house"')
    assert parse_policy(own, "kept").policy.name == "house"


def test_every_output_names_the_edited_policy_and_its_file(capsys: Captured) -> None:
    Path("mine.toml").write_text(EDITED)
    Path("rows.csv").write_text("path,status,decision,nudity\n./a,ok,approve,0.82\n")
    Path("labels.csv").write_text("path,nudity\na,1\n")
    file = str(Path("mine.toml").absolute())
    decide = ["decide", "rows.csv", "--policy", "mine.toml", "--out", "new.jsonl"]
    assert run([*decide, "--summary", "summary.json"]) == 0
    facts = json.loads(Path("new.jsonl.meta.json").read_text())
    assert (facts["policy"], facts["policy_file"]) == ("balanced (edited)", file)
    assert json.loads(Path("summary.json").read_text())["audit"]["policy_file"] == file
    for command in (
        ["report", "new.jsonl"],
        ["explain", "new.jsonl", "a"],
        ["eval", "new.jsonl", "--labels", "labels.csv", "--out", "eval.md"],
        ["diff", "rows.csv", "new.jsonl"],
        decide,
    ):
        capsys.readouterr()
        assert run(command) == 0, command
        if command[0] == "eval":
            shown = Path("eval.md").read_text().replace("\\", "")
        else:
            shown = "".join(capsys.readouterr().out.split())
        assert file in shown, command
        assert "balanced(edited)" in shown.replace(" ", ""), command
    # A preset has no file, also where the rows were decided by one before.
    assert run(["decide", "new.jsonl", "--policy", "strict", "--out", "last.csv", "-q"]) == 0
    assert "policy_file" not in json.loads(Path("last.csv.meta.json").read_text())
