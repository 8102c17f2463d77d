"""The scripts and jobs in docs/shards.md, run on the sample images with schedulers' variables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from moderate.cli.main import run
from moderate.sources.subset import PLACE_COLUMNS
from tests.support.patience import PATIENCE
from tests.support.scans import wait_for

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "shards.md").read_text()
COUNT = 8
"""Shares on the page."""

RUN = 3
"""Shares that are run: each costs the start of a process."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def job_scripts() -> list[str]:
    """The shell lines of the two Jobs, found without a parser of YAML."""
    (text,) = blocks("yaml")
    return [textwrap.dedent(lines) for lines in re.findall(r"- \|\n((?: {14}.*\n)+)", text)]


class Machines:
    """A shared folder with the sample images, in which lines of the page are run."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        (self.data / "uploads").symlink_to(ROOT / "sample_images")
        (folder / "bin").mkdir()
        command = folder / "bin" / "moderate"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m moderate "$@"\n')
        command.chmod(0o755)
        (folder / "tmp").mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MODERATE_")},
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            "MODERATE_NO_CONFIG": "1",
            "MODERATE_DEVICE": "cpu",
            "MODERATE_BATCH_SIZE": "1",
        }
        (self.data / "shard.sh").write_text(self._here(blocks("sh")[1]))

    def _here(self, script: str) -> str:
        return script.replace("/data", str(self.data)).replace("starter", "testcard")

    def do(self, shell: str, script: str, **variables: str) -> None:
        done = subprocess.run(
            [shell, "-euc", self._here(script)],
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    return Machines(tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="module")
def whole(machines: Machines) -> Any:
    """The rows of one run over the same folder."""
    script = "cd /data; moderate scan uploads --weights starter --no-state -q --out whole.parquet"
    machines.do("/bin/sh", script)
    return pq.read_table(machines.data / "whole.parquet").drop_columns(["run_id", "scored_at"])


def arrays() -> dict[str, tuple[str, str, str, int]]:
    """Of each scheduler: the shell, the lines of a task, the variable, and its first value."""
    slurm = blocks("bash")
    batch = [json.loads(text) for text in blocks("json")]
    shell = batch[0]["containerProperties"]["command"]
    assert shell[:2] == batch[1]["command"][:2] == ["/bin/sh", "-euc"]
    return {
        "kubernetes": ("/bin/sh", job_scripts()[0], "JOB_COMPLETION_INDEX", 0),
        "slurm": ("/bin/bash", slurm[0], "SLURM_ARRAY_TASK_ID", 1),
        "batch": ("/bin/sh", shell[2], "AWS_BATCH_JOB_ARRAY_INDEX", 0),
    }


MERGES = {
    "kubernetes": lambda: job_scripts()[1],
    "slurm": lambda: blocks("bash")[1],
    "batch": lambda: json.loads(blocks("json")[1])["command"][2],
}


@pytest.mark.parametrize("scheduler", ["kubernetes", "slurm", "batch"])
def test_the_shares_of_an_array_are_those_of_one_run(
    machines: Machines, whole: Any, scheduler: str
) -> None:
    """The first scheduler's shares are scored; the next ones have the scores from the states."""
    shell, script, variable, first = arrays()[scheduler]
    for path in machines.data.glob("out/*"):
        path.unlink()
    for index in range(first, first + RUN):
        task = script.replace(f'" {COUNT}', f'" {RUN}')
        machines.do(shell, task, **{variable: str(index)})
    assert len(list(machines.data.glob("out/*.parquet"))) == RUN
    machines.do(shell, MERGES[scheduler]())
    merged = pq.read_table(machines.data / "results.parquet")
    columns = ["run_id", "scored_at"]
    if scheduler != "kubernetes":  # whose states know the images by now
        assert set(merged["origin"].to_pylist()) == {"reused"}
        columns.append("origin")
        whole = whole.drop_columns(["origin"])
    expected, found = whole.to_pylist(), merged.drop_columns(columns).to_pylist()
    assert found == expected
    assert not list((machines.data.parent / "tmp").glob("tmp.*")), "the machine keeps no state"


def test_the_jobs_are_what_kubernetes_takes() -> None:
    """As far as the file says it; with a parser, where there is one."""
    (text,) = blocks("yaml")
    assert f"completions: {COUNT}\n" in text
    assert len(job_scripts()) == 2
    try:
        import yaml
    except ImportError:  # the checks of the lines above are made in any case
        return
    scan, merge = yaml.safe_load_all(text)
    assert scan["spec"]["completionMode"] == "Indexed"
    assert scan["spec"]["completions"] == scan["spec"]["parallelism"] == COUNT
    for job, script in zip((scan, merge), job_scripts(), strict=True):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["/bin/sh", "-euc"]
        assert container["args"] == [script]
        volumes = {each["name"] for each in job["spec"]["template"]["spec"]["volumes"]}
        assert {each["name"] for each in container["volumeMounts"]} == volumes


def test_the_arrays_count_as_the_page_says() -> None:
    assert f"#SBATCH --array=1-{COUNT}\n" in blocks("bash")[0]
    (submitted, _) = blocks("console")[0].splitlines()
    assert submitted.endswith(f"--array-properties size={COUNT}")
    for variable in ("JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "SLURM_ARRAY_TASK_ID"):
        assert f"`{variable}`" in PAGE
    for name in PLACE_COLUMNS:
        assert f"`{name}`" in PAGE


def test_a_task_that_is_told_to_end_keeps_its_state(machines: Machines, tmp_path: Path) -> None:
    """As a time limit, or a machine that is taken back, ends a task: TERM for its first process."""
    stub = tmp_path / "moderate"
    stub.write_text(
        """#!/bin/sh
while [ "$1" != --state ]; do shift; done
mkdir -p "$2"
trap 'echo scored > "$2/scores"; exit 143' TERM
: > "$STARTED"
while :; do sleep 0.05; done
"""
    )
    stub.chmod(0o755)
    started = tmp_path / "started"
    path = f"{tmp_path}:{machines.environment['PATH']}"
    index, count = COUNT + 1, COUNT + 1  # none of those that others scan
    with subprocess.Popen(
        ["/bin/sh", machines.data / "shard.sh", str(index), str(count)],
        env={**machines.environment, "PATH": path, "STARTED": str(started)},
    ) as task:
        wait_for(started.exists)
        task.terminate()
        assert task.wait(PATIENCE) == 143
    kept = machines.data / "states" / str(index)
    assert (kept / "scores").read_text() == "scored\n"
    assert not list((machines.data.parent / "tmp").glob("tmp.*"))
    (kept / "scores").unlink()
    kept.rmdir()
    for _, script, _, _ in arrays().values():
        last = script.rstrip().splitlines()[-1]
        assert last.startswith("exec sh "), "the signal is for this script, not a shell above it"


def test_states_of_shares_are_merged(machines: Machines, whole: Any, tmp_path: Path) -> None:
    states = sorted(str(path) for path in machines.data.glob("states/*"))
    assert len(states) == RUN
    assert run(["state", "merge", *states, "--into", str(tmp_path / "one")]) == 0
    script = "cd /data; moderate scan uploads --weights starter -q --out again.parquet --state "
    machines.do("/bin/sh", script + str(tmp_path / "one"))
    again = pq.read_table(machines.data / "again.parquet")
    assert set(again["origin"].to_pylist()) == {"reused"}
    dropped = ["run_id", "scored_at", "origin"]
    assert again.drop_columns(dropped).equals(whole.drop_columns(["origin"]))
