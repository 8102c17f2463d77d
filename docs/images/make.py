"""Draw docs/images/scan.svg: a terminal with the output of a real run of `moderate scan`.

python docs/images/make.py

The command runs in a temporary folder with a copy of sample_images, and with a state folder of its
own. The image changes with every run, as it shows times and the run's number.
"""

from __future__ import annotations

import io
import os
import re
import shutil
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
        shutil.copytree(ROOT / "sample_images", f"{folder}/sample_images")
        output = subprocess.run(
            [sys.executable, "-m", *COMMAND],
            cwd=folder,
            env={
                **os.environ,
                "FORCE_COLOR": "1",
                "COLUMNS": str(WIDTH),
                "XDG_STATE_HOME": f"{folder}/state",
            },
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
