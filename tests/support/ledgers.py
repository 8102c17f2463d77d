"""Runs of other processes: real ones, which the tests end in every way."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moderate.state.ledger import ActiveRun, Ledger, RunStatus
from tests.support.patience import PATIENCE

_CHILD = """
import json, logging, sys
from pathlib import Path
from tests.support.ledgers import begin
from moderate.state.ledger import Ledger, RunStatus

logging.basicConfig(format="%(message)s")
run = begin(Ledger(Path(sys.argv[1])), run_id=sys.argv[2], status=RunStatus(sys.argv[3]))
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order.pop("full", False):
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    elif status := order.pop("end", None):
        run.end(RunStatus(status), **order)
    else:
        run.update(**order)
    print("done", flush=True)
"""


def begin(ledger: Ledger, **settings: Any) -> ActiveRun:
    """A run, with whatever `settings` leave open made up."""
    known: dict[str, Any] = {
        "run_id": uuid.uuid4().hex,
        "command": ["moderate", "scan", "photos"],
        "started": datetime.now(UTC),
        "version": "0.1.0",
        "inputs": ["photos"],
        "targets": ["/results.csv"],
    }
    return ledger.begin(**known | settings)


class OtherRun:
    """A run of another process, which does what it is told."""

    def __init__(self, folder: Path, status: RunStatus = RunStatus.RUNNING) -> None:
        self.id = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder), self.id, status.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        )
        assert self._says() == "ready"

    def do(self, **order: Any) -> None:
        """Update the run, `end` it, or have the disk be `full` from now on."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        assert self._says() == "done"

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> str:
        """Let the process end; returns what it said on stderr."""
        return self.process.communicate(timeout=PATIENCE)[1]

    def _says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def other_run(folder: Path, status: RunStatus = RunStatus.RUNNING) -> Iterator[OtherRun]:
    """A run of another process, which does not outlive the test."""
    run = OtherRun(folder, status)
    try:
        yield run
    finally:
        run.kill()
        for pipe in (run.process.stdin, run.process.stdout, run.process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
