"""Where the command begins: signals have their meaning before anything slow is imported."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

from moderate import stopping


def main() -> None:
    """Entry point of the console script."""
    for number in stopping.signals():
        signal.signal(number, _stop_at_once)
    from moderate.cli.main import main as command

    command()


def _stop_at_once(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):
        os.write(2, f"moderate: error: stopped by {name} before anything was done\n".encode())
    os._exit(stopping.exit_code(number))
