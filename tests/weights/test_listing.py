"""The catalogue on a terminal, and names that are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderate.classify.bundle import find_bundle
from moderate.cli.main import run
from moderate.errors import WeightsError
from moderate.weights.catalogue.load import catalogue

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def test_the_list_is_one_line_per_entry_with_advice_first(capsys: Captured) -> None:
    assert run(["weights", "list"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    begins = [line.split()[0] for line in lines if line]
    assert begins.index("starter") == 1
    advised = [entry.name for entry in catalogue().values() if entry.advice]
    assert len(advised) >= 4
    for name in catalogue():
        assert begins.count(name) == 1 + (name in advised)
    (starter,) = (line for line in lines if line.startswith("starter ") and "MB" in line)
    assert starter.split() == ["starter", "N", "A", ".", "V", ".", "66", "MB", "yes", "-"]


def test_an_entry_is_shown_in_words(capsys: Captured) -> None:
    assert run(["weights", "show", "starter"]) == 0
    out = capsys.readouterr().out
    for python in ("None", "{", "[", " = "):
        assert python not in out
    assert "moderate weights pull starter" in out
    assert run(["weights", "show", "startr"]) == 2
    assert "did you mean 'starter'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("starter", "moderate weights pull starter installs them"),
        ("startr", "did you mean 'starter'?"),
        ("testcards", "did you mean 'testcard'?"),
        ("hf:owner/name", "moderate weights pull hf:owner/name"),
        ("net.onnx", "moderate weights add net.onnx --name NAME"),
        ("qqqq", "name a bundle's folder, or one of testcard"),
        ("qqqq", "'moderate weights list' lists those"),
    ],
)
def test_weights_that_are_not_installed_come_with_the_way_to_them(name: str, words: str) -> None:
    Path("net.onnx").touch()
    with pytest.raises(WeightsError) as error:
        find_bundle(name)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "variable", "words"),
    [
        ("marqo-nsfw-384", "HF_ENDPOINT", "https://huggingface.co/Marqo/nsfw-image-detection-384"),
        ("nsfwjs", "MODERATE_WEIGHTS_MIRROR", "carry model.json, group1-shard1of1 from https://"),
    ],
)
def test_a_pull_without_a_network_says_how_to_do_without(
    name: str, variable: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert run(["weights", "pull", name]) == 2
    error = capsys.readouterr().err
    assert f"{variable} names a mirror" in error
    assert words in error
    assert "moderate weights add FOLDER --name NAME" in error
