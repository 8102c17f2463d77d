"""Parquet manifests: paths, URLs or image bytes, and Hugging Face's struct of both."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from moderate.arrow import python_values
from moderate.errors import InputError
from moderate.fetch.local import FetchError
from moderate.fetch.naming import shown
from moderate.sources.columns import (
    BYTES_NAMES,
    NAMING_NAMES,
    TEXT_NAMES,
    ManifestOptions,
    check_once,
    kept_columns,
    no_image_column,
    unknown_column,
    usual_column,
)
from moderate.sources.entries import (
    MAX_PATH_BYTES,
    abridged,
    bad_ref,
    empty_file,
    entry_ref,
    no_image,
    path_too_long,
)
from moderate.sources.interface import Source
from moderate.sources.parquet_folder import partition_values
from moderate.tables.lines import file_name
from moderate.tables.parquet import open_parquet
from moderate.text import one_line
from moderate.types import Column, ErrorCode, ImageError, ImageRef, Inline, Listing, Skipped

Field = tuple[str, ...]
"""A column's name, followed by that of a struct's field."""

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_USUAL_NAMES = tuple(dict.fromkeys((*TEXT_NAMES[:3], *BYTES_NAMES, *TEXT_NAMES)))


@dataclass(frozen=True, slots=True)
class ImageFields:
    """The fields with a row's image: its bytes, its path or URL, and its name."""

    data: Field | None
    text: Field | None
    name: Field | None


@dataclass(frozen=True, slots=True)
class ParquetManifest(Source):
    """One or more Parquet files of the same columns; made by `parquet_manifest`.

    A row is named by its path or URL. Bytes are named `file.parquet!/NAME`, where NAME is the
    struct's path, a column such as file_name or id, or `row-000017`, counted from 0 per file.
    partitions has, for each file, the values of the columns that its folders name.

    Only the needed columns are read, by a sandboxed process of limited memory. Raises InputError
    where the rest of a file cannot be read, since rows would be missing.
    """

    kind: ClassVar[str] = "Parquet"

    paths: tuple[bytes, ...]
    kept: tuple[Column, ...]
    kept_from: tuple[str, ...]
    options: ManifestOptions
    root: bytes | None = None
    partitions: tuple[Mapping[str, str | int | None], ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        return self.kept

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return self.paths

    def image_count(self) -> int | None:
        """See `Source`: the rows of files that hold the images themselves."""
        rows = 0
        for path in self.paths:
            with open_parquet(path) as file:
                if _image_fields(file.schema, self.options, file_name(path)).data is None:
                    return None
                rows += file.row_count
        return rows

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        partitions = self.partitions or ({},) * len(self.paths)
        for path, partition in zip(self.paths, partitions, strict=True):
            yield from self._file(path, partition)

    def _file(self, path: bytes, partition: Mapping[str, str | int | None]) -> Iterator[ImageRef]:
        options = self.options
        name = file_name(path if self.root is None else self.root)
        folder = os.path.dirname(path) if self.root is None else self.root
        listing = options.listing(name, folder)
        with open_parquet(path) as file:
            fields = _image_fields(file.schema, options, file_name(path))
            read = [column for column in self.kept_from if column in file.schema.names]
            masked = _masked_columns(fields)
            leaves = [leaf for leaf in (fields.data, fields.text, fields.name) if leaf]
            limit = max(options.max_file_bytes, 1) if fields.data else 0
            batches = file.batches(read, leaves=leaves, max_value_bytes=limit)
            row = 0
            for batch in batches:
                columns = iter(batch.columns)
                data = next(columns) if fields.data else None
                texts = _next_values(columns, fields.text, batch)
                names = _next_values(columns, fields.name, batch)
                sizes = next(columns).to_pylist() if limit else None
                values = {
                    column: _values(array, file.schema.field(column).type, column in masked)
                    for column, array in zip(read, columns, strict=True)
                }
                carried = [
                    values[column] if column in values else [partition[column]] * batch.num_rows
                    for column in self.kept_from
                ]
                for index in range(batch.num_rows):
                    row_values = tuple(column[index] for column in carried)
                    yield _ref(
                        _Row(path, row, listing, options, row_values),
                        data[index] if data is not None else None,
                        sizes[index] if sizes is not None else None,
                        texts[index],
                        names[index],
                    )
                    row += 1
            if row != file.row_count:
                raise InputError(
                    f"{file_name(path)} is damaged: {row} rows where its footer tells "
                    f"of {file.row_count}"
                )


def parquet_manifest(
    paths: Sequence[bytes], options: ManifestOptions, root: bytes | None = None
) -> ParquetManifest:
    """Read the footers of `paths` (at least one) and find the columns.

    root is the folder that they are the parts of: relative paths start from it, and what folders
    within it are called (`key=value`) are columns too, unless the files have such a column.

    Raises InputError for a file that is not readable Parquet, is encrypted, or lacks a requested
    column, and where a kept column's type is not the same in all files.
    """
    partitions, partition_columns = _partitions(paths, root)
    names: tuple[str, ...] = ()
    columns: tuple[Column, ...] | None = None
    for path in paths:
        manifest = file_name(path)
        with open_parquet(path) as file:
            schema = file.schema
            fields = _image_fields(schema, options, manifest)
            all_names = [*schema.names, *(n for n in partition_columns if n not in schema.names)]
            kept = kept_columns(options, all_names)
            names = tuple(column for _, column in kept)
            for name in names:
                check_once("--keep", name, all_names, manifest)
                if fields.data and name == fields.data[0]:
                    raise InputError(
                        f"--keep {name}: the column holds images, which no result keeps"
                    )
            file_columns = tuple(
                Column(
                    name,
                    _kept_type(schema.field(column).type)
                    if column in schema.names
                    else partition_columns[column],
                )
                for name, column in kept
            )
            if columns is not None and file_columns != columns:
                changed = next(
                    new for old, new in zip(columns, file_columns, strict=True) if old != new
                )
                raise InputError(
                    f"--keep {changed.name}: {manifest} has it as {changed.type}, unlike "
                    f"{file_name(paths[0])}"
                )
            columns = file_columns
    return ParquetManifest(tuple(paths), columns or (), names, options, root, partitions)


def _partitions(
    paths: Sequence[bytes], root: bytes | None
) -> tuple[tuple[Mapping[str, str | int | None], ...], dict[str, Any]]:
    """What the folders of each file say, and the columns of that with their types.

    A column is int64 where all its values are whole numbers as a number is written, else text: a
    month `01` is not to become 1. Raises InputError where not all files have the same columns.
    """
    if root is None:
        return (), {}
    texts = [partition_values(root, path) for path in paths]
    columns: dict[str, Any] = {}
    for path, values in zip(paths, texts, strict=True):
        if values.keys() != texts[0].keys():
            raise InputError(
                f"{file_name(path)} lies in folders that name other columns than those of "
                f"{file_name(paths[0])}"
            )
    for name in texts[0]:
        present = [values[name] for values in texts if values[name] is not None]
        is_whole = all(_WHOLE_NUMBER.fullmatch(value or "") for value in present)
        columns[name] = pa.int64() if present and is_whole else pa.string()
    typed = tuple(
        {
            name: int(value) if value is not None and columns[name] == pa.int64() else value
            for name, value in values.items()
        }
        for values in texts
    )
    return typed, columns


def _image_fields(schema: Any, options: ManifestOptions, manifest: str) -> ImageFields:
    """Find the image column; raises InputError."""
    if options.image_column is not None:
        return _chosen_fields(schema, options.image_column, manifest)
    usable = [field.name for field in schema if _usable(field)]
    name = usual_column(usable, _USUAL_NAMES, manifest)
    if name is None:
        structs = [field.name for field in schema if _is_image_struct(field.type)]
        if len(structs) != 1:
            raise no_image_column(schema.names, manifest)
        name = structs[0]
    return _fields_of(schema, schema.field(name), (name,))


def _chosen_fields(schema: Any, name: str, manifest: str) -> ImageFields:
    field: Any = None
    place: Field = (name,)
    if name in schema.names:
        check_once("--image-column", name, schema.names, manifest)
        field = schema.field(name)
    elif "." in name:
        outer, inner = name.split(".", 1)
        if schema.names.count(outer) == 1 and pa.types.is_struct(schema.field(outer).type):
            parent = schema.field(outer).type
            place = (outer, inner)
            if parent.get_field_index(inner) >= 0:
                field = parent.field(inner)
    if field is None:
        raise unknown_column("--image-column", name, schema.names, manifest)
    kind = field.type
    if not (_is_text(kind) or _is_binary(kind) or (len(place) == 1 and _is_image_struct(kind))):
        raise InputError(
            f"--image-column {one_line(name)}: {manifest} has it as {one_line(str(kind), 80)}; "
            "paths and URLs are strings, images are binary or a struct of bytes and path"
        )
    return _fields_of(schema, field, place)


def _fields_of(schema: Any, field: Any, place: Field) -> ImageFields:
    kind = field.type
    if _is_image_struct(kind):
        path = kind.get_field_index("path") >= 0 and _is_text(kind.field("path").type)
        data = kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
        text = (*place, "path") if path else None
        if not data:
            return ImageFields(None, text, None)
        return ImageFields((*place, "bytes"), text, text or _naming_field(schema))
    if _is_text(kind) or usual_column([field.name], NAMING_NAMES, "") is not None:
        # Writers that do not mark text leave paths as plain binary.
        return ImageFields(None, place, None)
    return ImageFields(place, None, _naming_field(schema))


def _naming_field(schema: Any) -> Field | None:
    counts = Counter(schema.names)
    names = {
        field.name
        for field in schema
        if counts[field.name] == 1 and (_is_text(field.type) or pa.types.is_integer(field.type))
    }
    for name in NAMING_NAMES:
        if name in names:
            return (name,)
    return None


def _usable(field: Any) -> bool:
    """Whether the type of a column fits a usual name of image columns."""
    name, kind = field.name, field.type
    if _is_image_struct(kind):
        return True
    if _is_binary(kind):
        return True
    # A text column named `bytes` or `png` does not hold paths.
    return _is_text(kind) and usual_column([name], TEXT_NAMES, "") is not None


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    kind = _value_type(kind)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _is_binary(kind: Any) -> bool:
    kind = _value_type(kind)
    tests = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )
    return any(test(kind) for test in tests)


def _is_image_struct(kind: Any) -> bool:
    """Hugging Face's Image: a struct of bytes, a path, or both."""
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    return ("bytes" in fields and _is_binary(fields["bytes"])) or (
        "path" in fields and _is_text(fields["path"])
    )


def _next_values(columns: Iterator[Any], field: Field | None, batch: Any) -> list[bytes | None]:
    """The values of the next column, as bytes: what a file calls text may not be UTF-8."""
    if field is None:
        return [None] * batch.num_rows
    values: list[bytes | None] = next(columns).to_pylist()
    return values


def _kept_type(kind: Any) -> Any:
    """The type that a kept column is written with; of an extension type, its storage."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _masked_columns(fields: ImageFields) -> frozenset[str]:
    """Columns whose URLs must not show credentials."""
    return frozenset({fields.text[0]} if fields.text else ())


def _values(array: Any, kind: Any, masked: bool) -> list[Any]:
    """A kept column's values in Python; `kind` is its type in the manifest."""
    if _is_text(kind):
        texts: list[bytes | None] = array.to_pylist()
        return [
            None
            if text is None
            else (shown(text) if masked else text).decode("utf-8", "backslashreplace")
            for text in texts
        ]
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    return python_values(array)


@dataclass(frozen=True, slots=True)
class _Row:
    manifest: bytes
    number: int
    listing: Listing
    options: ManifestOptions
    carried: tuple[Any, ...]

    def member(self, name: bytes | None) -> bytes:
        return self.manifest + b"!/" + (shown(name) if name else b"row-%06d" % self.number)

    def bad(self, error: ImageError, name: bytes | None = None, text: bytes = b"") -> ImageRef:
        place = f"row {self.number} of {file_name(self.manifest)}"
        within = ImageRef(self.manifest)
        return bad_ref(self.member(name), place, error, self.carried, text, within)


def _ref(
    row: _Row, data: Any, size: int | None, text: bytes | None, name: bytes | None
) -> ImageRef:
    """The image of a row: from its bytes where it has any, else from its path or URL.

    size is that of the bytes. data is null where they are over the limit.
    """
    if size is not None:
        limit = row.options.max_file_bytes
        if name is not None and len(name) > MAX_PATH_BYTES:
            return row.bad(path_too_long(len(name)), abridged(name))
        if size > limit:
            message = f"{size} bytes is over the limit of {limit}; raise it with --max-file-size"
            return row.bad(ImageError(ErrorCode.FILE_TOO_LARGE, message), name)
        if not size:
            return row.bad(empty_file(), name)
        path = row.member(name)
        within = ImageRef(row.manifest)
        return ImageRef(path, location=Inline(data.as_py()), carried=row.carried, within=within)
    if text is None:
        return row.bad(no_image("the image is null"), None)
    try:
        return entry_ref(
            text,
            listing=row.listing,
            max_file_bytes=row.options.max_file_bytes,
            carried=row.carried,
        )
    except FetchError as error:
        return row.bad(error.error, text=text)
