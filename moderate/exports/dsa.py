"""Statements of reasons for the EU's DSA Transparency Database: what a tool can know of them.

A row per blocked image, in the fields of version 2 of the database's API. What only the platform
knows is empty. Nothing of an image's name, nor any text that somebody wrote, is in it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from moderate.decode.sniff import VIDEO_FORMATS
from moderate.errors import InputError
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.own_categories import categories_of
from moderate.policy.model import Policy
from moderate.policy.reasons import BLOCK_LIST
from moderate.policy.statements import Statements
from moderate.results.final import DECIDED_BY
from moderate.types import Decision

FIELDS = (
    *("decision_visibility", "decision_visibility_other", "end_date_visibility_restriction"),
    *("decision_monetary", "decision_monetary_other", "end_date_monetary_restriction"),
    *("decision_provision", "end_date_service_restriction"),
    *("decision_account", "account_type", "end_date_account_restriction"),
    *("decision_ground", "decision_ground_reference_url"),
    *("illegal_content_legal_ground", "illegal_content_explanation"),
    *("incompatible_content_ground", "incompatible_content_explanation"),
    "incompatible_content_illegal",
    *("category", "category_addition", "category_specification", "category_specification_other"),
    *("content_type", "content_type_other", "content_language", "content_date", "content_id"),
    *("territorial_scope", "application_date", "decision_facts"),
    *("source_type", "source_identity", "automated_detection", "automated_decision", "puid"),
)
"""All fields of a statement, as its API names them."""

_ID = re.compile(r"[0-9A-Za-z_-]{1,100}", re.ASCII)
_DATE = re.compile(r"20[2-9]\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?=T|$)", re.ASCII)


class StatementsOfReasons(Export):
    """CSV with a row per blocked image or video; lists are JSON, as in the database's own files.

    The id of a statement is that of the run with the number of the row in it: the same results
    give the same ids, and the database refuses an id that it has.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._write: Write
        self._said = Statements()
        self._run = ""
        self._again = ""
        self._date = ""
        self._rows = 0

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write
        self._run = facts.get("run_id", "")
        self._again = _decided_again(facts)
        date = _DATE.match(facts.get("decided") or facts.get("started", ""))
        self._date = date[0] if date else ""
        if policy := facts.get("policy_json"):
            try:
                self._said = Policy.model_validate_json(policy).dsa or Statements()
            except ValueError as error:
                raise InputError("the policy of the results cannot be read") from error
        self._put(FIELDS)

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        self._rows += 1
        if row["decision"] != Decision.BLOCK.value or _is_frame(row):
            return
        values = {
            **self._of_content(row),
            "decision_visibility": _list(self._said.decision_visibility),
            "decision_ground": self._said.decision_ground or "",
            "content_type": _list([_content_type(row)]),
            "territorial_scope": _list(self._said.territorial_scope),
            "application_date": self._date,
            "source_type": self._said.source_type or "",
            "automated_detection": "Yes",
            "automated_decision": self._said.automated_decision or _automation(row),
            "puid": self._id(row),
        }
        self._put([values.get(name, "") for name in FIELDS])

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""

    def _of_content(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The category of what was seen; nothing where no score of a category blocked the image."""
        blocked = _blocked_by(row)
        if not blocked:
            return {}
        named = [self._said.of(category) for category in blocked]
        first, *others = dict.fromkeys(each.category for each in named)
        keywords = dict.fromkeys(keyword for each in named for keyword in each.keywords)
        scores = ", ".join(
            f"{category.replace('_', ' ')} {row[category]:.2f}" for category in blocked
        )
        return {
            "category": first,
            "category_addition": _list(others),
            "category_specification": _list(list(keywords)),
            "decision_facts": "Automated classification of the content gave it these scores from "
            f"0 to 1, which reach the thresholds for blocking: {scores}.",
        }

    def _id(self, row: Mapping[str, Any]) -> str:
        run = row.get("run_id") or self._run
        if not run:
            raise InputError(
                "dsa: the results do not say which run they are of, so that statements would have "
                "no unique id"
            )
        # A results file may have been changed: only an id as runs have it is taken as it is.
        text = run if _ID.fullmatch(run) else hashlib.sha256(_bytes(run)).hexdigest()
        return f"moderate-{text}{self._again}-{self._rows}"

    def _put(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._write(line.getvalue())


def _blocked_by(row: Mapping[str, Any]) -> list[str]:
    """The categories whose scores blocked a row, the highest score first.

    The reasons of a blocked row name them, whatever overrides the policy has.
    """
    reasons = row["reasons"] or ""
    if reasons.startswith(DECIDED_BY):
        return []  # people blocked it: the scores did not reach what the machine blocks at
    named = {reason.partition(" ")[0] for reason in reasons.split("; ")}
    found = [c for c in categories_of(row) if c in named and row[c] is not None]
    return sorted(found, key=lambda category: -row[category])


def _automation(row: Mapping[str, Any]) -> str:
    """A person has decided on what is on the block list; the tool recognised it."""
    reasons = row["reasons"] or ""
    if reasons.startswith(DECIDED_BY):
        return "AUTOMATED_DECISION_NOT_AUTOMATED"
    with_people = reasons.startswith(BLOCK_LIST) or f"; {DECIDED_BY}" in reasons
    return "AUTOMATED_DECISION_PARTIALLY" if with_people else "AUTOMATED_DECISION_FULLY"


def _is_frame(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a frame: its video has a row of its own, which is as severe."""
    return row["format"] in VIDEO_FORMATS and row["sha256"] is None and "!/" in row["path"]


def _content_type(row: Mapping[str, Any]) -> str:
    return "CONTENT_TYPE_VIDEO" if row["format"] in VIDEO_FORMATS else "CONTENT_TYPE_IMAGE"


def _decided_again(facts: Mapping[str, str]) -> str:
    """What sets apart the ids of results that were decided again: those are other decisions."""
    if "decided" not in facts:
        return ""
    text = f"{facts['decided']} {facts.get('policy_sha256')} {facts.get('decided_from')}"
    return f"-{hashlib.sha256(_bytes(text)).hexdigest()[:12]}"


def _list(values: Sequence[str]) -> str:
    return json.dumps(list(values)) if values else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
