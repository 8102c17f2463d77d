"""The graph and the tensors of an ONNX file, read as untrusted data and without running anything.

The format is protobuf: https://protobuf.dev/programming-guides/encoding and onnx.proto3. Only the
part that networks of layers need is accepted. Tensors in other files are refused: whoever reads
those opens a path that the model chose. So are subgraphs and functions, which could nest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moderate.classify.files import shown
from moderate.errors import WeightsError
from moderate.regular import read_regular
from moderate.text import one_line, printable

Array = NDArray[Any]
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | Array

_MAX_BYTES = 1 << 30  # of a file
_MAX_FIELDS = 200_000  # of one message: nodes and tensors of a graph among them
_MAX_INTEGERS = 1_000_000  # of one list
_MAX_RANK = 8

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# TensorProto.data_type: NumPy's type, and the field that may hold the values in place of raw_data.
_TYPES = {
    1: ("<f4", 4),
    2: ("|u1", 5),
    3: ("|i1", 5),
    6: ("<i4", 5),
    7: ("<i8", 7),
    9: ("|b1", 0),
    10: ("<f2", 0),
    11: ("<f8", 10),
}
# How the values of such a field are encoded.
_TYPED = {4: "<f4", 10: "<f8", 5: "varint", 7: "varint"}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; inputs that are left out are empty names."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph. A dimension that is not fixed is None.

    shape is None where the file states none. element is the number that ONNX has for the type of
    the elements (TensorProto.DataType); 1 is float32.
    """

    name: str
    shape: tuple[int | None, ...] | None
    element: int


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A whole model. inputs leaves out names that a tensor gives a value."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Array]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class _MalformedError(Exception):
    """The file is malformed; the message says how."""


def read_onnx(path: Path) -> OnnxGraph:
    """Read an ONNX file. Raises WeightsError where it is malformed or uses what is not accepted."""
    where = shown(path)
    try:
        data = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise WeightsError(f"{where}: {error.strerror}") from error
    return parse_onnx(data, where)


def parse_onnx(data: bytes, where: str) -> OnnxGraph:
    """The graph in the bytes of an ONNX file, which errors call `where`. Raises WeightsError."""
    try:
        return _read_model(memoryview(data))
    except _MalformedError as error:
        raise WeightsError(f"{where}: {one_line(str(error), 200)}") from error


class _Message:
    """The fields of one message, each either given at most once or repeated.

    Protobuf lets the last of two values win; a file with two would mean one thing to this reader
    and might mean another to the next.
    """

    def __init__(self, data: memoryview, what: str) -> None:
        self._what = what
        self._fields: dict[int, list[tuple[int, int | memoryview]]] = {}
        for count, (number, wire, value) in enumerate(_fields(data, what)):
            if count == _MAX_FIELDS:
                raise _MalformedError(f"{what} has more than {_MAX_FIELDS} parts")
            self._fields.setdefault(number, []).append((wire, value))

    def has(self, number: int) -> bool:
        return number in self._fields

    def refuse(self, **numbers: int) -> None:
        """Raises _MalformedError where one of these fields is there; the keywords name them."""
        for name, number in numbers.items():
            if number in self._fields:
                raise _MalformedError(
                    f"{self._what} has {name.replace('_', ' ')}, which is not read"
                )

    def messages(self, number: int) -> list[memoryview]:
        return [self._bytes(wire, value) for wire, value in self._fields.get(number, ())]

    def message(self, number: int) -> memoryview | None:
        values = self.messages(number)
        if len(values) > 1:
            raise _MalformedError(f"{self._what} has field {number} twice")
        return values[0] if values else None

    def text(self, number: int) -> str:
        value = self.message(number)
        return "" if value is None else self._decode(value)

    def texts(self, number: int) -> tuple[str, ...]:
        return tuple(self._decode(value) for value in self.messages(number))

    def integer(self, number: int, default: int = 0) -> int:
        values = self._fields.get(number)
        if values is None:
            return default
        if len(values) > 1 or values[0][0] != _VARINT:
            raise _MalformedError(f"{self._what} has a field {number} that is not one integer")
        assert isinstance(values[0][1], int)
        return _signed(values[0][1])

    def integers(self, number: int) -> tuple[int, ...]:
        """Repeated integers, packed or not."""
        found: list[int] = []
        for wire, value in self._fields.get(number, ()):
            if wire == _VARINT and isinstance(value, int):
                found.append(_signed(value))
            else:
                packed = self._bytes(wire, value)
                position = 0
                while position < len(packed):
                    integer, position = _varint(packed, position, self._what)
                    found.append(_signed(integer))
                    if len(found) > _MAX_INTEGERS:
                        raise _MalformedError(f"{self._what} has too long a list of integers")
        return tuple(found)

    def floats(self, number: int, dtype: str = "<f4") -> Array:
        """Repeated numbers of fixed size, packed or not."""
        single = _FIXED32 if dtype == "<f4" else _FIXED64
        parts: list[bytes] = []
        for wire, value in self._fields.get(number, ()):
            parts.append(bytes(self._bytes(_BYTES if wire == single else wire, value)))
        data = b"".join(parts)
        if len(data) % np.dtype(dtype).itemsize:
            raise _MalformedError(f"{self._what} has a cut number")
        return np.frombuffer(data, dtype)

    def _bytes(self, wire: int, value: int | memoryview) -> memoryview:
        if wire != _BYTES or not isinstance(value, memoryview):
            raise _MalformedError(f"{self._what} has a field of the wrong type")
        return value

    def _decode(self, value: memoryview) -> str:
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise _MalformedError(f"{self._what} has a name that is not UTF-8") from None


def _fields(data: memoryview, what: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of every field: an integer, or the bytes of all other types."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position, what)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _MalformedError(f"{what} has a field without a number")
        if wire == _VARINT:
            integer, position = _varint(data, position, what)
            yield number, wire, integer
            continue
        if wire == _BYTES:
            size, position = _varint(data, position, what)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _MalformedError(f"{what} is not protobuf of ONNX (wire type {wire})")
        if size > len(data) - position:
            raise _MalformedError(f"{what} is cut off")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int, what: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _MalformedError(f"{what} is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position
    raise _MalformedError(f"{what} has an integer of more than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _read_model(data: memoryview) -> OnnxGraph:
    model = _Message(data, "the model")
    model.refuse(training_info=20, functions=25)
    graph = model.message(7)
    if graph is None or not model.has(1):
        raise _MalformedError("not an ONNX model: it has no graph")
    for opset in model.messages(8):
        domain = _Message(opset, "an operator set").text(1)
        if domain not in ("", "ai.onnx"):
            raise _MalformedError(f"operators of {printable(domain)!r} are not read")
    return _read_graph(graph)


def _read_graph(data: memoryview) -> OnnxGraph:
    graph = _Message(data, "the graph")
    graph.refuse(sparse_tensors=15)
    tensors: dict[str, Array] = {}
    for item in graph.messages(5):
        name, array = _read_tensor(item)
        if name in tensors:
            raise _MalformedError(f"tensor {printable(name)} is there twice")
        tensors[name] = array
    nodes = tuple(_read_node(item) for item in graph.messages(1))
    if not tensors and not any(_is_constant(node) for node in nodes):
        raise _MalformedError("the graph holds no tensors")
    ports = [_read_port(item) for item in graph.messages(11)]
    return OnnxGraph(
        nodes=nodes,
        tensors=tensors,
        # Old files list the tensors among the inputs, too.
        inputs=tuple(port for port in ports if port.name not in tensors),
        outputs=tuple(_read_port(item) for item in graph.messages(12)),
    )


def _is_constant(node: Node) -> bool:
    return any(isinstance(value, np.ndarray) for value in node.attributes.values())


def _read_tensor(data: memoryview) -> tuple[str, Array]:
    tensor = _Message(data, "a tensor")
    name = tensor.text(8)
    what = f"tensor {printable(name)}"
    if tensor.has(13) or tensor.integer(14) != 0:
        raise _MalformedError(f"{what} lies in another file (external data), which is not read")
    tensor.refuse(segments=3)
    shape = tensor.integers(1)
    kind = tensor.integer(2)
    if kind not in _TYPES:
        raise _MalformedError(f"{what} has the type {kind}, which is not read")
    dtype, field = _TYPES[kind]
    if len(shape) > _MAX_RANK or any(side < 0 for side in shape):
        raise _MalformedError(f"{what} has a shape that is not read")
    count = math.prod(shape)
    given = [number for number in (4, 5, 6, 7, 9, 10, 11) if tensor.has(number)]
    if len(given) > 1 or (given and given[0] not in (9, field)):
        raise _MalformedError(f"{what} has values of another type")
    if given in ([], [9]):
        raw = tensor.message(9) or memoryview(b"")
        if len(raw) != count * np.dtype(dtype).itemsize:
            raise _MalformedError(
                f"{what} has {len(raw)} bytes, not the {count * np.dtype(dtype).itemsize} of "
                f"its shape {shape}"
            )
        values = np.frombuffer(raw, dtype)
    elif _TYPED[field] == "varint":
        integers = tensor.integers(field)
        limit = np.iinfo(dtype)
        if any(not limit.min <= value <= limit.max for value in integers):
            raise _MalformedError(f"{what} has a value that its type cannot hold")
        values = np.array(integers, dtype)
    else:
        values = tensor.floats(field, _TYPED[field])
    if values.size != count:
        raise _MalformedError(
            f"{what} has {values.size} values, not the {count} of its shape {shape}"
        )
    return name, values.reshape(shape).copy()


def _read_node(data: memoryview) -> Node:
    node = _Message(data, "an operation")
    operator = node.text(4)
    if node.text(7) not in ("", "ai.onnx"):
        raise _MalformedError(f"the operator {printable(operator)!r} is not one of ONNX itself")
    attributes: dict[str, Attribute] = {}
    for item in node.messages(5):
        name, value = _read_attribute(item)
        if name in attributes:
            raise _MalformedError(f"attribute {printable(name)} is there twice")
        attributes[name] = value
    return Node(operator, node.texts(1), node.texts(2), attributes)


def _read_attribute(data: memoryview) -> tuple[str, Attribute]:
    attribute = _Message(data, "an attribute")
    name = attribute.text(1)
    attribute.refuse(a_graph=6, strings=9, tensors=10, graphs=11, a_reference=21)
    attribute.refuse(a_sparse_tensor=22, sparse_tensors=23)
    kind = attribute.integer(20)
    if attribute.has(5) != (kind == 4):
        raise _MalformedError(f"attribute {printable(name)} is a tensor and is none")
    if kind == 4:
        return name, _read_tensor(attribute.message(5) or memoryview(b""))[1]
    if kind == 1:
        values = attribute.floats(2)
        if values.size == 1:
            return name, float(values[0])
    elif kind == 2:
        return name, attribute.integer(3)
    elif kind == 3:
        return name, attribute.text(4)
    elif kind == 6:
        return name, tuple(float(value) for value in attribute.floats(7))
    elif kind == 7:
        return name, attribute.integers(8)
    raise _MalformedError(f"attribute {printable(name)} has the type {kind}, which is not read")


def _read_port(data: memoryview) -> Port:
    port = _Message(data, "an input or output")
    name = port.text(1)
    kind = _Message(port.message(2) or memoryview(b""), "a type")
    tensor = _Message(kind.message(1) or memoryview(b""), "a type")
    stated = tensor.message(2)
    if stated is None:
        return Port(name, None, tensor.integer(1))
    dimensions: list[int | None] = []
    for item in _Message(stated, "a shape").messages(1):
        dimension = _Message(item, "a dimension")
        dimensions.append(dimension.integer(1) if dimension.has(1) else None)
    return Port(name, tuple(dimensions), tensor.integer(1))


class Convolution(NamedTuple):
    """How a Conv node slides over its input; pads are those at the starts, then at the ends."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: object
    auto_pad: object


def convolution_of(node: Node) -> Convolution:
    """The attributes of a Conv node in two dimensions, with ONNX's defaults.

    Raises WeightsError.
    """
    return Convolution(
        attribute_integers(node, "strides", (1, 1)),
        attribute_integers(node, "pads", (0, 0, 0, 0)),
        attribute_integers(node, "dilations", (1, 1)),
        node.attributes.get("group", 1),
        node.attributes.get("auto_pad", "NOTSET"),
    )


def attribute_integers(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers. Raises WeightsError where it is something else."""
    value = node.attributes.get(name, default)
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        return tuple(int(item) for item in value)
    raise WeightsError(f"attribute {printable(name)} of {printable(node.operator)} is no list")
