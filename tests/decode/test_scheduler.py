"""When decoders end, and images whose decoders break the rules after a right answer."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from moderate.decode import pool as pool_module
from moderate.decode import scheduler
from moderate.decode.decoder import Decoder
from moderate.decode.image import Undecoded
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, ImageFacts, Limits
from tests.support.pictures import encode, scene

EVIL = 3


@pytest.mark.parametrize("batch_size", [2, 4, 16])
@pytest.mark.parametrize("kills_first", [False, True], ids=["answers", "kills its decoder first"])
def test_an_image_is_given_up_when_its_decoder_breaks_the_rules_twice(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, kills_first: bool
) -> None:
    """Real decoders; that they sent something more after the answer is reported by the test."""
    images = {n: encode(scene((60, 40), seed=n), "PNG") for n in range(12)}
    tries: list[int] = []
    give = Decoder.give

    def watched(decoder: Decoder, data: bytes) -> None:
        if data == images[EVIL]:
            tries.append(decoder.number)
            if kills_first and len(tries) == 1:
                assert decoder.pid is not None
                os.kill(decoder.pid, signal.SIGSTOP)  # so that it dies with the image in hand
                give(decoder, data)
                os.kill(decoder.pid, signal.SIGKILL)
                return
        give(decoder, data)

    monkeypatch.setattr(Decoder, "give", watched)
    monkeypatch.setattr(Decoder, "has_unasked_packet", lambda decoder: decoder.number in tries)
    outcomes: dict[int, object] = {}
    with DecoderPool[int]((PixelSpec(48, 48),), Limits(decode_timeout=30), 2, batch_size) as pool:
        for batch in pool.run(images.items()):
            for entry in batch.entries:
                assert entry.item not in outcomes
                outcomes[entry.item] = entry.outcome
            pool.release(batch)
    assert sorted(outcomes) == sorted(images)
    lost = outcomes.pop(EVIL)
    assert isinstance(lost, Undecoded)
    assert lost.code is ErrorCode.DECODER_CRASHED
    assert "twice" in lost.message
    assert all(isinstance(outcome, ImageFacts) for outcome in outcomes.values())
    assert len(tries) <= 3


@pytest.mark.parametrize(("budget", "each"), [(0, 2), (16 << 20, 3)], ids=["least", "shared"])
def test_a_decoder_ends_before_it_holds_too_many_bytes(
    monkeypatch: pytest.MonkeyPatch, budget: int, each: int
) -> None:
    """Each of four decoders may hold a fourth of the budget, and never less than the least."""
    monkeypatch.setattr(scheduler, "_HELD_BYTES", 4 * budget)
    heavy = encode(scene((60, 40)), "JPEG") + bytes(6 << 20)
    given: Counter[int] = Counter()
    give = Decoder.give

    def watched(decoder: Decoder, data: bytes) -> None:
        given[decoder.number] += 1
        give(decoder, data)

    monkeypatch.setattr(Decoder, "give", watched)
    monkeypatch.setattr(pool_module, "available_cores", lambda: 4)
    limits = Limits(max_file_bytes=16 << 20)
    with DecoderPool[int]((PixelSpec(48, 48),), limits, 4, 64) as pool:
        for batch in pool.run((number, heavy) for number in range(32)):
            assert all(isinstance(entry.outcome, ImageFacts) for entry in batch.entries)
            pool.release(batch)
    assert max(given.values()) <= each, "one file over the limit at most"
    assert len(given) >= 32 / each
