"""A short form of benchmarks/state.py: it runs and its counts are true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "state.py"


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_state_reuses_all_of_a_first_run(tmp_path: Path) -> None:
    file, cache = tmp_path / "state.json", tmp_path / "cache"
    done = bench(
        *("--cache", str(cache), "--count", "40", "--pairs", "2", "--pair-count", "10"),
        *("--repeat", "1", "--json", str(file)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(file.read_text())
    assert [list(pair) for pair in told["pairs"]] == [["without", "with"], ["with", "without"]]
    for pair in told["pairs"]:
        assert all(one["origins"]["new"] == one["images"] == 10 for one in pair.values())
    first = told["first"]
    assert first["origins"]["new"] == 40
    for kind in ("csv", "parquet"):
        second = told["second"][kind]
        assert second["origins"] == {"new": 0, "changed": 0, "reused": 40, "duplicate": 0}
        rate = second["images_per_second"] / first["images_per_second"]
        assert told["ratio"][kind] == pytest.approx(rate)
        assert second["largest_process_bytes"] > 10_000_000
        cpu = told["cpu"][kind]
        assert cpu["ratio"] == pytest.approx(first["cpu_seconds"] / second["cpu_seconds"])
        assert f"second run of 40 files, {kind}: target 40x the first: " in done.stdout
    assert told["second"]["csv"]["rows_sha256"] == first["rows_sha256"]
    overhead = told["overhead"]
    assert overhead["least"] <= overhead["median_of_pairs"] <= overhead["most"]
    assert told["state_bytes"] > 40 * 32  # a digest each, at the least
    # Nothing is left but the images.
    assert sorted(path.name for path in cache.iterdir()) == ["smooth-40", "smooth-40.json"]
    images = sorted((cache / "smooth-40").rglob("*.jpg"))
    assert len({path.read_bytes() for path in images}) == 40
    with Image.open(images[0]) as image:
        assert image.size == (256, 256)


def test_state_wants_images_that_are_not_copies(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 64), "teal").save(tmp_path / f"{number}.png")
    done = bench("--images", str(tmp_path), "--pairs", "1", "--repeat", "1")
    assert done.returncode == 1
    assert "3 rows of origin new expected" in done.stderr
