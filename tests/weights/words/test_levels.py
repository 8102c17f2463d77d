"""Weights that were built for the rating levels of a policy, from the command line to the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderate.classify.bundle import load_bundle
from moderate.cli.main import run
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.types import CATEGORIES
from tests.support import two_towers
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]
LIMITS = "".join(f"{name} = {{ review = 0.97, block = 0.99 }}\n" for name in CATEGORIES)
LEVELS = """
[[rating]]
value = "all ages"
description = "a picture of dogs and cats for everybody"
match = "description"
[[rating]]
value = "взрослые"
description = "a picture for grown people only"
match = "description"
[[rating]]
value = "none"
description = "a fight with a knife"
match = "description"
"""


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_levels_of_a_policy_rate_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    getattr(two_towers, kind)(tmp_path / "checkpoint")
    Path("prompts.toml").write_text(two_towers.PROMPTS)
    Path("mine.toml").write_text(f'name = "mine"\n[categories]\n{LIMITS}{LEVELS}')
    for number in range(4):
        Path(f"{number}.png").write_bytes(encode(scene((80, 64), seed=number), "PNG"))
    add = ["weights", "add", "checkpoint", "--name=words", "--prompts=prompts.toml"]
    assert run([*add, "--levels=mine.toml"]) == 0
    bundle = load_bundle("words")
    assert bundle.card.levels == load_policy("mine.toml").policy.described_levels
    images = [f"{number}.png" for number in range(4)]
    scan = ["scan", *images, "--weights=words", "--no-state", "--backend=torch", "-q"]
    assert run([*scan, "--policy=mine.toml", "--out=rows.csv"]) == 0
    values = [level.value for level in bundle.card.levels]
    for row in read_results("rows.csv").rows():
        shares = [row[f"label:words/level:{value}"] for value in values]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["rating"] == values[shares.index(max(shares))]
    other = Path("mine.toml").read_text().replace("grown people", "grown-ups")
    Path("other.toml").write_text(other)
    capsys.readouterr()
    assert run([*scan, "--policy=other.toml"]) == 2
    assert "were built for another description of level 'взрослые'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels=balanced", "--prompts=default"], "no rating levels with match ="),
        (["--levels=balanced"], "--levels goes with --prompts"),
    ],
)
def test_levels_that_cannot_be_built(options: list[str], said: str, capsys: Captured) -> None:
    assert run(["weights", "pull", "hf:owner/name", *options]) == 2
    assert said in capsys.readouterr().err
