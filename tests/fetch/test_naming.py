"""How rows and messages name an image, whatever text stands where a name was expected."""

from __future__ import annotations

import time

import pytest

from moderate.fetch.naming import mask_text, shown


@pytest.mark.parametrize("piece", ["://", "http://", "/:", "data:", "?a=b", "://?a="])
def test_masking_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (65_536 // len(piece))
    begun = time.process_time()
    mask_text(text)
    assert time.process_time() - begun < 5  # of 20 s or more where it grows with the square


def test_what_follows_a_url_is_cut_off() -> None:
    assert mask_text("see http://h/a b") == "see http://h/a …"
    assert mask_text("a://b c://d") == "a://b …"
    assert mask_text("a://b,c://d#e") == "a://b,c://d …"
    assert mask_text("a b") == "a b"


def test_a_url_within_a_url_may_hold_any_bytes() -> None:
    masked = shown(b"https://h/?u=https%3A%2F%2Fb%3Fsig%3Ds%26name%3D\xff")
    assert masked.startswith(b"https://h/?u=https%3A%2F%2Fb%3Fsig%3D***%26name%3D")
