"""Items for ROOST Coop, a review console: a JSON object per image, as its items API takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from moderate.exports.images import image_uri
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.own_categories import own_columns_of
from moderate.types import CATEGORIES

ITEM_TYPE = "moderate-image"
"""`typeId` of the items. Coop gives its item types ids of its own, which take the place of this."""

_TEXTS = ("path", "decision", "reasons", "status", "label", "risk", "rating", "error_code")
_NUMBERS = ("nsfw_score", "unseen")
FIELDS: Mapping[str, str] = {
    "uri": "STRING",
    "images": "ARRAY of IMAGE",
    **dict.fromkeys(_TEXTS, "STRING"),
    **{each.value: "NUMBER" for each in CATEGORIES},
    **dict.fromkeys(_NUMBERS, "NUMBER"),
    "is_nsfw": "BOOLEAN",
    "sha256": "STRING",
    "scored_at": "DATETIME",
}
"""The fields of `data` that the item type has to have, none of them required, and their types.

Own categories of the weights are further fields, each a NUMBER.
"""


class CoopItems(Export):
    """A line per row: `id`, `typeId`, and in `data` what is known of FIELDS; null is left out.

    `id` is the value of a carried column `id`, and otherwise the URI or else the path. `images` has
    the image where Coop can fetch it, by http or https, which has it hashed and shown.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl",)

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._write: Write

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        uri = row.get("uri") or image_uri(row)
        own = row.get("id")
        item = {
            "id": str(uri or row["path"]) if own is None or own == "" else str(own),
            "typeId": ITEM_TYPE,
            "data": {
                name: value
                for name in (*FIELDS, *own_columns_of(tuple(row)))
                if (value := _value(row, name, uri)) is not None
            },
        }
        self._write(json.dumps(item, ensure_ascii=False) + "\n")

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""


def _value(row: Mapping[str, Any], name: str, uri: str | None) -> Any:
    if name == "uri":
        return uri
    if name == "images":
        url = image_uri(row)
        return [url] if url and url.lower().startswith(("http://", "https://")) else None
    value = row.get(name)
    return float(f"{value:.7g}") if isinstance(value, float) else value
