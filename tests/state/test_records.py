"""What is kept comes back to the bit, and what is damaged does not come back at all."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moderate.state.records import (
    FileStat,
    Outcome,
    pack_outcome,
    pack_stat,
    unpack_outcome,
    unpack_stat,
)
from moderate.types import CATEGORIES, ErrorCode, ImageError, ImageFacts, Warn

SHA256, SCOPE = hashlib.sha256(b"x").digest(), hashlib.sha256(b"scope").digest()

numbers = st.none() | st.integers(0, 2**31 - 1)
float32 = st.floats(0, 1, width=32).map(lambda value: float(np.float32(value)))
scores = st.fixed_dictionaries({category: st.none() | float32 for category in CATEGORIES})
errors = st.builds(ImageError, st.sampled_from(ErrorCode), st.text(max_size=300))
facts = st.builds(
    ImageFacts,
    width=numbers,
    height=numbers,
    format=st.none() | st.sampled_from(["jpeg", "raw-or-jpeg-2000"]),
    frames=numbers,
    bytes=st.none() | st.integers(0, 2**62),
    sha256=st.just(SHA256.hex()),
    warnings=st.lists(st.sampled_from(Warn), unique=True).map(tuple),
)
outcomes = st.builds(Outcome, facts, scores) | st.builds(
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
