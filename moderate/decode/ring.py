"""Memory: the layout of batches of pixels, and the memory that processes share with the run.

Shared memory is in files without a name, so that nothing is left behind however the run ends. The
files are sealed, so that a decoder cannot shorten one while the run reads it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np

from moderate.decode.resize import Pixels, PixelSpec

_RING_BYTES = 256 * 1024 * 1024
# One batch in the model, one being filled, one held up by a slow image; more for more slow images.
_MIN_BATCHES, _MAX_BATCHES = 3, 16
_PER_REPLICA = 4  # for each further model: three that it has, and one that waits for it
_MIN_IMAGES = 256  # where batches are small, so that decoders need not end after a few images


@dataclass(frozen=True, slots=True)
class Layout:
    """`batches` buffers one after the other, each with a B x H x W x 3 array for each spec."""

    specs: tuple[PixelSpec, ...]
    batch_size: int
    batches: int

    @property
    def nbytes(self) -> int:
        """Size of all buffers together."""
        return self.batches * self._batch_bytes

    @property
    def _batch_bytes(self) -> int:
        return sum(self._array_bytes(spec) for spec in self.specs)

    def _array_bytes(self, spec: PixelSpec) -> int:
        batch_bytes = self.batch_size * spec.nbytes
        return -(-batch_bytes // mmap.PAGESIZE) * mmap.PAGESIZE

    def arrays(self, memory: mmap.mmap) -> list[tuple[Pixels, ...]]:
        """The arrays of each buffer, of shape (batch_size, H, W, 3) and spec.dtype, in `memory`."""
        offset = 0
        buffers = []
        for _ in range(self.batches):
            arrays = []
            for spec in self.specs:
                shape = (self.batch_size, *spec.shape)
                arrays.append(np.ndarray(shape, spec.dtype, memory, offset))
                offset += self._array_bytes(spec)
            buffers.append(tuple(arrays))
        return buffers


def layout(specs: tuple[PixelSpec, ...], batch_size: int, replicas: int = 1) -> Layout:
    """As many batches as a quarter of a gigabyte holds: 3 to 16, and more if they are small.

    Four more for each replica of the model after the first.
    """
    maximum = max(_MAX_BATCHES, _MIN_IMAGES // batch_size)
    one_batch = Layout(specs, batch_size, 1)
    batches = max(_MIN_BATCHES, min(maximum, _RING_BYTES // one_batch.nbytes))
    return Layout(specs, batch_size, batches + _PER_REPLICA * (replicas - 1))


def allocate(name: str, nbytes: int) -> int:
    """The file descriptor of new shared memory. Pages cost nothing before they are written."""
    descriptor = above_standard(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.ftruncate(descriptor, nbytes)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def above_standard(descriptor: int) -> int:
    """The same file by a number above 2; the numbers up to that are a child's standard streams.

    A new descriptor has such a number where a daemon has closed its own standard streams.
    """
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)
