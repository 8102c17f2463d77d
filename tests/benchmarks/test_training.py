"""A short form of benchmarks/training.py: it runs, and its shares are of its draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


def test_intervals_are_counted_and_a_fit_is_timed(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    command = [sys.executable, str(SCRIPT), "--draws", "4", "--unseen", "2000", "--fits", "200"]
    subprocess.run([*command, "--json", str(file)], check=True, timeout=PATIENCE)
    result = json.loads(file.read_text())
    assert set(result["held"].values()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert result["held"]["recall"] >= 0.5
    assert [one["images"] for one in result["fits"]] == [200]
