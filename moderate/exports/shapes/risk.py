"""`risk`: low, mid or high per image, each as the state of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moderate.exports.shapes.base import Answer, Shape, failure


class RiskShape(Shape):
    """As services answer that have a job per image. The job of an image that failed has ERROR."""

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`."""
        failed = failure(row, "risk")
        data = {
            "job_id": self.job(),
            "status": "ERROR" if failed else "COMPLETED",
            "res_data": {"check_result": "" if failed else row["risk"]},
        }
        return {"code": 200, "message": "OK", "data": data}
