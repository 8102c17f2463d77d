"""What users install: the wheel, and a checkout, each run from somewhere else."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def run(code_at: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MODERATE_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "moderate", *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(code_at)},
        capture_output=True,
        text=True,
        check=False,
    )


def check_it_works(code_at: Path, cwd: Path) -> None:
    listed = run(code_at, cwd, "policy", "list")
    assert len(listed.stdout.splitlines()) == 4, listed.stderr
    cards = run(code_at, cwd, "testcards", "cards")
    assert cards.returncode == 0, cards.stderr
    done = run(code_at, cwd, "scan", "cards", "--weights", "testcard", "--out", "out.csv", "-q")
    assert done.returncode == 0, done.stderr
    with (cwd / "out.csv").open() as file:
        decided = {row["path"].split("/")[-1]: row["decision"] for row in csv.DictReader(file)}
    with (cwd / "cards" / "cards.csv").open() as file:
        expected = {row["file"]: row["decision"] for row in csv.DictReader(file)}
    assert len(expected) == 11
    assert decided == expected


def test_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()
    check_it_works(tmp_path / "site", tmp_path / "work")


def test_a_checkout(tmp_path: Path) -> None:
    check_it_works(ROOT, tmp_path)


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "moderate/shipped_weights/testcard/model.safetensors" in names
    assert "moderate/shipped_weights/testcard/README.md" in names
    assert "moderate/policy/presets/strict.toml" in names
    assert "moderate/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "sample_images/"))]
