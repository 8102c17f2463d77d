"""A short form of benchmarks/perceptual_hashes.py: it runs, and its distances are plausible."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "perceptual_hashes.py"


def test_versions_are_near_as_far_as_they_look_alike(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("photo_astronaut.jpg", "photo_cat.jpg", "photo_rocket.jpg", "LICENSES.md"):
        shutil.copy(ROOT / "sample_images" / name, photos)
    command = [sys.executable, str(SCRIPT), "--photos", str(photos)]
    file = tmp_path / "hashes.json"
    subprocess.run([*command, "--json", str(file)], check=True, timeout=PATIENCE)
    result = json.loads(file.read_text())
    assert result["images"] == 3
    versions = result["versions"]
    assert versions["JPEG of quality 40"]["mean"] < 31 < versions["mirrored"]["mean"]
    assert versions["mirrored"]["near"] == 0
