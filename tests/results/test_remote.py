"""Results in an object store: there when they are whole, with digests of what was sent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
from s3_server import fake_credentials, serve_s3

from moderate.results.open import open_writers


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
    assert facts == {"run_id": "r", "ended": "now", "sha256": digests["s3://told/r/out.csv"]}
    assert os.listdir(tmp_path) == []
