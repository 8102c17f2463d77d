"""A model run by torch: the reference, on CPUs and on CUDA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from moderate.classify.backends.conversion import agree, selftest_pixels
from moderate.classify.backends.interface import Backend, Logits, PendingLogits
from moderate.classify.backends.normalised import normalised_images
from moderate.classify.backends.program_cache import find_program, forget_program
from moderate.classify.backends.torch_program import Program
from moderate.classify.bundle import ModelFiles
from moderate.classify.device import Placement
from moderate.classify.model import load_model
from moderate.cores import available_cores
from moderate.decode.resize import Pixels
from moderate.errors import DeviceError
from moderate.native import apart
from moderate.text import one_line

log = logging.getLogger(__name__)

Network = Callable[[torch.Tensor], torch.Tensor]

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_FOR_ALL_GPUS = 1  # cudaHostRegisterPortable

_MAX_STREAMS = 8
"""More than this would wait for each other inside the Python interpreter."""


class TorchBackend(Backend):
    """See `Backend`. On CUDA a batch is copied while the one before it is computed.

    compile=True uses torch.compile, which needs a C++ compiler and seconds to minutes at the start;
    where it fails a warning says so and the model runs as it is. threads is for the CPU; torch's
    own count, which is the whole process's, is set until `close`. load builds the network, which
    may be another one than the whole model: its outputs are what `start` gives.
    """

    def __init__(
        self,
        files: ModelFiles,
        placement: Placement,
        *,
        batch_size: int,
        compile: bool = False,
        threads: int | None = None,
        load: Callable[[ModelFiles], nn.Module] = load_model,
    ) -> None:
        self._build = load
        self._device = torch.device(placement.device)
        self._dtype = _DTYPES[placement.precision]
        # What is computed in fp32 on the CPU is known, to the last bit, to be what timm computes.
        plain = self._device.type == "cpu" and self._dtype is None and not compile
        whole = load is load_model
        program = apart(partial(find_program, files)) if plain and whole else None
        self._model: Network = program or apart(partial(self._load, files))
        preprocess = files.card.preprocess
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocess.mean, device=self._device).view(shape) * 255
        self._std = torch.tensor(preprocess.std, device=self._device).view(shape) * 255
        self._undo: list[Callable[[], object]] = []
        if self._device.type == "cuda":
            self.depth = 2
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            # TF32 moves scores by 1e-3: fp32 means fp32.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        else:
            self.depth = 1
            self._run_on_threads(threads or available_cores())
        if isinstance(self._model, Program):
            self._check(files, self._model)
        if compile:
            spec = preprocess.pixel_spec()
            self._compile(np.zeros((batch_size, *spec.shape), spec.dtype))

    def _check(self, files: ModelFiles, program: Program) -> None:
        """Compare a kept program with its self-test, and build the model where it fails."""
        pixels = selftest_pixels(files.card.preprocess.pixel_spec())
        try:
            as_ever = agree(self.start(pixels)(), program.logits, files.card.activation)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model has to be built
            log.debug("the self-test: %s", error)
            as_ever = False
        if not as_ever:
            forget_program(files, "the self-test gives other scores")
            self._model = apart(partial(self._load, files))

    def _load(self, files: ModelFiles) -> Network:
        model = self._build(files)
        try:
            network: Network = model.to(self._device).to(memory_format=torch.channels_last)
        except Exception as error:
            # No memory, no such device, a torch without CUDA: each has a type of its own.
            reason = one_line(str(error), 200)
            raise DeviceError(
                f"--device {self._device}: the model does not load: {reason}"
            ) from error
        return network

    def _run_on_threads(self, cores: int) -> None:
        """Several batches at once, each on one core where there are few.

        One batch over all cores waits after each layer for the slowest of them, which other
        processes hold up. With two busy decoders beside it on two cores, mobilenetv4_conv_small
        made 39 images/s that way and 94 this way.
        """
        streams = min(cores, _MAX_STREAMS)
        each = max(1, cores // streams)
        before = torch.get_num_threads()
        self._undo.append(lambda: torch.set_num_threads(before))
        torch.set_num_threads(each)
        self._threads = ThreadPoolExecutor(
            streams, "inference", initializer=torch.set_num_threads, initargs=(each,)
        )
        self._undo.append(lambda: self._threads.shutdown(cancel_futures=True))

    def _compile(self, example: Pixels) -> None:
        eager = self._model
        try:
            # Batches have one shape; another one, after running out of memory, compiles anew.
            self._model = cast(Network, torch.compile(eager, dynamic=False))
            self.start(example)()
        except Exception as error:  # noqa: BLE001 - whatever a compiler makes of a network
            log.warning(
                "torch.compile failed (%s); running without it",
                one_line(f"{type(error).__name__}: {error}", 160),
            )
            self._model = eager

    def start(self, pixels: Pixels) -> PendingLogits:
        """See `Backend`."""
        if self._device.type == "cuda":
            return self._start_cuda(pixels)
        return self._threads.submit(self._on_cpu, pixels).result

    def _on_cpu(self, pixels: Pixels) -> Logits:
        try:
            logits: Logits = self._forward(torch.from_numpy(pixels)).numpy()
        except Exception as error:  # noqa: BLE001 - raised on
            # Without its frames, which hold the memory of the failed attempt.
            raise error.with_traceback(None) from None
        return logits

    def _start_cuda(self, pixels: Pixels) -> PendingLogits:
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            # Asynchronous where the memory was registered by `pin`, else merely a copy.
            batch = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        compute.wait_stream(self._copies)
        # Allocated on one stream and read on another: its memory must not be reused in between.
        batch.record_stream(compute)
        logits = self._forward(batch)
        host = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(logits, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)

        def wait() -> Logits:
            done.synchronize()
            # A copy: the pinned memory goes back to torch's cache.
            return host.numpy().copy()

        return wait

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        """N x H x W x 3 pixels on the device to logits there, in float32."""
        with torch.inference_mode():
            images = normalised_images(batch, self._mean, self._std)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
                logits: torch.Tensor = self._model(images)
            return logits.float()

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """See `Backend`: page-lock the buffers, once for the whole run."""
        if self._device.type != "cuda":
            return
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        for buffer in buffers:
            address = buffer.ctypes.data
            try:
                with torch.cuda.device(self._device):
                    failed = int(cudart.cudaHostRegister(address, buffer.nbytes, _FOR_ALL_GPUS))
                    if failed:
                        # CUDA reports it once more to the next kernel: let that be this one.
                        torch.zeros(1, device=self._device)
            except RuntimeError as error:
                log.debug("no pinned memory, so copies are slower: %s", one_line(str(error)))
                return
            if failed:
                log.debug("no pinned memory, so copies are slower: CUDA error %d", failed)
                return
            self._undo.append(partial(cudart.cudaHostUnregister, address))

    def release(self) -> None:
        """See `Backend`."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def check(self) -> None:
        """See `Backend`."""
        if self._device.type != "cuda":
            return
        try:
            torch.zeros(1, device=self._device).add_(1).item()
        except torch.OutOfMemoryError:
            return  # it works, but has no room
        except RuntimeError as error:
            reason = one_line(str(error), 200)
            raise DeviceError(f"--device {self._device}: CUDA no longer works: {reason}") from error

    def close(self) -> None:
        """See `Backend`."""
        if self._device.type == "cuda" and self._undo:
            try:
                torch.cuda.synchronize(self._device)
            except RuntimeError as error:
                # Nothing is under way on a device that was lost, and why was reported already.
                log.debug("the end of %s: %s", self._device, one_line(str(error)))
        while self._undo:
            self._undo.pop()()
