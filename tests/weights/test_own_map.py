"""`--map own.NAME=...`: categories of one's own, from the option to the installed weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderate.classify.bundle import load_bundle
from moderate.cli.main import run
from moderate.errors import WeightsError
from moderate.weights.catalogue.mapping import read_mapping
from tests.support.bundles import write_model


def test_options_and_files_name_own_categories(tmp_path: Path) -> None:
    nested, flat = tmp_path / "nested.toml", tmp_path / "flat.toml"
    nested.write_text('[categories]\nnudity = ["porn"]\n[categories.own]\ndice = [["a", "b"]]\n')
    flat.write_text('nudity = ["porn"]\nown = { dice = [["a", "b"]] }\n')
    expected = {"nudity": ["porn"], "dice": [["a", "b"]]}
    assert read_mapping(["nudity=porn", "own.dice=a+b"]) == expected
    assert read_mapping([str(nested)]) == read_mapping([str(flat)]) == expected


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("gambling=dice", "own.NAME for one of your own"),
        ("own.Dice=dice", "a letter first"),
        ("own.nudity=dice", "is one of the five categories"),
        ("own.rating=dice", "the name rating is taken"),
    ],
)
def test_names_that_cannot_be_are_refused(option: str, why: str) -> None:
    with pytest.raises(WeightsError, match=why):
        read_mapping([option])


def test_weights_with_own_categories_are_added_listed_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    write_model(tmp_path / "m", labels=("porn", "dice", "cards"))
    options = ["--name=mine", "--map=nudity=porn", "--map=own.gambling=dice+cards"]
    assert run(["weights", "add", str(tmp_path / "m"), *options, "--activation=sigmoid"]) == 0
    bundle = load_bundle("mine")
    assert bundle.card.own_categories == ("gambling",)
    assert bundle.card.selftest is not None
    assert len(bundle.card.selftest.scores["gambling"]) > 1
    assert run(["weights", "verify", "mine", "--device=cpu"]) == 0
    capsys.readouterr()
    assert run(["weights", "list"]) == 0
    shown = capsys.readouterr().out
    assert "+gambling" in shown
    assert "+ a category of their own" in " ".join(shown.split())
    assert run(["weights", "show", "mine"]) == 0
    assert "gambling" in capsys.readouterr().out
