"""Memory: how batches of pixels lie in it, and what a decoder shares with the run.

Shared memory is in files without a name: nothing is left behind however the run ends. They are
sealed, so that a decoder cannot make one shorter while the run reads it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np

from moderate.decode.resize import Pixels, PixelSpec

_RING_BYTES = 256 * 1024 * 1024
_FEWEST, _MOST = 3, 16  # one batch in the model, one filling, one held up; more ride out stragglers
_LEAST_IMAGES = 256  # where batches are small, so that decoders need not end after a few images


@dataclass(frozen=True, slots=True)
class Layout:
    """`batches` buffers one after the other, each with one B x H x W x 3 array for each spec."""

    specs: tuple[PixelSpec, ...]
    batch_size: int
    batches: int

    @property
    def nbytes(self) -> int:
        """Size of the whole ring."""
        return self.batches * self._batch_bytes

    @property
    def _batch_bytes(self) -> int:
        return sum(self._array_bytes(spec) for spec in self.specs)

    def _array_bytes(self, spec: PixelSpec) -> int:
        whole = self.batch_size * spec.nbytes
        return -(-whole // mmap.PAGESIZE) * mmap.PAGESIZE

    def arrays(self, memory: mmap.mmap) -> list[tuple[Pixels, ...]]:
        """For each batch its arrays, shape (batch_size, H, W, 3) and spec.dtype, in `memory`."""
        offset = 0
        rings = []
        for _ in range(self.batches):
            arrays = []
            for spec in self.specs:
                shape = (self.batch_size, *spec.shape)
                arrays.append(np.ndarray(shape, spec.dtype, memory, offset))
                offset += self._array_bytes(spec)
            rings.append(tuple(arrays))
        return rings


def layout(specs: tuple[PixelSpec, ...], batch_size: int) -> Layout:
    """As many batches as a quarter of a gigabyte holds, within 3 and 16, or more small ones."""
    most = max(_MOST, _LEAST_IMAGES // batch_size)
    one = Layout(specs, batch_size, 1)
    return Layout(specs, batch_size, max(_FEWEST, min(most, _RING_BYTES // one.nbytes)))


def allocate(name: str, nbytes: int) -> int:
    """The file descriptor of fresh shared memory; pages cost nothing before they are written."""
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
    """The same file by a number over 2: a child's standard streams take the numbers up to that.

    A daemon may have closed its own.
    """
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)
