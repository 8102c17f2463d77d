"""Times the HTML report of many rows: writing it, and opening, searching and sorting it.

    python benchmarks/html_report.py [--rows 100000] [--json FILE]

Needs Chromium. Results with drawn scores are written as a scan writes them, `moderate report` makes
a page of them, and the browser opens it without a window, five times. Opening ends when the first
rows are laid out, searching and sorting when theirs are. The target is three seconds to open.
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

from reporting import machine, print_table, write_json

from moderate.types import CATEGORIES
from tests.support.browser import MISSING, Browser, browsing, find_browser
from tests.support.scored import write_results

TIMES = 5
TARGET = 3.0
"""Seconds to open 100,000 rows."""

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
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    if find_browser() is None:
        raise SystemExit(MISSING)
    result = {"machine": machine(), "rows": arguments.rows}
    # A browser that was just ended may still be writing its profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        page = Path(scratch) / "report.html"
        written, peak = write_page(page, arguments.rows)
        result |= {"bytes": page.stat().st_size, "written": written, "peak_mb": peak}
        with browsing(Path(scratch) / "profile") as browser:
            browser.emulate()
            result["seconds"] = {
                "open": [browser.open(page) for _ in range(TIMES)],
                "first search": [timed(browser, SEARCH)],
                "further searches": [timed(browser, SEARCH) for _ in range(TIMES)],
                **{
                    f"sort by {name}": [timed(browser, SORT.replace("NAME", name))]
                    for name in ("path", "number", "violence")
                },
            }
            result["script_mb"] = browser.run("performance.memory.usedJSHeapSize") / 1e6
    seconds = result["seconds"]
    print_table(
        f"{arguments.rows:,} rows",
        ("what", "best, s", "median, s"),
        [(what, f"{min(s):.2f}", f"{statistics.median(s):.2f}") for what, s in seconds.items()],
    )
    print(f"the page: {result['bytes'] / 1e6:.1f} MB, {result['script_mb']:.0f} MB in the browser")
    print(f"written in {written:.1f} s, with {peak:.0f} MB at the peak")
    median = statistics.median(seconds["open"])
    print(f"opens in {median:.2f} s; the target for 100,000 rows is {TARGET:.0f} s")
    if arguments.json:
        write_json(arguments.json, result)


def write_page(page: Path, rows: int) -> tuple[float, float]:
    """Write a page; the seconds, and the most memory of the command in MB."""
    results = page.with_name("results.parquet")
    rng = np.random.default_rng(1)
    errors = rows // 50
    scores = {name: rng.beta(0.4, 4, rows - errors).astype(np.float32) for name in CATEGORIES}
    write_results(results, scores, errors=errors)
    begun = time.monotonic()
    command = [sys.executable, "-m", "moderate", "report", str(results), "--out", str(page)]
    subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return time.monotonic() - begun, peak


def timed(browser: Browser, script: str) -> float:
    begun = time.monotonic()
    browser.run(f"{script}; {LAID_OUT}")
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
