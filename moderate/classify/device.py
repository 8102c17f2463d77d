"""Where the model runs, by which backend, and in which precision."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from dataclasses import dataclass

from moderate.errors import DeviceError, UsageError
from moderate.native import load
from moderate.text import one_line

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BACKENDS = ("auto", "torch", "openvino")


@dataclass(frozen=True, slots=True)
class Placement:
    """A device that was found to work, and the precision and backend to compute with.

    fallback says that torch may take the place of a backend that cannot run the model: nobody asked
    for that backend by name.
    """

    device: str
    precision: str
    name: str
    backend: str = "torch"
    fallback: bool = False


def check_device(device: str) -> None:
    """Raises UsageError unless it is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device!r}: use auto, cpu, cuda or cuda:N")


def place(device: str, precision: str, backend: str = "auto") -> Placement:
    """Resolve `auto` and make sure that the device works. Raises UsageError or DeviceError.

    Device `auto` takes CUDA where there is one, else the CPU. What is asked for by name is used or
    refused, never exchanged. Precision `auto` is bf16 on GPUs that have it, else fp32. Backend
    `auto` is torch on CUDA, and on the CPU OpenVINO where it is installed. torch, which takes
    seconds to import, is imported only where there may be a GPU.
    """
    check_device(device)
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if backend == "openvino" and device.startswith("cuda"):
        raise UsageError("--backend openvino runs on the CPU: leave it out, or use --device cpu")
    if device == "cpu" or backend == "openvino" or (device == "auto" and not _may_have_gpu()):
        return _on_cpu(precision, backend)
    return _with_torch(device, precision, backend)


def _may_have_gpu() -> bool:
    """Whether asking torch for a GPU can succeed: it needs the driver's library, or AMD's."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")
    return True


def _with_torch(device: str, precision: str, backend: str) -> Placement:
    load("torch")
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return _on_cpu(precision, backend)
        raise DeviceError(
            f"--device {device}: this machine has no working CUDA "
            "(no GPU, no driver, or a torch without CUDA); use --device cpu to run on the CPU"
        )
    try:
        # Not in a process that was forked from one that used CUDA, which torch says in its error.
        index = int(device.partition(":")[2] or torch.cuda.current_device())
        if index >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise DeviceError(f"--device {device}: there are {count} CUDA devices")
        torch.zeros(1, device=f"cuda:{index}").add_(1).item()
    except RuntimeError as error:
        reason = one_line(str(error), 200)
        raise DeviceError(f"--device {device}: CUDA does not work: {reason}") from error
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return Placement(f"cuda:{index}", precision, torch.cuda.get_device_name(index))


def _on_cpu(precision: str, backend: str) -> Placement:
    if precision == "fp16":
        raise DeviceError("--precision fp16 needs CUDA; on the CPU use fp32 or bf16")
    installed = importlib.util.find_spec("openvino") is not None
    if backend == "openvino" and not installed:
        raise DeviceError(
            "--backend openvino: OpenVINO is not installed; pip install 'moderate[cpu]'"
        )
    chosen = "openvino" if installed and backend != "torch" else "torch"
    return Placement(
        "cpu",
        "fp32" if precision == "auto" else precision,
        "cpu",
        chosen,
        fallback=chosen == "openvino" and backend == "auto",
    )
