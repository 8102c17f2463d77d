"""What an ONNX graph says of itself, read as untrusted data."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest

from moderate.classify.onnx_graph import inspect
from moderate.classify.onnx_reader import parse_onnx
from moderate.errors import WeightsError
from tests.support.networks_onnx import small
from tests.support.packages import field, node, onnx_file, port, tensor

VALUE = np.arange(6, dtype="<f4").reshape(2, 3)


def constant(*parts: bytes) -> bytes:
    """A graph whose one tensor is the value of an operation."""
    item = b"".join((field(1, "value"), *parts))
    return onnx_file([node("Constant", (), "c") + field(5, item)], [], [], [])


def test_the_facts_of_a_graph() -> None:
    facts = inspect(small(layout="nhwc", batch=1, end="Softmax"), "g")
    assert (facts.layout, facts.height, facts.width) == ("nhwc", 64, 64)
    assert (facts.single, facts.classes, facts.last_operator) == (True, 3, "Softmax")
    facts = inspect(small(outputs="k"), "g")
    assert (facts.layout, facts.single, facts.classes) == ("nchw", False, None)


def test_tensors_among_the_attributes_are_read_as_the_others_are() -> None:
    graph = parse_onnx(constant(field(5, tensor("", VALUE)), field(20, 4)), "g")
    assert np.array_equal(graph.nodes[0].attributes["value"], VALUE)
    small_integers = np.array([1, -2], "|i1")
    typed = field(1, 2) + field(2, 3) + field(5, 1) + field(5, -2)
    graph = parse_onnx(constant(field(5, typed), field(20, 4)), "g")
    assert np.array_equal(graph.nodes[0].attributes["value"], small_integers)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (constant(field(5, tensor("", VALUE, field(14, 1))), field(20, 4)), "external data"),
        (constant(field(5, tensor("", VALUE)), field(20, 2)), "is a tensor and is none"),
        (constant(field(20, 4)), "is a tensor and is none"),
        (constant(field(5, tensor("", VALUE)) * 2, field(20, 4)), "field 5 twice"),
        (constant(field(22, b""), field(20, 11)), "a sparse tensor, which is not read"),
    ],
)
def test_tensors_among_the_attributes_that_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        parse_onnx(data, "g")


def test_infinity_in_one_number_is_a_mask_s_and_in_a_table_a_fault() -> None:
    ports = ([port("image", ("n", 3, 8, 8))], [port("y", ("n", 2))])
    nodes = [node("Flatten", ("image",), "y")]
    inspect(onnx_file(nodes, [tensor("lowest", np.array(-np.inf, "<f4"))], *ports), "g")
    table = tensor("table", np.array([1, np.inf], "<f4"))
    with pytest.raises(WeightsError, match="tensor table holds NaN or infinity"):
        inspect(onnx_file(nodes, [table], *ports), "g")


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_refused_or_is_none(seed: int) -> None:
    whole, rng = small(), random.Random(seed)
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.choice((rng.randrange(500), rng.randrange(len(data))))] = rng.randrange(256)
        with contextlib.suppress(WeightsError):
            inspect(bytes(data), "g")
