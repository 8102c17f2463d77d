"""Where in a file a score is highest, as text: `nudity at frame 7, 0.4 s; violence at …`."""

from __future__ import annotations

from moderate.types import Places

AT = " at "
"""What stands between the term of a score, or a reason, and the place that it is about."""

_JOINT = "; "


def places_text(places: Places) -> str | None:
    """As results and the state have it; None where there are none."""
    return _JOINT.join(f"{term}{AT}{place}" for term, place in places.items()) or None


def read_places(text: str | None) -> dict[str, str]:
    """The inverse of `places_text`."""
    parts = (part.rpartition(AT) for part in (text or "").split(_JOINT))
    return {term: place for term, at, place in parts if at}
