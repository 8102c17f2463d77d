"""Reading untrusted configuration and safetensors files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from moderate.classify.files import read_json, read_safetensors, shown
from moderate.errors import WeightsError
from moderate.text import one_line, printable

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

_UNSAFE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".h5", ".pkl", ".msgpack"})


def model_type(folder: Path) -> object:
    """What transformers calls the kind of model in a folder; None where there is no config.

    Raises WeightsError where the config cannot be read.
    """
    path = folder / CONFIG
    return read_json(path).get("model_type") if path.is_file() else None


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder's model.safetensors, or of the shards that its index names.

    Raises WeightsError, also for a folder that has weights in unsafe formats only.
    """
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise WeightsError(f"{shown(folder)}: {error.strerror}") from error
    if unsafe := [name for name in names if Path(name).suffix in _UNSAFE]:
        raise WeightsError(
            f"{shown(folder)}: {printable(unsafe[0])} is not read, as loading such a file can run "
            f"code that it carries (pickle), or needs its maker's software; only {WEIGHTS} is "
            "read: look for a revision of the source that has it, or have the weights saved as "
            "safetensors by somebody who trusts the file"
        )
    raise WeightsError(f"{shown(folder)}: no {WEIGHTS}")


def _read_shards(folder: Path) -> dict[str, torch.Tensor]:
    where = shown(folder / INDEX)
    promised = read_json(folder / INDEX).get("weight_map")
    if not isinstance(promised, dict) or not promised:
        raise WeightsError(f"{where}: no weight_map")
    for shard in promised.values():
        plain_name(shard, where)
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(promised.values())):
        for name, tensor in read_safetensors(folder / shard).items():
            if promised.get(name) != shard:
                raise WeightsError(f"{where}: {printable(shard)} holds {printable(name)} unlisted")
            tensors[name] = tensor
    for name in promised:
        if name not in tensors:
            raise WeightsError(
                f"{where}: tensor {printable(name)} is not in {printable(promised[name])}"
            )
    return tensors


def plain_name(name: object, where: str) -> str:
    """A file name that another file gives. Raises WeightsError where it could lead elsewhere."""
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or any(c in name for c in "/\\\0")
        or len(name) > 255
    ):
        raise WeightsError(f"{where}: {one_line(repr(name), 80)} is not the name of a file beside")
    return name


class TensorPool:
    """Source tensors, each to be taken exactly once."""

    def __init__(self, tensors: dict[str, torch.Tensor], where: str) -> None:
        self._left = dict(tensors)
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, dimensions: int | None = None) -> torch.Tensor:
        """The tensor of that name. Raises WeightsError when missing, taken, or of other rank."""
        if name not in self._left:
            raise WeightsError(f"{self._where}: tensor {printable(name)} is missing")
        tensor = self._left.pop(name)
        if dimensions is not None and tensor.ndim != dimensions:
            raise WeightsError(
                f"{self._where}: tensor {printable(name)} has shape {tuple(tensor.shape)}, "
                f"not {dimensions} dimensions"
            )
        return tensor

    def take_all(self, prefix: str, but: Iterable[str] = ()) -> dict[str, torch.Tensor]:
        """All that is left below a prefix, without it; the names in `but` stay."""
        kept = {prefix + name for name in but}
        names = [name for name in self._left if name.startswith(prefix) and name not in kept]
        return {name.removeprefix(prefix): self._left.pop(name) for name in names}

    def joined(self, names: Iterable[str]) -> torch.Tensor:
        """Tensors of one shape and type, concatenated along the first axis."""
        names = tuple(names)
        parts = [self.take(name) for name in names]
        for name, part in zip(names, parts, strict=True):
            if part.shape != parts[0].shape or part.dtype != parts[0].dtype or part.ndim == 0:
                raise WeightsError(
                    f"{self._where}: tensor {printable(name)} differs from {names[0]} in form"
                )
        return torch.cat(parts)

    def finish(self, harmless: Iterable[str] = ()) -> None:
        """Raises WeightsError when a tensor is left that is not named as harmless."""
        left = sorted(set(self._left) - set(harmless))
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise WeightsError(f"{self._where}: tensor {printable(left[0])} has no use{more}")
