"""Times the HTML report of many rows: writing it, and opening, searching and sorting it.

    python benchmarks/html_report.py [--rows 100000] [--keep FOLDER]

Results with drawn scores are written as a scan writes them, `moderate report` makes a page of them,
and a headless Chromium opens it. Opening ends when the first rows are laid out. The best and the
median of five are printed, each in a tab of its own with nothing cached.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from moderate.types import CATEGORIES
from tests.support.browser import Browser, browsing
from tests.support.scored import write_results

TIMES = 5
LAID_OUT = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
SEARCH = (
    "document.getElementById('text').value = '99';"
    "document.getElementById('text').dispatchEvent(new KeyboardEvent('keydown',"
    " {key: 'Enter', bubbles: true}));"
)
SORT = (
    "document.getElementById('sort').value = 'NAME';"
    "document.getElementById('sort').dispatchEvent(new Event('change'));"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        results, page = folder / "results.parquet", folder / "report.html"
        rng = np.random.default_rng(1)
        errors = arguments.rows // 50
        count = arguments.rows - errors
        scores = {name: rng.beta(0.4, 4, count).astype(np.float32) for name in CATEGORIES}
        write_results(results, scores, errors=errors)
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "moderate", "report", results, "--out", page, "--force"],
            check=True,
        )
        print(f"written in {time.monotonic() - begun:.2f} s, {page.stat().st_size / 1e6:.1f} MB")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"memory of 'moderate report' at its peak: {peak / 1024:.0f} MB")
        with browsing(Path(scratch) / "profile") as browser:
            browser.emulate()
            show("opened", [browser.open(page) for _ in range(TIMES)])
            heap = browser.run("performance.memory.usedJSHeapSize")
            print(f"memory of the script: {heap / 1e6:.0f} MB")
            browser.open(page)
            show("first search", [timed(browser, SEARCH)])
            show("further searches", [timed(browser, SEARCH) for _ in range(TIMES)])
            browser.open(page)
            for name in ("path", "number", "violence"):
                show(f"sorted by {name}", [timed(browser, SORT.replace("NAME", name))])


def timed(browser: Browser, script: str) -> float:
    begun = time.monotonic()
    browser.run(f"{script}; {LAID_OUT}")
    return time.monotonic() - begun


def show(what: str, seconds: list[float]) -> None:
    print(f"{what}: {min(seconds):.2f} s at best, median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
