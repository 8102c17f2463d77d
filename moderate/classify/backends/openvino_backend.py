"""A model run by OpenVINO on a CPU, converted from the torch module once and then kept.

With the converted model at hand neither torch nor timm is imported, which saves seconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moderate import stopping
from moderate.classify.backends import ir_cache
from moderate.classify.backends.interface import Backend, Logits, PendingLogits
from moderate.classify.backends.ir_cache import Graph
from moderate.classify.bundle import WEIGHTS, ModelFiles
from moderate.classify.device import Placement
from moderate.classify.files import check_unchanged
from moderate.classify.labels import activate
from moderate.cores import available_cores
from moderate.decode.resize import Pixels
from moderate.errors import DeviceError
from moderate.system_limits import system_limit
from moderate.text import one_line
from moderate.version import __version__

if TYPE_CHECKING:
    import openvino

_DIFFERENT = Graph(b"", b"")
"""Kept in place of a model that OpenVINO does not compute as torch does."""

_TOLERANCE = 1e-4  # of a score, in fp32

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoBackend(Backend):
    """See `Backend`. Raises DeviceError where OpenVINO does not load or cannot run the model."""

    depth = 1

    def __init__(
        self, files: ModelFiles, placement: Placement, *, threads: int | None = None
    ) -> None:
        self._openvino = _import_openvino()
        cores = threads or available_cores()
        graph = _graph(files, self._openvino)
        config = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[placement.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": str(cores),
        }
        try:
            self._compiled = _compile(self._openvino, graph, config)
        except RuntimeError as error:
            raise _cannot_run(files, error) from error
        self._idle: list[openvino.InferRequest] = []
        # OpenVINO does not keep the arrays alive that its threads read.
        self._busy: dict[int, tuple[openvino.InferRequest, Pixels]] = {}

    def start(self, pixels: Pixels) -> PendingLogits:
        """See `Backend`. OpenVINO's own threads take up the work at once."""
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
        """See `Backend`: OpenVINO gives back by itself."""

    def close(self) -> None:
        """See `Backend`."""
        for request, _ in self._busy.values():
            request.wait()
        self._busy.clear()
        self._idle.clear()


def _graph(files: ModelFiles, openvino: Any) -> Graph:
    key = cache_key(files)
    graph = ir_cache.load(key)
    if graph is not None:
        # It is made of the right weights; but files that were exchanged stop a run, kept or not.
        check_unchanged(Path(files.folder) / WEIGHTS, files.card.sha256["model.safetensors"])
    else:
        # What is run is always what was written: the same whether it was kept or just made.
        try:
            graph = _convert(files, openvino)
        except OSError as error:
            if system_limit(error):
                raise
            raise DeviceError(
                f"OpenVINO cannot convert {files.architecture} in {tempfile.gettempdir()} "
                f"({error.strerror}); set TMPDIR, or use --backend torch"
            ) from error
        ir_cache.save(key, graph)
    if graph == _DIFFERENT:
        raise DeviceError(
            f"OpenVINO {version('openvino')} gives other scores than torch for "
            f"{files.architecture}; --backend torch gives the right ones"
        )
    return graph


def cache_key(files: ModelFiles) -> str:
    """A digest of all that the converted model depends on."""
    card = files.card
    depends = {
        "sha256": card.sha256,
        "architecture": files.architecture,
        "labels": len(files.labels),
        "activation": card.activation,  # which scores are compared with torch's
        "model_args": card.model_args,
        "head": card.head.model_dump(mode="json") if card.head else None,
        "preprocess": card.preprocess.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("openvino", "torch", "timm")},
        "moderate": __version__,
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _convert(files: ModelFiles, openvino: Any) -> Graph:
    """The model with its normalisation, N x H x W x 3 pixels to N x labels logits."""
    import torch

    from moderate.classify.backends.normalised import Normalised
    from moderate.classify.model import load_model

    preprocess = files.card.preprocess
    spec = preprocess.pixel_spec()
    model = Normalised(load_model(files), preprocess.mean, preprocess.std).eval()
    example = torch.zeros((2, *spec.shape), dtype=getattr(torch, spec.dtype))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.xml"
        try:
            # What tracing says about timm's code is not for users.
            with warnings.catch_warnings(), _no_telemetry(), torch.inference_mode():
                warnings.simplefilter("ignore")
                converted = openvino.convert_model(
                    model, example_input=example, input=[-1, *spec.shape]
                )
            openvino.save_model(converted, target, compress_to_fp16=False)
        except Exception as error:
            # Whatever a converter makes of a network.
            raise _cannot_run(files, error) from error
        graph = Graph(target.read_bytes(), target.with_suffix(".bin").read_bytes())
    pixels = np.random.default_rng(0).integers(0, 256, example.shape).astype(spec.dtype)
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)).numpy()
    got = _compile(openvino, graph, {"INFERENCE_PRECISION_HINT": "f32"})([pixels])[0]
    return graph if _agree(got, expected, files.card.activation) else _DIFFERENT


def _agree(got: Logits, expected: Logits, activation: str) -> bool:
    """Whether logits and probabilities are as near as those of one network in fp32 should be.

    Not so where a traced model resizes its table of positions: the two interpolate differently.
    """
    scores = np.abs(activate(got, activation) - activate(expected, activation)).max()
    # A logit moves a score by a quarter of its own change at the most.
    largest = max(1.0, float(np.abs(expected).max()))
    return bool(scores <= _TOLERANCE and np.abs(got - expected).max() <= 4 * _TOLERANCE * largest)


def _compile(openvino: Any, graph: Graph, config: dict[str, str]) -> Any:
    core = openvino.Core()
    weights = openvino.Tensor(np.frombuffer(graph.weights, np.uint8))
    return core.compile_model(core.read_model(graph.xml, weights), "CPU", config)


def _cannot_run(files: ModelFiles, error: Exception) -> DeviceError:
    return DeviceError(
        f"OpenVINO {version('openvino')} cannot run {files.architecture} "
        f"({one_line(f'{type(error).__name__}: {error}', 160)}); --backend torch can"
    )


def _import_openvino() -> Any:
    try:
        with _no_telemetry():
            import openvino
    except (ImportError, OSError) as error:
        stopping.check()
        if system_limit(error):
            raise
        raise DeviceError(
            f"OpenVINO is installed but does not load ({one_line(str(error), 160)}); "
            "use --backend torch"
        ) from error
    return openvino


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep OpenVINO from reporting to its maker.

    Where `openvino_telemetry` is installed, which pip does unasked, importing openvino and
    converting a model each send an event to Google Analytics; where it is not, a stub of
    OpenVINO's own takes its place. None in sys.modules is Python's way to say "not installed".
    """
    name = "openvino_telemetry"
    missing = object()
    before: Any = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = before
