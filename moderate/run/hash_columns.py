"""The columns of perceptual hashes: in results of runs that ask for hashes, and read from there.

They stand among the carried columns, so that results of other runs are as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from moderate.errors import UsageError
from moderate.types import Column, PdqHash, Row

PDQ, PDQ_QUALITY, NEAR_DUPLICATE_OF = "pdq", "pdq_quality", "near_duplicate_of"

_DIGITS = re.compile(r"[0-9a-fA-F]{64}")


def hash_columns(*, hashes: bool, near_duplicates: bool) -> tuple[Column, ...]:
    """The columns that a run adds; none in a run without hashes."""
    if not hashes:
        return ()
    import pyarrow as pa

    columns = (Column(PDQ, pa.string()), Column(PDQ_QUALITY, pa.int64()))
    return (*columns, Column(NEAR_DUPLICATE_OF, pa.string())) if near_duplicates else columns


def with_hash_columns(
    carried: Sequence[Column], added: Sequence[Column], last: int
) -> tuple[Column, ...]:
    """Carried columns and those of hashes, before so many of the last ones of the former.

    Raises UsageError for one that stands twice.
    """
    names = {column.name for column in added}
    if taken := [column.name for column in carried if column.name in names]:
        raise UsageError(
            f"--keep: this run has a column {taken[0]} of its own; give the manifest's another "
            f"name, as in --keep my_{taken[0]}={taken[0]}"
        )
    end = len(carried) - last
    return (*carried[:end], *added, *carried[end:])


def with_hash(row: Row, carried: int, last: int) -> Row:
    """The row with cells for its hash where `with_hash_columns` puts the columns.

    It carries so many cells, or none; a row that has its hash already stays as it is.
    """
    cells = row.ref.carried or (None,) * carried
    if len(cells) > carried:
        return row
    end = carried - last
    cells = (*cells[:end], *hash_cells(row.facts.pdq), *cells[end:])
    return replace(row, ref=replace(row.ref, carried=cells))


def hash_cells(hashed: PdqHash | None) -> tuple[str | None, int | None]:
    """The cells of a hash in PDQ and PDQ_QUALITY."""
    return (None, None) if hashed is None else (hashed.bits.hex(), hashed.quality)


def hash_of_cells(digits: object, quality: object) -> PdqHash | None:
    """The hash that cells of results hold, of whatever type; None for anything else."""
    if not isinstance(digits, str) or not _DIGITS.fullmatch(digits):
        return None
    try:
        number = int(str(quality))
    except ValueError:
        return None
    return PdqHash(bytes.fromhex(digits), number)


def read_hashes(
    carried: Callable[[str], Sequence[Any]],
) -> Callable[[], Sequence[PdqHash | None]]:
    """What gives the hashes of rows whose carried columns these are."""
    return lambda: [
        hash_of_cells(*cells) for cells in zip(carried(PDQ), carried(PDQ_QUALITY), strict=True)
    ]
