"""Images of a run whose outcome the state knows: one by one, or many at once by columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.policy.batch import Batch, Encoded
from moderate.run.groups import LocalRefs
from moderate.state.contents import Claim
from moderate.state.known_files import FileRecord
from moderate.state.records import Outcome, ScoredContents
from moderate.types import ImageFacts, ImageRef, Origin, Warn


@dataclass(slots=True, eq=False)
class Known:
    """An image whose outcome is in the state. used is what to mark there as used, if anything.

    kept has its bytes, where they are wanted for a second opinion and cannot be read again.
    """

    ref: ImageRef
    facts: ImageFacts
    outcome: Outcome
    sha256: bytes
    file: FileRecord | None = None
    origin: Origin = Origin.REUSED
    duplicate_of: bytes | None = None
    used: tuple[bytes, bytes] | None = None
    kept: bytes | None = None


@dataclass(slots=True, eq=False)
class KnownRows:
    """n unchanged files that have scores, in input order.

    sha256 are the digests of their contents. warnings are those of the rows. used says what to mark
    in the state as used, empty where there is nothing. duplicate_of has the path of the first row
    with the same bytes; both it and origins are None where there are no copies among them.
    """

    refs: LocalRefs
    sha256: Sequence[bytes]
    contents: ScoredContents
    warnings: Encoded[tuple[Warn, ...]]
    used: Sequence[tuple[bytes, bytes] | None]
    duplicate_of: Sequence[bytes | None] | None = None
    origins: Sequence[Origin] | None = None

    def __len__(self) -> int:
        return len(self.refs)

    def part(self, start: int, end: int) -> KnownRows:
        """Some of them, before `note_claims`."""
        if (start, end) == (0, len(self)):
            return self
        these = slice(start, end)
        return KnownRows(
            self.refs[these],
            self.sha256[these],
            self.contents.take(these),
            Encoded(self.warnings.values, self.warnings.codes[these]),
            self.used[these],
        )

    def note_claims(self, claims: Sequence[Claim]) -> None:
        """Note which of them are copies of earlier rows."""
        self.duplicate_of = [claim.first for claim in claims]
        self.origins = [
            Origin.REUSED if claim.owner or claim.reused else Origin.DUPLICATE for claim in claims
        ]

    def known(self) -> list[Known]:
        """One by one."""
        origins = self.origins or [Origin.REUSED] * len(self)
        firsts = self.duplicate_of or [None] * len(self)
        rows = []
        for index, (ref, digest) in enumerate(zip(self.refs, self.sha256, strict=True)):
            outcome = self.contents.outcome(index, digest)
            warnings = self.warnings.values[self.warnings.codes[index]]
            facts = with_warnings(outcome, warnings)
            rows.append(Known(ref, facts, outcome, digest, None, origins[index], firsts[index]))
        return rows

    def batch(self, columns: Sequence[str], labels: Sequence[str]) -> Batch:
        """What decisions on them depend on; see `Batch.of`. labels are those that are kept."""
        heads = self.contents.heads
        nobody: Encoded[str] = Encoded([], np.full(len(self), -1, np.int32))

        def carried(name: str) -> list[Any]:
            place = columns.index(name) if name in columns else None
            return [
                None if place is None or not ref.carried else ref.carried[place]
                for ref in self.refs
            ]

        def of_label(name: str) -> NDArray[np.float32]:
            if name not in labels:
                return np.full(len(self), np.nan, np.float32)
            return self.contents.labels[:, labels.index(name)]

        none = next((n for n, each in enumerate(self.warnings.values) if not each), -1)
        codes = self.warnings.codes
        return Batch(
            scores=np.ascontiguousarray(heads["scores"].T),
            unseen=heads["unseen"],
            warnings=Encoded(self.warnings.values, np.where(codes == none, np.int32(-1), codes)),
            errors=nobody,
            paths=lambda: self.refs.shown,
            sha256=lambda: [digest.hex() for digest in self.sha256],
            carried=carried,
            labels=of_label,
            hashes=lambda: self.contents.hashes,
        )


def with_warnings(outcome: Outcome, warnings: tuple[Warn, ...]) -> ImageFacts:
    """The facts of an outcome with other warnings."""
    facts = outcome.facts
    if facts.warnings == warnings:
        return facts
    return replace(facts, warnings=warnings)
