"""What all shapes have in common: an answer per line, or all of them in one document.

Every answer is written when its row comes, also into a document, so that memory does not grow with
the number of images. What counts images comes after the answers: in a JSON object the order of the
keys means nothing.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from moderate.exports.interface import Export, ExportOptions, Write
from moderate.results.schema import shortest
from moderate.types import CATEGORIES, Status

# ASCII alone. Some readers split lines at U+2028 or U+0085, and terminals obey what is not escaped.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode

_NUMBERS = 1000
"""How many numbers are made text at once."""

Answer = Mapping[str, Any]
"""A JSON object."""


class Failure(NamedTuple):
    """Why an image has no scores."""

    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """As the services that say it in an object do."""
        return {"code": self.code, "message": self.message}


NOT_SCORED = Failure("not_scored", "the weights score none of the categories that this is made of")


class Shape(Export):
    """A hosted service's answers.

    answers_key is the key under which a document holds the answers; None where the service answers
    for one image at a time: the document is an array of its answers then. A shape with a companion
    has a second file beside its lines, which is its document; companion is the end of its name.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".json")
    answers_key: ClassVar[str | None] = None
    companion: ClassVar[str | None] = None
    needs_policy: ClassVar[bool] = False
    """Whether answers depend on the policy's thresholds."""

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self.facts: Mapping[str, str] = {}
        self.run = ""
        """The run's id in the form of a UUID."""
        self.rows = 0
        """How many rows there were, with the one that is being answered for."""
        self._write: Write
        self._separator = "\n"

    def begin(self) -> None:
        """Read `facts`, before the first row."""

    @abstractmethod
    def answer(self, row: Mapping[str, Any]) -> Answer | None:
        """What the service says of one image; None where it says nothing."""

    def element(self, row: Mapping[str, Any]) -> Any:
        """What stands for one image in a document; None where nothing does."""
        return self.answer(row)

    def head(self) -> Answer:
        """What a document with a key for its answers holds before them."""
        return {}

    def tail(self) -> Answer:
        """What it holds after them. `facts` are all that are known now."""
        return {}

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write, self.facts = write, facts
        self.run = _run_id(facts)
        self._namespace = UUID(self.run)
        self.begin()
        if self.options.document:
            members = [f"{_encode(key)}: {_encode(value)}, " for key, value in self.head().items()]
            opening = (
                f"{{{''.join(members)}{_encode(self.answers_key)}: [" if self.answers_key else "["
            )
            write(opening)

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        self.rows += 1
        if not self.options.document:
            answer = self.answer(row)
            if answer is not None:
                self._write(_encode(answer) + "\n")
            return
        element = self.element(row)
        if element is not None:
            self._write(self._separator + _encode(element))
            self._separator = ",\n"

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self.facts = facts
        if self.options.document:
            self._write("\n]")
            for key, value in self.tail().items():
                self._write(f", {_encode(key)}: ")
                for text in _parts(value):
                    self._write(text)
            self._write("}\n" if self.answers_key else "\n")

    # For the shapes -------------------------------------------------------------------------------

    def job(self) -> str:
        """An id for the answer to this row: a UUID, the same whenever these results are shaped."""
        return str(uuid5(self._namespace, str(self.rows)))

    def completed_at(self) -> str:
        """When the run ended, UTC, as `2026-04-12 07:13:32.407041`."""
        text = self.facts.get("ended") or self.facts.get("started") or ""
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            moment = datetime.now(UTC)
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def _parts(value: Any) -> Iterator[str]:
    """The JSON of a value; that of an array of numbers, which may be long, in parts."""
    if not isinstance(value, array):
        yield _encode(value)
        return
    yield "["
    for start in range(0, len(value), _NUMBERS):
        numbers = ", ".join(map(str, value[start : start + _NUMBERS]))
        yield f", {numbers}" if start else numbers
    yield "]"


def failure(row: Mapping[str, Any], *needed: str) -> Failure | None:
    """Why there is no answer from scores; None where no column that is needed is null."""
    if row.get("status") != Status.OK:
        message = row.get("error_message") or "this image could not be scored"
        return Failure(row.get("error_code") or "unknown_error", message)
    return NOT_SCORED if any(row.get(name) is None for name in needed) else None


def failure_of_all(
    row: Mapping[str, Any], categories: Sequence[str] = CATEGORIES
) -> Failure | None:
    """Why there is no answer; None where at least one of these categories was scored."""
    nothing = all(row.get(name) is None for name in categories)
    return failure(row) or (NOT_SCORED if nothing else None)


def _run_id(facts: Mapping[str, str]) -> str:
    try:
        return str(UUID(facts.get("run_id", "")))
    except ValueError:  # results of some other origin: the same id for the same facts
        return str(uuid5(NAMESPACE_OID, _encode(sorted(facts.items()))))


def number(score: float) -> float:
    """A score that is a float32, as the shortest decimal number that stands for it."""
    return float(shortest(score))


def image_name(row: Mapping[str, Any]) -> str:
    """What an image is called: its URI, else its path."""
    return str(row.get("uri") or row["path"])
