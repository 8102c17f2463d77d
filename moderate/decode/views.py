"""Which parts of a picture the models are shown, and what they do not see of it."""

from __future__ import annotations

from PIL import Image

from moderate.decode.parts import DecodeOptions, Looked
from moderate.decode.resize import PixelSpec, resize


def look(
    image: Image.Image,
    specs: tuple[PixelSpec, ...],
    options: DecodeOptions,
    size: tuple[int, int] | None = None,
) -> Looked:
    """The parts of an RGB image that the models are shown; the first is what they are made to see.

    size is the full (width, height) where `image` was decoded at a reduced scale.
    """
    return Looked([None], [tuple(resize(image, spec, size) for spec in specs)])
