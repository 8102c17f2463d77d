"""Reads the ONNX graph of a bundle and checks it against the bundle's card.

A graph counts only as bytes: those whose digest was checked are those that are inspected here and
then given to the runtime. It never sees a path, so that it cannot look for files beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moderate.classify.bundle import ModelFiles
from moderate.classify.card import GRAPH, Layout
from moderate.classify.files import shown
from moderate.classify.onnx_reader import OnnxGraph, Port, parse_onnx
from moderate.errors import WeightsError
from moderate.regular import read_regular
from moderate.text import one_line, printable

MAX_GRAPH_BYTES = 1 << 30
_FLOAT32 = 1  # TensorProto.DataType


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph states about its inputs and outputs; height and width in pixels.

    single: it takes one image at a time. classes is None where the file does not state it.
    last_operator is the one that gives the output.
    """

    layout: Layout | None
    height: int
    width: int
    single: bool
    classes: int | None
    last_operator: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph that was found to be what its card says."""

    where: str
    data: bytes
    single: bool


def read_graph(files: ModelFiles) -> Graph:
    """The graph of a bundle. Raises WeightsError where it is not what the card says."""
    path = Path(files.folder) / GRAPH
    where = shown(path)
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != files.card.sha256["model.onnx"].lower():
        raise WeightsError(f"{where}: changed since it was checked")
    onnx = files.card.onnx
    assert onnx is not None
    facts = inspect(data, where, onnx.layout)
    check_size(facts, files.card.preprocess.size, where)
    check_labels(facts.classes, len(onnx.labels), where)
    return Graph(where, data, facts.single)


def read_bytes(path: Path) -> bytes:
    """A graph's file. Raises WeightsError."""
    try:
        return read_regular(path, MAX_GRAPH_BYTES)
    except OSError as error:
        raise WeightsError(f"{shown(path)}: {error.strerror}") from error


def inspect(data: bytes, where: str, layout: Layout | None = None) -> GraphFacts:
    """What the graph takes and gives, read without running anything.

    Raises WeightsError where the file is malformed, refers to other files, holds NaN or infinity,
    or takes or gives anything but float32 images in batches of one or of any size and one row of
    numbers for each. layout None finds it out, and is None in the result where both would fit.
    """
    graph = parse_onnx(data, where)
    _check_finite(graph, where)
    source = _only(graph.inputs, "input", where)
    result = _only(graph.outputs, "output", where)
    shape = _sides(source)
    if source.element != _FLOAT32 or result.element not in (0, _FLOAT32):
        raise WeightsError(f"{where}: its input and output must be float32")
    if shape is None or len(shape) != 4:
        raise WeightsError(f"{where}: its input is {_words(shape)}, not a batch of images")
    channels: dict[Layout, int | None] = {"nchw": shape[1], "nhwc": shape[3]}
    fitting = [name for name, count in channels.items() if count == 3]
    if not fitting or layout not in (None, *fitting):
        raise WeightsError(
            f"{where}: its input is {_words(shape)}, which has not three colours "
            + (f"where --layout {layout} has them" if layout else "in either layout")
        )
    found = layout or (fitting[0] if len(fitting) == 1 else None)
    height, width = shape[1:3] if found == "nhwc" else shape[2:]
    if height is None or width is None:
        raise WeightsError(
            f"{where}: its input is {_words(shape)}, without a fixed height and width: "
            "export it with a fixed size"
        )
    if shape[0] not in (None, 1):
        raise WeightsError(
            f"{where}: its input is a batch of {shape[0]} images: "
            "export it with a batch of one or of any size"
        )
    gives = _sides(result)
    if gives is not None and (len(gives) != 2 or gives[0] not in (None, 1)):
        raise WeightsError(f"{where}: its output is {_words(gives)}, not a row for each image")
    producers = {name: node.operator for node in graph.nodes for name in node.outputs}
    return GraphFacts(
        layout=found,
        height=height,
        width=width,
        single=shape[0] == 1,
        classes=gives[1] if gives else None,
        last_operator=producers.get(result.name, ""),
    )


def check_size(facts: GraphFacts, size: tuple[int, int], where: str) -> None:
    """Raises WeightsError unless the graph takes images of that height and width."""
    if (facts.height, facts.width) != size:
        raise WeightsError(
            f"{where}: it takes images of {facts.height} x {facts.width}, "
            f"not of {size[0]} x {size[1]} (height x width)"
        )


def check_labels(outputs: int | None, labels: int, where: str) -> None:
    """Raises WeightsError where the graph is known to have another number of outputs."""
    if outputs not in (None, labels):
        raise WeightsError(f"{where}: it has {outputs} outputs, but {labels} labels are named")


def cannot_run(where: str, runtime: str, error: Exception) -> WeightsError:
    """Return the error for a graph that a runtime refuses, with the reason in one line."""
    return WeightsError(f"{where}: {runtime} cannot run it ({one_line(_telling(str(error)), 240)})")


def _telling(text: str) -> str:
    """The reason in a runtime's message, without the source files at its start."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '", "While "))]
    return " ".join(told or lines)


def _check_finite(graph: OnnxGraph, where: str) -> None:
    values = [(name, array) for name, array in graph.tensors.items()]
    for node in graph.nodes:
        name = node.outputs[0] if node.outputs else node.operator
        values += [(name, v) for v in node.attributes.values() if isinstance(v, np.ndarray)]
    for name, array in values:
        if array.dtype.kind != "f" or bool(np.isfinite(array).all()):
            continue
        # Constants of masks are infinite in sound networks; tables of weights are not.
        if array.size > 1 or bool(np.isnan(array).any()):
            raise WeightsError(f"{where}: tensor {printable(name)} holds NaN or infinity")


def _only(ports: tuple[Port, ...], what: str, where: str) -> Port:
    if len(ports) != 1:
        names = one_line(", ".join(printable(port.name) for port in ports), 120)
        raise WeightsError(f"{where}: it has {len(ports)} {what}s ({names}), not one")
    return ports[0]


def _sides(port: Port) -> tuple[int | None, ...] | None:
    """The shape; exporters write 0 or -1 for what is not fixed, too."""
    if port.shape is None:
        return None
    return tuple(side if side is not None and side > 0 else None for side in port.shape)


def _words(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "of no stated shape"
    return " x ".join("?" if side is None else str(side) for side in shape) or "one number"
