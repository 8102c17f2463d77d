"""A short form of benchmarks/html_report.py: it runs, and every step of it is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import MISSING, find_browser
from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "html_report.py"


@pytest.mark.skipif(find_browser() is None, reason=MISSING)
def test_every_step_is_timed(tmp_path: Path) -> None:
    written = tmp_path / "x.json"
    command = [sys.executable, str(SCRIPT), "--rows", "500", "--json", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(written.read_text())
    assert (result["rows"], len(result["seconds"]["open"])) == (500, 5)
    assert {"first search", "sort by path"} <= set(result["seconds"])
    assert "500 rows" in done.stdout
