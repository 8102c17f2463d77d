"""A short form of benchmarks/near_duplicates.py: it runs and its counts are true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "near_duplicates.py"


def test_near_duplicates_are_found_in_clusters_and_not_by_chance(tmp_path: Path) -> None:
    file = tmp_path / "near.json"
    command = [sys.executable, str(SCRIPT), "--counts", "1000", "--json", str(file)]
    subprocess.run([*command, "--kinds", "random", "one cluster"], check=True, timeout=PATIENCE)
    random, cluster = json.loads(file.read_text())["runs"]
    assert (random["count"], random["found"]) == (1000, 0)
    assert 500 < cluster["found"] < 1000
