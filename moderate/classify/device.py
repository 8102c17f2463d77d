"""Where the model runs and in which precision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moderate.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Placement:
    """A device that was found to work, and the precision to compute in."""

    device: str
    precision: str
    name: str

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype to autocast to; None computes in float32."""
        import torch

        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def check_device(device: str) -> None:
    """Raises UsageError unless it is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device!r}: use auto, cpu, cuda or cuda:N")


def place(device: str, precision: str) -> Placement:
    """Resolve `auto` and make sure that the device works. Raises UsageError or DeviceError.

    `auto` takes CUDA where there is one, else the CPU. A device asked for by name is used or
    refused, never exchanged. Precision `auto` is bf16 on GPUs that have it, else fp32.
    """
    import torch

    check_device(device)
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    chosen = device
    if device == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cpu":
        return _on_cpu(precision)
    if not torch.cuda.is_available():
        raise DeviceError(
            f"--device {device}: this machine has no working CUDA "
            "(no GPU, no driver, or a torch without CUDA); use --device cpu to run on the CPU"
        )
    index = int(chosen.partition(":")[2] or torch.cuda.current_device())
    if index >= torch.cuda.device_count():
        raise DeviceError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices")
    try:
        torch.zeros(1, device=f"cuda:{index}").add_(1).item()
    except RuntimeError as error:
        raise DeviceError(f"--device {device}: CUDA does not work: {error}") from error
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return Placement(f"cuda:{index}", precision, torch.cuda.get_device_name(index))


def _on_cpu(precision: str) -> Placement:
    if precision == "fp16":
        raise DeviceError("--precision fp16 needs CUDA; on the CPU use fp32 or bf16")
    return Placement("cpu", "fp32" if precision == "auto" else precision, "cpu")
