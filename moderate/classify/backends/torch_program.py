"""A timm network as the list of torch operations that it consists of.

To build a network imports timm and, with it, torchvision and torch's compiler, which takes longer
than the import of torch. The list, which torch.export makes, is run without them: the same
operations on the same tensors in the same order, and so the same scores to the last bit.

It is data, never code: operations are named, from a fixed set of those that only compute, and
nothing is unpickled. The weights are not part of it. They are read from the bundle and checked as
those of a network that is built.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import torch
from safetensors.torch import load

from moderate.classify.backends.interface import Logits

PROGRAM = "program.safetensors"
"""The file of a program in the folder that it was made in."""

FORMAT = 1
"""Raised whenever programs are written otherwise."""

_NUMBERS: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("add", "floordiv", "getitem", "mul", "sub")
}

OPERATIONS = frozenset(
    """
    _to_copy _upsample_bicubic2d_aa _upsample_bilinear2d_aa abs adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d add add_ addcmul addmm alias
    alpha_dropout amax amin arange argmax avg_pool1d avg_pool2d baddbmm batch_norm bitwise_and
    bmm cat ceil celu celu_ channel_shuffle chunk clamp clamp_ clamp_max clamp_min clone col2im
    constant_pad_nd contiguous conv1d conv2d conv_transpose2d copy_ cos cumsum detach detach_
    div div_ dropout dropout_ einsum elu empty_like eq erf exp expand expand_as feature_dropout
    fill_ flatten flip floor floor_divide full full_like gather ge gelu gelu_ glu grid_sampler
    group_norm gt hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_
    im2col index index_select instance_norm layer_norm le leaky_relu leaky_relu_ lift_fresh_copy
    linalg_vector_norm linear linspace log log1p log_sigmoid log_softmax logical_and logical_not
    logical_or lt masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices maximum
    mean meshgrid min minimum mish mish_ movedim mul mul_ narrow ne neg norm numel ones
    ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu reciprocal relu relu6 relu6_
    relu_ remainder repeat repeat_interleave reshape reshape_as rms_norm roll rot90 round rsqrt
    rsub scalar_tensor scaled_dot_product_attention select selu selu_ sigmoid sigmoid_ sign silu
    silu_ sin slice softmax softplus split split_with_sizes sqrt square squeeze stack std sub
    sub_ sum swapaxes sym_size t tanh tanh_ threshold tile to transpose type_as unbind unflatten
    unfold unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest2d var var_mean view view_as where zero_ zeros zeros_like
    """.split()  # noqa: SIM905 - a list of a hundred quoted words is harder to read
)
"""Operations of torch's own that may stand in a program: they compute, and touch nothing else."""


class UnusableError(Exception):
    """A program cannot be made of a network, or one that was read cannot be run."""


@dataclass(frozen=True, slots=True)
class _Value:
    """Stands in arguments for an earlier value, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class _Step:
    operation: Callable[..., Any]
    arguments: list[Any]
    keywords: dict[str, Any]
    last_used: list[int]  # numbers of values that no later step needs


class Program:
    """A network that can be called like the module it was made of, from several threads at once.

    data is what `torch_export` writes, weights are all tensors of the bundle's file. Raises
    UnusableError where the one is no program, or the other are not the weights that it is for.
    """

    def __init__(self, data: bytes, weights: Mapping[str, torch.Tensor]) -> None:
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            constants = load(data)
            program = json.loads(header["__metadata__"]["program"])
            if program["format"] != FORMAT:
                raise UnusableError("another format")
            shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
            if shapes != {name: shape for name, (shape, _) in program["state"].items()}:
                raise UnusableError("other weights")
            self.logits: Logits = constants.pop("logits").numpy()
            """The network's answers to the inputs of the self-test."""
            self._values: list[Any] = []
            for kind, name in program["inputs"]:
                if kind == "weight":
                    dtype = getattr(torch, program["state"][name][1])
                    self._values.append(_laid_out(weights[name].to(dtype)))
                else:
                    self._values.append(constants[name] if kind == "constant" else None)
            self._images = [kind for kind, _ in program["inputs"]].index("images")
            self._output = int(program["output"])
            self._steps = _steps(program["steps"], len(self._values), self._output)
        except (
            ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
            RuntimeError, safetensors.SafetensorError,
        ) as error:  # fmt: skip
            raise UnusableError(f"{type(error).__name__}: {error}") from error

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W normalised pixels to N x labels logits."""
        values = self._values.copy()
        values[self._images] = images
        del images
        for step in self._steps:
            arguments = [_resolved(each, values) for each in step.arguments]
            keywords = {name: _resolved(each, values) for name, each in step.keywords.items()}
            values.append(step.operation(*arguments, **keywords))
            del arguments, keywords
            for number in step.last_used:  # its memory serves the next step
                values[number] = None
        logits: torch.Tensor = values[self._output]
        return logits


def operation_named(name: str) -> Callable[..., Any]:
    """What a program means by `relu.default` or `getitem`. Raises UnusableError."""
    base, _, overload = name.partition(".")
    if not overload and base in _NUMBERS:
        return _NUMBERS[base]
    if base not in OPERATIONS or not overload:
        raise UnusableError(f"the operation {name!r} is none of those that programs have")
    packet = getattr(torch.ops.aten, base, None)
    if overload not in (packet.overloads() if packet else ()):
        raise UnusableError(f"this torch has no operation {name!r}")
    found: Callable[..., Any] = getattr(packet, overload)
    return found


def encoded(value: Any, numbers: Mapping[Any, int]) -> Any:
    """An argument of an operation as JSON. Raises UnusableError for what has no place there.

    numbers has the number of each node that may stand in it.
    """
    if isinstance(value, (list, tuple)):
        return [encoded(each, numbers) for each in value]
    if isinstance(value, torch.fx.Node):
        return {"value": numbers[value]}
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float):
        return {"float": value.hex()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise UnusableError(f"an argument of type {type(value).__name__}")


def _decoded(value: Any, used: set[int]) -> Any:
    if isinstance(value, list):
        return [_decoded(each, used) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "value":
        used.add(int(content))
        return _Value(int(content))
    if kind == "float":
        return float.fromhex(content)
    if kind == "device":
        return torch.device(content)
    constant = getattr(torch, content)
    if not isinstance(constant, (torch.dtype, torch.memory_format, torch.layout)):
        raise UnusableError(f"an argument {content!r}")
    return constant


def _resolved(argument: Any, values: list[Any]) -> Any:
    if isinstance(argument, _Value):
        return values[argument.number]
    if isinstance(argument, list):
        return [_resolved(each, values) for each in argument]
    return argument


def _steps(described: list[Any], first: int, output: int) -> list[_Step]:
    """The steps, whose values are numbered from `first` on."""
    steps: list[_Step] = []
    last_users: dict[int, int] = {}
    for place, (name, arguments, keywords) in enumerate(described):
        used: set[int] = set()
        step = _Step(
            operation_named(name),
            [_decoded(each, used) for each in arguments],
            {key: _decoded(each, used) for key, each in keywords.items()},
            [],
        )
        if any(not 0 <= number < first + place for number in used):
            raise UnusableError("a step uses what comes after it")
        last_users.update(dict.fromkeys(used, place))
        steps.append(step)
    if not 0 <= output < first + len(steps):
        raise UnusableError("there is no such output")
    for number, place in last_users.items():
        if number != output:
            steps[place].last_used.append(number)
    return steps


def _laid_out(weight: torch.Tensor) -> torch.Tensor:
    """As a module's weights are laid out when it is moved to channels_last."""
    return weight.to(memory_format=torch.channels_last) if weight.dim() == 4 else weight
