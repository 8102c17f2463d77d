"""Tensors from torch's .pth files of before version 1.6, without unpickling them.

Such a file is a row of five pickles and then the values. Python's unpickler runs what a pickle
says; here an interpreter of the few opcodes that torch wrote builds plain values, knows four names
of functions and calls none of them. Anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from moderate.classify.files import shown
from moderate.errors import WeightsError
from moderate.regular import read_regular
from moderate.text import one_line, printable

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_FORMAT: Final = 1001
_MAX_BYTES = 1 << 30  # of a file
_MAX_OPCODES = 1_000_000  # of one pickle
_MAX_RANK = 8

_ORDERED_DICT = "collections OrderedDict"
_REBUILD = "torch._utils _rebuild_tensor_v2"
_STORAGES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
_GLOBALS = frozenset({_ORDERED_DICT, _REBUILD, *_STORAGES})

# What torch wrote, by code; what follows any other opcode is not even read.
_NAMES = frozenset(
    {"PROTO", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"}
    | {"BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2"}
    | {"TUPLE3", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "APPEND", "APPENDS"}
    | {"SETITEM", "SETITEMS", "GLOBAL", "BINPERSID", "REDUCE", "BUILD"}
)
_OPCODES = {
    opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes if opcode.name in _NAMES
}


@dataclass(frozen=True, slots=True)
class _Global:
    """A name of a function or class, which stays a name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """Values that follow the pickles: `count` of them, of a NumPy type."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor: a part of a storage, counted in values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a list of operands begins on the stack."""


class _MalformedError(Exception):
    """The file is malformed; the message says how."""


def read_legacy_pth(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name. Raises WeightsError for anything else."""
    where = shown(path)
    try:
        data = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise WeightsError(f"{where}: {error.strerror}") from error
    try:
        return _read(data)
    except _MalformedError as error:
        raise WeightsError(f"{where}: {one_line(str(error), 200)}") from error


def _read(data: bytes) -> dict[str, torch.Tensor]:
    stream = io.BytesIO(data)
    if _load(stream) != _MAGIC or _load(stream) != _FORMAT:
        raise _MalformedError("not a torch file of before version 1.6")
    system = _load(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _MalformedError("not written on a little-endian machine")
    views = _load(stream)
    if not isinstance(views, dict) or not all(isinstance(v, _View) for v in views.values()):
        raise _MalformedError("it does not hold a state dict of tensors alone")
    if not views:
        raise _MalformedError("it holds no tensors")
    storages = _read_storages(data, stream, views)
    # Tensors may share a storage, but a file must not grow when its tensors are copied apart.
    held = sum(values.size for values in storages.values())
    if sum(math.prod(view.shape) for view in views.values()) > held:
        raise _MalformedError("its tensors hold more values than the file")
    tensors: dict[str, torch.Tensor] = {}
    for name, view in views.items():
        values = torch.from_numpy(storages[view.storage.key])
        tensors[name] = values.as_strided(view.shape, view.strides, view.offset).clone()
    return tensors


def _read_storages(
    data: bytes, stream: io.BytesIO, views: dict[str, _View]
) -> dict[str, NDArray[Any]]:
    """The values behind the tensors, by key: a count of 8 bytes and the values, for each key."""
    keys = _load(stream)
    needed: dict[str, _Storage] = {}
    for view in views.values():
        if needed.setdefault(view.storage.key, view.storage) != view.storage:
            raise _MalformedError(f"storage {printable(view.storage.key)} is described in two ways")
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) != len(keys)
        or set(keys) != set(needed)
    ):
        raise _MalformedError("the values that follow are not those of the tensors")
    position = stream.tell()
    found: dict[str, NDArray[Any]] = {}
    for key in keys:
        storage = needed[key]
        count = int.from_bytes(data[position : position + 8], "little")
        size = storage.count * np.dtype(storage.dtype).itemsize
        position += 8
        if count != storage.count or len(data) - position < size:
            raise _MalformedError(f"storage {printable(key)} is cut off, or of another size")
        found[key] = np.frombuffer(data, storage.dtype, storage.count, position).copy()
        position += size
    if position != len(data):
        raise _MalformedError("something follows the values")
    return found


def _load(stream: io.BytesIO) -> object:
    """The value of the pickle that begins here."""
    try:
        return _Interpreter().run(stream)
    except (IndexError, KeyError):
        raise _MalformedError("a pickle takes operands that are not there") from None
    except (OverflowError, ValueError) as error:
        # From pickletools, which reads what follows an opcode.
        raise _MalformedError(f"a pickle is malformed: {error}") from error


class _Interpreter:
    """Plain values from a pickle: numbers, text, tuples, lists and dicts with text as keys."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> object:
        for _ in range(_MAX_OPCODES):
            code = stream.read(1)
            if code == b".":
                (value,) = self._stack
                return value
            if not code:
                raise _MalformedError("a pickle is cut off")
            if code not in _OPCODES:
                raise _MalformedError(
                    f"a pickle has the opcode {code!r}, which torch did not write"
                )
            opcode = _OPCODES[code]
            self._step(opcode.name, opcode.arg.reader(stream) if opcode.arg else None)
        raise _MalformedError("a pickle has too many opcodes")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO":
                if argument != 2:
                    raise _MalformedError(f"pickle protocol {argument}, which torch did not write")
            case "MARK":
                stack.append(_Mark())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self._operands()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack.append(tuple([self._pop() for _ in range(count)][::-1]))
            case "BINPUT" | "LONG_BINPUT":
                if isinstance(stack[-1], _Mark):
                    raise IndexError
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "APPEND":
                value = self._pop()
                self._extend(stack[-1], [value])
            case "APPENDS":
                values = self._operands()
                self._extend(stack[-1], values)
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._operands()
                self._update(stack[-1], items)
            case "GLOBAL":
                if argument not in _GLOBALS:
                    raise _MalformedError(
                        f"it names {printable(str(argument))}, which could run code; "
                        "only tensors are read"
                    )
                stack.append(_Global(argument))
            case "BINPERSID":
                stack.append(_storage(self._pop()))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                stack.append(_result(function, arguments))
            case "BUILD":
                state, target = self._pop(), stack[-1]
                # torch keeps versions of modules as an attribute of the state dict.
                if not isinstance(target, dict) or not isinstance(state, dict):
                    raise _MalformedError("a pickle changes what is not a state dict")
                if set(state) != {"_metadata"}:
                    raise _MalformedError("a pickle changes attributes of a state dict")
            case _:
                raise AssertionError(name)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise IndexError
        return value

    def _operands(self) -> list[Any]:
        """Everything above the last mark."""
        operands: list[Any] = []
        while not isinstance(value := self._stack.pop(), _Mark):
            operands.append(value)
        return operands[::-1]

    @staticmethod
    def _extend(target: object, values: list[Any]) -> None:
        if not isinstance(target, list):
            raise _MalformedError("a pickle appends to what is not a list")
        target.extend(values)

    @staticmethod
    def _update(target: object, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise _MalformedError("a pickle adds items to what is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise _MalformedError("a dict has a key that is not text")
            if key in target:
                raise _MalformedError(f"{printable(key)} is there twice")
            target[key] = value


def _storage(identity: object) -> _Storage:
    """('storage', class, key, device, count, None), as torch writes it."""
    if isinstance(identity, tuple) and len(identity) == 6:
        word, kind, key, device, count, view = identity
        if (
            word == "storage"
            and isinstance(kind, _Global)
            and kind.name in _STORAGES
            and isinstance(key, str)
            and isinstance(device, str)
            and type(count) is int
            and 0 <= count <= _MAX_BYTES
            and view is None
        ):
            return _Storage(key, _STORAGES[kind.name], count)
    raise _MalformedError("a storage that is not one of float32 or int64 values")


def _result(function: object, arguments: object) -> object:
    """What torch's function would build of its arguments, described and not called."""
    if function == _Global(_ORDERED_DICT) and arguments == ():
        return {}
    if function == _Global(_REBUILD) and isinstance(arguments, tuple) and len(arguments) == 6:
        storage, offset, shape, strides, _, _ = arguments
        if isinstance(storage, _Storage) and type(offset) is int:
            sizes, steps = _sizes(shape), _sizes(strides)
            if len(sizes) == len(steps) and _lies_inside(storage.count, offset, sizes, steps):
                return _View(storage, offset, sizes, steps)
        raise _MalformedError("a tensor does not lie inside its storage")
    raise _MalformedError("a pickle calls what is not a function of torch's")


def _sizes(value: object) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) <= _MAX_RANK:
        numbers = tuple(item for item in value if type(item) is int and 0 <= item <= _MAX_BYTES)
        if len(numbers) == len(value):
            return numbers
    raise _MalformedError("a tensor has a shape that is not read")


def _lies_inside(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a tensor uses values of its storage alone, and no more than there are."""
    if offset < 0 or math.prod(shape) > count:
        return False
    if 0 in shape:
        return offset <= count
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    return last < count
