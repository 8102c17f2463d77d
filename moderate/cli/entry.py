"""Where the command begins: signals have their meaning before anything slow is imported."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from types import FrameType

from moderate import stopping


def main() -> None:
    """Entry point of the console script."""
    _leave_out_working_directory()
    # What is imported stays, and to look for garbage among it again and again takes longer than
    # many a module. The command enables this again when it begins with its work.
    gc.disable()
    # pydantic would read the metadata of every installed package to look for plugins, and import
    # those that it finds.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # NumPy's OpenBLAS starts a thread per core, which waits busily for products of matrices that
    # hardly ever come. How long is given as a power of two of CPU cycles; this is the least.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    for number in stopping.signals():
        signal.signal(number, _stop_at_once)
    from moderate.cli.main import main as command

    command()


def _leave_out_working_directory() -> None:
    """Import nothing from the working directory, which may hold uploads.

    An empty entry in PYTHONPATH stands for it, as `PYTHONPATH=$PYTHONPATH:/folder` leaves one where
    the variable was not set. A folder that somebody named stays.
    """
    variable = os.environ.get("PYTHONPATH", "")
    named = variable.split(os.pathsep)
    if not variable or "" not in named:
        return
    with contextlib.suppress(OSError):  # it was removed
        working = os.getcwd()
        if working not in {os.path.abspath(entry) for entry in named if entry}:
            sys.path[:] = [entry for entry in sys.path if entry not in ("", working)]


def _stop_at_once(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):
        os.write(2, f"moderate: error: stopped by {name} before anything was done\n".encode())
    os._exit(stopping.exit_code(number))
