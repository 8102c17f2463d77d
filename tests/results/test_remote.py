"""Results in an object store: there when they are whole, with digests of what was sent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from moderate.errors import OutputError
from moderate.results.targets import open_writers
from tests.support.s3_server import fake_credentials, serve_s3


def test_a_commit_tells_what_was_sent_by_uris_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with fake_credentials(), serve_s3() as server:
        server.put("told", {})
        uri = server.uri("told", "r/out.csv").replace("s3://", "s3://AKIAEXAMPLE:secret@")
        with open_writers([uri]) as (writer,):
            writer.start({"run_id": "r"})
            assert server.keys("told") == {}
            written = writer.commit({"ended": "now"})
        sent = {
            f"s3://told/{key}": server.client.get_object(Bucket="told", Key=key)["Body"]
            for key in server.keys("told")
        }
        bodies = {name: body.read() for name, body in sent.items()}
    assert set(bodies) == {"s3://told/r/out.csv", "s3://told/r/out.csv.meta.json"}
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
    assert written == digests
    facts = json.loads(bodies["s3://told/r/out.csv.meta.json"])
    assert facts == {
        "run_id": "r",
        "ended": "now",
        "csv": "guarded",
        "sha256": digests["s3://told/r/out.csv"],
    }
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from moderate.errors import OutputError
from moderate.results.targets import open_writers
with open_writers(sys.argv[1:]) as writers:
    for writer in writers:
        writer.start({"run_id": "r"})
        writer.seal({})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_nothing_here(tmp_path: Path) -> None:
    """What goes to a store is put together in files without names."""
    targets = [f"s3://nobody/out.{suffix}" for suffix in ("csv", "jsonl", "parquet")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *targets],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_what_there_is_no_room_for_is_one_line_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError) as caught, open_writers(["s3://KEY:hunter2@bucket/out.csv"]):
        pass
    message = str(caught.value)
    assert message.startswith("cannot write s3://bucket/out.csv: ")
    assert "TMPDIR" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_options_stay_behind_the_name(suffix: str) -> None:
    bucket = f"options-{suffix}"
    with fake_credentials(), serve_s3() as server:
        server.put(bucket, {})
        with open_writers([server.uri(bucket, f"out.{suffix}")]) as (writer,):
            writer.start({})
            written = writer.commit({})
        names = [f"out.{suffix}", *([] if suffix == "parquet" else [f"out.{suffix}.meta.json"])]
        assert sorted(server.keys(bucket)) == names
        assert sorted(written) == [f"s3://{bucket}/{name}" for name in names]
