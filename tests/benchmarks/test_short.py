"""A short form of each benchmark: it runs and says what it should; its times prove nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "end_to_end.py"), "--json", str(out)]
    done = subprocess.run(
        [*command, "--count", "6", "--size", "300x200", "--repeat", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert set(result["images_per_second"]) == {"moderate", "timm loop"}
    assert result["ratio"] > 0
    assert "ratio" in done.stdout
