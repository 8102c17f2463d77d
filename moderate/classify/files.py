"""Reads configuration and weights files as untrusted input."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import safetensors

from moderate.errors import WeightsError
from moderate.regular import MAX_WEIGHTS_BYTES, file_state, read_regular, sha256_of
from moderate.text import one_line, printable

if TYPE_CHECKING:
    import torch

# A config is a few KB and the largest index of shards a few MB.
_MAX_JSON = 32 * 1024 * 1024


def shown(path: Path) -> str:
    """A path as errors show it."""
    return printable(str(path))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises WeightsError, also where a key stands twice."""
    where = shown(path)
    if not path.exists():
        raise WeightsError(f"{where}: no such file")
    try:
        value = _parse(read_regular(path, _MAX_JSON))
    except OSError as error:
        raise WeightsError(f"{where}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: not valid JSON: {one_line(str(error))}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{where}: not a JSON object")
    return value


def check_unchanged(path: Path, sha256: str, state: tuple[int, ...] | None) -> None:
    """Raises WeightsError unless the file has that digest.

    It is read where its `file_state` is not the one that it had when its digest was checked before.
    """
    if state is not None and file_state(path) == state:
        return
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{shown(path)}: {error.strerror}") from error
    if found != sha256.lower():
        raise WeightsError(f"{shown(path)}: changed since it was checked")


def read_safetensors(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of one file by name. Raises WeightsError, also for NaN and a name given twice.

    With `sha256`, the bytes that are parsed must have that digest: a file that is replaced after
    its check is not used.
    """
    from safetensors.torch import load

    where = shown(path)
    if not path.exists():
        raise WeightsError(f"{where}: no such file")
    try:
        data = read_regular(path, MAX_WEIGHTS_BYTES)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
            raise WeightsError(f"{where}: changed since it was checked")
        # The library holds the header against the length; but takes the last of two of one name.
        tensors = dict(sorted(load(data).items()))
        _parse(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except OSError as error:
        raise WeightsError(f"{where}: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{where}: no valid safetensors file: {one_line(str(error))}") from error
    if not tensors:
        raise WeightsError(f"{where}: holds no tensors")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{where}: tensor {printable(name)} holds NaN or infinity")
    return tensors


def _parse(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
