"""The row that somebody means, however they write its image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderate.analysis.explain import Kept, explain
from moderate.errors import InputError, UsageError
from moderate.results.read import open_results, read_results
from moderate.results.targets import open_writers
from moderate.types import UNSCORED, Decision, ErrorCode, ImageError, ImageFacts, ImageRef, Row, Url
from tests.support.s3_server import fake_credentials, serve_s3

SIGNED = "https://h/b/c.jpg?X-Amz-Date=1&X-Amz-Signature={}"
PATHS = (
    "./in/a.jpg",
    "./in/deep/a.jpg",
    "./dump.zip!/m.jpg",
    "/abs/in/a.jpg",
    "/abs/in/z.jpg",
    "https://h/b/c.jpg?X-Amz-Date=1&X-Amz-Signature=***",
    "https://h/serve?key=photos/1.jpg",
    "https://h/serve?key=photos/2.jpg",
    "./in/e\u0301tude.jpg",
)


def write(*targets: str) -> None:
    error = ImageError(ErrorCode.TRUNCATED, "cut")
    with open_writers(targets) as writers:
        for writer in writers:
            writer.start({"tool": "moderate", "run_id": "r"})
            for path in PATHS:
                url = Url(path) if "://" in path else None
                ref = ImageRef(path.removeprefix("./").encode(), location=url)
                writer.write(Row(ref, ImageFacts(), UNSCORED, Decision.REVIEW, ("x",), error=error))
            writer.commit({})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ("in/a.jpg", [1]),
        ("./in//deep/../a.jpg", [1]),
        ("{here}/in/a.jpg", [1]),
        ("/srv/uploads/in/deep/a.jpg", [2]),  # of a scan that was run in /srv/uploads
        ("m.jpg", [3]),
        ("a.jpg", [1, 2, 4]),
        ("deep/a.jpg", [2]),
        ("z.jpg", [5]),
        ("../abs/in/z.jpg", []),
        ("/abs/in/z.jpg", [5]),
        (SIGNED.format("0af3"), [6]),
        (SIGNED.format("0af3").replace("Date=1", "Date=2"), [6]),  # signed again
        ("https://h/b/c.jpg", [6]),
        (" https://h/serve?key=photos/2.jpg", [8]),
        ("https://h/serve", [7, 8]),
        ("https://h/serve?key=photos/3.jpg", []),  # another image
        ("https://h/b/c.jpg?id=1", []),
        ("serve?key=photos/1.jpg", [7]),
        ("\u00e9tude.jpg", [9]),
        ("c.jpg", [6]),
        ("https://h/b/c", []),
        (".jpg", []),
    ],
)
def test_the_row_is_there_however_the_image_is_written(wanted: str, rows: list[int]) -> None:
    write("r.jsonl")
    results = read_results("r.jsonl")
    wanted = wanted.format(here=os.getcwd())
    if not rows:
        with pytest.raises(UsageError, match=r"no row of r\.jsonl is of"):
            explain(results, wanted, Kept())
        return
    explained = explain(results, wanted, Kept())
    assert [image["row"] for image in explained["images"]] == rows
    assert "0af3" not in str(explained)


def test_results_in_a_bucket(tmp_path: Path) -> None:
    with fake_credentials(), serve_s3() as server:
        server.put("bucket", {})
        for suffix in ("csv", "parquet"):
            write(server.uri("bucket", f"r.{suffix}"))
            with open_results(server.uri("bucket", f"r.{suffix}")) as results:
                folder = Path(results.path).parent
                explained = explain(results, "m.jpg", Kept())
                assert results.facts["run_id"] == "r"
            assert explained["images"][0]["row"] == 3
            assert explained["results"] == f"s3://bucket/r.{suffix}"
            assert not folder.exists()
        with (
            pytest.raises(InputError, match=r"s3://bucket/gone\.csv: there is no such object"),
            open_results(server.uri("bucket", "gone.csv")),
        ):
            pass
