"""A torch model converted for OpenVINO, in a process of its own that ends afterwards.

Conversion takes torch, timm and some 700 MB more than running the result. What is written is read
back, and compared with torch, before it counts.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.classify import selftest
from moderate.classify.backends.interface import Logits
from moderate.classify.backends.ir_cache import NETWORK, WEIGHTS, GraphFacts
from moderate.classify.bundle import ModelFiles
from moderate.classify.card import ModelCard
from moderate.classify.labels import activate
from moderate.decode.process import how_it_ended
from moderate.decode.resize import Pixels, PixelSpec
from moderate.errors import DeviceError, ModerateError, WeightsError
from moderate.native import ROOT, child_environment
from moderate.text import one_line

log = logging.getLogger(__name__)

_OUTCOME = "outcome.json"
_ERRORS = {"WeightsError": WeightsError, "DeviceError": DeviceError}
_TOLERANCE = 1e-4  # of a score, in fp32
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildError(Exception):
    """The child process could not be started, or ended without an outcome."""


def convert(files: ModelFiles, folder: str) -> GraphFacts:
    """Convert a model into `folder` in a child process and return the facts about the result.

    The files are there where torch and OpenVINO agree. Raises WeightsError, and DeviceError where
    OpenVINO cannot run the model or the process fails.
    """
    try:
        outcome = ask_child("moderate.classify.backends.conversion", files, folder)
    except ChildError as error:
        raise cannot_run(files, str(error)) from error
    return GraphFacts.parse(outcome)


def ask_child(module: str, files: ModelFiles, folder: str) -> dict[str, Any]:
    """What `answer` in a child process that runs `module` makes of a model.

    Its files go to `folder`. Raises ChildError, WeightsError and DeviceError.
    """
    task = {
        "parent": os.getpid(),
        "card": files.card.model_dump(mode="json"),
        "folder": os.path.abspath(files.folder),
        "architecture": files.architecture,
        "labels": files.labels,
        "target": folder,
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=child_environment(),
            start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
        )
    except OSError as error:
        raise ChildError(f"the process for it cannot be started: {error.strerror}") from error
    with process:
        try:
            _, complaints = process.communicate(json.dumps(task).encode())
        except BaseException:
            process.kill()
            raise
    if complaints:
        log.debug("converting: %s", one_line(complaints.decode(errors="replace"), 2000))
    try:
        with open(os.path.join(folder, _OUTCOME), encoding="utf-8") as file:
            outcome: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise ChildError(how_it_ended(process, "conversion")) from error
    if "error" in outcome:
        kind, message = outcome["error"]
        raise _ERRORS[kind](message)
    return outcome


def cannot_run(files: ModelFiles, reason: str) -> DeviceError:
    """Return the error for a model that OpenVINO cannot run; it names the backend that can."""
    return DeviceError(
        f"OpenVINO {version('openvino')} cannot run {files.architecture} "
        f"({one_line(reason, 160)}); --backend torch can"
    )


def selftest_pixels(spec: PixelSpec) -> Pixels:
    """The self-test's inputs as a batch, N x H x W x 3."""
    batch = [pixels for (pixels,) in selftest.inputs((spec,))]
    return np.stack(batch)  # type: ignore[return-value]


def agree(got: Logits, expected: Logits, activation: str) -> bool:
    """Whether logits and probabilities are as near as those of one network in fp32 should be.

    Not so where a traced model resizes its table of positions: the two interpolate differently.
    """
    if got.shape != expected.shape:
        return False
    scores = np.abs(activate(got, activation) - activate(expected, activation)).max()
    # A logit moves a score by a quarter of its own change at the most.
    largest = max(1.0, float(np.abs(expected).max()))
    return bool(scores <= _TOLERANCE and np.abs(got - expected).max() <= 4 * _TOLERANCE * largest)


def constants_digest(model: Any) -> str:
    """SHA-256 of all constants of an OpenVINO model: names, types, shapes and values."""
    digest = hashlib.sha256()
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    for node in sorted(constants, key=lambda node: str(node.get_friendly_name())):
        shape = list(node.get_output_shape(0))
        digest.update(f"{node.get_friendly_name()} {node.get_element_type()} {shape}\n".encode())
        values: NDArray[Any] = np.ascontiguousarray(node.data)
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextmanager
def no_telemetry() -> Iterator[None]:
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


def _convert(files: ModelFiles, target: str) -> GraphFacts:
    """In the child: the model with its normalisation, N x H x W x 3 pixels to N x labels logits."""
    with no_telemetry():
        import openvino
    import torch

    from moderate.classify.backends.normalised import Normalised
    from moderate.classify.model import load_model

    preprocess = files.card.preprocess
    spec = preprocess.pixel_spec()
    model = Normalised(load_model(files), preprocess.mean, preprocess.std).eval()
    network, weights = os.path.join(target, NETWORK), os.path.join(target, WEIGHTS)
    example = torch.zeros((2, *spec.shape), dtype=getattr(torch, spec.dtype))
    known = selftest_pixels(spec)
    noise = np.random.default_rng(0).integers(0, 256, example.shape).astype(spec.dtype)
    try:
        # What tracing says about timm's code is not for users.
        with warnings.catch_warnings(), no_telemetry(), torch.inference_mode():
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(
                model, example_input=example, input=[-1, *spec.shape]
            )
        openvino.save_model(converted, network, compress_to_fp16=False)
        del converted
        core = openvino.Core()
        read = core.read_model(network, weights)
        constants = constants_digest(read)
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        got = [compiled([pixels])[0] for pixels in (known, noise)]
    except Exception as error:
        # A converter may raise anything for an unusual network.
        raise cannot_run(files, f"{type(error).__name__}: {error}") from error
    with torch.inference_mode():
        expected = [model(torch.from_numpy(pixels)).numpy() for pixels in (known, noise)]
    pairs = zip(got, expected, strict=True)
    if not all(agree(ours, theirs, files.card.activation) for ours, theirs in pairs):
        os.unlink(network)
        os.unlink(weights)
        return GraphFacts(agrees=False, made=time.time())
    with open(network, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return GraphFacts(True, time.time(), digest, constants, tuple(map(tuple, expected[0].tolist())))


def answer(make: Callable[[ModelFiles, str], dict[str, Any]]) -> None:
    """In the child: the task as JSON on standard input, the outcome in a file beside the model."""
    task = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != task["parent"]:
        return  # it ended before
    files = ModelFiles(
        card=ModelCard.model_validate(task["card"]),
        folder=task["folder"],
        architecture=task["architecture"],
        labels=tuple(task["labels"]),
    )
    outcome: dict[str, Any]
    try:
        outcome = make(files, task["target"])
    except ModerateError as error:
        outcome = {"error": [type(error).__name__, str(error)]}
    with open(os.path.join(task["target"], _OUTCOME), "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    sys.stderr.flush()
    os._exit(0)  # what was loaded need not be taken apart


if __name__ == "__main__":
    answer(lambda files, target: asdict(_convert(files, target)))
