"""The photographs among the sample images: small, without metadata, each with its licence."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "sample_images"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("photographs", FOLDER / "photographs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_photograph_is_small_and_carries_no_metadata(script: ModuleType) -> None:
    present = {file.name for file in FOLDER.glob("photo_*")}
    assert present == set(script.PHOTOGRAPHS)
    for name in present:
        assert (FOLDER / name).stat().st_size < 120_000
        with Image.open(FOLDER / name, formats=("JPEG",)) as image:
            assert 256 <= max(image.size) <= script.LONGEST_SIDE
            assert not image.getexif()
            assert not {"icc_profile", "comment", "exif", "photoshop"} & set(image.info)


def test_each_photograph_has_its_source_author_and_licence(script: ModuleType) -> None:
    lines = (FOLDER / "LICENSES.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| `photo_")]
    named = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    assert set(named) == set(script.PHOTOGRAPHS)
    for name, (_, member, author, source, licence) in named.items():
        assert member == f"`{script.PHOTOGRAPHS[name][0]}`"
        assert author
        assert source
        assert licence in {"CC0 1.0", "public domain"}


@pytest.mark.parametrize("member", ["skimage/data/astronaut.png", "skimage/data/another.png"])
def test_a_package_with_another_file_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], member: str
) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in FOLDER.iterdir()}
    package = tmp_path / "scikit_image-0.0-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(member, b"another image")
    assert script.main([str(package)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "skimage/data/astronaut.png" in line
    assert {file.name: file.stat().st_mtime_ns for file in FOLDER.iterdir()} == before
