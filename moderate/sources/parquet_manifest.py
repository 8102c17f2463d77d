"""Parquet manifests: paths, URLs or image bytes, and Hugging Face's struct of both."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moderate.arrow import python_values
from moderate.errors import InputError
from moderate.fetch.local import FetchError
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
from moderate.sources.entries import bad_ref, empty_file, entry_ref, no_image, shown
from moderate.sources.interface import Column, Source
from moderate.sources.lines import file_name, unreadable
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError, ImageRef, Inline, Skipped

BATCH_BYTES = 16 << 20
"""What a batch of rows should hold at most. One value, or one page of the file, may be more."""

BATCH_ROWS = 4096
"""Most rows of a batch."""

READ_BYTES = 1 << 20
"""Read of a column at once; without it, Arrow reads a row group's whole column."""

Field = tuple[str, ...]
"""A column's name, followed by that of a struct's field."""

_USUAL_NAMES = tuple(dict.fromkeys((*TEXT_NAMES[:3], *BYTES_NAMES, *TEXT_NAMES)))


@dataclass(frozen=True, slots=True)
class ImageFields:
    """Where a row's image is: its bytes, else the path or URL of it; and what it is called."""

    data: Field | None
    text: Field | None
    name: Field | None


@dataclass(frozen=True, slots=True)
class ParquetManifest(Source):
    """One or more Parquet files of the same columns; made by `parquet_manifest`.

    A path or URL names its row. Bytes are called `file.parquet!/NAME`, NAME being the struct's path
    or a column such as file_name or id, else `row-000017`, counted from 0 within the file.

    Only the columns needed are read, in batches of about BATCH_BYTES; a page, which writers make as
    large as they like, is the least that can be read. Raises InputError where a file cannot be
    read on, since rows would be missing.
    """

    paths: tuple[bytes, ...]
    kept: tuple[Column, ...]
    kept_from: tuple[str, ...]
    options: ManifestOptions

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        return self.kept

    @property
    def may_be_empty(self) -> bool:
        """See `Source`."""
        return True

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return self.paths

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        for path in self.paths:
            yield from self._file(path)

    def _file(self, path: bytes) -> Iterator[ImageRef]:
        options = self.options
        base = os.path.dirname(path) if options.base is None else options.base
        with _open(path) as file:
            fields = _image_fields(file.schema_arrow, options, file_name(path))
            masked = _masked_columns(fields)
            row = 0
            for batch in _batches(path, file, fields, self.kept_from):
                data = _field_array(batch, fields.data) if fields.data else None
                texts = _texts(batch, fields.text)
                names = _texts(batch, fields.name)
                carried = [_values(batch, column, masked) for column in self.kept_from]
                for index in range(batch.num_rows):
                    yield _ref(
                        _Row(path, row, base, options, tuple(values[index] for values in carried)),
                        data[index] if data is not None else None,
                        texts[index],
                        names[index],
                    )
                    row += 1
            if row != file.metadata.num_rows:
                raise InputError(
                    f"{file_name(path)} is damaged: {row} rows where its footer tells "
                    f"of {file.metadata.num_rows}"
                )


def parquet_manifest(paths: Sequence[bytes], options: ManifestOptions) -> ParquetManifest:
    """Read the footers of `paths` (at least one) and find the columns.

    Raises InputError for a file that is not readable Parquet, or encrypted, or without the columns
    asked for, or where a kept column's type is not the same in all files.
    """
    names: tuple[str, ...] = ()
    columns: tuple[Column, ...] | None = None
    for path in paths:
        manifest = file_name(path)
        with _open(path) as file:
            schema = file.schema_arrow
            fields = _image_fields(schema, options, manifest)
            kept = kept_columns(options, schema.names)
            names = tuple(column for _, column in kept)
            for name in names:
                check_once("--keep", name, schema.names, manifest)
                if fields.data and name == fields.data[0]:
                    raise InputError(
                        f"--keep {name}: the column holds images, which no result keeps"
                    )
            found = tuple(
                Column(name, _kept_type(schema.field(column).type)) for name, column in kept
            )
            if columns is not None and found != columns:
                changed = next(new for old, new in zip(columns, found, strict=True) if old != new)
                raise InputError(
                    f"--keep {changed.name}: {manifest} has it as {changed.type}, unlike "
                    f"{file_name(paths[0])}"
                )
            columns = found
    return ParquetManifest(tuple(paths), columns or (), names, options)


def _open(path: bytes) -> Any:
    """A pyarrow.parquet.ParquetFile; raises InputError."""
    name = file_name(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"cannot read {name}: not a regular file")
        file = pq.ParquetFile(
            pa.OSFile(path),  # takes a path of any bytes
            buffer_size=READ_BYTES,
            pre_buffer=False,  # else all that a row group has of a column is read at once
            page_checksum_verification=True,
        )
        for field in file.schema_arrow:
            # Damaged names fail where they are first asked for.
            _ = field.name, _is_image_struct(field.type)
        return file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(name, error) from None
        raise InputError(f"{name} is not readable Parquet: {one_line(str(error))}") from None


def _batches(path: bytes, file: Any, fields: ImageFields, kept: Sequence[str]) -> Iterator[Any]:
    """All rows as record batches with the columns needed."""
    leaves = [".".join(f) for f in (fields.data, fields.text, fields.name) if f]
    columns = list(dict.fromkeys([*leaves, *kept]))
    for group in range(file.metadata.num_row_groups):
        try:
            rows = _batch_rows(file.metadata.row_group(group), fields)
            batches = file.iter_batches(
                rows, row_groups=[group], columns=columns, use_threads=False
            )
            while (batch := next(batches, None)) is not None:
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"row group {group} of {file_name(path)} cannot be read: {one_line(str(error))}"
            ) from None


def _batch_rows(group: Any, fields: ImageFields) -> int:
    """How many rows of a row group to read at once.

    A batch of images could consist of the largest, or of one that a dictionary repeats: what bounds
    every value is the size of the row group. That of single columns is not asked for, since Arrow
    aborts the process over some damaged footers then.
    """
    rows: int = group.num_rows
    size: int = group.total_byte_size
    per_row = max(size if fields.data else size // max(rows, 1), 1)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // per_row))


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
    names = [
        field.name
        for field in schema
        if schema.names.count(field.name) == 1
        and (_is_text(field.type) or pa.types.is_integer(field.type))
    ]
    for name in NAMING_NAMES:
        if name in names:
            return (name,)
    return None


def _usable(field: Any) -> bool:
    """Whether a column of a usual name is one of images, by its type."""
    name, kind = field.name, field.type
    if _is_image_struct(kind):
        return True
    if _is_binary(kind):
        return True
    # Text called `bytes` or `png` is no path.
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


def _field_array(batch: Any, field: Field) -> Any:
    array = batch.column(batch.schema.get_field_index(field[0]))
    for name in field[1:]:
        # flatten(), unlike field(), makes the fields of a null struct null.
        array = array.flatten()[array.type.get_field_index(name)]
    return array


def _texts(batch: Any, field: Field | None) -> list[bytes | None]:
    """Values as bytes: a file may call text what is not UTF-8."""
    if field is None:
        return [None] * batch.num_rows
    array = _field_array(batch, field)
    if pa.types.is_dictionary(array.type):
        values = _as_bytes(array.dictionary)
        return [None if index is None else values[index] for index in array.indices.to_pylist()]
    return _as_bytes(array)


def _as_bytes(array: Any) -> list[bytes | None]:
    kind = array.type
    if pa.types.is_integer(kind):
        return [None if value is None else b"%d" % value for value in array.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = array.cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
    elif pa.types.is_string_view(kind):
        array = array.cast(pa.string()).cast(pa.binary())
    values: list[bytes | None] = array.to_pylist()
    return values


def _kept_type(kind: Any) -> Any:
    """The type that a kept column is written with: an extension's storage."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _masked_columns(fields: ImageFields) -> frozenset[str]:
    """Columns whose URLs must not show credentials."""
    return frozenset({fields.text[0]} if fields.text else ())


def _values(batch: Any, column: str, masked: frozenset[str]) -> list[Any]:
    """A kept column's values in Python."""
    array = batch.column(batch.schema.get_field_index(column))
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if column in masked and _is_text(array.type):
        texts = _texts(batch, (column,))
        return [
            None if text is None else shown(text).decode("utf-8", "backslashreplace")
            for text in texts
        ]
    return python_values(array)


@dataclass(frozen=True, slots=True)
class _Row:
    manifest: bytes
    number: int
    base: bytes
    options: ManifestOptions
    carried: tuple[Any, ...]

    def member(self, name: bytes | None) -> bytes:
        return self.manifest + b"!/" + (shown(name) if name else b"row-%06d" % self.number)

    def bad(self, error: ImageError, name: bytes | None = None) -> ImageRef:
        place = f"row {self.number} of {file_name(self.manifest)}"
        return bad_ref(self.member(name), place, error, self.carried)


def _ref(row: _Row, data: Any, text: bytes | None, name: bytes | None) -> ImageRef:
    """The image of a row: from its bytes where it has any, else from its path or URL."""
    if data is not None and pa.types.is_dictionary(data.type):
        data = data.value
    if data is not None and data.is_valid:
        buffer = data.as_buffer()
        limit = row.options.max_file_bytes
        if buffer.size > limit:
            message = (
                f"{buffer.size} bytes is over the limit of {limit}; raise it with --max-file-size"
            )
            return row.bad(ImageError(ErrorCode.FILE_TOO_LARGE, message), name)
        if not buffer.size:
            return row.bad(empty_file(), name)
        path = row.member(name)
        return ImageRef(path, location=Inline(buffer.to_pybytes()), carried=row.carried)
    if text is None:
        return row.bad(no_image("the image is null"), None)
    try:
        return entry_ref(
            text,
            base=row.base,
            max_file_bytes=row.options.max_file_bytes,
            carried=row.carried,
        )
    except FetchError as error:
        return row.bad(error.error)
