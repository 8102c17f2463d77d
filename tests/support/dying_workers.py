"""Workers of a scan on Ray that die on purpose, as no image is known to bring about."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from moderate.classify.classifier import Scored
from moderate.classify.device import Placement
from moderate.cluster.models import ModelServer
from moderate.cluster.worker import FragmentWorker
from moderate.decode.resize import Pixels
from moderate.run.pipeline import LocalEngine
from moderate.types import ImageRef, Row

POISON = b"poison"
"""In the name of an image that ends the process of every worker that is given it."""

POISON_RED = 251
"""Red, in 0..255, of every pixel of an image that ends the process of every model."""


class PoisonedWorker(FragmentWorker):
    """Dies of images with POISON in their names."""

    def _run(self, entries: Sequence[ImageRef]) -> tuple[list[Row], LocalEngine]:
        if any(POISON in entry.path and entry.error is None for entry in entries):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._run(entries)


class PoisonedModel(ModelServer):
    """Dies of images that are all POISON_RED."""

    def score(self, *batch: Pixels) -> tuple[list[Scored], Placement, int | None]:
        if (batch[0][..., 0] == POISON_RED).all(axis=(1, 2)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(*batch)


def processes(named: bytes, below: int | None = None) -> list[int]:
    """Those whose command line has `named` among the descendants of a process, else of this one."""
    commands: dict[int, bytes] = {}
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                commands[int(name)] = file.read()
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        parents[int(name)] = -1 if state == "Z" else int(parent)
    root = os.getpid() if below is None else below

    def is_below(pid: Any) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return bool(pid == root)

    return [pid for pid, command in commands.items() if named in command and is_below(pid)]
