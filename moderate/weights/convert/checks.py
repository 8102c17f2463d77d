"""Checks shared by all converters: label names, and timm's own model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from pydantic import ValidationError
from torch import nn

import moderate.classify.architectures  # noqa: F401 - registers our own with timm
from moderate.classify.card import Preprocess
from moderate.classify.model import build_model
from moderate.errors import WeightsError
from moderate.text import one_line, printable
from moderate.validation import first_problem
from moderate.weights.convert.interface import Converted

Argument = str | int | float | bool

_ARCHITECTURE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_PLACEHOLDER = re.compile(r"LABEL_\d+")
_MAX_CLASSES = 100_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def known_architecture(name: object, where: str) -> str:
    """A name that timm builds from its own code: no hub address and no folder."""
    if not isinstance(name, str) or not _ARCHITECTURE.fullmatch(name):
        raise WeightsError(f"{where}: {one_line(repr(name), 80)} names no timm architecture")
    if not timm.is_model(name):
        raise WeightsError(f"{where}: timm {timm.__version__} does not know {name!r}")
    return name


def choose_labels(
    own: object, given: Sequence[str] | None, classes: int, where: str
) -> tuple[str, ...]:
    """The names of the outputs, in order: the source's own, or else those `given`.

    Where the source has names of its own, `given` must be the same names; their order is its.

    `own` is what the source says: a list of names, a dict of names by "0", "1", ..., or None.
    Raises WeightsError when there are none, or they do not fit the `classes` outputs.
    """
    named = _in_order(own, where)
    if named is None or all(_PLACEHOLDER.fullmatch(name) for name in named):
        if given is None:
            what = "no labels" if named is None else f"its labels only {_some(named)}"
            raise WeightsError(
                f"{where}: the source names {what}; it has {classes} classes, "
                "whose names must be given in output order"
            )
        named = tuple(given)
    elif given is not None and set(given) != set(named):
        raise WeightsError(f"{where}: the source names its own labels, which are {_some(named)}")
    if len(named) != classes:
        raise WeightsError(f"{where}: {len(named)} label names for {classes} classes")
    if len(set(named)) != len(named):
        raise WeightsError(f"{where}: two labels have the same name")
    for name in named:
        if not name.strip() or printable(name) != name:
            raise WeightsError(f"{where}: {printable(repr(name))} is no name for a label")
    return named


def _in_order(own: object, where: str) -> tuple[str, ...] | None:
    if own is None or own == [] or own == {}:
        return None
    if isinstance(own, dict):
        try:
            own = [own[str(index)] for index in range(len(own))]
        except KeyError as error:
            raise WeightsError(f"{where}: id2label has no entry {error}") from error
    if not isinstance(own, list | tuple) or not all(isinstance(name, str) for name in own):
        raise WeightsError(f"{where}: label names must be a list of strings")
    return tuple(own)


def _some(names: Sequence[str]) -> str:
    return one_line(", ".join(names), 120)


def class_count(value: object, where: str) -> int:
    """A number of classes. Raises WeightsError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_CLASSES:
        raise WeightsError(f"{where}: {one_line(repr(value), 40)} is no number of classes")
    return value


def activation_of(config: Mapping[str, Any], where: str) -> Literal["softmax", "sigmoid"]:
    """How a transformers config wants its logits read."""
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification", "multi_label_classification"):
        raise WeightsError(f"{where}: problem_type {one_line(repr(problem), 60)} gives no scores")
    return "sigmoid" if problem == "multi_label_classification" else "softmax"


def make_preprocess(where: str, **fields: Any) -> Preprocess:
    """Build a Preprocess from untrusted values. Raises WeightsError."""
    try:
        return Preprocess(**fields)
    except ValidationError as error:
        raise WeightsError(f"{where}: preprocessing: {first_problem(error)}") from error


def integer(config: Mapping[str, Any], key: str, default: int, where: str) -> int:
    """A whole number above 0 of a config. Raises WeightsError."""
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]  # both sides of a square
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise WeightsError(f"{where}: {key} {one_line(repr(value), 60)} is not supported")
    return value


def epsilon(config: Mapping[str, Any], key: str, default: float, where: str) -> float:
    """A small number that keeps a division from 0. Raises WeightsError."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise WeightsError(f"{where}: {key} {one_line(repr(value), 60)} is not supported")
    return float(value)


def checked(converted: Converted, where: str) -> Converted:
    """`converted`, found to fill timm's model exactly. Raises WeightsError naming the tensor.

    Counters of batches seen in training, which scoring does not read, are added where missing.
    """
    model = _without_memory(converted, where)
    expected = model.state_dict()
    tensors = dict(converted.tensors)
    for name in expected:
        if name not in tensors and name.endswith(".num_batches_tracked"):
            tensors[name] = torch.zeros((), dtype=torch.int64)
    more = "does not fit " + converted.architecture
    for name in tensors:
        if name not in expected:
            raise WeightsError(f"{where} {more}: tensor {printable(name)} has no use")
    for name, wanted in expected.items():
        if name not in tensors:
            raise WeightsError(f"{where} {more}: tensor {name} is missing")
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise WeightsError(
                f"{where} {more}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"not {tuple(wanted.shape)}"
            )
        if tensor.dtype not in (_FLOATS if wanted.is_floating_point() else (wanted.dtype,)):
            raise WeightsError(f"{where} {more}: tensor {name} has type {tensor.dtype}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"{where}: tensor {name} holds NaN or infinity")
    model.load_state_dict(tensors, strict=True, assign=True)
    return dataclasses.replace(converted, tensors=tensors)


def _without_memory(converted: Converted, where: str) -> nn.Module:
    """The model with no memory behind its tensors, because its size is untrusted. It is run once to

    check that it takes images of the stated size.
    """
    try:
        with torch.device("meta"), torch.inference_mode():
            model = build_model(
                converted.architecture,
                len(converted.labels),
                converted.model_args,
                converted.head,
                converted.words,
            ).eval()
            shape = _output_shape(model, converted)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise WeightsError(
            f"{where}: timm {timm.__version__} cannot build or run {converted.architecture!r}: "
            f"{one_line(str(error)) or type(error).__name__}"
        ) from error
    if shape not in (None, (1, len(converted.labels))):
        raise WeightsError(
            f"{where}: {converted.architecture} gives an output of shape {shape} for one picture, "
            f"not {len(converted.labels)} numbers"
        )
    return model


def _output_shape(model: nn.Module, converted: Converted) -> tuple[int, ...] | None:
    """The shape of the logits for one image; None where timm computes values after all."""
    try:
        return tuple(model(torch.empty(1, 3, *converted.preprocess.size)).shape)
    except RuntimeError as error:  # NotImplementedError among them
        if "meta" in str(error):
            return None
        raise
