"""The whole line on real files: one row each, in order, keyed to itself."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

import moderate
from moderate import Category, ErrorCode, Row, Warn
from moderate.errors import InputError, UsageError, WeightsError
from moderate.types import Limits, Status
from tests.support.pictures import FORMATS, SUFFIX, encode, palette_scene, scene


def scan(*inputs: Path, bundle: Path, **options: object) -> list[Row]:
    return list(moderate.scan(*inputs, weights=str(bundle), device="cpu", **options))  # type: ignore[arg-type]


def name(row: Row) -> str:
    return os.fsdecode(row.ref.name)


def close(one: Row, two: Row, tolerance: float = 1e-5) -> None:
    for category in Category:
        assert one.scores[category] == pytest.approx(two.scores[category], abs=tolerance)
    assert one.decision == two.decision


def test_corrupt_files_in_every_batch_position_move_no_score(tmp_path: Path, bundle: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for number in range(6):
        (good / f"{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    alone = {name(row): row for row in scan(good, bundle=bundle)}
    assert len({row.scores[Category.NUDITY] for row in alone.values()}) == 6, "told apart by score"
    broken = (good / "0.png").read_bytes()[:-30]
    for position, size in itertools.product(range(7), (1, 2, 3)):
        mixed = tmp_path / f"mixed{position}-{size}"
        mixed.mkdir()
        for file in good.iterdir():
            (mixed / file.name).write_bytes(file.read_bytes())
        (mixed / f"{position - 1}x.png").write_bytes(broken)
        rows = scan(mixed, bundle=bundle, batch_size=size)
        assert [name(row) for row in rows] == sorted(os.listdir(mixed))
        for row in rows:
            if "x" in name(row):
                assert row.status is Status.ERROR
                assert set(row.scores.values()) == {None}
            else:
                close(row, alone[name(row)])


def test_the_same_answer_whatever_workers_batches_and_neighbours(
    tmp_path: Path, bundle: Path
) -> None:
    for number in range(23):
        kind = FORMATS[number % len(FORMATS)]
        data = encode(scene((100 + number, 80), seed=number), kind)
        (tmp_path / f"{number:02}.{SUFFIX[kind]}").write_bytes(data)
    base = scan(tmp_path, bundle=bundle)
    assert len(base) == 23
    for workers, batch in ((1, 1), (3, 5), (2, 64)):
        again = scan(tmp_path, bundle=bundle, workers=workers, batch_size=batch)
        assert [row.ref for row in again] == [row.ref for row in base]
        for one, two in zip(base, again, strict=True):
            close(one, two)
            assert one.facts == two.facts
    for row in base[::7]:
        close(scan(Path(os.fsdecode(row.ref.path)), bundle=bundle)[0], row)


def test_same_picture_same_score_in_every_container(tmp_path: Path, bundle: Path) -> None:
    picture = palette_scene((400, 300))
    for kind in FORMATS:
        (tmp_path / f"p.{SUFFIX[kind]}").write_bytes(encode(picture, kind))
    rows = {row.facts.format: row for row in scan(tmp_path, bundle=bundle)}
    assert set(rows) == {"jpeg", "png", "webp", "gif", "bmp", "heif", "avif"}
    for kind, row in rows.items():
        close(row, rows["png"], 0.01 if kind in {"jpeg", "heif", "avif"} else 1e-4)


def test_facts_and_warnings_of_a_row(tmp_path: Path, bundle: Path) -> None:
    data = encode(scene((100, 60)), "PNG")
    (tmp_path / "wrong.jpg").write_bytes(data)
    row = scan(tmp_path, bundle=bundle)[0]
    assert row.facts.format == "png"
    assert (row.facts.width, row.facts.height, row.facts.bytes) == (100, 60, len(data))
    assert row.facts.sha256 is not None
    assert set(row.facts.warnings) == {Warn.SMALL_IMAGE, Warn.EXTENSION_MISMATCH}
    assert row.reasons


@pytest.mark.parametrize(
    ("file", "data", "code"),
    [
        ("a.jpg", b"", ErrorCode.EMPTY_FILE),
        ("a.jpg", b"<html>404</html>", ErrorCode.NOT_AN_IMAGE),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", ErrorCode.NOT_AN_IMAGE),
        ("a.tif", b"II*\x00\x08\x00\x00\x00", ErrorCode.UNSUPPORTED_FORMAT),
        ("a.mp4", b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00iso2", ErrorCode.UNSUPPORTED_FORMAT),
        ("a.png", encode(scene(), "PNG")[:-20], ErrorCode.TRUNCATED),
        ("a.webp", b"RIFF\x20\x00\x00\x00WEBPVP8 " + bytes(40), ErrorCode.CORRUPT_IMAGE),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_scored(
    tmp_path: Path, bundle: Path, file: str, data: bytes, code: ErrorCode
) -> None:
    (tmp_path / file).write_bytes(data)
    (row,) = scan(tmp_path, bundle=bundle)
    assert row.error is not None
    assert row.error.code is code
    assert "\n" not in row.error.message
    assert row.decision is moderate.Decision.REVIEW
    assert set(row.scores.values()) == {None}
    assert row.views.label is None
    (strict,) = scan(tmp_path, bundle=bundle, policy="strict")
    assert strict.decision is moderate.Decision.BLOCK


def test_limits_are_options(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(scene((100, 100)), "PNG"))
    (row,) = scan(tmp_path, bundle=bundle, limits=Limits(max_file_bytes=50))
    assert row.error is not None
    assert row.error.code is ErrorCode.FILE_TOO_LARGE
    assert row.facts.bytes == (tmp_path / "a.png").stat().st_size
    (row,) = scan(tmp_path, bundle=bundle, limits=Limits(max_pixels=9_999))
    assert row.error is not None
    assert row.error.code is ErrorCode.TOO_MANY_PIXELS
    assert (row.facts.width, row.facts.height) == (100, 100)


def test_named_files_always_get_a_row_in_order(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "z.png").write_bytes(encode(scene(), "PNG"))
    (tmp_path / "notes.md").write_bytes(b"hello")
    rows = scan(
        tmp_path / "z.png", tmp_path / "gone.jpg", tmp_path / "notes.md", tmp_path / "z.png",
        bundle=bundle,
    )  # fmt: skip
    assert [name(row) for row in rows] == ["z.png", "gone.jpg", "notes.md", "z.png"]
    codes = [row.error.code if row.error else None for row in rows]
    assert codes == [None, ErrorCode.NOT_FOUND, ErrorCode.NOT_AN_IMAGE, None]


def test_nothing_to_scan_is_an_error_before_any_work(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        scan(tmp_path / "gone", bundle=bundle)
    with pytest.raises(WeightsError, match="no weights"):
        scan(tmp_path, bundle=Path("nonesuch"))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": 4097},
        {"workers": 0},
        {"workers": -1},
        {"limits": Limits(decode_timeout=float("nan"))},
        {"limits": Limits(decode_timeout=0)},
        {"limits": Limits(max_decoder_bytes=1)},
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    tmp_path: Path, bundle: Path, options: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        scan(tmp_path, bundle=bundle, **options)
