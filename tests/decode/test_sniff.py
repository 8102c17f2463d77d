"""Bytes decide what a file is, names only what it claims to be."""

from __future__ import annotations

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.decode import sniff as module
from moderate.decode.sniff import HEAD_BYTES, SUPPORTED, claimed_format, sniff
from tests.support.pictures import FORMATS, encode, scene


def refusal(head: bytes, name: bytes) -> tuple[str, str] | None:
    return module.refusal(sniff(head), head, name)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_that_are_always_read(kind: str) -> None:
    assert sniff(encode(scene((40, 30)), kind)[:HEAD_BYTES]) == kind.lower()
    assert refusal(encode(scene((40, 30)), kind)[:HEAD_BYTES], b"x.txt") is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TIFF", "tiff"), ("ICO", "ico"), ("PPM", "netpbm"), ("EPS", "postscript"),
        ("JPEG2000", "jpeg-2000"), ("PDF", "pdf"), ("ICNS", "icns"),
        ("DDS", "dds"), ("SGI", "sgi"), ("QOI", "qoi"),
    ],
)  # fmt: skip
def test_other_image_formats_are_unsupported(kind: str, name: str) -> None:
    buffer = io.BytesIO()
    scene((64, 64)).save(buffer, kind)
    head = buffer.getvalue()[:HEAD_BYTES]
    assert sniff(head) == name
    assert refusal(head, b"photo.jpg")[0] == "unsupported_format"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn -->\n<svg>", "svg"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "mp4"),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", "quicktime"),
        (b"\x1aE\xdf\xa3\x01\x00\x00\x00", "matroska"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "avi"),
        (b"\x00\x00\x00\x20ftyp3gp6\x00\x00\x01\x003gp6isom", "3gp"),
        (b"\x00\x00\x00\x1cftyp3g2a\x00\x01\x00\x003g2aisom", "3gp"),
        (b"\x00\x00\x01\xba!\x00\x01\x00\x01\xc33g\x00\x00\x01\xbb", "mpeg"),
        (b"\x00\x00\x01\xb3\x04\x000#\xff\xff\xe0\x00\x00\x00", "mpeg-video"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", "avif"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "heif"),
        (b"8BPS\x00\x01", "psd"),
    ],
)
def test_video_vector_and_boxed_formats(head: bytes, name: str) -> None:
    assert sniff(head) == name
    assert (refusal(head, b"a.jpg") is None) == (name in SUPPORTED)


@pytest.mark.parametrize(
    "head",
    [
        b"<!DOCTYPE html><html><body>404 Not Found",
        b'{"error": "not found"}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
        b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        gzip.compress(b"an image once", mtime=0),
        b"PK\x03\x04rest of a zip",
        bytes(512),
        "Grüße, kein Bild".encode(),
        b"\x7fELF\x02\x01\x01",
        b"BM is how this text begins, nothing else",
        b"\xfe\x01 random \x90\x91 bytes \xff",
    ],
)
def test_what_is_no_image_is_said_to_be_none(head: bytes) -> None:
    assert sniff(head) is None
    code, message = refusal(head, b"photo.jpg")
    assert code == "not_an_image"
    assert "\n" not in message


def test_a_name_is_believed_only_where_bytes_say_nothing() -> None:
    tga = bytes((0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 8, 0, 24, 0)) + b"\x80" * 192
    assert refusal(tga, b"old.tga")[0] == "unsupported_format"
    assert refusal(tga, b"old.jpg")[0] == "not_an_image"
    assert refusal(b"#define w 8\nstatic char bits[] = {", b"icon.xbm")[0] == "unsupported_format"
    assert refusal(b"<html>", b"page.tga")[0] == "not_an_image"


@pytest.mark.parametrize(
    "head",
    [
        b"The free software",
        b"So much skip",
        b"FORM 10-K annual report",
        b"P1 priority: fix the bug",
        b"P6\nthe sixth point",
        b"<?php echo '<svg>' ?>",
        b"<!doctype html><html><body><svg></svg>",
        b"<svgfoo/>",
    ],
)
def test_text_that_looks_like_a_header_is_text(head: bytes) -> None:
    assert sniff(head) is None
    assert refusal(head, b"photo.jpg")[0] == "not_an_image"


def test_claims() -> None:
    assert claimed_format(b"A.JPG") == "jpeg"
    assert claimed_format(b"a.heic") == "heif"
    assert claimed_format(b"a.tif") == "tiff"
    assert claimed_format(b"a.psd") == "psd"
    assert claimed_format(b"a.css") is None
    assert claimed_format(b"jpg") is None
    assert claimed_format(b".jpg") is None
    assert claimed_format(b"a/..jpg") is None
    assert claimed_format(b"a.\xff\xfe") is None


@given(st.binary(max_size=80), st.binary(max_size=20).filter(lambda name: b"\0" not in name))
def test_any_bytes_get_an_answer(head: bytes, name: bytes) -> None:
    refused = refusal(head, name)
    assert (refused is None) == (sniff(head) in SUPPORTED)
