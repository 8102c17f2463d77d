"""A short form of benchmarks/listing.py: it runs and its counts are true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "listing.py"


def test_listing_reads_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "listing.json"
    subprocess.run(
        [sys.executable, str(SCRIPT), "--counts", "10", "3000", "--json", str(file)],
        check=True,
        timeout=PATIENCE,
    )
    runs = json.loads(file.read_text())["runs"]
    kinds = ("list", "URL list", "CSV", "JSONL", "Parquet", "Parquet bytes")
    assert [(one["what"], one["entries"]) for one in runs] == [
        (kind, count) for kind in kinds for count in (10, 3000)
    ]
    assert all(one["peak_bytes"] > 1_000_000 for one in runs)
