"""Yahoo's open_nsfw in ONNX, exported from TensorFlow, to our architecture of the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from moderate.classify.architectures import OPEN_NSFW
from moderate.classify.files import shown
from moderate.classify.onnx_reader import (
    Node,
    OnnxGraph,
    attribute_integers,
    convolution_of,
    read_onnx,
)
from moderate.errors import WeightsError
from moderate.text import printable
from moderate.weights.convert.checks import checked, choose_labels, make_preprocess
from moderate.weights.convert.folded import identity_norm
from moderate.weights.convert.interface import Converted

_DEPTHS = (3, 4, 6, 3)
_EPSILON = 1e-5  # timm's, which the folded BatchNorms are written for


def convert_open_nsfw(file: Path, labels: Sequence[str]) -> Converted:
    """The graph is followed operation by operation. Raises WeightsError where it is another one."""
    where = shown(file)
    tensors, classes = _Graph(read_onnx(file), where).tensors()
    converted = Converted(
        architecture=OPEN_NSFW,
        labels=choose_labels(None, labels, classes, where),
        activation="softmax",
        preprocess=make_preprocess(
            where,
            size=(224, 224),
            resize="squash",
            interpolation="bilinear",
            crop_pct=0.875,
            mean=(123 / 255, 117 / 255, 104 / 255),
            std=(1 / 255, 1 / 255, 1 / 255),
        ),
        tensors=tensors,
        model_args={},
        head=None,
    )
    return checked(converted, where)


class _Graph:
    """The operations in order, each held against the one that the network has there."""

    def __init__(self, graph: OnnxGraph, where: str) -> None:
        self._graph = graph
        self._where = where
        self._next = 0
        self._tensors: dict[str, torch.Tensor] = {}

    def tensors(self) -> tuple[dict[str, torch.Tensor], int]:
        """timm's tensors, and how many classes there are."""
        ports = self._graph.inputs
        shape = ports[0].shape if len(ports) == 1 else None
        if shape is None or len(shape) != 4 or shape[1:] != (224, 224, 3):
            raise self._other("its input is not N x 224 x 224 x 3")
        x = self._output("Transpose", ports[0].name, perm=(0, 3, 1, 2))
        x = self._convolution(x, "conv1", "bn1", stride=2, padding=3)
        # The images come as RGB, the network wants BGR.
        self._tensors["conv1.weight"] = self._tensors["conv1.weight"].flip(1)
        x = self._output("Relu", x)
        pooling = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)}
        x = self._output("MaxPool", x, **pooling)
        for stage, depth in enumerate(_DEPTHS, start=1):
            for block in range(depth):
                x = self._block(x, f"layer{stage}.{block}", block == 0, 1 if stage == 1 else 2)
        x = self._output("AveragePool", x, kernel_shape=(7, 7), strides=(1, 1))
        x = self._output("Reshape", x)
        x = self._output("Reshape", x)
        node = self._take("MatMul", x)
        self._tensors["fc.weight"] = self._tensor(node.inputs[1], 2).T.contiguous()
        node = self._take("Add", node.outputs[0])
        self._tensors["fc.bias"] = self._tensor(node.inputs[1], 1)
        x = self._output("Softmax", node.outputs[0])
        outputs = self._graph.outputs
        if self._next != len(self._graph.nodes) or [port.name for port in outputs] != [x]:
            raise self._other("it goes on after the softmax")
        return self._tensors, self._tensors["fc.bias"].numel()

    def _block(self, x: str, name: str, first: bool, stride: int) -> str:
        shortcut = x
        if first:
            down = f"{name}.downsample"
            shortcut = self._convolution(x, f"{down}.0", f"{down}.1", stride=stride)
        x = self._convolution(x, f"{name}.conv1", f"{name}.bn1", stride=stride if first else 1)
        x = self._convolution(self._output("Relu", x), f"{name}.conv2", f"{name}.bn2", padding=1)
        x = self._convolution(self._output("Relu", x), f"{name}.conv3", f"{name}.bn3")
        return self._output("Relu", self._output("Add", x, shortcut))

    def _convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, padding: int = 0
    ) -> str:
        node = self._take("Conv", x)
        if len(node.inputs) != 3:
            raise self._other(f"the convolution of {name} has no bias")
        if convolution_of(node) != ((stride, stride), (padding,) * 4, (1, 1), 1, "NOTSET"):
            raise self._other(f"the convolution of {name} has strides or padding of its own")
        self._tensors[f"{name}.weight"] = self._tensor(node.inputs[1], 4)
        bias = self._tensor(node.inputs[2], 1)
        identity_norm(self._tensors, norm, bias.numel(), _EPSILON, bias)
        return node.outputs[0]

    def _output(self, operator: str, *inputs: str, **attributes: tuple[int, ...]) -> str:
        node = self._take(operator, *inputs)
        for name, expected in attributes.items():
            if attribute_integers(node, name, ()) != expected:
                raise self._other(f"{operator} has other {name} than {expected}")
        return node.outputs[0]

    def _take(self, operator: str, *inputs: str) -> Node:
        if self._next == len(self._graph.nodes):
            raise self._other(f"it ends before {operator}")
        node = self._graph.nodes[self._next]
        operands = 2 if operator in ("MatMul", "Add") else 1
        if (
            node.operator != operator
            or node.inputs[: len(inputs)] != inputs
            or len(node.inputs) < operands
            or len(node.outputs) != 1
        ):
            raise self._other(
                f"operation {self._next} is {printable(node.operator)}, not the {operator} there"
            )
        self._next += 1
        return node

    def _tensor(self, name: str, rank: int) -> torch.Tensor:
        array = self._graph.tensors.get(name)
        if array is None or array.ndim != rank or array.dtype != "float32":
            raise self._other(f"{printable(name)} is not a tensor of {rank} dimensions")
        return torch.from_numpy(array)

    def _other(self, reason: str) -> WeightsError:
        return WeightsError(f"{self._where} is not open_nsfw's network: {reason}")
