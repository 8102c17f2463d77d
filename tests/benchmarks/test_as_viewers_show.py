"""The parts of benchmarks/as_viewers_show.py that need no browser."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from moderate.decode.image import prepare
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, exif_block, scene

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def viewers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    prepare()
    return importlib.import_module("as_viewers_show")


def test_differences_are_means_of_the_whole_and_of_the_worst_block(viewers: ModuleType) -> None:
    black = np.zeros((20, 40, 3), np.uint8)
    spot = black.copy()
    spot[16:20, 32:40] = 255  # all of the smallest block, which is 4 x 8
    mean, worst = viewers.difference(black, spot)
    assert mean == pytest.approx(32 / 800)
    assert worst == pytest.approx(1)
    assert viewers.difference(black, black) == (0, 0)


def test_verdicts(viewers: ModuleType) -> None:
    grey = np.full((6, 8, 3), 100, np.uint8)
    verdict = viewers.verdict
    assert verdict(grey, grey + np.uint8(5))[0] == "same"
    assert verdict(grey, grey + np.uint8(6))[0] == "differs"
    assert verdict(grey, grey[:, :7]) == ("another size", None, None, "8 x 6 and 7 x 6")
    assert verdict(grey, None)[0] == "only scored"
    assert verdict("why", grey) == ("only the browser shows it", None, None, "why")
    assert verdict("why", None)[0] == "refused"


def test_files_are_laid_out_without_overlap(viewers: ModuleType) -> None:
    sizes = [(1500, 3000, None, number) for number in range(9)]
    pages = list(viewers.pages(sizes))
    assert [one.number for page in pages for one in page] == list(range(9))
    assert [len(page) for page in pages] == [4, 4, 1]
    for page in pages:
        assert len({one.box for one in page}) == len(page)
        for left, top, width, height in (one.box for one in page):
            assert left + width <= viewers.PAGE_WIDTH
            assert top + height <= viewers.PAGE_HEIGHT


def test_pixels_are_upright_and_of_natural_size(viewers: ModuleType) -> None:
    image = scene((50, 30))
    ours = viewers.pixels_of(encode(image, "PNG", exif=exif_block(3)))
    assert np.array_equal(ours.first, np.asarray(image)[::-1, ::-1])
    assert viewers.pixels_of(b"no image").first.startswith("not_an_image")


def test_without_a_browser_one_line_says_so() -> None:
    command = [sys.executable, str(BENCHMARKS / "as_viewers_show.py"), "--browser", "no-such"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == "no browser is found: install no-such, or name it with --browser\n"
