"""The folder of fragments, on a disk and in an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from moderate.cluster.files import FragmentFile, FragmentFolder, Manifest
from moderate.errors import OutputError
from moderate.system_limits import system_limit
from tests.support.s3_server import fake_credentials, serve_s3

NAME, OTHER = "part-000000-00112233aabbccdd.parquet", "part-000001-00112233aabbccdd.parquet"
TABLE = pa.table({"path": ["./a.jpg", "./b.jpg"]})


def finish(folder: FragmentFolder, *names: str) -> None:
    manifest = Manifest(folder)
    for number, name in enumerate(names):
        manifest.add(FragmentFile(name, 2 * number, 2, 3, "digest"))
    manifest.seal()
    manifest.commit({"run_id": "r"})


def check_folder(folder: FragmentFolder) -> None:
    folder.check()
    assert folder.read(NAME) is None
    folder.write(NAME, TABLE)
    folder.write(OTHER, TABLE)
    found = folder.read(NAME)
    assert found is not None
    assert found[0].equals(TABLE)
    finish(folder, NAME)
    assert folder.names() == ["_SUCCESS", "_manifest.jsonl", NAME]
    folder.check()
    folder.remove(["_SUCCESS", "_SUCCESS"])
    assert folder.names() == ["_manifest.jsonl", NAME]


def test_a_folder_on_a_disk_has_the_fragments_of_the_last_run_alone(tmp_path: Path) -> None:
    check_folder(FragmentFolder(f"{tmp_path}/rows/"))
    line = json.loads((tmp_path / "rows" / "_manifest.jsonl").read_text())
    assert line == {"file": NAME, "first_row": 0, "rows": 2, "inputs": 3, "sha256": "digest"}


def test_so_has_one_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_credentials(), serve_s3() as server:
        server.put("bucket", {"other.txt": b"x"})
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        check_folder(FragmentFolder("s3://bucket/rows/"))


def test_a_fragment_that_was_changed_is_no_finished_one(tmp_path: Path) -> None:
    folder = FragmentFolder(f"{tmp_path}/")
    folder.write(NAME, TABLE)
    data = bytearray((tmp_path / NAME).read_bytes())
    data[6] ^= 1
    (tmp_path / NAME).write_bytes(bytes(data))
    assert folder.read(NAME) is None
    (tmp_path / NAME).write_bytes(b"")
    assert folder.read(NAME) is None


def test_one_run_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    folder = FragmentFolder(f"{tmp_path}/")
    with (
        folder.locked(),
        pytest.raises(OutputError, match="another run is writing it") as raised,
        folder.locked(),
    ):
        pass
    assert system_limit(raised.value) is None
    with folder.locked():
        pass
