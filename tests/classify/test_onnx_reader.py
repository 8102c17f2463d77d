"""ONNX files: what is read is right, and what is not is refused in one line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from moderate.classify.onnx_reader import OnnxGraph, read_onnx
from moderate.errors import WeightsError
from tests.support.packages import attribute, field, node, onnx_file, port, tensor, varint

WEIGHT = np.arange(6, dtype="<f4").reshape(2, 3)
SHAPE = np.array([-1, 6], dtype="<i8")


def small() -> bytes:
    return onnx_file(
        [
            node("MatMul", ("x", "w"), "y", alpha=0.5, axis=-1, mode="SAME", pads=(1, -2)),
            node("Reshape", ("y", "shape"), "z"),
        ],
        [tensor("w", WEIGHT), tensor("shape", SHAPE)],
        [port("x", ("batch", 2)), port("w", (2, 3))],
        [port("z", ("batch", 6))],
    )


def with_tensor(*parts: bytes) -> bytes:
    return onnx_file([], [b"".join(parts)], [], [])


def read(folder: Path, data: bytes) -> OnnxGraph:
    file = folder / "model.onnx"
    file.write_bytes(data)
    return read_onnx(file)


def test_graph_and_tensors(tmp_path: Path) -> None:
    graph = read(tmp_path, small())
    assert np.array_equal(graph.tensors["w"], WEIGHT)
    assert np.array_equal(graph.tensors["shape"], SHAPE)
    assert [item.name for item in graph.inputs] == ["x"]
    assert graph.inputs[0].shape == (None, 2)
    assert graph.outputs[0].shape == (None, 6)
    first = graph.nodes[0]
    assert (first.operator, first.inputs, first.outputs) == ("MatMul", ("x", "w"), ("y",))
    assert first.attributes == {"alpha": 0.5, "axis": -1, "mode": "SAME", "pads": (1, -2)}


def test_values_outside_raw_data(tmp_path: Path) -> None:
    """Old exporters put numbers into fields of their own, packed or one by one."""
    packed = field(1, 3) + field(2, 1) + field(8, "a") + field(4, WEIGHT[0].tobytes())
    single = field(1, 2) + field(2, 7) + field(8, "b") + field(7, -5) + field(7, 9)
    both = onnx_file([], [packed, single, tensor("c", np.float16([1.5]))], [], [])
    tensors = read(tmp_path, both).tensors
    assert tensors["a"].tolist() == WEIGHT[0].tolist()
    assert tensors["b"].tolist() == [-5, 9]
    assert tensors["c"].tolist() == [1.5]


HEAD = field(1, 3) + field(8, "t")
RAW = field(9, WEIGHT[0].tobytes())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no graph"),
        (b"<html>not found</html>", "cut off|wire type|no graph"),
        (field(1, 8) + field(7, b""), "holds no tensors"),
        (with_tensor(HEAD, field(2, 1), field(13, field(1, "location"))), "external data"),
        (with_tensor(HEAD, field(2, 1), RAW, field(14, 1)), "external data"),
        (with_tensor(HEAD, field(2, 8), RAW), "type 8, which is not read"),
        (with_tensor(HEAD, field(2, 16), RAW), "type 16, which is not read"),
        (with_tensor(HEAD, RAW), "type 0, which is not read"),
        (with_tensor(HEAD, field(2, 1), field(9, b"1234")), "has 4 bytes, not the 12"),
        (with_tensor(HEAD, field(2, 1)), "has 0 bytes, not the 12"),
        (with_tensor(HEAD, field(2, 1), field(4, b"12345678")), "has 2 values, not the 3"),
        (with_tensor(HEAD, field(2, 1), field(4, b"123")), "cut number"),
        (with_tensor(HEAD, field(2, 1), RAW, field(4, b"1234")), "values of another type"),
        (with_tensor(HEAD, field(2, 7), field(4, b"1234")), "values of another type"),
        (with_tensor(field(1, -1), field(8, "t"), field(2, 1), field(9, b"")), "shape"),
        (with_tensor(*[field(1, 1)] * 9, field(8, "t"), field(2, 1), field(9, b"1234")), "shape"),
        (with_tensor(*[field(1, 1 << 40)] * 8, field(8, "t"), field(2, 1), RAW), "not the"),
        (with_tensor(HEAD, field(2, 6), field(5, 1 << 40)), "cannot hold"),
        (with_tensor(HEAD, field(8, "u"), field(2, 1), RAW), "field 8 twice"),
        (with_tensor(HEAD, field(2, 1), RAW, field(3, b"")), "segments, which is not read"),
        (onnx_file([], [tensor("t", WEIGHT)] * 2, [], []), "t is there twice"),
        (small() + field(25, b""), "functions"),
        (small() + field(20, b""), "training info"),
        (small() + field(8, field(1, "com.example")), "operators of 'com.example'"),
        (small() + field(7, b""), "field 7 twice"),
        (onnx_file([node("If", ("x",), "y") + field(7, "evil")], [tensor("t", WEIGHT)], [], []),
         "not one of ONNX itself"),
        (onnx_file([field(4, "If") + field(5, field(1, "then") + field(6, b"") + field(20, 5))],
                   [tensor("t", WEIGHT)], [], []), "a graph, which is not read"),
        (onnx_file([field(5, attribute("a", 1)) * 2], [tensor("t", WEIGHT)], [], []),
         "attribute a is there twice"),
        (varint(7 << 3 | 3) + small(), "wire type 3"),
        (varint(0) + small(), "without a number"),
        (b"\xff" * 12, "more than 64 bits"),
        (onnx_file([b""] * 200_001, [tensor("t", WEIGHT)], [], []), "more than 200000 parts"),
        (with_tensor(field(2, 7), field(7, b"\0" * 1_000_001)), "too long a list"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_nothing_but_a_file_is_opened(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder, not a regular file"):
        read_onnx(tmp_path)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = small()
    for end in range(len(whole)):
        try:
            graph = read(tmp_path, whole[:end])
        except WeightsError:
            continue
        # Only what stands behind the graph may be missing.
        assert np.array_equal(graph.tensors["w"], WEIGHT)
        assert len(graph.nodes) == 2


def test_damage_gives_tensors_or_an_error(tmp_path: Path) -> None:
    chance = random.Random(12)  # the same mutants in every run
    whole = small()
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF)) ^ (
                chance.randrange(256)
            )
        if chance.random() < 0.3:
            start = chance.randrange(len(data))
            data[start:start] = data[start : start + chance.randint(1, 20)]
        try:
            graph = read(tmp_path, bytes(data))
        except WeightsError:
            continue
        assert all(isinstance(array, np.ndarray) for array in graph.tensors.values())
