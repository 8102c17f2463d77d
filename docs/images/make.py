"""Draw docs/images/scan.svg: a terminal with the output of a real run of `moderate scan`.

python docs/images/make.py

Run it where `moderate` is installed, from the root of a checkout. The command scans sample_images
with the test card weights and remembers nothing.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
TARGET = Path(__file__).parent / "scan.svg"
COMMAND = ("moderate", "scan", "sample_images", "--weights", "testcard", "--out", "cards.csv")
WIDTH = 80


def main() -> None:
    """Run the command and draw what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*COMMAND[1:-1], f"{folder}/{COMMAND[-1]}", "--no-state"]
        environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
        output = subprocess.run(
            [sys.executable, "-m", "moderate", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), " ".join(COMMAND)))
    for line in output.splitlines():
        console.print(Text.from_ansi(line.rstrip()), no_wrap=True)
    svg = console.export_svg(title="moderate", unique_id="moderate")
    # The font would come from another host; a monospaced one of the viewer's does as well.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
    TARGET.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
