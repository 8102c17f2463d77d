"""The version of decoding, for what is kept of earlier runs; apart from the codecs themselves."""

from __future__ import annotations

PIXELS_VERSION = 3
"""Raised whenever files give other pixels or facts, so that earlier scores are not reused."""
