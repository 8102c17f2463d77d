"""Walking a real S3 bucket: order, what counts, what it costs, and what cannot be read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import pytest

from moderate.errors import InputError
from moderate.fetch.store import StoreFetcher, open_input
from moderate.sources.archive import ArchiveSource
from moderate.sources.directory import WalkOptions
from moderate.sources.store import StoreSource
from moderate.types import ErrorCode, ImageRef, Inline, Skipped, SkipReason, StoredObject
from tests.support.pictures import encode, scene
from tests.support.s3_server import S3Server, fake_credentials, serve_s3

PNG = encode(scene((20, 20)), "PNG")
Found = list[ImageRef | Skipped]


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with fake_credentials():
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with serve_s3() as server:
        yield server


def walk(uri: str, **options: object) -> Found:
    return list(StoreSource(uri, WalkOptions(**options)))  # type: ignore[arg-type]


def names(found: Found) -> list[bytes]:
    return [f.path for f in found if isinstance(f, ImageRef) and not f.error]


def skips(found: Found) -> dict[bytes, SkipReason]:
    return {f.path: f.reason for f in found if isinstance(f, Skipped)}


def test_order_what_counts_and_what_it_costs(s3: S3Server) -> None:
    s3.put(
        "mixed",
        {
            "b/z.jpg": b"", "b/upload_1": PNG, "b/notes": b"text", "a.jpg": PNG, "a0.jpg": PNG,
            "a/x.png": PNG, "a/deep/y.gif": PNG, "style.css": PNG, "meta.json": b"{}",
            "a/.h.jpg": PNG,
            "folder/": b"", "empty": b"", "clip.mp4": b"", "odd.2024": PNG, "B.jpg": PNG,
            "both.jpg": PNG, "both.jpg/in.jpg": PNG,
        },
    )  # fmt: skip
    s3.requests.clear()
    found = walk(s3.uri("mixed"))
    assert names(found) == [
        b"s3://mixed/" + key
        for key in (
            b"B.jpg", b"a/deep/y.gif", b"a/x.png", b"a.jpg", b"a0.jpg", b"b/upload_1", b"b/z.jpg",
            b"both.jpg", b"both.jpg/in.jpg", b"clip.mp4", b"odd.2024",
        )
    ]  # fmt: skip
    assert skips(found) == {
        b"s3://mixed/b/notes": SkipReason.NOT_AN_IMAGE,
        b"s3://mixed/style.css": SkipReason.NOT_AN_IMAGE,
        b"s3://mixed/meta.json": SkipReason.NOT_AN_IMAGE,
        b"s3://mixed/empty": SkipReason.NOT_AN_IMAGE,
        b"s3://mixed/a/.h.jpg": SkipReason.HIDDEN,
    }
    looked = {
        path for method, path, query in s3.requests if method == "GET" and "list-type" not in query
    }
    assert looked == {"/mixed/b/upload_1", "/mixed/b/notes", "/mixed/odd.2024"}
    assert walk(s3.uri("mixed")) == found
    for ref in found:
        if isinstance(ref, ImageRef) and ref.name != b"z.jpg" and ref.name != b"clip.mp4":
            assert isinstance(ref.location, StoredObject)
            assert StoreFetcher().fetch(ref.location.uri, 1 << 20) == PNG
            assert ref.display == ref.path


def test_prefixes_objects_and_options(s3: S3Server) -> None:
    s3.put(
        "pre",
        {"in/a.jpg": PNG, "in/b/c.jpg": PNG, "input.jpg": PNG, "in/.x/d.jpg": PNG, "in/e": b"x"},
    )
    assert names(walk(s3.uri("pre", "in"))) == [b"s3://pre/in/a.jpg", b"s3://pre/in/b/c.jpg"]
    assert walk(s3.uri("pre", "in/")) == walk(s3.uri("pre", "in"))
    assert names(walk(s3.uri("pre", "in/e"))) == [b"s3://pre/in/e"]
    assert len(names(walk(s3.uri("pre", "in"), hidden=True, all_files=True))) == 4
    found = walk(s3.uri("pre", "in"), exclude=("b",))
    assert names(found) == [b"s3://pre/in/a.jpg"]
    assert skips(found)[b"s3://pre/in/b"] is SkipReason.EXCLUDED
    assert names(walk(s3.uri("pre"), include=("in/b/*.jpg",))) == [b"s3://pre/in/b/c.jpg"]
    secret = s3.uri("pre", "in").replace("s3://", "s3://AKIAEXAMPLE:secret@")
    assert names(walk(secret)) == names(walk(s3.uri("pre", "in")))


def test_names_are_exact(s3: S3Server) -> None:
    keys = ["sp ace.jpg", "per%20.jpg", "pl+us.jpg", "ü.jpg", "q?a=b.jpg", "h#.jpg", "x?/in.jpg"]
    s3.put("names", dict.fromkeys(keys, PNG))
    found = walk(s3.uri("names"))
    assert names(found) == sorted(b"s3://names/" + key.encode() for key in keys)
    for ref in found:
        assert isinstance(ref, ImageRef)
        assert isinstance(ref.location, StoredObject)
        assert StoreFetcher().fetch(ref.location.uri, 1 << 20) == PNG


def test_keys_that_pyarrow_cannot_read_are_a_row(s3: S3Server) -> None:
    s3.put("slashes", {"a//b.jpg": PNG, "a/c.jpg": PNG, "/lead.jpg": PNG})
    found = walk(s3.uri("slashes"))
    assert names(found) == [b"s3://slashes/a/c.jpg"]
    failed = {f.path: f.error.code for f in found if isinstance(f, ImageRef) and f.error}
    assert failed == {
        b"s3://slashes//": ErrorCode.READ_ERROR,
        b"s3://slashes/a//": ErrorCode.READ_ERROR,
    }


def test_a_listing_of_many_pages(s3: S3Server) -> None:
    backend_keys = [f"p/{i:05}.jpg" for i in range(5000)]
    s3.put_many("many", backend_keys)
    s3.requests.clear()
    assert names(walk(s3.uri("many", "p"))) == [
        b"s3://many/" + key.encode() for key in backend_keys
    ]
    assert len([r for r in s3.requests if "list-type" in r[2]]) >= 5
    assert not [r for r in s3.requests if r[0] == "GET" and "list-type" not in r[2]]


def test_what_is_looked_into_keeps_its_place(s3: S3Server) -> None:
    objects = {f"{i:03}": PNG if i % 3 else b"text" for i in range(150)}
    s3.put("unknown", objects)
    found = walk(s3.uri("unknown"))
    assert [f.path for f in found] == [f"s3://unknown/{i:03}".encode() for i in range(150)]
    assert [isinstance(f, ImageRef) for f in found] == [i % 3 > 0 for i in range(150)]
    walking = iter(StoreSource(s3.uri("unknown")))
    next(walking)
    walking.close()  # type: ignore[attr-defined]


def test_a_prefix_that_may_not_be_listed_is_a_row(s3: S3Server) -> None:
    s3.put("locked", {"a.jpg": PNG, "b/c.jpg": PNG, "d": PNG, "e.jpg": PNG})

    def rule(environ: dict[str, object]) -> tuple[str, str] | None:
        query, path = str(environ.get("QUERY_STRING", "")), str(environ["PATH_INFO"])
        locked = "prefix=b%2F" in query or path.endswith("/d")
        return ("403 Forbidden", "AccessDenied") if locked else None

    with s3.refusing(rule):
        found = walk(s3.uri("locked"))
    assert names(found) == [b"s3://locked/a.jpg", b"s3://locked/e.jpg"]
    failed = {f.path: f.error.code for f in found if isinstance(f, ImageRef) and f.error}
    assert failed == {
        b"s3://locked/b/": ErrorCode.PERMISSION_DENIED,
        b"s3://locked/d": ErrorCode.PERMISSION_DENIED,
    }


def test_inputs_that_are_not_there(s3: S3Server) -> None:
    s3.put("there", {"a.jpg": PNG})
    for uri, message in (
        (s3.uri("no-such-bucket"), "s3://no-such-bucket/: there is no such bucket"),
        (s3.uri("no-such-bucket", "x"), "s3://no-such-bucket/x: there is no such bucket"),
        (s3.uri("there", "nothing"), "s3://there/nothing: there is no such object or prefix"),
        ("file:///etc", "file:// URLs are not followed"),
        ("s3://AKIA:se/cret@b/x", "%2F"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            walk(uri)
        assert "/cret" not in str(caught.value)
    with pytest.raises(InputError, match="no connection"):
        walk("s3://b/x?region=x&scheme=http&endpoint_override=127.0.0.1:1")


def test_an_archive_in_a_store_is_read_in_place(s3: S3Server) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(200):
            archive.writestr(f"{i}.png", PNG)
    s3.put("dumps", {"dump.zip": buffer.getvalue()})
    uri = s3.uri("dumps", "dump.zip")
    s3.requests.clear()
    found = list(ArchiveSource(b"s3://dumps/dump.zip", lambda: open_input(uri)))
    assert names(found) == [b"s3://dumps/dump.zip!/%d.png" % i for i in range(200)]
    assert all(isinstance(f, ImageRef) and f.location == Inline(PNG) for f in found)
    assert all(isinstance(f, ImageRef) and f.display == f.path for f in found)
    assert len(s3.requests) < 20
