"""The index finds what comparing with every hash finds."""

from __future__ import annotations

import numpy as np
import pytest

from moderate import hamming
from moderate.hamming import HammingIndex


@pytest.fixture(params=[True, False], ids=["popcount of numpy", "table"])
def few_unsorted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "_UNSORTED", 50)
    monkeypatch.setattr(hamming, "_FIRST_LOOK", 2)
    if not request.param:
        monkeypatch.delattr(np, "bitwise_count", raising=False)


def near_hashes(count: int) -> list[bytes]:
    """Versions of a few pictures, up to 45 bits apart, in no order."""
    random = np.random.default_rng(3)
    pictures = [int.from_bytes(random.bytes(32)) for _ in range(12)]
    made = []
    for _ in range(count):
        bits = pictures[random.integers(len(pictures))]
        for bit in random.choice(256, random.integers(0, 46), replace=False):
            bits ^= 1 << int(bit)
        made.append(bits.to_bytes(32))
    return made


@pytest.mark.usefixtures("few_unsorted")
def test_the_first_and_all_within_a_distance_are_those_of_every_comparison() -> None:
    index = HammingIndex()
    hashes = near_hashes(700)
    numbers = [int.from_bytes(each) for each in hashes]
    found_any = 0
    for place, bits in enumerate(hashes):
        distances = [(numbers[place] ^ other).bit_count() for other in numbers[:place]]
        near = [number for number, distance in enumerate(distances) if distance <= 31]
        assert index.first(bits) == (near[0] if near else None)
        found_any += bool(near)
        if place % 10 == 0:
            for limit in (0, 31, 60):
                there, how_far = index.within(bits, limit)
                wanted = [number for number, distance in enumerate(distances) if distance <= limit]
                assert there.tolist() == wanted
                assert how_far.tolist() == [distances[number] for number in wanted]
        assert index.add(bits) == place
    assert 300 < found_any < 700
    assert len(index) == 700


def test_at_31_bits_and_not_at_32() -> None:
    index = HammingIndex()
    for number in range(5000):
        index.add(np.random.default_rng(number).bytes(32))
    original = int.from_bytes(np.random.default_rng(77).bytes(32))
    # Two bits in most of the 16 blocks, one in the last: the worst that 31 bits can be.
    spread = sum(0b11 << (16 * block) for block in range(15)) | 1 << 240
    assert spread.bit_count() == 31
    assert index.first((original ^ spread).to_bytes(32)) == 77
    assert index.first((original ^ spread ^ 1 << 255).to_bytes(32)) is None
