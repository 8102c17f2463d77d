"""Names that no file can have, from configuration and cards: one line that says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moderate.cli.main import run
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode(scene((80, 60), seed=1), "PNG"))
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('out = ["a\\u0000.csv"]', "a\\x00.csv: its name holds a NUL"),
        ('summary = ["a\\u0000.json"]', "a\\x00.json: its name holds a NUL"),
        ('files_from = "a\\u0000.txt"', "a\\x00.txt: embedded null byte"),
        ('policy = "a\\u0000.toml"', "no policy 'a\\\\x00.toml'"),
        ('weights = "a\\u0000"', "no weights 'a\\\\x00'"),
    ],
)
def test_a_nul_in_a_configured_name_is_one_line(
    here: Path, bundle: Path, capsys: Captured, setting: str, said: str
) -> None:
    (here / "c.toml").write_text(setting + "\n")
    options = ["--no-state"]
    if not setting.startswith("weights"):
        options += ["--weights", str(bundle)]
    inputs = [] if setting.startswith("files_from") else ["images"]
    assert run(["scan", *inputs, "--config", "c.toml", *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "a fault in moderate" not in err


@pytest.mark.parametrize("folder", ["a\\u0000b", "a\\u001b[2J"])
def test_a_card_whose_folder_no_file_system_has_is_one_line(
    here: Path, bundle: Path, capsys: Captured, folder: str
) -> None:
    shutil.copytree(bundle, here / "w")
    card = here / "w" / "moderation.toml"
    card.write_text(card.read_text().replace("[[model]]", f'[[model]]\nfolder = "{folder}"', 1))
    for command in (["weights", "show", "./w"], ["weights", "verify", "./w"]):
        assert run(command) == 2
        err = capsys.readouterr().err
        assert "folder: holds a control character" in err
        assert len(err.splitlines()) == 1
