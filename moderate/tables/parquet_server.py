"""The processes that read Parquet: one that waits, and for each file a sandboxed one of its own.

A few bytes of Parquet can ask for any amount of memory (a page that repeats one long value, a
footer that lies about sizes), and damaged ones can abort the process. The waiting process has
imported what reading takes and never sees a file; it forks for each one, which costs milliseconds.
The fork reads one file within a limit of memory, and sends record batches as Arrow IPC. It may be
given the bytes of another one in place of the first, as those of the parts of a table.

Messages to a reader are JSON. Those from it are FRAME, followed by as many bytes as that says, but
for batches in memory that is shared with the parent: it copies one, then answers with a byte.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

FRAME = struct.Struct("<cQ")
"""What follows (one of the kinds below), and its length in bytes."""

SCHEMA, FACTS, BATCH, SHARED_BATCH, DONE, ERROR = b"S", b"F", b"B", b"M", b"D", b"E"
"""The file's Arrow schema, one with its metadata, a batch, one in the shared memory, and JSON."""

LENGTH = struct.Struct("<I")
"""Length of a message to a reader."""

LIMIT = struct.Struct("<Q")
"""What the waiting process is sent for each file, with three descriptors: bytes of memory."""

BATCH_BYTES = 4 << 20
"""What a batch of rows should hold."""

MAX_BATCH_BYTES = 4 * BATCH_BYTES
"""More is read again in smaller batches, down to single rows."""

SHARED_BYTES = MAX_BATCH_BYTES + (1 << 20)
"""Memory that a reader shares with the parent, so that all batches but single rows fit."""

BATCH_ROWS = 4096
"""Most rows of a batch."""

READ_BYTES = 1 << 20
"""Read of a column at once; without it, Arrow reads a row group's whole column."""

NO_MEMORY = "reading it needs more memory than a file of its size may use"
"""What is wrong with a file that is damaged, or made to exhaust memory."""

_FILE, _CHANNEL, _MEMORY = 0, 1, 2


class _UnreadableError(Exception):
    """What is wrong with the file, and in which row group."""

    def __init__(self, reason: str, group: int | None = None) -> None:
        super().__init__(reason)
        self.group = group


def main() -> None:
    """Fork a reader for each three descriptors (file, channel, memory) until the parent is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the readers
    _rehearse()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, LIMIT.size, 3)
        if not message:
            return
        try:
            child = os.fork()
        except OSError as error:
            child = -1
            reason = f"no process can be started for it: {error.strerror}"
            _send_all(descriptors[1], _json_frame(ERROR, {"failed": reason}))
        if child == 0:
            for descriptor, number in zip(descriptors, (_FILE, _CHANNEL, _MEMORY), strict=True):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, control.detach()):
                os.close(descriptor)
            try:
                _read_one_file(*LIMIT.unpack(message))
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _rehearse() -> None:
    """Read a table once, so that whatever is loaded late is there: readers can open nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    table = pa.table({"a": ["b"], "c": pa.array(["d"]).dictionary_encode(), "e": [{"f": b"g"}]})
    pq.write_table(table, sink)
    file = _open(io.BytesIO(sink.getvalue()))
    request = {"leaves": [["e", "f"], ["a"]], "columns": ["c"], "max_value_bytes": 1}
    rows = {"group": 0, "skip": 0, "most_rows": BATCH_ROWS, "max_row_bytes": 1 << 20}
    for batch in _batches(file, {**request, **rows}):
        _ipc(batch)
        _write_ipc(batch, _fixed_sink(bytearray(1 << 16)))
    gc.freeze()  # so that collecting does not copy the parent's pages


def _read_one_file(memory_bytes: int) -> None:
    from moderate.decode.sandbox import harden

    shared = mmap.mmap(_MEMORY, SHARED_BYTES)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, _MEMORY)  # standard error, which libraries write to
    os.close(devnull)
    harden(memory_bytes)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            file = _open(os.fdopen(_FILE, "rb", buffering=0, closefd=False))
            _send_file_facts(file)
            while True:
                request = _request()
                if request.get("again"):  # other bytes are there now, of another file
                    file = None
                    gc.collect()
                    file = _open(os.fdopen(_FILE, "rb", buffering=0, closefd=False))
                    _send_file_facts(file)
                else:
                    _send_batches(_batches(file, request), shared)
        except _UnreadableError as error:
            _send_error(str(error), error.group)
        except MemoryError:
            _send_error(NO_MEMORY, None)


def _send_batches(batches: Iterator[Any], shared: mmap.mmap) -> None:
    rows = 0
    in_use = False
    for batch in batches:
        rows += batch.num_rows
        if in_use:
            _receive(1)
        in_use = batch.nbytes <= MAX_BATCH_BYTES
        if not in_use:
            _send(BATCH, _ipc(batch))
            continue
        try:
            size = _write_ipc(batch, _fixed_sink(shared))
        except OSError:  # a schema larger than what there is for it
            in_use = False
            _send(BATCH, _ipc(batch))
        else:
            _send_all(_CHANNEL, FRAME.pack(SHARED_BATCH, size))
    if in_use:
        _receive(1)
    _send(DONE, json.dumps({"rows": rows}).encode())


def _open(source: Any) -> Any:
    """A pyarrow.parquet.ParquetFile; raises _UnreadableError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(
            pa.PythonFile(source, "r"),
            buffer_size=READ_BYTES,
            pre_buffer=False,  # else all that a row group has of a column is read at once
            page_checksum_verification=True,
        )
        _ = [field.name for field in file.schema_arrow]  # damaged names fail where they are asked
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong is wrong with this file
        raise _UnreadableError(str(error)) from None
    return file


def _send_file_facts(file: Any) -> None:
    import pyarrow as pa

    metadata = file.metadata
    try:
        schema = file.schema_arrow.serialize()
        facts = pa.schema([], metadata.metadata or {}).serialize()
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong is wrong with this file
        raise _UnreadableError(str(error)) from None
    _send(SCHEMA, schema)
    _send(FACTS, facts)
    _send(DONE, json.dumps({"groups": groups, "rows": metadata.num_rows}).encode())


def _batches(file: Any, request: dict[str, Any]) -> Iterator[Any]:
    """The record batches of a row group, none over MAX_BATCH_BYTES but of a single row.

    How large a value is shows when it is there: sizes in the footer may be anything. A batch that
    is too large, or that there is no memory for, is read again in smaller ones.
    """
    group, done = request["group"], request["skip"]
    rows = min(_first_rows(file, group), request["most_rows"])
    while rows:
        try:
            for batch in _group_batches(file, group, rows, done, request):
                if batch.num_rows > 1 and batch.nbytes > MAX_BATCH_BYTES:
                    rows = max(1, batch.num_rows * BATCH_BYTES // batch.nbytes)
                    break
                if batch.nbytes > request["max_row_bytes"]:
                    raise _UnreadableError(f"its row {done} holds {batch.nbytes} bytes", group)
                done += batch.num_rows
                yield batch
            else:
                rows = 0
        except MemoryError:
            if rows == 1:
                raise _UnreadableError(NO_MEMORY, group) from None
            rows = max(1, rows // 64)
        batch = None
        gc.collect()


def _first_rows(file: Any, group: int) -> int:
    """How many rows to try first: for an honest footer, about BATCH_BYTES."""
    try:
        metadata = file.metadata.row_group(group)
        rows: int = metadata.num_rows
        size: int = metadata.total_byte_size
    except Exception as error:  # noqa: BLE001 - whatever is wrong is wrong with this file
        raise _UnreadableError(str(error), group) from None
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(size // max(rows, 1), 1)))


def _group_batches(
    file: Any, group: int, rows: int, skip: int, request: dict[str, Any]
) -> Iterator[Any]:
    """What is left of a row group behind its first `skip` rows, in batches of at most `rows`."""
    columns = [*(".".join(leaf) for leaf in request["leaves"]), *request["columns"]]
    batches = file.iter_batches(
        rows, row_groups=[group], columns=list(dict.fromkeys(columns)), use_threads=False
    )
    seen = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            seen += batch.num_rows
            if seen <= skip:
                continue
            first = max(skip - (seen - batch.num_rows), 0)
            selected = _selected(batch.slice(first), request)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong is wrong with this file
            raise _UnreadableError(str(error), group) from None
        yield selected


def _selected(batch: Any, request: dict[str, Any]) -> Any:
    """A batch of the leaves as large_binary, the first one's lengths, and the columns.

    Values of the first leaf over `max_value_bytes` (where that is not 0) are null; the lengths are
    there for them. Text columns are binary too: a file may call text what is not UTF-8.
    """
    import pyarrow as pa

    leaves = [_as_binary(_leaf(batch, leaf)) for leaf in request["leaves"]]
    arrays, names = list(leaves), [f"leaf {index}" for index in range(len(leaves))]
    if limit := request["max_value_bytes"]:
        import pyarrow.compute as pc

        lengths = pc.binary_length(leaves[0])
        oversize = pc.greater(lengths, limit)
        if pc.any(oversize).as_py():
            nothing = pa.scalar(None, leaves[0].type)
            arrays[0] = pc.if_else(pc.fill_null(oversize, False), nothing, leaves[0])
        arrays.append(lengths)
        names.append("lengths")
    for column in request["columns"]:
        array = batch.column(batch.schema.get_field_index(column))
        if pa.types.is_dictionary(array.type):
            # A dictionary would be sent whole with every batch.
            array = array.dictionary_decode()
        arrays.append(_as_binary(array) if _is_text(array.type) and request["leaves"] else array)
        names.append(column)
    return pa.RecordBatch.from_arrays(arrays, names)


def _leaf(batch: Any, leaf: list[str]) -> Any:
    array = batch.column(batch.schema.get_field_index(leaf[0]))
    for name in leaf[1:]:
        # flatten(), unlike field(), makes the fields of a null struct null.
        array = array.flatten()[array.type.get_field_index(name)]
    return array


def _as_binary(array: Any) -> Any:
    """Text, binary or whole numbers as large_binary."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    if pa.types.is_string(array.type):
        array = array.cast(pa.binary())
    return array.cast(pa.large_binary())


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _ipc(batch: Any) -> Any:
    """A record batch as a stream of Arrow IPC of its own."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    _write_ipc(batch, sink)
    return sink.getvalue()


def _write_ipc(batch: Any, sink: Any) -> int:
    """Write that stream to a sink; returns its size. Raises OSError where it does not fit."""
    import pyarrow as pa

    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    size: int = sink.tell()
    return size


def _fixed_sink(memory: Any) -> Any:
    import pyarrow as pa

    return pa.FixedSizeBufferWriter(pa.py_buffer(memory))


def _request() -> dict[str, Any]:
    request: dict[str, Any] = json.loads(_receive(LENGTH.unpack(_receive(LENGTH.size))[0]))
    return request


def _receive(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(_CHANNEL, count - len(data))
        if not piece:
            raise BrokenPipeError  # the parent is done with the file
        data += piece
    return data


def _send(kind: bytes, payload: Any) -> None:
    _send_all(_CHANNEL, FRAME.pack(kind, memoryview(payload).nbytes))
    _send_all(_CHANNEL, payload)


def _send_error(reason: str, group: int | None) -> None:
    _send_all(_CHANNEL, _json_frame(ERROR, {"reason": reason[:4000], "group": group}))


def _json_frame(kind: bytes, value: Any) -> bytes:
    payload = json.dumps(value).encode()
    return FRAME.pack(kind, len(payload)) + payload


def _send_all(descriptor: int, data: Any) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main()
