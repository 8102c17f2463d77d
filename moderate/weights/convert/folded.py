"""BatchNorm layers whose scale and shift an exporter moved into the convolution before them."""

from __future__ import annotations

import math

import torch


def identity_norm(
    tensors: dict[str, torch.Tensor],
    name: str,
    channels: int,
    epsilon: float,
    bias: torch.Tensor | None = None,
) -> None:
    """Put a BatchNorm called `name` into `tensors` that only adds `bias`, which may be nothing."""
    tensors[f"{name}.weight"] = torch.full((channels,), math.sqrt(1 + epsilon))
    tensors[f"{name}.bias"] = torch.zeros(channels) if bias is None else bias
    tensors[f"{name}.running_mean"] = torch.zeros(channels)
    tensors[f"{name}.running_var"] = torch.ones(channels)
