"""A model run by OpenVINO on a CPU, converted from the torch module once and then kept.

With the converted model at hand neither torch nor timm is imported, which saves seconds; without
it, a child process converts the model. OpenVINO reads it from files of ours, by their full paths:
given a model in memory it takes a file `.bin` in the working directory for the weights. What it
has read is compared with what was meant at every start.

An ONNX graph is read from the bytes that were checked, and needs no conversion.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moderate import stopping
from moderate.classify.backends import ir_cache
from moderate.classify.backends.conversion import (
    agree,
    cannot_run,
    constants_digest,
    convert,
    no_telemetry,
    selftest_pixels,
)
from moderate.classify.backends.interface import Backend, Logits, PendingLogits
from moderate.classify.backends.ir_cache import Graph
from moderate.classify.bundle import ModelFiles
from moderate.classify.card import WEIGHTS
from moderate.classify.device import Placement
from moderate.classify.files import check_unchanged
from moderate.classify.onnx_graph import cannot_run as cannot_run_graph
from moderate.classify.onnx_graph import check_labels, read_graph
from moderate.cores import available_cores
from moderate.decode.resize import Pixels
from moderate.errors import DeviceError
from moderate.libraries import require_torch
from moderate.native import apart
from moderate.text import one_line

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_NETWORK_ROOM = 16 << 20  # bytes for the description of a network
_ELEMENTS = {"uint8": "u8", "float32": "f32"}


class _NotAsMeantError(Exception):
    """The loaded model differs from the converted one; the message names the difference."""


class OpenVinoBackend(Backend):
    """See `Backend`. Raises DeviceError where OpenVINO does not load or cannot run the model."""

    depth = 1

    def __init__(
        self, files: ModelFiles, placement: Placement, *, threads: int | None = None
    ) -> None:
        self._process = os.getpid()
        self._files = files
        self._precision = placement.precision
        self._config = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[placement.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": str(threads or available_cores()),
        }
        self._idle: list[openvino.InferRequest] = []
        # OpenVINO does not keep the arrays alive that its threads read.
        self._busy: dict[int, tuple[openvino.InferRequest, Pixels]] = {}
        self._compiled: Any = None
        self._single = False  # whether the network takes one image at a time
        _alive.add(self)
        self._openvino = apart(_import_openvino)
        if files.card.onnx:
            self._open_graph()
        else:
            self._open(cache_key(files))

    def _open_graph(self) -> None:
        """Compile an ONNX graph behind its normalisation. Raises WeightsError."""
        files = self._files
        graph = read_graph(files)
        runtime = f"OpenVINO {version('openvino')}"

        def compiled() -> Any:
            with no_telemetry():
                try:
                    model = self._openvino.Core().read_model(graph.data)
                    return self._openvino.Core().compile_model(
                        self._normalised(model), "CPU", self._config
                    )
                except Exception as error:
                    # A runtime may raise anything for an unusual graph.
                    raise cannot_run_graph(graph.where, runtime, error) from error

        self._compiled = apart(compiled)
        self._single = graph.single
        shape = self._compiled.output(0).get_partial_shape()
        if shape.rank.is_static and shape.rank.get_length() == 2 and shape[1].is_static:
            check_labels(shape[1].get_length(), len(files.labels), graph.where)

    def _normalised(self, model: Any) -> Any:
        """The graph with pixels in, N x H x W x 3, as the decoders leave them."""
        onnx, preprocess = self._files.card.onnx, self._files.card.preprocess
        assert onnx is not None
        prepost = self._openvino.preprocess
        pixels = prepost.PrePostProcessor(model)
        source = pixels.input()
        dtype = getattr(self._openvino.Type, _ELEMENTS[preprocess.pixel_spec().dtype])
        layout = self._openvino.Layout
        source.tensor().set_element_type(dtype).set_layout(layout("NHWC"))
        source.tensor().set_color_format(prepost.ColorFormat.RGB)
        steps = source.preprocess().convert_element_type(self._openvino.Type.f32)
        steps.mean([value * 255 for value in preprocess.mean])
        steps.scale([value * 255 for value in preprocess.std])
        if onnx.colours == "bgr":
            steps.convert_color(prepost.ColorFormat.BGR)
        source.model().set_layout(layout(onnx.layout.upper()))
        return pixels.build()

    def _open(self, key: str) -> None:
        files = self._files
        graph = ir_cache.load(key)
        if graph is not None:
            # The cached model is right, but replaced weights files must stop a run anyway.
            check_unchanged(
                Path(files.folder) / WEIGHTS,
                files.card.sha256["model.safetensors"],
                files.weights_state,
            )
            try:
                self._take(graph)
                return
            except _NotAsMeantError as error:
                log.debug("the kept model is converted anew: %s", error)
        require_torch(f"converting {files.architecture} for OpenVINO")
        try:
            weights_bytes = os.path.getsize(os.path.join(files.folder, WEIGHTS))
            with ir_cache.workspace(2 * weights_bytes + _NETWORK_ROOM) as folder:
                # Run the files, so that a cached model and a fresh one behave the same.
                self._take(ir_cache.keep(key, folder, convert(files, folder)))
        except OSError as error:
            reason = f"there is no folder for the converted model: {error.strerror}"
            raise cannot_run(files, reason) from error
        except _NotAsMeantError as error:
            raise cannot_run(files, f"after its conversion, {error}") from error

    def _take(self, graph: Graph) -> None:
        """Load a converted model and compare it with its facts. Raises _NotAsMeantError."""
        files = self._files
        if not graph.facts.agrees:
            raise DeviceError(
                f"OpenVINO {version('openvino')} gives other scores than torch for "
                f"{files.architecture}; --backend torch gives the right ones"
            )
        self._compiled = apart(lambda: self._compile(graph))
        if self._precision != "fp32":
            return  # its scores are not those of torch, but its weights were compared
        expected = np.array(graph.facts.logits, np.float32)
        pixels = selftest_pixels(files.card.preprocess.pixel_spec())
        if not agree(self.start(pixels)(), expected, files.card.activation):
            self._drop()
            raise _NotAsMeantError("the self-test gives other scores")

    def _compile(self, graph: Graph) -> Any:
        core = self._openvino.Core()
        try:
            model = core.read_model(graph.network, graph.weights)
        except RuntimeError as error:
            raise _NotAsMeantError(f"it cannot be read: {error}") from error
        if constants_digest(model) != graph.facts.constants:
            raise _NotAsMeantError("other weights were loaded")
        try:
            return core.compile_model(model, "CPU", self._config)
        except RuntimeError as error:
            raise cannot_run(self._files, f"{type(error).__name__}: {error}") from error

    def start(self, pixels: Pixels) -> PendingLogits:
        """See `Backend`. OpenVINO's own threads take up the work at once."""
        if not self._single:
            return self._start(pixels)
        rows = [self._start(pixels[number : number + 1]) for number in range(len(pixels))]
        return lambda: np.concatenate([row() for row in rows])

    def _start(self, pixels: Pixels) -> PendingLogits:
        request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        request.set_input_tensor(self._openvino.Tensor(pixels, shared_memory=True))
        self._busy[id(request)] = request, pixels
        request.start_async()

        def wait() -> Logits:
            try:
                request.wait()
                return np.array(request.get_output_tensor().data, dtype=np.float32)
            finally:
                self._busy.pop(id(request), None)
                self._idle.append(request)

        return wait

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """See `Backend`: a CPU reads the buffers where they are."""

    def release(self) -> None:
        """See `Backend`: OpenVINO frees unused memory by itself."""

    def close(self) -> None:
        """See `Backend`. Does nothing in a forked process, whose parent goes on with the model."""
        if self._process != os.getpid():
            return
        for request, _ in list(self._busy.values()):
            request.wait()
        self._drop()

    def _drop(self) -> None:
        """Let OpenVINO's objects end now, not when a forked process collects its garbage."""
        self._busy.clear()
        self._idle.clear()
        self._compiled = None


_alive: weakref.WeakSet[OpenVinoBackend] = weakref.WeakSet()


def _keep_in_child() -> None:
    """Never destroy models in a forked process.

    OpenVINO's objects wait for threads that the fork did not copy, and abort the process.
    """
    for backend in _alive:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))


os.register_at_fork(after_in_child=_keep_in_child)


def cache_key(files: ModelFiles) -> str:
    """A digest of all that the converted model depends on."""
    # The versions of torch and timm are noted beside the model: it can be run without them.
    return ir_cache.key_of(files, openvino=version("openvino"))


def _import_openvino() -> Any:
    try:
        with no_telemetry():
            import openvino
    except (ImportError, OSError) as error:
        stopping.check()
        raise DeviceError(
            f"OpenVINO is installed but does not load ({one_line(str(error), 160)}); "
            "use --backend torch"
        ) from error
    return openvino
