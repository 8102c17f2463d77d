"""Where the command begins: signals have their meaning before anything slow is imported."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as in `exit_codes`, which is not imported yet


def main() -> None:
    """Entry point of the console script."""
    for number in _CODES:
        signal.signal(number, _stop_at_once)
    from moderate.cli.main import main as command

    command()


def _stop_at_once(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):
        os.write(2, f"moderate: error: stopped by {name} before anything was done\n".encode())
    os._exit(_CODES[signal.Signals(number)])
