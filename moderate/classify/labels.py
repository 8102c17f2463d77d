"""One model of a bundle on any backend: pixels in, probabilities of its labels out."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moderate.classify.backends.interface import Backend, Logits
from moderate.classify.bundle import ModelFiles
from moderate.classify.device import Placement
from moderate.decode.resize import Pixels
from moderate.errors import DeviceError, WeightsError
from moderate.libraries import installed, require_torch
from moderate.native import load

log = logging.getLogger(__name__)

_NAMES = {"openvino": "OpenVINO", "onnxruntime": "onnxruntime"}

CPU_BATCH = {"torch": 8, "openvino": 4, "onnxruntime": 4}
"""How many images a CPU runs at once, by backend.

More do not fit its caches. On two cores, images/s: torch with mobilenetv3_large_100 made 260 in
batches of 8, 186 of 32 and 111 of 64; OpenVINO with mobilenetv4_conv_small 601 of 4, 557 of 8 and
448 of 32.
"""


def model_batch(placement: Placement, batch_size: int) -> int:
    """How many images the model is given at once, of batches of `batch_size`."""
    if placement.device != "cpu":
        return batch_size
    return min(CPU_BATCH[placement.backend], batch_size)


class LabelModel:
    """A loaded model on its device. Raises WeightsError or DeviceError while it is built."""

    def __init__(
        self,
        files: ModelFiles,
        placement: Placement,
        *,
        batch_size: int = 32,
        compile: bool = False,
        threads: int | None = None,
    ) -> None:
        self.labels = files.labels
        self._activation = files.card.activation
        self._batch = model_batch(placement, batch_size)
        self.backend, self.backend_name = _open(files, placement, self._batch, compile, threads)

    def start(self, pixels: Pixels, padded: int) -> Callable[[], NDArray[np.float32]]:
        """Begin with N x H x W x 3 pixels; the callable waits for N x labels probabilities.

        The model is given `padded` images, the missing ones black: how a kernel adds up depends on
        the size of the batch, so this is what makes an image's scores the same to the last bit
        whatever its neighbours. `padded` is at least N. Raises what the model raises.
        """
        count = len(pixels)
        if count < padded:
            whole = np.zeros((padded, *pixels.shape[1:]), pixels.dtype)
            whole[:count] = pixels
            pixels = whole
        whole_rows: Pixels = np.ascontiguousarray(pixels)  # type: ignore[assignment]
        logits = self.backend.start(whole_rows)
        shape = (len(pixels), len(self.labels))

        def wait() -> NDArray[np.float32]:
            found = logits()
            if found.shape != shape:
                # Columns are taken by number: of another shape they would be other labels.
                raise WeightsError(
                    f"the model gives {' x '.join(map(str, found.shape))} numbers for a batch of "
                    f"{shape[0]} images, but {shape[1]} labels are named"
                )
            return activate(found[:count], self._activation)

        return wait

    def probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        """N x H x W x 3 pixels, uint8 or float32 in 0..255, to N x labels float32."""
        size = self._batch
        parts = [
            self.start(pixels[first : first + size], size)()
            for first in range(0, len(pixels), size)
        ]
        return np.concatenate(parts)


def activate(logits: Logits, activation: str) -> NDArray[np.float32]:
    """Probabilities of N x labels logits: `softmax` over a row, `sigmoid` of each, or as they are.

    activation `none` says that they are probabilities already.
    """
    if activation == "none":
        return logits.astype(np.float32)
    exact = logits.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are told apart later
        if activation == "softmax":
            powers = np.exp(exact - exact.max(axis=1, keepdims=True))
            probabilities = powers / powers.sum(axis=1, keepdims=True)
        else:
            probabilities = 1 / (1 + np.exp(-exact))
    result: NDArray[np.float32] = probabilities.astype(np.float32)
    return result


def _open(
    files: ModelFiles, placement: Placement, batch: int, compile: bool, threads: int | None
) -> tuple[Backend, str]:
    backend = placement.backend
    if files.kind == "onnx":
        if placement.device != "cpu":
            backend = "onnxruntime"
        elif backend == "torch":  # which runs the other models of the bundle
            backend = "openvino" if installed("openvino") else "onnxruntime"
    elif backend == "onnxruntime":
        backend = "torch"
    if compile and backend != "torch":
        log.warning("%s compiles by itself: --compile is for --backend torch", _NAMES[backend])
    if backend == "onnxruntime":
        from moderate.classify.backends.onnxruntime_backend import OnnxRuntimeBackend

        return OnnxRuntimeBackend(files, placement, threads=threads), "onnxruntime"
    if backend == "openvino":
        from moderate.classify.backends.openvino_backend import OpenVinoBackend

        try:
            return OpenVinoBackend(files, placement, threads=threads), "openvino"
        except DeviceError as error:
            if not placement.fallback or files.kind == "onnx":
                raise
            log.warning("%s; using torch", error)
    require_torch(f"running {files.architecture}")
    load("torch")  # and timm where the network has to be built
    from moderate.classify.backends.torch_backend import TorchBackend

    torch_backend = TorchBackend(
        files, placement, batch_size=batch, compile=compile, threads=threads
    )
    return torch_backend, "torch"
