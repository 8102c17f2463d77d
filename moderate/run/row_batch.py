"""Decided rows of a run by columns: what is written and counted without a row in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moderate.own_categories import score_column
from moderate.places import AT, places_text, read_places
from moderate.policy.batch import Decided, Encoded
from moderate.policy.judge import Judge
from moderate.policy.reasons import placed
from moderate.results.schema import own_columns, to_the_second
from moderate.run.hash_columns import hash_cells
from moderate.run.known_rows import KnownRows
from moderate.run.moments import moment
from moderate.run.policy_columns import policy_columns, texts
from moderate.text import path_text
from moderate.types import CATEGORIES, Origin, Row, Status
from moderate.uris import file_uris

_JOINT = "; "
_INTEGERS = ("width", "height", "frames", "frames_scored", "bytes")


@dataclass(slots=True, eq=False)
class RowBatch:
    """n decided rows, in order. None of them has an error or carries anything.

    decided has their reasons with the places that these are about. one_by_one gives them as rows.
    """

    known: KnownRows
    decided: Decided
    run_id: str
    labels: tuple[str, ...]
    folder: bytes | None
    one_by_one: Callable[[], list[Row]]

    def __len__(self) -> int:
        return len(self.known)

    @classmethod
    def of(
        cls,
        known: KnownRows,
        judge: Judge,
        run_id: str,
        labels: tuple[str, ...],
        folder: bytes | None,
        one_by_one: Callable[[], list[Row]],
    ) -> RowBatch:
        """What a policy makes of these rows."""
        decided = judge.decide(known.batch(judge.columns, labels))
        return cls(known, _with_places(known, decided), run_id, labels, folder, one_by_one)

    def path(self, index: int) -> str:
        """The path of a row as text."""
        return path_text(self.known.refs[index].display)

    def own_columns(self, labels: Sequence[str]) -> dict[str, Any]:
        """An Arrow array for each of `own_columns(labels)`, by its name: those of `values`."""
        known, count = self.known, len(self)
        heads = known.contents.heads
        scores, nothing = heads["scores"], pa.nulls(count, pa.string())
        formats, embedded = [], []
        for kind, _, parts in known.contents.texts:
            formats.append(kind)
            embedded.append(_JOINT.join(parts) or None)
        codes = known.contents.text_codes
        firsts, origins = known.duplicate_of, known.origins
        columns = {
            **_paths(known),
            "uri": pa.array(file_uris(known.refs.paths, self.folder), pa.string()),
            "origin": _constant(Origin.REUSED, count)
            if origins is None
            else pa.array([each.value for each in origins], pa.string()),
            "run_id": _constant(self.run_id, count) if self.run_id else nothing,
            "scored_at": texts(_times(heads["scored_at"])),
            "status": _constant(Status.OK, count),
            **policy_columns(self.decided),
            **{name: _floats(scores[:, place]) for place, name in enumerate(CATEGORIES)},
            **{name: pa.array(heads[name], mask=heads[name] < 0) for name in _INTEGERS},
            "format": texts(Encoded(formats, codes)),
            "highest_at": pa.array(_highest_at(known), pa.string()),
            "unseen": _floats(heads["unseen"]),
            "embedded": texts(Encoded(embedded, codes)),
            "segments": nothing,
            "duration": pa.nulls(count, pa.float32()),
            "sha256": _hexadecimal(known.sha256),
            "duplicate_of": nothing
            if firsts is None
            else pa.array([None if f is None else path_text(f) for f in firsts], pa.string()),
            "warnings": texts(
                Encoded(
                    [_JOINT.join(each) or None for each in known.warnings.values],
                    known.warnings.codes,
                )
            ),
            "error_code": nothing,
            "error_message": nothing,
        }
        for name in labels:
            columns[score_column(name)] = (
                _floats(known.contents.labels[:, self.labels.index(name)])
                if name in self.labels
                else pa.nulls(count, pa.float32())
            )
        return {column.name: columns[column.name] for column in own_columns(labels)}

    def hash_columns(self) -> list[Any]:
        """An Arrow array for each of `run.hash_columns.hash_columns` of a run without more."""
        cells = [hash_cells(each) for each in self.known.contents.hashes]
        digits, qualities = zip(*cells, strict=True) if cells else ((), ())
        return [pa.array(digits, pa.string()), pa.array(qualities, pa.int64())]


def _with_places(known: KnownRows, decided: Decided) -> Decided:
    """Say in the reasons which frame or part of a file they are about, as `placed` does."""
    places = known.contents.places
    if not any(places):
        return decided
    reasons, codes = list(decided.reasons.values), decided.reasons.codes.tolist()
    simple = [None if known.contents.labels.shape[1] else _of_category(each) for each in reasons]
    made: dict[tuple[int, str], int] = {}
    placed_codes = []
    for code, text in zip(codes, places, strict=True):
        if not text or code < 0:
            placed_codes.append(code)
            continue
        parts = simple[code]
        if parts is None:
            place = text
        else:
            term, what, rest = parts
            start = text.find(term) if text.startswith(term) else text.find(_JOINT + term)
            if start < 0:
                placed_codes.append(code)
                continue
            start += len(term) + (len(_JOINT) if start or not text.startswith(term) else 0)
            end = text.find(_JOINT, start)
            place = text[start:] if end < 0 else text[start:end]
        number = made.get((code, place))
        if number is None:
            made[code, place] = number = len(reasons)
            if parts is None:
                reasons.append(placed(reasons[code], read_places(text)))
            else:
                reasons.append((f"{what}{AT}{place}{rest}",))
        placed_codes.append(number)
    return replace(decided, reasons=Encoded(reasons, np.array(placed_codes, np.int32)))


def _of_category(reasons: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Of a single reason that is about a category: what its place follows, and what both stand in.

    None for other reasons.
    """
    if len(reasons) != 1:
        return None
    term = reasons[0].partition(" ")[0]
    if term not in CATEGORIES:
        return None
    what, _, rest = placed(reasons, {term: "\0"})[0].partition(f"{AT}\0")
    return term + AT, what, rest


def _highest_at(known: KnownRows) -> list[str | None]:
    places = known.contents.places
    if known.contents.labels.shape[1]:  # whose names may be anything
        return [places_text(read_places(text)) for text in places]
    return [text or None for text in places]


def _paths(known: KnownRows) -> dict[str, Any]:
    shown = known.refs.shown
    try:
        return {
            "path": pa.array(shown, pa.binary()).cast(pa.string()),
            "path_bytes": pa.nulls(len(shown), pa.binary()),
        }
    except pa.ArrowInvalid:  # not all are UTF-8
        paths = [path_text(each) for each in shown]
        exact = [None if p.encode() == e else e for p, e in zip(paths, shown, strict=True)]
        return {"path": pa.array(paths, pa.string()), "path_bytes": pa.array(exact, pa.binary())}


def _hexadecimal(digests: Sequence[bytes]) -> Any:
    """SHA-256 digests as text."""
    joined = b"".join(digests).hex().encode()
    starts = np.arange(0, len(joined) + 1, 64, dtype=np.int32)
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(starts), pa.py_buffer(joined))


def _constant(text: str, count: int) -> Any:
    return texts(Encoded([str(text)], np.zeros(count, np.int32)))


def _floats(values: NDArray[np.float32]) -> Any:
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _times(seconds: NDArray[np.int64]) -> Encoded[Any]:
    distinct, codes = np.unique(seconds, return_inverse=True)
    moments = [None if each < 0 else moment(each) for each in distinct.tolist()]
    values = [None if each is None else to_the_second(each) for each in moments]
    return Encoded(values, codes.astype(np.int32))
