"""`booleans`: whether each image is not safe for work, and whether any is."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from moderate.exports.interface import ExportOptions
from moderate.exports.shapes.base import Answer, Failure, Shape, failure


class BooleansShape(Shape):
    """As services answer that give a list of booleans, in the order of the images.

    The list has no place for anything but true and false. An image that failed is true in it, and
    its place (from 0) is in `failed`.
    """

    answers_key = "has_nsfw_concepts"

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._any = False
        self._failed = array("Q")  # eight bytes per failure

    def head(self) -> Answer:
        """See `Shape`."""
        return {"model": self.facts.get("weights", "moderate"), "requestId": self.run}

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`: a whole answer for one image."""
        is_nsfw, failed = _is_nsfw(row)
        error = {"error": failed.as_json()} if failed else {}
        answer = {"has_nsfw_concepts": [is_nsfw], **_envelope(1, is_nsfw), **error}
        return {**self.head(), "requestId": self.job(), **answer}

    def element(self, row: Mapping[str, Any]) -> bool:
        """See `Shape`."""
        is_nsfw, failed = _is_nsfw(row)
        self._any |= is_nsfw
        if failed is not None:
            self._failed.append(self.rows - 1)
        return is_nsfw

    def tail(self) -> Answer:
        """See `Shape`."""
        failed = {"failed": self._failed} if self._failed else {}
        return {**_envelope(self.rows, self._any), **failed}


def _is_nsfw(row: Mapping[str, Any]) -> tuple[bool, Failure | None]:
    failed = failure(row, "is_nsfw")
    return failed is not None or bool(row["is_nsfw"]), failed


def _envelope(images: int, is_nsfw: bool) -> dict[str, Any]:
    # Nobody is charged, and a run answers for all of its images.
    return {
        "inputCount": images,
        "cost": 0.0,
        "currency": "USD",
        "truncated": False,
        "is_nsfw": is_nsfw,
    }
