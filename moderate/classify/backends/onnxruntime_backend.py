"""An ONNX graph run by onnxruntime: on CUDA, and on CPUs without OpenVINO.

onnxruntime is given the bytes that were checked, never a path. Pixels are normalised here.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate import stopping
from moderate.classify.backends.interface import Backend, Logits, PendingLogits
from moderate.classify.bundle import ModelFiles
from moderate.classify.device import Placement
from moderate.classify.onnx_graph import Graph, cannot_run, read_graph
from moderate.cores import available_cores
from moderate.decode.resize import Pixels
from moderate.errors import DeviceError
from moderate.native import apart
from moderate.text import one_line

_ERRORS_ONLY = 3  # onnxruntime's log levels
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxRuntimeBackend(Backend):
    """See `Backend`. Raises DeviceError where onnxruntime does not load or has no working CUDA.

    On CUDA one batch is normalised while the one before it is computed.
    """

    def __init__(
        self, files: ModelFiles, placement: Placement, *, threads: int | None = None
    ) -> None:
        onnx, preprocess = files.card.onnx, files.card.preprocess
        assert onnx is not None
        self._graph = read_graph(files)
        self._channels_first = onnx.layout == "nchw"
        self._colours = slice(None, None, -1) if onnx.colours == "bgr" else slice(None)
        self._mean = np.array(preprocess.mean, np.float32) * 255
        self._std = np.array(preprocess.std, np.float32) * 255
        is_cuda = placement.device != "cpu"
        self._device = placement.device
        self._black = np.zeros((1, *preprocess.pixel_spec().shape), preprocess.pixel_spec().dtype)
        self._session = apart(
            lambda: _open_session(self._graph, placement, threads or available_cores())
        )
        self._input = self._session.get_inputs()[0].name
        self.depth = 2 if is_cuda else 1
        self._threads = ThreadPoolExecutor(self.depth, "inference")

    def start(self, pixels: Pixels) -> PendingLogits:
        """See `Backend`."""
        return self._threads.submit(self._run, pixels).result

    def _run(self, pixels: Pixels) -> Logits:
        images = self._normalised(pixels)
        if not self._graph.single:
            return self._infer(images)
        rows = [self._infer(images[number : number + 1]) for number in range(len(images))]
        return np.concatenate(rows)

    def _normalised(self, pixels: Pixels) -> NDArray[np.float32]:
        images = (pixels.astype(np.float32) - self._mean) / self._std
        images = images[..., self._colours]
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images)

    def _infer(self, images: NDArray[np.float32]) -> Logits:
        result: Logits = np.asarray(self._session.run(None, {self._input: images})[0], np.float32)
        return result

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """See `Backend`: what is copied to the device are the normalised images."""

    def release(self) -> None:
        """See `Backend`: onnxruntime frees unused memory by itself."""

    def check(self) -> None:
        """See `Backend`: a GPU on which not even a black image can be scored any more is lost."""
        if self._device == "cpu":
            return
        try:
            self.start(self._black)()
        except Exception as error:
            # onnxruntime has no type for it.
            reason = one_line(str(error), 200)
            raise DeviceError(
                f"--device {self._device}: onnxruntime no longer works there: {reason}"
            ) from error

    def close(self) -> None:
        """See `Backend`."""
        self._threads.shutdown(cancel_futures=True)


def _open_session(graph: Graph, placement: Placement, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    runtime = f"onnxruntime {onnxruntime.__version__}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    providers: list[Any] = [_CPU]
    if placement.device != "cpu":
        if hasattr(onnxruntime, "preload_dlls"):  # CUDA's libraries, from where pip put them
            onnxruntime.preload_dlls()
        index = int(placement.device.partition(":")[2] or 0)
        # TF32 moves scores by 1e-3: fp32 means fp32.
        providers = [(_CUDA, {"device_id": index, "use_tf32": 0}), _CPU]
    try:
        session = onnxruntime.InferenceSession(graph.data, options, providers=providers)
    except Exception as error:
        # A runtime may raise anything for an unusual graph.
        raise cannot_run(graph.where, runtime, error) from error
    if placement.device != "cpu" and _CUDA not in session.get_providers():
        raise DeviceError(
            f"{runtime} has no working CUDA here (it needs onnxruntime-gpu, and CUDA and cuDNN of "
            "the versions that it was built for); use --device cpu to run on the CPU"
        )
    session.disable_fallback()  # onnxruntime would fall back to the CPU silently
    return session


def import_onnxruntime() -> Any:
    """The module. Raises DeviceError where it does not load."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        stopping.check()
        raise DeviceError(
            f"onnxruntime is installed but does not load ({one_line(str(error), 160)})"
        ) from error
    return onnxruntime
