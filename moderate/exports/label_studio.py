"""Tasks for Label Studio with our decisions as predictions, for people to confirm or correct."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ValidationError

from moderate.exports.images import WITHOUT_FOLDER, image_uri, is_relative
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.own_categories import categories_of
from moderate.policy.model import Policy
from moderate.types import Decision, Status

MOST_TASKS = 100_000
"""Tasks that its makers advise for a project; the rows behind them are left out."""


class LabelStudioTasks(Export):
    """A JSON array of tasks: the image, and the choices `decision` and `categories`.

    The names that the predictions refer to are `decision`, `categories` and `image`, as in the
    labelling setup in docs/warehouse.md. `categories` are those whose score reaches the policy's
    threshold for review. A row without scores has no prediction. Rows whose image has no URI of
    its own have no task.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    is_of_people: ClassVar[bool] = False

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._write: Write
        self._model = ""
        self._policy: Policy | None = None
        self._tasks = 0
        self._relative = 0
        self._without = 0
        self._over = 0

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write
        digest = facts.get("weights_sha256", "")[:12]
        self._model = "@".join(filter(None, (facts.get("weights") or "moderate", digest)))
        try:
            self._policy = Policy.model_validate_json(facts.get("policy_json", ""))
        except ValidationError:  # results whose audit facts are gone
            self._policy = None
        write("[")

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        uri = image_uri(row)
        if uri is None:
            relative = is_relative(row)
            self._relative += relative
            self._without += not relative
            return
        if self._tasks == MOST_TASKS:
            self._over += 1
            return
        text = json.dumps(self._task(row, uri), ensure_ascii=False)
        self._write(("\n" if not self._tasks else ",\n") + text)
        self._tasks += 1

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write("\n]\n")
        if self._relative:
            self.notes.append(
                f"label-studio: {self._relative:,} rows have no task: {WITHOUT_FOLDER}"
            )
        if self._without:
            self.notes.append(
                f"label-studio: {self._without:,} rows have no task: their images are in memory or "
                "in other files"
            )
        if self._over:
            self.notes.append(
                f"label-studio: {self._over:,} rows have no task: the file ends at "
                f"{MOST_TASKS:,} tasks, as many as a project is to have"
            )

    def _task(self, row: Mapping[str, Any], uri: str) -> dict[str, Any]:
        names = ("path", "sha256", "decision", "reasons", "status", "error_code", "scored_at")
        data = {"image": uri, **{name: row[name] for name in names if row.get(name) is not None}}
        scores = {str(each): row[each] for each in categories_of(row) if row.get(each) is not None}
        if row["status"] == Status.ERROR or not scores:
            return {"data": data}
        chosen = [_choices("decision", [row["decision"]])]
        if reached := self._reached(scores):
            chosen.append(_choices("categories", reached))
        prediction = {
            "model_version": self._model,
            "score": _rounded(max(scores.values())),
            "result": chosen,
        }
        data["scores"] = {name: _rounded(score) for name, score in scores.items()}
        return {"data": data, "predictions": [prediction]}

    def _reached(self, scores: Mapping[str, float]) -> list[str]:
        if self._policy is None:
            return []
        return [
            each
            for each, score in scores.items()
            if (limits := self._policy.limits(each))
            and limits.decision(score) is not Decision.APPROVE
        ]


def _choices(name: str, chosen: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "from_name": name,
        "to_name": "image",
        "type": "choices",
        "value": {"choices": chosen},
    }


def _rounded(score: float) -> float:
    """To the precision of a float32."""
    return float(f"{score:.7g}")
