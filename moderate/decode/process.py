"""What the processes that see strangers' bytes have in common: what they get, how they end."""

from __future__ import annotations

import signal
import subprocess

from moderate.native import child_environment

_INHERITED = ("PATH", "PYTHON", "LD_", "LANG", "LC_", "VIRTUAL_ENV", "HOME", "TMPDIR")


def environment() -> dict[str, str]:
    """The variables that such a process gets: keys and tokens are none of its business."""
    own = child_environment()
    return {
        **{name: value for name, value in own.items() if name.startswith(_INHERITED)},
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        # Kept for the next picture, big blocks need not be cleared by the kernel again.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    }


def how_it_ended(process: subprocess.Popen[bytes], name: str) -> str:
    """Why a process is gone, or that it is not and so has said something wrong."""
    try:
        code = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return f"the {name} gave a wrong answer"
    return exit_reason(code, name)


def exit_reason(code: int, name: str) -> str:
    """In words what an exit code says, or the negative number of the signal that killed it."""
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"the {name} was killed by {known.get(-code, f'signal {-code}')}"
    return f"the {name} ended with exit code {code}"
