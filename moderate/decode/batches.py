"""Batches of pixels in input order: every image has its place before it is decoded."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from moderate.decode.image import Undecoded
from moderate.decode.resize import Pixels, PixelSpec
from moderate.decode.ring import layout
from moderate.types import ImageFacts

Item = TypeVar("Item")

MOST_ENTRIES = 4096
"""Of a batch: what needs no decoding waits with its neighbours, but not all of it."""

_MOST_AHEAD = 4 * MOST_ENTRIES  # entries under way, because their rows wait in order


@dataclass(slots=True, eq=False)
class Entry(Generic[Item]):
    """One input in its place.

    outcome is None for an item that came without bytes, ImageFacts where the pixels are there.
    """

    item: Item
    outcome: ImageFacts | Undecoded | None = None


@dataclass(slots=True, eq=False)
class Batch(Generic[Item]):
    """Inputs in order. The pixels of those decoded are valid until the batch is released."""

    number: int
    first: int
    weight: int = 0  # of its entries
    entries: list[Entry[Item]] = field(default_factory=list)
    images: list[Entry[Item]] = field(default_factory=list)  # in the order of their pixels
    buffer: int = -1
    unsettled: int = 0
    closed: bool = False
    _arrays: tuple[Pixels, ...] = ()

    def pixels(self) -> tuple[Pixels, ...]:
        """For each spec the pixels of the decoded entries in order, N x H x W x 3.

        Views of the ring; copies where an image between others could not be decoded.
        """
        good = [index for index, entry in enumerate(self.images) if _is_decoded(entry)]
        if good == list(range(len(good))):
            return tuple(array[: len(good)] for array in self._arrays)
        return tuple(array[good] for array in self._arrays)

    def write(self, index: int, pixels: tuple[Pixels, ...]) -> None:
        """Copy one image's pixels, H x W x 3 per spec, to its place among `images`."""
        for array, source in zip(self._arrays, pixels, strict=True):
            np.copyto(array[index], source, casting="no")


class BatchRing(Generic[Item]):
    """The batches under way and the memory of their pixels, which decoders do not share.

    Used by the pool's feeding thread alone. `hand_over` is called with each batch whose entries
    are all settled. Batches count up from 0 in input order; one that is held up by an image is
    handed over after later ones.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        batch_size: int,
        hand_over: Callable[[Batch[Item]], None],
    ) -> None:
        self._layout = layout(specs, batch_size)
        # Pages cost nothing before they are written.
        self._memory = mmap.mmap(-1, self._layout.nbytes)
        self._arrays = self._layout.arrays(self._memory)
        self._hand_over = hand_over
        self._open: dict[int, Batch[Item]] = {}  # handed over or not, but not released; in order
        self.current: Batch[Item] | None = None
        """The one that is being filled."""
        # The buffer used last comes first: the ring's other pages are touched by stragglers alone.
        self._free = list(range(self._layout.batches))
        self._taken = 0
        self._count = 0
        self._handed_over = 0

    @property
    def memory(self) -> Pixels:
        """The ring's memory, whole, as one array of bytes: what a GPU's driver may pin."""
        return np.frombuffer(self._memory, np.uint8)

    @property
    def capacity(self) -> int:
        """How many images there is memory for."""
        return self._layout.batches * self._layout.batch_size

    def has_room(self) -> bool:
        """Whether there is room for another entry without pixels."""
        oldest = next(iter(self._open.values()), None)
        if oldest is None or oldest is self.current:
            return True
        return self._taken - oldest.first < _MOST_AHEAD

    def has_room_for_image(self) -> bool:
        """Whether there is room for another image."""
        has_buffer = bool(self._free) or (self.current is not None and self.current.buffer >= 0)
        return has_buffer and self.has_room()

    def add(self, entry: Entry[Item], weight: int) -> None:
        """Put an entry without pixels in its place; it stands for `weight` rows."""
        self._append(self.current or self._begin(), entry, weight)

    def add_image(self, entry: Entry[Item]) -> tuple[Batch[Item], int]:
        """Put an image in its place: its batch, and its index among that one's images."""
        batch = self.current or self._begin()
        if batch.buffer < 0:
            batch.buffer = self._free.pop()
            batch._arrays = self._arrays[batch.buffer]
        batch.images.append(entry)
        batch.unsettled += 1
        place = (batch, len(batch.images) - 1)
        self._append(batch, entry, 1)
        return place

    def settle(self, batch: Batch[Item]) -> None:
        """One of the batch's images has its outcome."""
        batch.unsettled -= 1
        self._hand_over_if_whole(batch)

    def close_current(self) -> None:
        """Let the batch that is being filled go ahead as it is."""
        batch, self.current = self.current, None
        if batch:
            batch.closed = True
            self._hand_over_if_whole(batch)

    def release(self, batch: Batch[Item]) -> None:
        """The batch's memory may be used again."""
        del self._open[batch.number]
        if batch.buffer >= 0:
            self._free.append(batch.buffer)

    def has_batches_out(self) -> bool:
        """Whether a batch was handed over and not released yet."""
        return any(batch.closed and not batch.unsettled for batch in self._open.values())

    def all_handed_over(self) -> bool:
        """Whether nothing is under way any more."""
        return self._handed_over == self._count

    def _begin(self) -> Batch[Item]:
        batch: Batch[Item] = Batch(self._count, self._taken)
        self._count += 1
        self.current = self._open[batch.number] = batch
        return batch

    def _append(self, batch: Batch[Item], entry: Entry[Item], weight: int) -> None:
        batch.entries.append(entry)
        batch.weight += weight
        self._taken += weight
        full = len(batch.images) == self._layout.batch_size
        if full or batch.weight >= max(MOST_ENTRIES, self._layout.batch_size):
            self.close_current()

    def _hand_over_if_whole(self, batch: Batch[Item]) -> None:
        if batch.closed and not batch.unsettled:
            self._handed_over += 1
            self._hand_over(batch)


def _is_decoded(entry: Entry[Any]) -> bool:
    return isinstance(entry.outcome, ImageFacts)
