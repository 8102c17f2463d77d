"""Why an image could not be decoded: what decoders tell to processes that have no codecs."""

from __future__ import annotations

from dataclasses import dataclass

from moderate.types import ErrorCode, ImageFacts


@dataclass(frozen=True, slots=True)
class Undecoded:
    """An image that could not be decoded: why, and what is known of the file."""

    code: ErrorCode
    message: str
    facts: ImageFacts
