"""What kept scores depend on of decoding, known without importing the codecs."""

from __future__ import annotations

import PIL

from moderate.libraries import installed

PIXELS_VERSION = 7
"""Raised whenever files give other pixels or facts, so that earlier scores are not reused."""

PILLOW = int(PIL.__version__.partition(".")[0])
"""The major version of Pillow."""

_LIBRARY = "cykooz_resizer"

_KNOWN_PILLOWS = (12, 13)
"""Major versions of Pillow whose memory the library reads as it is.

The library reads and writes pixels where Pillow's C code keeps them, and another version may keep
them elsewhere. Whoever adds one checks `down_first` in `moderate.decode.resample`, too.
"""


def resampler() -> str:
    """What resizes here: `simd` or `pillow`. Their pixels differ by rounding."""
    return "simd" if PILLOW in _KNOWN_PILLOWS and installed(_LIBRARY) else "pillow"
