"""A short form of benchmarks/second_opinion.py: it runs, and the shares are those asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "second_opinion.py"


@pytest.mark.slow
def test_the_share_of_images_is_the_one_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "second.json"
    command = [sys.executable, str(SCRIPT), "--count", "8", "--repeats", "1", "--shares", "50"]
    heavy = ["--heavy", "test_vit2", "--heavy-size", "160"]
    done = subprocess.run(
        [*command, *heavy, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    light, both, alone = json.loads(file.read_text())["results"]
    assert (light["opinions"], both["opinions"], alone["opinions"]) == (0, 4, 0)
    assert all(each["cpu_ms"] > 0 for each in (light, both, alone))
