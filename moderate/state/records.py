"""Outcomes of contents as bytes with a checksum, so that damaged ones are ignored.

SQLite has no checksums of its own, and a flipped bit in a score would become a wrong decision.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any, NamedTuple, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    ErrorCode,
    ImageError,
    ImageFacts,
    PdqHash,
    Scores,
    Warn,
)

# Headers and decoders may claim any number: 64 bits for each, as in the results. The layout is part
# of the checksum, so that a version of this program with another layout treats the record as
# unknown, and scores the image again.
_LAYOUT = b"5"
# With a perceptual hash at the end of the record: its 32 bytes and its quality.
_HASHED_LAYOUT = b"5 and pdq"
_HASH = struct.Struct("<32sB")
# checksum, scores (NaN: none), bytes, width, height, frames, frames scored, time of scoring, unseen
# share (NaN: none), number of labels
_OUTCOME = struct.Struct("<I5f6qfI")
_STAT = struct.Struct("<Iqqq")  # checksum, size, mtime, ctime
# The same for numpy, which unpacks many at once.
_HEADS = np.dtype(
    [
        ("checksum", "<u4"),
        ("scores", "<f4", len(CATEGORIES)),
        *((name, "<i8") for name in ("bytes", "width", "height", "frames", "frames_scored")),
        ("scored_at", "<i8"),
        ("unseen", "<f4"),
        ("label_count", "<u4"),
    ]
)
_STATS = np.dtype([("checksum", "<u4"), ("stat", "<i8", 3)])
_INT64 = range(-(1 << 63), 1 << 63)
_JOINT = "; "
_SEPARATOR = "\x1f"  # in no code, format or suffix; the message comes last and may hold anything
_SEPARATOR_BYTES = _SEPARATOR.encode()
_WARNINGS = {warning.value: warning for warning in Warn}


class FileStat(NamedTuple):
    """What shows that a file is unchanged: bytes, and the times of change in ns since 1970.

    Anybody can set mtime, such as the author of an archive; only the system sets ctime.
    """

    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of decoding and scoring some bytes.

    facts.warnings are those of decoding alone. claim is the format that the file's name claimed,
    where the error depends on it, else empty. labels are the scores of the labels that the run
    keeps, in its order; none of an error. places are those of `Row.places`. scored_at is when the
    scores were computed, or failed to be, in whole seconds since 1970; None where that is not
    known.
    """

    facts: ImageFacts
    result: Scores | ImageError
    claim: str = ""
    labels: tuple[float, ...] = ()
    scored_at: int | None = None
    places: str = ""


def pack_outcome(sha256: bytes, scope: bytes, outcome: Outcome) -> bytes:
    """The bytes of an outcome of this content (32 bytes) under this scope."""
    facts, result = outcome.facts, outcome.result
    scores = UNSCORED if isinstance(result, ImageError) else result
    text = [
        facts.format or "",
        ",".join(warning.value for warning in facts.warnings),
        _JOINT.join(facts.embedded),
        outcome.places,
    ]
    if isinstance(result, ImageError):
        text += [outcome.claim, result.code.value, result.message]
    packed = _OUTCOME.pack(
        0,
        *(math.nan if scores[c] is None else scores[c] for c in CATEGORIES),
        _number(facts.bytes),
        _number(facts.width),
        _number(facts.height),
        _number(facts.frames),
        _number(facts.frames_scored),
        _number(outcome.scored_at),
        math.nan if facts.unseen is None else facts.unseen,
        len(outcome.labels),
    )
    labels = struct.pack(f"<{len(outcome.labels)}f", *outcome.labels)
    tail = packed[4:] + labels + _SEPARATOR.join(text).encode("utf-8", "surrogatepass")
    layout = _LAYOUT
    if facts.pdq:
        layout, tail = _HASHED_LAYOUT, tail + _HASH.pack(*facts.pdq)
    return crc32(tail, crc32(layout + sha256 + scope)).to_bytes(4, "little") + tail


def unpack_outcome(sha256: bytes, scope: bytes, payload: object) -> Outcome | None:
    """The outcome that was packed for this content and scope.

    None where the checksum is wrong, and for what this version does not know: another layout, an
    error code or a warning of a newer version.
    """
    if not isinstance(payload, bytes) or len(payload) < _OUTCOME.size:
        return None
    checksum = int.from_bytes(payload[:4], "little")
    pdq = None
    if checksum != crc32(payload[4:], crc32(_LAYOUT + sha256 + scope)):
        if checksum != crc32(payload[4:], crc32(_HASHED_LAYOUT + sha256 + scope)):
            return None
        payload, pdq = _without_hash(payload)
    _, a, b, c, d, e, *numbers, unseen, label_count = _OUTCOME.unpack_from(payload)
    size, width, height, frames, frames_scored, scored_at = (
        None if number < 0 else number for number in numbers
    )
    labels = struct.unpack_from(f"<{label_count}f", payload, _OUTCOME.size)
    text = _unpack_text(payload[_OUTCOME.size + 4 * label_count :])
    if text is None:
        return None
    kind, warnings, embedded, places, error = text
    facts = ImageFacts(
        width,
        height,
        kind,
        frames,
        size,
        sha256.hex(),
        warnings,
        frames_scored,
        None if unseen != unseen else unseen,
        embedded,
        pdq=pdq,
    )
    if error:
        claim, code, message = error
        return Outcome(facts, ImageError(code, message), claim, (), scored_at)
    scores: dict[Category, float | None] = dict(zip(CATEGORIES, (a, b, c, d, e), strict=True))
    if math.isnan(a + b + c + d + e):
        scores = {name: None if score != score else score for name, score in scores.items()}
    return Outcome(facts, scores, "", labels, scored_at, places)


def _without_hash(payload: bytes) -> tuple[bytes, PdqHash]:
    """The record of the plain layout in one with a hash, and the hash."""
    end = len(payload) - _HASH.size
    return payload[:end], PdqHash(*_HASH.unpack_from(payload, end))


@lru_cache(maxsize=64)  # most texts are the same
def _unpack_text(
    data: bytes,
) -> (
    tuple[str | None, tuple[Warn, ...], tuple[str, ...], str, tuple[str, ErrorCode, str] | None]
    | None
):
    """Format, warnings, what is embedded, places, and of an error the claim, code and message.

    None for unknown words.
    """
    try:
        kind, warnings, embedded, places, *error = data.decode("utf-8", "surrogatepass").split(
            _SEPARATOR, 6
        )
        named = tuple(_WARNINGS[name] for name in warnings.split(",")) if warnings else ()
        parts = tuple(embedded.split(_JOINT)) if embedded else ()
        if not error:
            return kind or None, named, parts, places, None
        claim, code, message = error
        return kind or None, named, parts, places, (claim, ErrorCode(code), message)
    except (ValueError, KeyError):
        return None


@dataclass(frozen=True, slots=True)
class ScoredContents:
    """Outcomes of n contents that have scores, by columns.

    heads is a structured array (n) of `scores` (float32, in the order of CATEGORIES, NaN: none),
    `unseen` (float32, NaN: none) and of integers, negative where they are not known: `bytes`,
    `width`, `height`, `frames`, `frames_scored` and `scored_at`. labels are float32 (n, labels).
    texts are the format, the warnings and what is embedded, by the numbers in text_codes (n).
    places are those of `Outcome`, hashes those of the pictures, None where there is none.
    """

    heads: NDArray[Any]
    labels: NDArray[np.float32]
    texts: Sequence[tuple[str | None, tuple[Warn, ...], tuple[str, ...]]]
    text_codes: NDArray[np.int32]
    places: Sequence[str]
    hashes: Sequence[PdqHash | None]

    def __len__(self) -> int:
        return len(self.heads)

    def take(self, which: slice | NDArray[np.bool_]) -> ScoredContents:
        """Those of a slice, or of a mask."""
        places, hashes = (
            each[which] if isinstance(which, slice) else list(compress(each, which))
            for each in (self.places, self.hashes)
        )
        return ScoredContents(
            self.heads[which],
            self.labels[which],
            self.texts,
            self.text_codes[which],
            cast("Sequence[str]", places),
            cast("Sequence[PdqHash | None]", hashes),
        )

    def outcome(self, index: int, sha256: bytes) -> Outcome:
        """The outcome of one of them, whose content has this digest: that of `unpack_outcome`."""
        head, (kind, warnings, embedded) = self.heads[index], self.texts[self.text_codes[index]]
        numbers = {
            name: None if head[name] < 0 else int(head[name])
            for name in ("bytes", "width", "height", "frames", "frames_scored", "scored_at")
        }
        scored_at = numbers.pop("scored_at")
        unseen = float(head["unseen"])
        facts = ImageFacts(
            **numbers,
            format=kind,
            sha256=sha256.hex(),
            warnings=warnings,
            unseen=None if unseen != unseen else unseen,
            embedded=embedded,
            pdq=self.hashes[index],
        )
        scores = {
            name: None if score != score else score
            for name, score in zip(CATEGORIES, head["scores"].tolist(), strict=True)
        }
        labels = tuple(self.labels[index].tolist())
        return Outcome(facts, scores, "", labels, scored_at, self.places[index])


def unpack_scored(
    digests: Sequence[bytes], scope: bytes, payloads: Sequence[bytes], label_count: int
) -> tuple[ScoredContents, NDArray[np.bool_]]:
    """The outcomes of these contents under this scope, and which of them are as they should be.

    The others are for `unpack_outcome`: what is damaged or not known, errors, and outcomes with
    another number of labels.
    """
    head_size, text_at = _OUTCOME.size, _OUTCOME.size + 4 * label_count
    if min(map(len, payloads), default=0) < text_at:
        payloads = [each.ljust(text_at, b"\0") for each in payloads]
    heads = np.frombuffer(b"".join([each[:head_size] for each in payloads]), _HEADS)
    usable = heads["checksum"] == _checksums(_LAYOUT, digests, scope, payloads)
    hashes: list[PdqHash | None] = [None] * len(payloads)
    if not usable.all():
        hashed = heads["checksum"] == _checksums(_HASHED_LAYOUT, digests, scope, payloads)
        changed = list(payloads)
        for index in np.flatnonzero(hashed & ~usable).tolist():
            plain_record, hashes[index] = _without_hash(changed[index])
            changed[index] = plain_record.ljust(text_at, b"\0")
        payloads = changed
        usable |= hashed
    usable &= heads["label_count"] == label_count
    joined = b"".join([each[head_size:text_at] for each in payloads])
    labels = np.frombuffer(joined, "<f4").reshape(len(payloads), label_count)
    # The last field of a text is where scores are highest, in most images another one.
    tails = [each[text_at:] for each in payloads]
    ends = {tail: tail.rpartition(_SEPARATOR_BYTES) for tail in dict.fromkeys(tails)}
    known: dict[bytes, int] = {}
    numbers = {tail: known.setdefault(end[0], len(known)) for tail, end in ends.items()}
    codes = np.array([numbers[tail] for tail in tails], np.int32)
    texts: list[tuple[str | None, tuple[Warn, ...], tuple[str, ...]]] = []
    plain = []
    for each in known:
        text = _unpack_text(each + _SEPARATOR_BYTES)
        plain.append(text is not None and text[4] is None)
        texts.append(text[:3] if text else (None, (), ()))
    usable &= np.array(plain, bool)[codes]
    found = [ends[tail][2] if ok else b"" for tail, ok in zip(tails, usable.tolist(), strict=True)]
    try:
        places = _SEPARATOR_BYTES.join(found).decode().split(_SEPARATOR)
    except UnicodeDecodeError:
        places = [""] * len(payloads)
        usable[:] = False
    return ScoredContents(heads, labels, texts, codes, places, hashes), usable


def _checksums(
    layout: bytes, digests: Sequence[bytes], scope: bytes, payloads: Sequence[bytes]
) -> NDArray[np.uint32]:
    prefix = crc32(layout)
    checksums = [
        crc32(payload[4:], crc32(scope, crc32(digest, prefix)))
        for digest, payload in zip(digests, payloads, strict=True)
    ]
    return np.array(checksums, np.uint32)


def are_intact(
    paths: Sequence[bytes],
    digests: Sequence[bytes],
    stats: NDArray[np.int64],
    packed: Sequence[bytes],
) -> NDArray[np.bool_]:
    """Which of these bytes say that the file had this content and is as it was; see `pack_stat`.

    stats (n, 3) are those of `FileStat`.
    """
    sound = np.array(list(map(len, packed))) == _STAT.size
    checksums = [
        crc32(each[4:], crc32(digest, crc32(path)))
        for path, digest, each in zip(paths, digests, packed, strict=True)
    ]
    if not sound.all():
        nothing = bytes(_STAT.size)
        packed = [each if ok else nothing for each, ok in zip(packed, sound.tolist(), strict=True)]
    kept = np.frombuffer(b"".join(packed), _STATS)
    intact: NDArray[np.bool_] = sound & (kept["checksum"] == np.array(checksums, np.uint32))
    intact &= (kept["stat"] == stats).all(axis=1)
    return intact


def pack_stat(path: bytes, sha256: bytes, stat: FileStat) -> bytes | None:
    """The bytes that say: the file of this path digest had this content at that time.

    None where a number is too large, such as a time after the year 2262: such a file is read in
    every run.
    """
    if not all(number in _INT64 for number in stat):
        return None
    tail = _STAT.pack(0, stat.size, stat.mtime_ns, stat.ctime_ns)[4:]
    return crc32(tail, crc32(path + sha256)).to_bytes(4, "little") + tail


def unpack_stat(path: bytes, sha256: object, packed: object) -> FileStat | None:
    """The inverse of `pack_stat`; None where the checksum is wrong."""
    if not isinstance(sha256, bytes) or not isinstance(packed, bytes):
        return None
    if len(packed) != _STAT.size:
        return None
    checksum, size, mtime_ns, ctime_ns = _STAT.unpack(packed)
    if checksum != crc32(packed[4:], crc32(path + sha256)):
        return None
    return FileStat(size, mtime_ns, ctime_ns)


def _number(value: int | None) -> int:
    return -1 if value is None else value
