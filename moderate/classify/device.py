"""Where the model runs, by which backend, and in which precision."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moderate.errors import DeviceError, MissingLibraryError, UsageError
from moderate.installing import how_to_install
from moderate.libraries import has_torch, installed
from moderate.native import apart, check_driver, load
from moderate.text import one_line

if TYPE_CHECKING:
    from moderate.classify.bundle import Kind

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BACKENDS = ("auto", "torch", "openvino", "onnxruntime")

# NVIDIA's on servers and desktops, under WSL 2, and on Jetson boards; AMD's.
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvgpu", "/dev/nvhost-gpu", "/dev/kfd")

NO_ONNXRUNTIME = "ONNX graphs run on CUDA by onnxruntime-gpu, which is not installed"


ALL_GPUS = "cuda:all"

MOST_REPLICAS = 64


@dataclass(frozen=True, slots=True)
class Placement:
    """A device that was found to work, and the precision and backend to compute with.

    fallback says that torch may take the place of a backend that cannot run the model: nobody asked
    for that backend by name. others are device and name of further devices of the same kind, each
    of which gets a model of its own, with the same precision and backend.
    """

    device: str
    precision: str
    name: str
    backend: str = "torch"
    fallback: bool = False
    others: tuple[tuple[str, str], ...] = ()

    @property
    def replicas(self) -> tuple[Placement, ...]:
        """One placement for each model, each on a single device."""
        return (
            replace(self, others=()),
            *(replace(self, device=device, name=name, others=()) for device, name in self.others),
        )

    @property
    def shown(self) -> str:
        """The devices with their names, as audit facts have them."""
        devices = (self.device, *(device for device, _ in self.others))
        names = {self.name, *(name for _, name in self.others)}
        if self.others and len(names) == 1 and self.name != self.device:
            return f"{', '.join(devices)} ({len(devices)} x {self.name})"
        named = ((self.device, self.name), *self.others)
        return ", ".join(device if device == name else f"{device} {name}" for device, name in named)


def check_device(device: str) -> None:
    """Raises UsageError unless it is auto, cpu, cuda, cuda:N or cuda:all, or a list of devices."""
    names = _names(device)
    if not all(re.fullmatch(r"auto|cpu|cuda(:\d+|:all)?", name) for name in names):
        raise UsageError(
            f"--device {device!r}: use auto, cpu, cuda, cuda:N or cuda:all, or a list such as "
            "cuda:0,cuda:1"
        )
    if len(names) > 1 and not {"auto", ALL_GPUS}.isdisjoint(names):
        raise UsageError(f"--device {device!r}: auto and {ALL_GPUS} stand for themselves alone")
    if len({name.partition(":")[0] for name in names}) > 1:
        raise UsageError(
            f"--device {device!r}: GPUs and the CPU do not share a run; name devices of one kind"
        )
    if len(names) > MOST_REPLICAS:
        raise UsageError(f"--device: {len(names)} devices are named; use {MOST_REPLICAS} at most")


def most_replicas(device: str) -> int:
    """How many models a device option asks for; of `cuda:all`, as many as the driver counts.

    Cheap, and no promise that these devices work. Raises DeviceError where the driver of `cuda:all`
    must not be loaded.
    """
    count = _gpu_count() if device.strip() == ALL_GPUS else len(_names(device))
    return max(1, min(count, MOST_REPLICAS))


def _names(device: str) -> list[str]:
    return [name.strip() for name in device.split(",")]


def _gpu_count() -> int:
    """How many GPUs the CUDA driver shows this process; 0 where that cannot be known.

    Raises DeviceError as `check_driver` does.
    """

    def ask() -> int:
        check_driver()
        try:
            driver = ctypes.CDLL("libcuda.so.1")
            count = ctypes.c_int()
            if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
                return 0
        except (OSError, AttributeError):
            return 0
        return min(count.value, MOST_REPLICAS)

    return apart(ask)


def place(
    device: str,
    precision: str,
    backend: str = "auto",
    kinds: Set[Kind] = frozenset({"timm"}),
) -> Placement:
    """Resolve `auto` and make sure that the device works. Raises UsageError or DeviceError.

    Device `auto` takes CUDA where there is one, else the CPU. A device or backend that is named is
    used or refused, never replaced by another. Precision `auto` is bf16 on GPUs that have it, else
    fp32. Backend `auto` is torch on CUDA, and on the CPU OpenVINO where it is installed. torch,
    which takes seconds to import, is imported only where there may be a GPU.

    kinds is what the models are. ONNX graphs run on CUDA by onnxruntime and in fp32, and there
    `auto` takes CUDA where onnxruntime has it; on the CPU they run by OpenVINO, or by onnxruntime
    without it. torch is not imported for them.

    Of several devices each has to work. They compute alike: precision `auto` is bf16 where all of
    them have it. A device that is named twice gets two models.
    """
    check_device(device)
    if device.strip() == ALL_GPUS:
        first = _place(ALL_GPUS, precision, backend, kinds)
        devices: Sequence[str] = [f"cuda:{index}" for index in range(_visible_gpus(kinds))]
    else:
        devices = _names(device)
        first = _place(devices[0], precision, backend, kinds)
    if len(devices) < 2:
        return first
    found = [first, *(_place(name, precision, backend, kinds) for name in devices[1:])]
    if len({each.precision for each in found}) > 1:
        # Only `auto` gives different ones. An image's score must not depend on where it ran.
        log.info("not every GPU has bf16: all compute in fp32")
        found = [replace(each, precision="fp32") for each in found]
    return replace(found[0], others=tuple((each.device, each.name) for each in found[1:]))


def _visible_gpus(kinds: Set[Kind]) -> int:
    if "timm" not in kinds:
        return _gpu_count()
    import torch  # which `_place` has loaded

    return min(torch.cuda.device_count(), MOST_REPLICAS)


def _place(device: str, precision: str, backend: str, kinds: Set[Kind]) -> Placement:
    """`place` for one device; `cuda:all` is the first GPU."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if backend == "openvino" and device.startswith("cuda"):
        raise UsageError("--backend openvino runs on the CPU: leave it out, or use --device cpu")
    if backend == "torch" and "timm" not in kinds:
        raise UsageError("--backend torch: these weights are an ONNX graph, which torch cannot run")
    if backend == "onnxruntime" and "onnx" not in kinds:
        raise UsageError("--backend onnxruntime: these weights hold no ONNX graph: leave it out")
    if device == "cpu" or backend == "openvino" or (device == "auto" and not _may_have_gpu()):
        return _on_cpu(precision, backend, kinds)
    if "onnx" in kinds and not _onnxruntime_has_cuda():
        if device != "auto":
            raise MissingLibraryError(
                f"--device {device}: {NO_ONNXRUNTIME}: {how_to_install('onnx-gpu')}"
            )
        log.info("running on the CPU: %s: %s", NO_ONNXRUNTIME, how_to_install("onnx-gpu"))
        return _on_cpu(precision, backend, kinds)
    if "onnx" in kinds and precision not in ("auto", "fp32"):
        raise DeviceError(f"--precision {precision}: ONNX graphs run in fp32 on CUDA")
    if "timm" not in kinds:
        index = _index(device) or "0"
        return Placement(f"cuda:{index}", "fp32", f"cuda:{index}", "onnxruntime")
    if not has_torch():
        if device != "auto":
            raise MissingLibraryError(
                f"--device {device} needs torch and timm, which this light installation lacks: "
                "pip install torch timm"
            )
        return _on_cpu(precision, backend, kinds)
    return _with_torch(device, "fp32" if "onnx" in kinds else precision, backend, kinds)


def _onnxruntime_has_cuda() -> bool:
    if not installed("onnxruntime"):
        return False
    from moderate.classify.backends.onnxruntime_backend import import_onnxruntime

    providers = apart(import_onnxruntime).get_available_providers()
    return "CUDAExecutionProvider" in providers


def _may_have_gpu() -> bool:
    """Whether asking torch for a GPU can succeed: the driver has made one of its device files.

    The driver's library is not looked for: loading it runs its code.
    """
    return any(map(os.path.exists, _GPU_FILES))


def gpu_name() -> str | None:
    """The name of the GPU that torch would take; None without one, or without torch.

    torch, which takes seconds to import, is imported only where there may be a GPU.
    """
    if not (has_torch() and _may_have_gpu()):
        return None
    load("torch")
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _with_torch(device: str, precision: str, backend: str, kinds: Set[Kind]) -> Placement:
    load("torch")
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return _on_cpu(precision, backend, kinds)
        raise DeviceError(
            f"--device {device}: this machine has no working CUDA "
            "(no GPU, no driver, or a torch without CUDA); use --device cpu to run on the CPU"
        )
    try:
        # Not in a process that was forked from one that used CUDA, which torch says in its error.
        index = int(_index(device) or torch.cuda.current_device())
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


def _index(device: str) -> str:
    """The number of a named GPU, empty where none is named."""
    return "0" if device == ALL_GPUS else device.partition(":")[2]


def _on_cpu(precision: str, backend: str, kinds: Set[Kind]) -> Placement:
    if precision == "fp16":
        raise DeviceError("--precision fp16 needs CUDA; on the CPU use fp32 or bf16")
    has_openvino = installed("openvino")
    if backend == "openvino" and not has_openvino:
        raise DeviceError(f"--backend openvino: OpenVINO is not installed; {how_to_install('cpu')}")
    if backend == "onnxruntime" and not installed("onnxruntime"):
        raise MissingLibraryError(
            "--backend onnxruntime: onnxruntime is not installed: pip install onnxruntime"
        )
    chosen = backend
    if backend == "auto":
        chosen = "openvino" if has_openvino else "torch" if "timm" in kinds else "onnxruntime"
    if "onnx" in kinds and chosen != "openvino":
        if not has_openvino and not installed("onnxruntime"):
            raise MissingLibraryError(
                "ONNX graphs run on the CPU by OpenVINO, which is not installed: "
                f"{how_to_install('cpu')}"
            )
        if precision == "bf16" and (chosen == "onnxruntime" or not has_openvino):
            raise DeviceError("--precision bf16: onnxruntime runs ONNX graphs in fp32")
    return Placement(
        "cpu",
        "fp32" if precision == "auto" else precision,
        "cpu",
        chosen,
        fallback=chosen == "openvino" and backend == "auto" and has_torch(),
    )
