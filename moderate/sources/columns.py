"""Which columns of a manifest name the images, and which are carried into the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moderate.errors import InputError, UsageError
from moderate.text import first_repeated, one_line, path_text
from moderate.types import LABEL_PREFIX, Limits, Listing

TEXT_NAMES = (
    "image",
    "img",
    "source-ref",
    "path",
    "file_path",
    "filepath",
    "file_name",
    "filename",
    "image_path",
    "img_path",
    "file",
    "url",
    "image_url",
    "img_url",
    "uri",
    "image_uri",
    "key",
)
"""Names that a column of paths or URLs goes by, the first that is there wins. Case, and whether
words are joined by `_`, `-` or a space, do not matter. `source-ref` is Amazon Rekognition's."""

BYTES_NAMES = ("image", "img", "image_bytes", "img_bytes", "bytes", "jpg", "jpeg", "png", "webp")
"""The same for a column of image bytes."""

NAMING_NAMES = (*TEXT_NAMES[3:], "image_id", "id", "__key__")
"""Columns that say what an image of a bytes column is called, the first that is there wins."""


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """How manifests are read.

    image_column: the column with paths, URLs or image bytes, or a struct's field as `image.bytes`;
    None: recognized by its name. keep: columns carried into the output, each as COLUMN or
    NAME=COLUMN. columns: the names of the columns of CSV whose first line holds none.
    max_file_bytes: the limit for an image's bytes. base: the folder that relative paths start from,
    also those of lists; None: the manifest's own, as with the metadata files of Hugging Face's
    image folders, so that a manifest and its images move together, and for lists the current one.
    """

    image_column: str | None = None
    keep: tuple[str, ...] = ()
    max_file_bytes: int = Limits().max_file_bytes
    base: bytes | None = None
    columns: tuple[str, ...] = ()

    def listing(self, name: str, folder: bytes | None) -> Listing:
        """The origin of a manifest's images; folder is its own, None for a stream."""
        return Listing(name, folder, (folder or b"") if self.base is None else self.base)


def parse_columns(text: str) -> tuple[str, ...]:
    """The names of --columns, `path,id`. Raises UsageError."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"--columns {text!r}: give a name for each column, as in path,id,label")
    if repeated := first_repeated(names):
        raise UsageError(f"--columns {text!r}: {repeated!r} is there twice")
    return names


def usual_column(columns: Sequence[str], names: Sequence[str], manifest: str) -> str | None:
    """The one of `columns` whose name comes first in `names`; None where there is none.

    Raises InputError where several have that name.
    """
    for name in names:
        matches = [column for column in columns if _normal(column) == _normal(name)]
        if len(matches) > 1:
            raise InputError(
                f"{manifest} has several columns that may name the images: {listed(matches)}; "
                "choose one with --image-column"
            )
        if matches:
            return matches[0]
    return None


def no_image_column(columns: Sequence[str], manifest: str, hint: str = "") -> InputError:
    """The error for a manifest without a column whose name stands for images."""
    return InputError(
        f"cannot tell which column of {manifest} names the images; choose one with "
        f"--image-column; it has: {listed(columns)}{hint}"
    )


def unknown_column(option: str, name: str, columns: Sequence[str], manifest: str) -> InputError:
    """The error for a requested column that does not exist."""
    wanted = one_line(f"{option} {name}")
    return InputError(f"{wanted}: {manifest} has no such column; it has: {listed(columns)}")


def check_once(option: str, name: str, columns: Sequence[str], manifest: str) -> None:
    """Raise InputError unless exactly one of `columns` is called `name`."""
    count = Counter(columns)[name]
    if count == 0:
        raise unknown_column(option, name, columns, manifest)
    if count > 1:
        raise InputError(
            one_line(f"{option} {name}: {manifest} has {count} columns of that name; rename them")
        )


class Kept(NamedTuple):
    """A carried column: its name in the results, and in the manifest."""

    name: str
    column: str


def kept_columns(options: ManifestOptions, columns: Sequence[str]) -> tuple[Kept, ...]:
    """The columns of --keep: COLUMN, or NAME=COLUMN for another name in the results.

    `columns` are those of the manifest; one whose own name holds `=` is recognized. Raises
    InputError for a name that the results have already, or that two columns would have.
    """
    from moderate.results.schema import COLUMNS

    own_names = {column.name for column in COLUMNS}
    kept: dict[str, Kept] = {}
    for wanted in options.keep:
        name, equals, column = wanted.partition("=")
        choice = Kept(name, column) if equals and wanted not in columns else Kept(wanted, wanted)
        if choice.name in own_names or choice.name.startswith(LABEL_PREFIX):
            raise InputError(
                f"--keep {wanted}: the results have a column {choice.name} themselves; give it "
                f"another name, as in --keep original_{choice.name}={choice.column}"
            )
        if not choice.name or kept.setdefault(choice.name, choice) != choice:
            raise InputError(one_line(f"--keep {wanted}: the results need a name for each column"))
    return tuple(kept.values())


def listed(columns: Sequence[str]) -> str:
    """Column names for a message, at most twenty."""
    names = ", ".join(one_line(_decoded(column), 60) or "''" for column in columns[:20])
    return f"{names}, and {len(columns) - 20} more" if len(columns) > 20 else names or "none"


def _decoded(column: str) -> str:
    """A name with bytes that are not UTF-8 shown as in paths."""
    try:
        return path_text(column.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # other surrogates, of JSON
        return column


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
