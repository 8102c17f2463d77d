"""Parquet files from anyone, read by a process that may cost only so much memory.

What a small file can ask for has no bound that its footer would tell; so none is opened here. See
`moderate.tables.parquet_server` for the processes.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from moderate.decode.process import packet_channel, start
from moderate.decode.ring import above_standard, allocate
from moderate.errors import InputError, RunError
from moderate.fetch.local import FetchError, OpenFile, open_regular
from moderate.tables.parquet_server import (
    BATCH,
    BATCH_ROWS,
    DONE,
    ERROR,
    FACTS,
    FRAME,
    LENGTH,
    LIMIT,
    MAX_BATCH_BYTES,
    NO_MEMORY,
    SCHEMA,
    SHARED_BATCH,
    SHARED_BYTES,
)
from moderate.text import one_line, path_text, printable

MIN_READER_BYTES = 512 << 20
"""Memory that the reader of any file may use. What the file itself has is added four times: a page
as it is stored, unpacked, as Arrow's values, and as it is sent."""

MAX_READER_BYTES = 4 << 30
"""The most that a reader may use; pages end at 2 GiB, and writers make them of 1 MiB or so."""

MAX_ROW_BYTES = 64 << 20
"""The most bytes of a row, but for the image in it."""

_SERVER = "moderate.tables.parquet_server"
_ANSWER_SECONDS = 300.0  # for the next batch; a page of hundreds of megabytes takes seconds
_BROKE_OFF = "the process that reads it broke off"
_SLACK_BYTES = 1 << 20  # what Arrow IPC adds to a batch, generously


class ParquetReader:
    """An open Parquet file; made by `open_parquet`. Used by one thread at a time.

    schema is its Arrow schema, metadata the key-value pairs of its footer; group_rows are the rows
    that its row groups promise, row_count those that its footer does.
    """

    schema: Any
    metadata: Mapping[bytes, bytes]
    group_rows: tuple[int, ...]
    row_count: int

    def __init__(self, name: str, file: OpenFile) -> None:
        """Takes over `file`. Raises what `open_parquet` does."""
        self._name = name
        self._file = file
        self._process: _Process | None = None
        try:
            self._start()
            self._read_facts()
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether there is a process that reads the file; an error ends it."""
        return self._process is not None

    def read_again(self, name: str) -> None:
        """Read the file anew, which by now has other bytes and is called `name`.

        Raises InputError.
        """
        self._name = name
        try:
            self._request({"again": True})
            self._read_facts()
        except BaseException:
            self.close()
            raise

    def _read_facts(self) -> None:
        self.schema = self._schema(SCHEMA)
        self.metadata = self._schema(FACTS).metadata or {}
        promised = self._json(self._expect(DONE))
        try:
            self.group_rows = tuple(int(count) for count in promised["groups"])
            self.row_count = int(promised["rows"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._unreadable(_BROKE_OFF) from None

    def __enter__(self) -> ParquetReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and end the process that reads it."""
        self._end()
        if self._file.fd >= 0:
            os.close(self._file.fd)
            self._file = replace(self._file, fd=-1)

    def batches(
        self,
        columns: Sequence[str] = (),
        *,
        leaves: Sequence[Sequence[str]] = (),
        max_value_bytes: int = 0,
        groups: Sequence[int] | None = None,
    ) -> Iterator[Any]:
        """Record batches of the rows of some row groups (all), in order, checked by Arrow.

        columns are whole ones by name, without dictionaries. leaves are columns, or fields of
        structs, of text, binary or integers: they come first, as large_binary; then text columns
        are large_binary, too, as they may not be UTF-8. With max_value_bytes, larger values of the
        first leaf are null, and the lengths of all its values follow the leaves.

        Has to be iterated to its end before the next call. Raises InputError where the file cannot
        be read on: it is damaged, or needs more memory than a file of its size may use.
        """
        request = {
            "columns": list(columns),
            "leaves": [list(leaf) for leaf in leaves],
            "max_value_bytes": max_value_bytes,
            "max_row_bytes": MAX_ROW_BYTES + 4 * max_value_bytes,
        }
        for group in range(len(self.group_rows)) if groups is None else groups:
            skip, most_rows = 0, BATCH_ROWS
            while most_rows:
                rows = {"group": group, "skip": skip, "most_rows": most_rows}
                try:
                    for batch in self._group(group, {**request, **rows}):
                        skip += batch.num_rows
                        yield batch
                    most_rows = 0
                except _BrokeOffError:
                    # Some of Arrow's decoders end the process where there is no memory; the least
                    # that they can be asked for is a row.
                    if most_rows == 1:
                        raise self._unreadable(NO_MEMORY, group) from None
                    most_rows = 1
                    self._start_again()

    def _group(self, group: int, request: dict[str, Any]) -> Iterator[Any]:
        self._request(request)
        largest = max(MAX_BATCH_BYTES, request["max_row_bytes"]) + _SLACK_BYTES
        rows = 0
        while True:
            kind, data = self._frame(largest)
            if kind == DONE:
                if self._json(data).get("rows") != rows:
                    raise self._unreadable(_BROKE_OFF, group)
                return
            if kind != BATCH:
                raise self._unreadable(_BROKE_OFF, group)
            for batch in self._checked(data, group):
                rows += batch.num_rows
                yield batch

    def _request(self, request: dict[str, Any]) -> None:
        message = json.dumps(request).encode()
        assert self._process is not None
        with contextlib.suppress(OSError):  # it is gone: that no answer comes says so
            self._process.channel.sendall(LENGTH.pack(len(message)) + message)

    def _start(self) -> None:
        limit = min(MIN_READER_BYTES + 4 * self._file.size, MAX_READER_BYTES)
        self._process = _servers.reader(self._file.fd, limit)

    def _start_again(self) -> None:
        self._end()
        self._start()
        for kind in (SCHEMA, FACTS, DONE):
            self._expect(kind)

    def _end(self) -> None:
        if self._process is not None:
            self._process.channel.close()
            self._process.shared.close()
            self._process = None

    def _checked(self, data: bytearray, group: int) -> list[Any]:
        """The batches in a frame. Checked in full: the process may have been taken over.

        Text that is not UTF-8 is for whoever reads it: they name its row, or escape it.
        """
        try:
            with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
                batches = list(stream)
            for batch in batches:
                for array in batch.columns:
                    check_structure(array)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(str(error), group) from None
        return batches

    def _schema(self, kind: bytes) -> Any:
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(self._expect(kind)))
            _ = [(field.name, str(field.type)) for field in schema]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(str(error)) from None
        return schema

    def _expect(self, expected: bytes) -> bytearray:
        try:
            kind, data = self._frame(MAX_BATCH_BYTES)
        except _BrokeOffError:
            kind = b""
        if kind != expected:
            raise self._unreadable(_BROKE_OFF)
        return data

    def _frame(self, largest: int) -> tuple[bytes, bytearray]:
        """What comes next. Raises InputError for an error, _BrokeOffError where nothing comes."""
        assert self._process is not None
        kind, size = FRAME.unpack(self._receive(FRAME.size))
        if size > (SHARED_BYTES if kind == SHARED_BATCH else largest):
            raise self._unreadable(_BROKE_OFF)
        if kind == SHARED_BATCH:
            # Copied first: the process could change it after it was checked.
            data = bytearray(memoryview(self._process.shared)[:size])
            with contextlib.suppress(OSError):
                self._process.channel.sendall(b"\0")
            return BATCH, data
        data = self._receive(size)
        if kind != ERROR:
            return kind, data
        problem = self._json(data)
        if "failed" in problem:
            raise RunError(f"{self._name} cannot be read: {one_line(str(problem['failed']))}")
        group = problem.get("group")
        raise self._unreadable(str(problem.get("reason")), group if type(group) is int else None)

    def _receive(self, count: int) -> bytearray:
        assert self._process is not None
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                received = self._process.channel.recv_into(view)
            except TimeoutError:
                reason = f"reading took over {_ANSWER_SECONDS:g} s"
                raise self._unreadable(reason) from None
            except OSError:
                received = 0
            if not received:
                raise _BrokeOffError
            view = view[received:]
        return data

    def _json(self, data: bytearray) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._unreadable(_BROKE_OFF)
        return value

    def _unreadable(self, reason: str, group: int | None = None) -> InputError:
        self.close()
        if group is None:
            return InputError(f"{self._name} is not readable Parquet: {one_line(reason)}")
        return InputError(f"row group {group} of {self._name} cannot be read: {one_line(reason)}")


def check_structure(array: Any) -> None:
    """Check that all of an array lies where its type says. Raises pa.ArrowException.

    That is Arrow's full validation, but for whether text is UTF-8.
    """
    array.view(_with_bytes_for_text(array.type)).validate(full=True)


def _with_bytes_for_text(kind: Any) -> Any:
    """The type with the same layout whose text is binary, at any depth."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_field_with_bytes(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_field_with_bytes(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_field_with_bytes(kind.value_field), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([_field_with_bytes(field) for field in kind])
    if pa.types.is_map(kind):
        keys = _with_bytes_for_text(kind.key_type)
        return pa.map_(keys, _field_with_bytes(kind.item_field), kind.keys_sorted)
    return kind


def _field_with_bytes(field: Any) -> Any:
    return field.with_type(_with_bytes_for_text(field.type))


def open_parquet(path: bytes) -> ParquetReader:
    """Open a Parquet file and read its footer.

    Raises InputError for what is not a regular file or not Parquet that can be read, RunError where
    no process can be started.
    """
    name = printable(path_text(path))
    try:
        file = open_regular(path)
    except FetchError as error:
        reason = error.error.message.removeprefix("cannot read: ")
        raise InputError(f"cannot read {name}: {reason}") from None
    return ParquetReader(name, file)


class ParquetSeries:
    """Parquet files that one process reads, one after the other; a context manager.

    For the files of one owner, the largest of which has most_bytes: one that took over the process
    could change what is read of those after it. Used by one thread at a time.
    """

    def __init__(self, most_bytes: int) -> None:
        self._limit = most_bytes
        self._reader: ParquetReader | None = None
        memory = above_standard(os.memfd_create("moderate-parquet-file", os.MFD_CLOEXEC))
        self._memory = os.fdopen(memory, "wb", buffering=0)

    def __enter__(self) -> ParquetSeries:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process that reads."""
        if self._reader is not None:
            self._reader.close()
        self._memory.close()

    def open(self, name: str, data: bytes) -> ParquetReader:
        """Read a file with these bytes from now on, and none that was opened before.

        Raises InputError for what is not Parquet that can be read, RunError where no process can be
        started.
        """
        self._memory.seek(0)
        self._memory.truncate()
        view = memoryview(data)
        while view:
            view = view[self._memory.write(view) :]
        if self._reader is not None and self._reader.is_open:
            self._reader.read_again(name)
        else:
            # A descriptor of its own, by which the process cannot write.
            descriptor = os.open(f"/proc/self/fd/{self._memory.fileno()}", os.O_RDONLY)
            file = OpenFile(above_standard(descriptor), max(self._limit, len(data)))
            self._reader = ParquetReader(name, file)
        return self._reader


class _BrokeOffError(Exception):
    """The process that reads a file is gone."""


class _Process(NamedTuple):
    """The channel to a process that reads a file, and the memory that it writes batches to."""

    channel: socket.socket
    shared: mmap.mmap


class _Servers:
    """The waiting process of this one, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def reader(self, file: int, memory_bytes: int) -> _Process:
        """A new process that reads a file within a limit of memory. Raises RunError."""
        ours, theirs = socket.socketpair()
        ours.settimeout(_ANSWER_SECONDS)
        memory = allocate("moderate-parquet", SHARED_BYTES)
        try:
            descriptors = [file, theirs.fileno(), memory]
            for _ in range(2):
                with contextlib.suppress(OSError):  # it was killed: another one is started
                    socket.send_fds(self._connected(), [LIMIT.pack(memory_bytes)], descriptors)
                    return _Process(ours, mmap.mmap(memory, SHARED_BYTES))
                self.end()
        finally:
            theirs.close()
            os.close(memory)
        ours.close()
        raise RunError("the process that reads Parquet cannot be started")

    def end(self) -> None:
        """End the waiting process, and with it all readers."""
        with self._lock:
            if self._control is not None:
                self._control.close()
            if self._process is not None:
                self._process.wait()
            self._control = self._process = None

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._control is None:
                self._control, self._process = _start_server()
            return self._control


_servers = _Servers()
atexit.register(_servers.end)


def _start_server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A new waiting process and the channel to it. Raises RunError."""
    control, server_end = packet_channel()
    control.setblocking(True)
    # Arrow's allocator reserves a GiB otherwise, which would count as used.
    variables = {"MIMALLOC_ARENA_RESERVE": str(64 << 10)}  # KiB
    with server_end:
        try:
            process = start(_SERVER, [server_end.fileno()], variables)
        except OSError as error:
            control.close()
            reason = error.strerror or str(error)
            raise RunError(f"the process that reads Parquet cannot be started: {reason}") from None
    return control, process
