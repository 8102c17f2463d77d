"""The interface of every backend: one model on its device, from pixels to logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from moderate.decode.resize import Pixels

Logits = NDArray[np.float32]
PendingLogits = Callable[[], Logits]
"""Waits for N x labels logits; raises what the model raised."""


class Backend(ABC):
    """One model, loaded. Building one raises WeightsError where its files do not make a model."""

    depth: int = 0
    """How many calls of `start` may usefully be outstanding: 0 where nothing is asynchronous."""

    @abstractmethod
    def start(self, pixels: Pixels) -> PendingLogits:
        """Begin with N x H x W x 3 pixels, uint8 or float32 in 0..255.

        `pixels` must not change before the result was taken. Raises what the model raises, here or
        in the result.
        """

    @abstractmethod
    def pin(self, buffers: Sequence[Pixels]) -> None:
        """Make copies from these buffers to the device faster, where that is possible."""

    @abstractmethod
    def release(self) -> None:
        """Give unused memory back to the device, after it ran out."""

    def check(self) -> None:
        """Raise DeviceError where the device no longer works; what a CPU computes with is there."""
        return

    @abstractmethod
    def close(self) -> None:
        """Undo what was done to the process: pinned memory, thread counts."""
