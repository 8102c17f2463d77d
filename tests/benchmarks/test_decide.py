"""A short form of the benchmark of deciding again: it runs, and all ways agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "decide.py"


def test_all_formats_agree_with_what_is_done_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARK), "--rows", "3000", "--repeat", "1"]
    done = subprocess.run(
        [*command, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    by_hand, *runs = json.loads(file.read_text())["runs"]
    assert by_hand["ratio"] == 1
    assert [run["what"] for run in runs] == ["parquet", "csv", "jsonl"]
    assert all(run["agrees"] is True for run in runs)
