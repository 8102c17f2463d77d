"""Whole networks in ONNX with random weights, node by node as their exporters wrote them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.packages import field, node, onnx_file, port, tensor


class Graph:
    """Nodes and tensors as they are added; each method gives the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[bytes] = []
        self.tensors: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, output, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: str = "<f4") -> str:
        self.tensors[name] = np.array(value, dtype)
        return name

    def uniform(self, name: str, shape: tuple[int, ...], scale: float) -> str:
        """Random values of that standard deviation."""
        bound = scale * math.sqrt(3)
        return self.constant(name, self.random.uniform(-bound, bound, shape))

    def convolution(
        self,
        x: str,
        name: str,
        shape: tuple[int, int, int, int],
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> str:
        """shape is that of the weight; the bias is what a folded BatchNorm leaves."""
        self.uniform(f"{name}.weight", shape, math.sqrt(2 / math.prod(shape[1:])))
        self.uniform(f"{name}.bias", shape[:1], 0.1)
        return self.add(
            "Conv", x, f"{name}.weight", f"{name}.bias", group=groups,
            strides=(stride, stride), pads=(padding,) * 4, dilations=(1, 1), auto_pad="NOTSET",
        )  # fmt: skip

    def file(self, source: bytes, result: bytes) -> bytes:
        items = [tensor(name, array) for name, array in self.tensors.items()]
        return onnx_file(self.nodes, items, [source], [result])


def open_nsfw(seed: int = 0, classes: int = 2) -> Graph:
    """Yahoo's network: NHWC pixels in BGR less their means to probabilities."""
    graph = Graph(seed)
    x = graph.add("Transpose", "input", perm=(0, 3, 1, 2))
    x = graph.add("Relu", graph.convolution(x, "stem", (64, 3, 7, 7), 2, 3))
    graph.tensors["stem.weight"] *= np.float32(0.01)  # pixels are some hundred
    x = graph.add("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1))
    channels = 64
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (32, 64, 128, 256), strict=True)):
        for block in range(depth):
            name, shortcut = f"stage{stage}_{block}", x
            stride = 2 if stage and not block else 1
            if not block:
                shape = (4 * width, channels, 1, 1)
                shortcut = graph.convolution(x, f"{name}_down", shape, stride)
            x = graph.convolution(x, f"{name}_a", (width, channels, 1, 1), stride)
            x = graph.convolution(
                graph.add("Relu", x), f"{name}_b", (width, width, 3, 3), padding=1
            )
            x = graph.convolution(graph.add("Relu", x), f"{name}_c", (4 * width, width, 1, 1))
            x = graph.add("Relu", graph.add("Add", x, shortcut))
            channels = 4 * width
    x = graph.add("AveragePool", x, kernel_shape=(7, 7), strides=(1, 1))
    x = graph.add("Reshape", x, graph.constant("shape1", [-1, 1, 1, channels], "<i8"))
    x = graph.add("Reshape", x, graph.constant("shape2", [-1, channels], "<i8"))
    x = graph.add("MatMul", x, graph.uniform("fc", (channels, classes), 2e-4))
    x = graph.add("Add", x, graph.uniform("fc_bias", (classes,), 0.1))
    graph.add("Softmax", x, output="outputs", axis=1)
    return graph


def open_nsfw_file(graph: Graph) -> bytes:
    classes = graph.tensors["fc_bias"].size
    return graph.file(port("input", ("n", 224, 224, 3)), port("outputs", ("n", classes)))


_DEPTHS, _WIDTHS = (3, 3, 9, 6), (48, 64, 168, 224)


def swiftformer_s(seed: int = 0, classes: int = 3) -> Graph:
    """OwenElliott's network: NCHW pixels of 0 to 255 to probabilities."""
    graph = Graph(seed)
    for name, value in (("c255", 255), ("root", math.sqrt(2)), ("one", 1), ("half", 0.5)):
        graph.constant(name, value)
    graph.constant("two", 2)
    graph.constant("tiny", 1e-12)
    graph.constant("mean", np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1)))
    graph.constant("std", np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1)))
    x = graph.add("Div", graph.add("Sub", graph.add("Div", "image", "c255"), "mean"), "std")
    x = graph.add("Relu", graph.convolution(x, "model.stem.0", (24, 3, 3, 3), 2, 1))
    x = graph.add("Relu", graph.convolution(x, "model.stem.3", (48, 24, 3, 3), 2, 1))
    side, channels = 56, 48
    for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
        name = f"model.stages.{stage}"
        if stage:
            shape = (width, channels, 3, 3)
            x = graph.convolution(x, f"{name}.downsample.proj", shape, 2, 1)
            side //= 2
        channels = width
        for block in range(depth - 1):
            x = _local(graph, x, f"{name}.blocks.{block}", width, 4 * width)
        last = f"{name}.blocks.{depth - 1}"
        x = _local(graph, x, f"{last}.local_representation", width, width)
        x = _scaled_add(graph, x, _attention(graph, x, f"{last}.attn", width, side), last, 1)
        y = _norm(graph, x, f"{last}.linear.norm1", width)
        y = graph.convolution(y, f"{last}.linear.fc1", (4 * width, width, 1, 1))
        y = graph.convolution(_gelu(graph, y), f"{last}.linear.fc2", (width, 4 * width, 1, 1))
        x = _scaled_add(graph, x, y, last, 2)
    x = _norm(graph, x, "model.norm", channels)
    x = graph.add("ReduceMean", x, graph.constant("axes", [2, 3], "<i8"), keepdims=0)
    graph.uniform("model.head.bias", (classes,), 0.1)
    heads = []
    for name in ("model.head", "model.head_dist"):
        weight = graph.uniform(f"{name}.weight", (classes, channels), 0.02)
        heads.append(graph.add("Gemm", x, weight, "model.head.bias", transB=1))
    x = graph.add("Div", graph.add("Add", *heads), "two")
    graph.add("Softmax", x, output="probabilities", axis=-1)
    return graph


def swiftformer_file(graph: Graph) -> bytes:
    classes = graph.tensors["model.head.bias"].size
    return graph.file(port("image", ("n", 3, 224, 224)), port("probabilities", ("n", classes)))


def _gelu(graph: Graph, x: str) -> str:
    error = graph.add("Erf", graph.add("Div", x, "root"))
    return graph.add("Mul", x, graph.add("Mul", "half", graph.add("Add", error, "one")))


def _local(graph: Graph, x: str, name: str, width: int, hidden: int) -> str:
    y = graph.convolution(x, f"{name}.dwconv", (width, 1, 3, 3), 1, 1, width)
    y = graph.convolution(y, f"{name}.pwconv1", (hidden, width, 1, 1))
    y = graph.convolution(_gelu(graph, y), f"{name}.pwconv2", (width, hidden, 1, 1))
    gamma = graph.uniform(f"{name}.layer_scale.gamma", (width, 1, 1), 0.3)
    return graph.add("Add", x, graph.add("Mul", y, gamma))


def _scaled_add(graph: Graph, x: str, y: str, name: str, number: int) -> str:
    width = graph.tensors[f"{name}.linear.norm1.weight"].size if number == 2 else 0
    gamma = f"{name}.layer_scale_{number}.gamma"
    graph.uniform(gamma, (width or graph.tensors[f"{name}.attn.w_g"].shape[0], 1, 1), 0.3)
    return graph.add("Add", x, graph.add("Mul", y, gamma))


def _norm(graph: Graph, x: str, name: str, width: int) -> str:
    parts = [
        graph.constant(f"{name}.weight", graph.random.uniform(0.8, 1.2, width)),
        graph.uniform(f"{name}.bias", (width,), 0.1),
        graph.uniform(f"{name}.running_mean", (width,), 0.1),
        graph.constant(f"{name}.running_var", graph.random.uniform(0.5, 2, width)),
    ]
    return graph.add("BatchNormalization", x, *parts, epsilon=1e-5)


def _linear(graph: Graph, x: str, name: str, width: int) -> str:
    weight = graph.uniform(f"val_{len(graph.tensors)}", (width, width), 1 / math.sqrt(width))
    return graph.add(
        "Add", graph.add("MatMul", x, weight), graph.uniform(f"{name}.bias", (width,), 0.1)
    )


def _unit(graph: Graph, x: str, axis: int) -> str:
    axes = graph.constant(f"axis_{len(graph.tensors)}", [axis], "<i8")
    length = graph.add("Clip", graph.add("ReduceL2", x, axes, keepdims=1), "tiny")
    return graph.add("Div", x, length)


def _attention(graph: Graph, x: str, name: str, width: int, side: int) -> str:
    flat = graph.constant(f"flat_{width}", [0, width, side * side], "<i8")
    square = graph.constant(f"square_{width}", [0, width, side, side], "<i8")
    rows = graph.add("Transpose", graph.add("Reshape", x, flat), perm=(0, 2, 1))
    query = _unit(graph, _linear(graph, rows, f"{name}.to_query", width), -1)
    key = _unit(graph, _linear(graph, rows, f"{name}.to_key", width), -1)
    weight = graph.uniform(f"{name}.w_g", (width, 1), 1.0)
    scale = graph.constant(f"scale_{width}", width**-0.5)
    weights = _unit(graph, graph.add("Mul", graph.add("MatMul", query, weight), scale), 1)
    axes = graph.constant(f"axes_{width}", [1], "<i8")
    pooled = graph.add("ReduceSum", graph.add("Mul", weights, query), axes, keepdims=1)
    y = _linear(graph, graph.add("Mul", pooled, key), f"{name}.proj", width)
    y = _linear(graph, graph.add("Add", y, query), f"{name}.final", width)
    return graph.add("Reshape", graph.add("Transpose", y, perm=(0, 2, 1)), square)


SMALL_LABELS = ("nude", "weapon", "fine")


def small(
    classes: int = 3,
    *,
    layout: str = "nchw",
    batch: int | str = "n",
    side: int | str = 64,
    end: str = "",
    operator: str = "Relu",
    mixes: bool = False,
    constants: bool = False,
    seed: int = 0,
    outputs: int | str | None = None,
) -> bytes:
    """A network of one convolution and one linear layer, whose scores vary with the image.

    end is an operator to make probabilities. mixes adds the mean of the batch to every image.
    constants gives the linear layer's weights by an operation, as PyTorch's exporter does. batch 1
    is written into a reshape, too.
    """
    graph = Graph(seed)
    x = graph.add("Transpose", "image", perm=(0, 3, 1, 2)) if layout == "nhwc" else "image"
    x = graph.add(operator, graph.convolution(x, "stem", (16, 3, 5, 5), 4, 2))
    x = graph.add("GlobalAveragePool", x)
    rows = batch if isinstance(batch, int) else 0
    x = graph.add("Reshape", x, graph.constant("rows", [rows, 16], "<i8"))
    graph.uniform("fc", (16, classes), 1.0)
    if constants:
        value = graph.tensors.pop("fc")
        item = field(1, "value") + field(5, tensor("", value)) + field(20, 4)
        graph.nodes.append(node("Constant", (), "fc") + field(5, item))
    x = graph.add("MatMul", x, "fc")
    if mixes:
        axes = graph.constant("axes", [0], "<i8")
        x = graph.add("Add", x, graph.add("ReduceMean", x, axes, keepdims=1))
    x = graph.add("Add", x, graph.uniform("fc_bias", (classes,), 0.5))
    graph.add(end or "Identity", x, output="outputs", **({"axis": 1} if end == "Softmax" else {}))
    shape = (batch, 3, side, side) if layout == "nchw" else (batch, side, side, 3)
    named = classes if outputs is None else outputs
    return graph.file(port("image", shape), port("outputs", (batch, named)))


def run_in_openvino(file: Path, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a runtime of ONNX that is not ours computes."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([batch])[0])
