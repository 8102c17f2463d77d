"""What is embedded in an image's file, in a scan: never approved unlooked, scored when asked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from moderate import Decision, ErrorCode, Origin, Row, Warn
from moderate.cli.main import run
from moderate.decode.video import VideoOptions
from moderate.fetch.options import HttpOptions
from moderate.run.embedded import MOST_DEPTH, MOST_ROWS, EmbeddedFiles
from moderate.run.options import ScanOptions, StateOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.scan import iterate, plan
from moderate.testcards import draw_card
from moderate.types import ImageRef
from tests.support.http_servers import Farm, Server, answer, plain
from tests.support.pictures import FORMATS, SUFFIX, encode, jpeg_with_segment, png_chunk
from tests.support.videos import make_video

CARD = draw_card("nudity", "block", 1, 256)
REASON = "warning embedded_content: on_warning review"
SAMPLES = Path(__file__).parents[2] / "sample_images"


def photo() -> Image.Image:
    return Image.open(SAMPLES / "photo_coffee.jpg").convert("RGB").resize((300, 200))


def scan(*inputs: Path | str, embedded: str = "warn", **options: object) -> list[Row]:
    asked = ScanOptions(inputs=inputs, weights="testcard", device="cpu")
    asked = replace(asked, embedded=embedded, **options)  # type: ignore[arg-type]
    with LocalEngine(plan(asked)) as engine:
        return [item for item in engine.rows() if isinstance(item, Row)]


def named(rows: list[Row]) -> dict[str, Row]:
    return {os.fsdecode(row.ref.path).rpartition("/in/")[2]: row for row in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_a_card_behind_a_harmless_photo_is_never_approved(folder: Path) -> None:
    card = encode(CARD, "JPEG")
    for kind in FORMATS:
        (folder / f"photo.{SUFFIX[kind]}").write_bytes(encode(photo(), kind) + card)
    inside = encode(CARD.resize((160, 160)), "PNG")
    (folder / "segment.jpg").write_bytes(jpeg_with_segment(encode(photo(), "JPEG"), 0xE7, inside))
    png = encode(photo(), "PNG")
    (folder / "chunk.png").write_bytes(png[:33] + png_chunk(b"prVw", inside) + png[33:])
    (folder / "plain.jpg").write_bytes(encode(photo(), "JPEG"))
    warned = named(scan(folder))
    assert warned.pop("plain.jpg").decision is Decision.APPROVE
    assert len(warned) == len(FORMATS) + 2
    for row in warned.values():
        assert row.decision is Decision.REVIEW
        assert row.reasons == (REASON,)
    scored = named(scan(folder, embedded="score"))
    for file in warned:
        suffix = "jpg" if file.startswith("photo") else "png"
        own = scored[f"{file}!/embedded-1.{suffix}"]
        assert own.decision is Decision.BLOCK
        assert own.facts.bytes == len(card if suffix == "jpg" else inside)
        assert scored[file].decision is Decision.APPROVE
        assert scored[file].facts.embedded == ()
    assert len(scored) == 2 * len(warned) + 1
    # Each after the file that it is in.
    assert list(scored) == sorted(scored, key=lambda each: (each.partition("!")[0], "!" in each))


def test_what_cannot_be_scored_is_still_warned_of(folder: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("card.jpg", encode(CARD, "JPEG"))
    video = make_video(folder.parent / "clip.mp4", [CARD] * 12).read_bytes()
    behind = encode(CARD, "PNG") + video + archive.getvalue()
    (folder / "photo.jpg").write_bytes(encode(photo(), "JPEG") + behind)
    whole, card = scan(folder, embedded="score")
    assert whole.facts.embedded == (
        f"mp4 of {len(video):,} bytes",
        f"zip of {len(archive.getvalue()):,} bytes",
    )
    assert whole.facts.warnings == (Warn.EMBEDDED_CONTENT,)
    assert whole.decision is Decision.REVIEW
    assert card.decision is Decision.BLOCK


def test_motion_photos_are_scored_as_videos_are(folder: Path) -> None:
    pictures = [*[photo().resize((256, 256))] * 10, *[CARD] * 10]
    video = make_video(folder.parent / "clip.mp4", pictures).read_bytes()
    (folder / "motion.jpg").write_bytes(encode(photo(), "JPEG") + video)
    (warned,) = scan(folder, video=VideoOptions(1.0))
    assert warned.reasons == (REASON,)
    rows = named(scan(folder, embedded="score", video=VideoOptions(1.0)))
    inside = "motion.jpg!/embedded-1.mp4"
    assert list(rows) == [
        "motion.jpg",
        f"{inside}!/00:00:00.000",
        f"{inside}!/00:00:01.000",
        inside,
    ]
    assert [row.decision for row in rows.values()] == [
        *(Decision.APPROVE, Decision.APPROVE, Decision.BLOCK, Decision.BLOCK)
    ]
    assert rows[inside].facts.sha256 == hashlib.sha256(video).hexdigest()
    assert rows[inside].facts.format == "mp4"


def test_what_is_in_an_embedded_picture_is_scored_too(folder: Path) -> None:
    png = encode(photo().resize((200, 200)), "PNG")
    inside = png[:33] + png_chunk(b"prVw", encode(CARD, "JPEG")) + png[33:]
    (folder / "photo.jpg").write_bytes(encode(photo(), "JPEG") + inside)
    rows = named(scan(folder, embedded="score"))
    first = "photo.jpg!/embedded-1.png"
    assert list(rows) == ["photo.jpg", first, f"{first}!/embedded-1.jpg"]
    assert [row.decision.value for row in rows.values()] == ["approve", "approve", "block"]


def test_too_much_in_one_another_is_an_error_of_its_own(folder: Path) -> None:
    data = encode(CARD, "PNG")
    outer = encode(photo().resize((40, 30)), "PNG")
    for _ in range(MOST_DEPTH + 3):
        data = outer[:33] + png_chunk(b"prVw", data) + outer[33:]
    (folder / "deep.png").write_bytes(data)
    rows = scan(folder, embedded="score")
    assert len(rows) == MOST_DEPTH + 2
    assert rows[-1].error is not None
    assert rows[-1].error.code == ErrorCode.ARCHIVE_LIMIT
    assert rows[-1].decision is Decision.REVIEW


def test_the_rows_of_one_file_are_bounded() -> None:
    tiny = encode(photo().resize((20, 15)), "PNG")
    packed = b"".join(png_chunk(b"prVw", tiny) for _ in range(16))
    middle = tiny[:33] + packed + tiny[33:]
    data = tiny[:33] + b"".join(png_chunk(b"prVw", middle) for _ in range(16)) + tiny[33:]
    files = list(EmbeddedFiles(ImageRef(b"a.png"), data, ("png",)))
    assert len(files) == MOST_ROWS + 1
    assert [file.error is None for file in files] == [True] * MOST_ROWS + [False]


def test_an_unchanged_file_has_the_same_rows_in_the_next_run(folder: Path, tmp_path: Path) -> None:
    card = encode(CARD, "JPEG")
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(encode(photo(), "JPEG") + card)
    os.utime(folder / "a.jpg", (1, 1))
    out = tmp_path / "out.csv"
    rows: list[Row] = []
    for _ in range(2):
        asked = ScanOptions(
            inputs=(folder,),
            weights="testcard",
            device="cpu",
            embedded="score",
            out=(str(out),),
            force=True,
            state=StateOptions(tmp_path / "state", True),
        )
        rows += list(iterate(plan(asked), lambda *_: ""))
    first, second = rows[:4], rows[4:]
    assert [row.ref.path for row in first] == [row.ref.path for row in second]
    assert [row.decision for row in first] == [row.decision for row in second]
    assert [row.origin for row in first] == [
        *(Origin.NEW, Origin.NEW, Origin.DUPLICATE, Origin.DUPLICATE)
    ]
    assert first[3].duplicate_of == first[1].path
    assert {row.origin for row in second} == {Origin.REUSED}


def test_a_file_counts_once_towards_the_limit(folder: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(encode(photo(), "JPEG") + encode(CARD, "JPEG"))
    rows = scan(folder, embedded="score", limit=1)
    assert list(named(rows)) == ["a.jpg", "a.jpg!/embedded-1.jpg"]


def test_members_of_archives_have_rows_of_what_is_embedded_in_them(folder: Path) -> None:
    with zipfile.ZipFile(folder / "dump.zip", "w") as archive:
        archive.writestr("one.jpg", encode(photo(), "JPEG") + encode(CARD, "JPEG"))
        archive.writestr("two.jpg", encode(photo(), "JPEG"))
    rows = named(scan(folder / "dump.zip", embedded="score"))
    inside = "dump.zip!/one.jpg!/embedded-1.jpg"
    assert list(rows) == ["dump.zip!/one.jpg", inside, "dump.zip!/two.jpg"]
    assert rows[inside].decision is Decision.BLOCK


def test_a_broken_embedded_picture_costs_its_own_row(folder: Path) -> None:
    card = encode(CARD, "PNG")
    (folder / "a.jpg").write_bytes(encode(photo(), "JPEG") + card[:60] + card[64:])
    (folder / "b.jpg").write_bytes(encode(photo(), "JPEG"))
    rows = named(scan(folder, embedded="score"))
    broken = rows["a.jpg!/embedded-1.png"].error
    assert broken is not None
    assert broken.code in (ErrorCode.CORRUPT_IMAGE, ErrorCode.TRUNCATED)
    assert rows["a.jpg"].error is None
    assert rows["b.jpg"].decision is Decision.APPROVE


def test_the_option_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    (folder / "a.jpg").write_bytes(encode(photo(), "JPEG") + encode(CARD, "JPEG"))
    asked = ["scan", str(folder), "--weights", "testcard", "--no-state", "-q", "--force"]
    out = tmp_path / "rows.jsonl"
    for choice, count in (("warn", 1), ("score", 2)):
        assert run([*asked, "--embedded", choice, "-o", str(out)]) == 0
        assert len(out.read_text().splitlines()) == count
    assert run([*asked, "--embedded", "other"]) == 2


def test_what_is_fetched_has_rows_of_what_is_embedded_in_it(folder: Path) -> None:
    pair = answer(encode(photo(), "JPEG") + encode(CARD, "JPEG"))
    behaviours = {"/a.jpg": plain(pair), "/b.jpg": plain(answer(status="404 No"))}
    with contextlib.closing(Farm()) as farm:
        server = farm.start(Server({**behaviours, "/c.jpg": plain(pair)}))
        urls = [server.url(f"/{name}.jpg") for name in "abc"]
        rows = scan(*urls, embedded="score", http=HttpOptions(allow_private=True))
    names = [os.fsdecode(row.ref.path).rpartition("/a.jpg")[2] for row in rows[:2]]
    assert names == ["", "!/embedded-1.jpg"]
    assert [row.error.code if row.error else None for row in rows] == [
        *(None, None, ErrorCode.HTTP_ERROR, None, None)
    ]
    assert rows[1].decision is rows[4].decision is Decision.BLOCK
