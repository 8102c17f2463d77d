"""What a scan on Ray refuses, and what it says without Ray: one line each, before any work."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moderate.cluster.options import ClusterOptions, cluster_options
from moderate.decode.video import VideoOptions
from moderate.errors import UsageError
from moderate.run.options import ScanOptions, StateOptions
from moderate.sources.resolve import InputOptions
from moderate.types import Origin
from tests.support.installing import how_to_install

OPTIONS = ScanOptions(inputs=["images"], weights="testcard", out=["rows/"])


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"partition_by": ("decision",)}, "--partition-by does not go with it"),
        ({"out": ["rows/", "-"]}, "nothing can go to standard output"),
        ({"only": (Origin.NEW,)}, "--only does not go with it"),
        ({"state": StateOptions(Path("s"), required=True)}, "--state does not go with it"),
        ({"verify": True}, "--verify does not go with it: use --rescore"),
        ({"video": VideoOptions(every=1.0)}, "--video-every does not go with it"),
        ({"embedded": "score"}, "--embedded score does not go with it"),
        ({"device": "cuda:1"}, "--device with numbers or several names does not go with it"),
        ({"device": "cuda:all"}, "--device with numbers or several names does not go with it"),
        ({"reading": InputOptions(shard=(1, 2))}, "--shard does not go with it"),
        ({"state": StateOptions(Path("s"), imports=(Path("t"),))}, "--state-import does not go"),
        ({"out": ["rows.parquet"]}, r"add --out DIR/"),
        ({"out": ["one/", "two/"]}, r"one folder"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(
    changes: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(UsageError, match=rf"^--engine ray: .*{refusal}"):
        cluster_options(replace(OPTIONS, **changes))


@pytest.mark.parametrize("address", ["", "ray://head:10001", "local", "head", "head:", ":6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="--ray-address: write HOST:PORT"):
        cluster_options(OPTIONS, address)


def test_everything_else_is_taken(tmp_path: Path) -> None:
    state = StateOptions(tmp_path)
    taken = replace(OPTIONS, out=["a.csv", "s3://bucket/rows/"], state=state, rescore=True)
    assert cluster_options(taken, "auto") == ClusterOptions("s3://bucket/rows/", "auto")


def run_without_ray(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys; sys.modules['ray'] = None\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def command(*arguments: str) -> str:
    return (
        "from moderate.cli.entry import main\n"
        f"sys.argv = {['moderate', *arguments]!r}\nsys.exit(main())"
    )


def test_without_ray_a_scan_on_it_says_how_to_install_it(tmp_path: Path) -> None:
    done = run_without_ray(
        command(
            *("scan", str(tmp_path), "--weights", "testcard", "--no-config"),
            *("--engine", "ray", "--out", f"{tmp_path}/rows/"),
        )
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        "moderate: error: --engine ray needs Ray, which is not installed: "
        f"{how_to_install('ray')}\n",
        done.stderr,
    )
    assert not (tmp_path / "rows").exists()


def test_without_ray_everything_else_works(tmp_path: Path) -> None:
    drawn = run_without_ray(command("testcards", str(tmp_path / "cards")))
    assert drawn.returncode == 0, drawn.stderr
    out = tmp_path / "rows.csv"
    done = run_without_ray(
        command(
            *("scan", str(tmp_path / "cards"), "--weights", "testcard", "--no-config"),
            *("--no-state", "--quiet", "--out", str(out)),
        )
    )
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) > 1


def test_nothing_imports_ray_unasked() -> None:
    code = (
        "import sys, moderate, moderate.api, moderate.cli.main, moderate.cluster.plan\n"
        "sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
