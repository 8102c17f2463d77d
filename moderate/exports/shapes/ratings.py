"""`ratings`: the level that each image has on the policy's scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moderate.exports.shapes.base import Answer, Shape, failure, image_name


class RatingsShape(Shape):
    """As services answer that rate images by a scale of levels: a rating or an error per image."""

    answers_key = "results"

    def head(self) -> Answer:
        """See `Shape`."""
        return {"taskId": self.run}

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`."""
        failed = failure(row, "rating")
        if failed is not None:
            return {"url": image_name(row), "error": failed.as_json()}
        return {"url": image_name(row), "rating": row["rating"]}
