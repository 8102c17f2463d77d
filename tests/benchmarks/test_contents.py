"""A short form of benchmarks/contents.py: it runs, and every image is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "contents.py"


def test_each_step_is_measured_to_the_last_image(tmp_path: Path) -> None:
    file = tmp_path / "contents.json"
    command = [sys.executable, str(SCRIPT), "--count", "750", "--step", "100"]
    done = subprocess.run(
        [*command, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts = json.loads(file.read_text())["parts"]
    assert [part["what"] for part in parts] == ["copies", "state"]
    for part in parts:
        assert [step["images"] for step in part["steps"]] == [*range(100, 701, 100), 750]
        assert all(step["cpu_us"] > 0 and step["resident_bytes"] > 0 for step in part["steps"])
        assert part["rise"] > 0
