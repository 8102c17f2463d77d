"""timm's SwiftFormer in ONNX, with pixels of 0 to 255 in and probabilities out, back to timm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moderate.classify.card import Preprocess
from moderate.classify.files import shown
from moderate.classify.model import build_model
from moderate.classify.onnx_reader import Node, OnnxGraph, convolution_of, read_onnx
from moderate.errors import WeightsError
from moderate.text import printable
from moderate.weights.convert.checks import checked, choose_labels, make_preprocess
from moderate.weights.convert.folded import identity_norm
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.reading import TensorPool

_ARCHITECTURE = "swiftformer_s"
_PREFIX = "model."
_EPSILON = 1e-5

# How often each operator that computes something is there; others only make shapes.
_OPERATORS = {
    "Conv": 76,
    "Erf": 25,
    "MatMul": 20,
    "ReduceL2": 12,
    "BatchNormalization": 5,
    "ReduceSum": 4,
    "Relu": 2,
    "Gemm": 2,
    "ReduceMean": 1,
    "Sub": 1,
    "Softmax": 1,
}
_OTHERS = frozenset(
    {"Add", "Clip", "Concat", "Div", "Expand", "Mul", "Reshape", "Shape", "Transpose"}
)

# The BatchNorms that follow a convolution directly, which the exporter folded into it.
_FOLDED = re.compile(
    r"(stem\.[14]|stages\.\d+\.downsample\.norm|stages\.\d+\.blocks\.\d+(\.local_representation)?"
    r"\.norm)\.weight"
)


def convert_swiftformer(file: Path, labels: Sequence[str]) -> Converted:
    """Raises WeightsError where the graph is not that of `swiftformer_s`."""
    where = shown(file)
    graph = read_onnx(file)
    _check_operators(graph, where)
    tensors = {
        name: torch.from_numpy(array)
        for name, array in graph.tensors.items()
        if array.dtype == "float32"
    }
    preprocess = _preprocess(graph, tensors, where)
    heads = [node for node in graph.nodes if node.operator == "Gemm"]
    bias = tensors.get(f"{_PREFIX}head.bias")
    if bias is None or bias.ndim != 1:
        raise WeightsError(f"{where}: tensor {_PREFIX}head.bias is missing")
    names = choose_labels(None, labels, bias.numel(), where)
    with torch.device("meta"):
        model = build_model(_ARCHITECTURE, len(names), {}, None)
    _check_convolutions(graph, model, where)
    # The exporter names a tensor once where two are equal.
    shared = tensors.get(heads[1].inputs[-1], bias)
    tensors.setdefault(f"{_PREFIX}head_dist.bias", shared.clone())
    pool = TensorPool(tensors, where)
    linear = _linear_weights(graph)
    result: dict[str, torch.Tensor] = {}
    for name, expected in model.state_dict().items():
        if name.endswith(".num_batches_tracked") or name in result:
            continue
        if name in linear:
            result[name] = pool.take(linear[name], 2).T
        elif f"{_PREFIX}{name}" not in pool and _FOLDED.fullmatch(name):
            identity_norm(result, name.removesuffix(".weight"), expected.numel(), _EPSILON)
        else:
            result[name] = pool.take(f"{_PREFIX}{name}")
    pool.finish(name for name in tensors if not name.startswith(_PREFIX))
    converted = Converted(
        architecture=_ARCHITECTURE,
        labels=names,
        activation="softmax",
        preprocess=preprocess,
        tensors={name: tensor.contiguous() for name, tensor in result.items()},
        model_args={},
        head=None,
    )
    return checked(converted, where)


def _check_operators(graph: OnnxGraph, where: str) -> None:
    counts = Counter(node.operator for node in graph.nodes)
    for operator, count in counts.items():
        if operator not in _OTHERS and count != _OPERATORS.get(operator):
            raise WeightsError(
                f"{where} is not {_ARCHITECTURE}: it has {count} operations "
                f"{printable(operator)}, not {_OPERATORS.get(operator, 0)}"
            )
    if missing := set(_OPERATORS) - set(counts):
        raise WeightsError(f"{where} is not {_ARCHITECTURE}: it has no {sorted(missing)[0]}")
    for node in graph.nodes:
        if node.operator == "BatchNormalization" and not np.isclose(
            float(str(node.attributes.get("epsilon", 1e-5))), _EPSILON
        ):
            raise WeightsError(f"{where}: a BatchNormalization's epsilon is not {_EPSILON}")
    last = graph.nodes[-1]
    if last.operator != "Softmax" or [port.name for port in graph.outputs] != [*last.outputs]:
        raise WeightsError(f"{where} is not {_ARCHITECTURE}: it does not end in a softmax")


def _preprocess(graph: OnnxGraph, tensors: dict[str, torch.Tensor], where: str) -> Preprocess:
    """Size, mean and standard deviation, which the graph holds: (pixels / 255 - mean) / std."""
    shape = graph.inputs[0].shape if len(graph.inputs) == 1 else None
    if shape is None or len(shape) != 4 or shape[1] != 3 or None in shape[1:]:
        raise WeightsError(f"{where}: the input is not N x 3 x height x width")
    x = graph.inputs[0].name
    steps: list[torch.Tensor] = []
    for operator in ("Div", "Sub", "Div"):
        node = next((n for n in graph.nodes if n.operator == operator and n.inputs[0] == x), None)
        step = tensors.get(node.inputs[1]) if node and len(node.inputs) == 2 else None
        if node is None or step is None or step.numel() not in (1, 3):
            raise WeightsError(f"{where}: the graph does not begin with its normalisation")
        x = node.outputs[0]
        steps.append(step.flatten())
    if steps[0].tolist() != [255.0]:
        raise WeightsError(f"{where}: the graph does not divide pixels by 255")
    return make_preprocess(
        where,
        size=shape[2:],
        resize="squash",
        interpolation="bilinear",
        mean=tuple(round(value, 6) for value in steps[1].tolist()),
        std=tuple(round(value, 6) for value in steps[2].tolist()),
    )


def _check_convolutions(graph: OnnxGraph, model: nn.Module, where: str) -> None:
    """Raises WeightsError where a convolution is not done as timm's of the same name does it."""
    modules = dict(model.named_modules())
    for node in graph.nodes:
        if node.operator != "Conv":
            continue
        weight = node.inputs[1] if len(node.inputs) == 3 else ""
        module = modules.get(weight.removeprefix(_PREFIX).removesuffix(".weight"))
        if not isinstance(module, nn.Conv2d):
            raise WeightsError(f"{where}: {printable(weight)} belongs to no convolution of timm's")
        padding = tuple(int(side) for side in module.padding)
        if convolution_of(node) != (
            module.stride,
            padding * 2,
            module.dilation,
            module.groups,
            "NOTSET",
        ):
            raise WeightsError(f"{where}: {printable(weight)} has strides or padding of its own")


def _linear_weights(graph: OnnxGraph) -> dict[str, str]:
    """timm's names of linear layers' weights to the graph's, which name the biases alone."""
    products: dict[str, Node] = {
        node.outputs[0]: node for node in graph.nodes if node.operator == "MatMul"
    }
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.operator != "Add" or len(node.inputs) != 2:
            continue
        product, bias = products.get(node.inputs[0]), node.inputs[1]
        if product and bias.startswith(_PREFIX) and bias.endswith(".bias"):
            name = bias.removeprefix(_PREFIX).removesuffix(".bias")
            found[f"{name}.weight"] = product.inputs[1]
    return found
