"""What is kept comes back to the bit, and what is damaged does not come back at all."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.state.records import (
    FileStat,
    Outcome,
    are_intact,
    pack_outcome,
    pack_stat,
    unpack_outcome,
    unpack_scored,
    unpack_stat,
)
from moderate.types import CATEGORIES, ErrorCode, ImageError, ImageFacts, PdqHash, Warn

SHA256, SCOPE = hashlib.sha256(b"x").digest(), hashlib.sha256(b"scope").digest()

numbers = st.none() | st.integers(0, 2**63 - 1)
any_numbers = st.none() | st.integers() | st.sampled_from([-1, 2**31, 2**32 - 1, 2**63, 10**4000])
float32 = st.floats(0, 1, width=32).map(lambda value: float(np.float32(value)))
scores = st.fixed_dictionaries({category: st.none() | float32 for category in CATEGORIES})
errors = st.builds(ImageError, st.sampled_from(ErrorCode), st.text(max_size=300))
facts = st.builds(
    ImageFacts,
    width=numbers,
    height=numbers,
    format=st.none() | st.sampled_from(["jpeg", "raw-or-jpeg-2000"]),
    frames=numbers,
    bytes=numbers,
    sha256=st.just(SHA256.hex()),
    warnings=st.lists(st.sampled_from(Warn), unique=True).map(tuple),
    pdq=st.none() | st.builds(PdqHash, st.binary(min_size=32, max_size=32), st.integers(0, 100)),
)
labels = st.lists(float32, max_size=40).map(tuple)
moments = st.none() | st.integers(0, 2**40)
outcomes = st.builds(Outcome, facts, scores, labels=labels, scored_at=moments) | st.builds(
    Outcome, facts, errors, st.sampled_from(["", "-", "jpeg", "tif"])
)


@given(outcomes)
def test_an_outcome_comes_back_as_it_was(outcome: Outcome) -> None:
    assert unpack_outcome(SHA256, SCOPE, pack_outcome(SHA256, SCOPE, outcome)) == outcome


@given(outcomes, st.data())
def test_a_damaged_outcome_does_not_come_back(outcome: Outcome, data: st.DataObject) -> None:
    packed = bytearray(pack_outcome(SHA256, SCOPE, outcome))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    assert unpack_outcome(SHA256, SCOPE, bytes(packed)) is None
    assert unpack_outcome(SHA256, SCOPE, bytes(packed[:place])) is None


@given(outcomes)
def test_an_outcome_of_another_content_or_scope_does_not_come_back(outcome: Outcome) -> None:
    packed = pack_outcome(SHA256, SCOPE, outcome)
    assert unpack_outcome(SCOPE, SCOPE, packed) is None
    assert unpack_outcome(SHA256, SHA256, packed) is None


@given(st.integers(0, 2**62), st.integers(-(2**62), 2**62), st.integers(0, 2**62))
def test_a_file_comes_back_as_it_was(size: int, mtime_ns: int, ctime_ns: int) -> None:
    stat = FileStat(size, mtime_ns, ctime_ns)
    packed = pack_stat(b"path", SHA256, stat)
    assert unpack_stat(b"path", SHA256, packed) == stat
    assert unpack_stat(b"htap", SHA256, packed) is None
    assert unpack_stat(b"path", SCOPE, packed) is None
    assert unpack_stat(b"path", SHA256, packed[:-1]) is None
    assert unpack_stat(b"path", SHA256, packed[:-1] + bytes([packed[-1] ^ 1])) is None


@given(facts, any_numbers, any_numbers, any_numbers, any_numbers)
def test_a_number_that_no_column_holds_is_none(
    known: ImageFacts, width: int | None, height: int | None, frames: int | None, size: int | None
) -> None:
    """Whatever a header claims, a server announces or a decoder reports."""
    claimed = replace(known, width=width, height=height, frames=frames, bytes=size)
    for value, held in (
        (width, claimed.width),
        (height, claimed.height),
        (frames, claimed.frames),
        (size, claimed.bytes),
    ):
        assert held == (value if value is not None and 0 <= value < 2**63 else None)
    outcome = Outcome(claimed, ImageError(ErrorCode.TOO_MANY_PIXELS, "too many"))
    assert unpack_outcome(SHA256, SCOPE, pack_outcome(SHA256, SCOPE, outcome)) == outcome


@given(st.integers(), st.integers(), st.integers())
def test_times_that_no_column_holds_are_not_kept(size: int, mtime_ns: int, ctime_ns: int) -> None:
    far = [2**63, -(2**63) - 1, 16_725_225_600 * 10**9]  # as of the year 2500
    for stat in (
        FileStat(size, mtime_ns, ctime_ns),
        *(FileStat(1, number, ctime_ns) for number in far),
        *(FileStat(1, mtime_ns, number) for number in far),
    ):
        packed = pack_stat(b"path", SHA256, stat)
        if all(-(2**63) <= number < 2**63 for number in stat):
            assert unpack_stat(b"path", SHA256, packed) == stat
        else:
            assert packed is None


@pytest.mark.parametrize(("old", "new"), [("truncated", "melted"), ("animated", "levitates")])
def test_words_of_a_newer_version_are_unknown(old: str, new: str) -> None:
    error = ImageError(ErrorCode.TRUNCATED, "it ends early")
    outcome = Outcome(ImageFacts(warnings=(Warn.ANIMATED,), sha256=SHA256.hex()), error)
    packed = pack_outcome(SHA256, SCOPE, outcome)
    assert unpack_outcome(SHA256, SCOPE, packed) == outcome
    tail = packed[4:].replace(old.encode(), new.encode())
    assert tail != packed[4:]
    checksum = crc32(tail, crc32(b"5" + SHA256 + SCOPE)).to_bytes(4, "little")
    assert unpack_outcome(SHA256, SCOPE, checksum + tail) is None


def test_a_record_without_a_hash_is_as_it_always_was() -> None:
    """Of the layout that states of earlier versions have: those stay of use."""
    outcome = Outcome(ImageFacts(sha256=SHA256.hex()), dict.fromkeys(CATEGORIES, 0.5))
    packed = pack_outcome(SHA256, SCOPE, outcome)
    assert packed[:4] == crc32(packed[4:], crc32(b"5" + SHA256 + SCOPE)).to_bytes(4, "little")


def test_another_layout_is_unknown() -> None:
    """That of version 0.1.0, whose sides had 32 bits; its checksum named no layout."""
    tail = struct.pack("<I5fqiii", 0, *[0.5] * 5, 7, 8, 9, 1)[4:] + b"jpeg\x1f"
    checksum = crc32(tail, crc32(SHA256 + SCOPE)).to_bytes(4, "little")
    assert unpack_outcome(SHA256, SCOPE, checksum + tail) is None


@pytest.mark.parametrize("value", [None, 7, 2.5, "text", b""])
def test_values_of_another_type_are_unknown(value: object) -> None:
    assert unpack_outcome(SHA256, SCOPE, value) is None
    assert unpack_stat(b"path", SHA256, value) is None
    assert unpack_stat(b"path", value, bytes(28)) is None


@given(st.lists(st.tuples(outcomes, st.sampled_from(["as it is", "damaged", "cut"]))))
def test_outcomes_unpacked_at_once_are_those_unpacked_alone(
    drawn: list[tuple[Outcome, str]],
) -> None:
    payloads = []
    for outcome, state in drawn:
        packed = bytearray(pack_outcome(SHA256, SCOPE, outcome))
        if state == "damaged":
            packed[len(packed) // 2] ^= 1
        payloads.append(bytes(packed[:30] if state == "cut" else packed))
    for label_count in {len(outcome.labels) for outcome, _ in drawn} | {0}:
        contents, usable = unpack_scored([SHA256] * len(drawn), SCOPE, payloads, label_count)
        for index, (payload, is_usable) in enumerate(zip(payloads, usable, strict=True)):
            alone = unpack_outcome(SHA256, SCOPE, payload)
            scored = alone is not None and not isinstance(alone.result, ImageError)
            fits = scored and alone is not None and len(alone.labels) == label_count
            assert is_usable == fits
            if is_usable:
                assert contents.outcome(index, SHA256) == alone


def test_files_are_intact_where_everything_about_them_is_as_it_was() -> None:
    path, stat = b"p" * 16, FileStat(1, 2, 3)
    packed = pack_stat(path, SHA256, stat)
    assert packed is not None
    rows = [
        (path, SHA256, stat, packed),
        (path, SHA256, FileStat(1, 2, 4), packed),
        (path, SCOPE, stat, packed),
        (b"q" * 16, SHA256, stat, packed),
        (path, SHA256, stat, packed[:-1]),
        (path, SHA256, stat, bytes([packed[0] ^ 1]) + packed[1:]),
    ]
    paths, digests, stats, kept = zip(*rows, strict=True)
    intact = are_intact(paths, digests, np.array(stats, np.int64), kept)
    assert intact.tolist() == [True] + [False] * 5
