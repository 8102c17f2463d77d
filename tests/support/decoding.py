"""What tests of a format ask of `decode`: the outcome, the code of a refusal, the right pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from moderate.decode.image import Decoded, Undecoded, decode
from moderate.decode.parts import DEFAULT_OPTIONS, DecodeOptions
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, Limits
from tests.support.pictures import encode

SPEC = PixelSpec(64, 64)


def outcome(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> Decoded | Undecoded:
    """The file decoded to 64 x 64 pixels, or why it is not."""
    return decode(data, (SPEC,), limits, options)


def code(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> ErrorCode:
    """The error code of a file that must not be scored; its message is one line."""
    refused = outcome(data, limits, options)
    assert isinstance(refused, Undecoded), "scored what must be refused"
    assert "\n" not in refused.message
    return refused.code


def assert_shows(
    data: bytes,
    image: Image.Image,
    *,
    mean: float = 1.5,
    highest: int = 255,
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> Decoded:
    """Check that the file gives the pixels of the image, and return its outcome.

    mean and highest bound how far the pixels may be from those of the image as a PNG, in levels of
    a channel.
    """
    scored = outcome(data, options=options)
    assert isinstance(scored, Decoded), scored
    expected = outcome(encode(image, "PNG"), options=options)
    assert isinstance(expected, Decoded)
    difference = np.abs(scored.pixels[0].astype(int) - expected.pixels[0].astype(int))
    assert difference.mean() < mean
    assert difference.max() <= highest
    return scored
