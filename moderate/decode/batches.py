"""Batches of decoded pixels, and their memory. An image has its place before it is decoded."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from moderate.decode.parts import WHOLE, Part
from moderate.decode.resize import Pixels, PixelSpec
from moderate.decode.ring import layout
from moderate.decode.undecoded import Undecoded
from moderate.types import ImageFacts

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Passed(Generic[Item]):
    """An input that needs no decoding. place counts all inputs from 0 in input order."""

    place: int
    item: Item


@dataclass(slots=True, eq=False)
class Entry(Generic[Item]):
    """An image of a batch. place counts all inputs from 0 in input order.

    outcome is ImageFacts where the image's pixels are in the batch; None until the image is
    settled, and for an image whose bytes could not be had, which its item explains. parts are what
    of the image is there; more has the pixels of each but the first, H x W x 3 per spec.
    """

    place: int
    item: Item
    outcome: ImageFacts | Undecoded | None = None
    parts: tuple[Part, ...] = WHOLE
    more: tuple[tuple[Pixels, ...], ...] = ()


@dataclass(slots=True, eq=False)
class Batch(Generic[Item]):
    """Images in input order. Their pixels are valid until the batch is released.

    number counts batches from 0. An entry's index is that of its place in the batch's memory.
    """

    number: int
    buffer: int
    entries: list[Entry[Item]] = field(default_factory=list)
    unsettled: int = 0
    closed: bool = False
    _arrays: tuple[Pixels, ...] = ()

    def pixels(self) -> tuple[Pixels, ...]:
        """For each spec the pixels of the decoded entries, N x H x W x 3.

        The first part of each entry in order, and then the further parts of each in order. Views of
        the batch's memory; copies where an image between others could not be decoded, or where
        images have several parts.
        """
        decoded = [index for index, entry in enumerate(self.entries) if _is_decoded(entry)]
        more = [part for index in decoded for part in self.entries[index].more]
        if decoded == list(range(len(decoded))):
            first = tuple(array[: len(decoded)] for array in self._arrays)
        else:
            first = tuple(array[decoded] for array in self._arrays)
        if not more:
            return first
        further = map(np.stack, zip(*more, strict=True))
        return tuple(np.concatenate(both) for both in zip(first, further, strict=True))

    def write(self, index: int, parts: tuple[Part, ...], pixels: tuple[Pixels, ...]) -> None:
        """Copy one image's pixels to the place of entry `index`, and beside it.

        pixels is, per spec, P x H x W x 3, of which there are as many as parts, or more.
        """
        for array, source in zip(self._arrays, pixels, strict=True):
            np.copyto(array[index], source[0], casting="no")
        entry = self.entries[index]
        entry.parts = parts
        entry.more = tuple(
            tuple(source[place].copy() for source in pixels) for place in range(1, len(parts))
        )

    @property
    def decoded(self) -> int:
        """How many images could be decoded."""
        return sum(map(_is_decoded, self.entries))

    @property
    def further_parts(self) -> int:
        """How many parts beside the first ones there are."""
        return sum(len(entry.more) for entry in self.entries)


class BatchRing(Generic[Item]):
    """The batches in progress and the memory of their pixels, which decoders cannot reach.

    Used by the decoding thread alone, but for `memory` and `capacity`. `hand_over` is called with
    each batch that is closed and whose images are all settled; a batch that waits for a slow image
    is handed over after later ones.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        batch_size: int,
        hand_over: Callable[[Batch[Item]], None],
        replicas: int = 1,
    ) -> None:
        self._layout = layout(specs, batch_size, replicas)
        # Pages cost nothing before they are written.
        self._memory = mmap.mmap(-1, self._layout.nbytes)
        self._arrays = self._layout.arrays(self._memory)
        self._hand_over = hand_over
        self._unreleased: dict[int, Batch[Item]] = {}  # by number
        self._current: Batch[Item] | None = None  # the one that is being filled
        # The buffer used last is used first, so that most of the ring's pages stay untouched
        # unless slow images hold batches up.
        self._free_buffers = list(range(self._layout.batches))
        self._batch_count = 0
        self._handed_over_count = 0

    @property
    def memory(self) -> Pixels:
        """The whole memory as one array of bytes, which a GPU's driver may pin."""
        return np.frombuffer(self._memory, np.uint8)

    @property
    def capacity(self) -> int:
        """How many images there is memory for."""
        return self._layout.batches * self._layout.batch_size

    def has_room(self) -> bool:
        """Whether there is room for another image."""
        return self._current is not None or bool(self._free_buffers)

    def add(self, entry: Entry[Item]) -> tuple[Batch[Item], int]:
        """Put an image in its place: its batch, and its index in that. There has to be room."""
        batch = self._current or self._begin()
        batch.entries.append(entry)
        batch.unsettled += 1
        index = len(batch.entries) - 1
        if len(batch.entries) == self._layout.batch_size:
            self.close_current()
        return batch, index

    def settle(self, batch: Batch[Item]) -> None:
        """Note that one of the batch's images has its outcome."""
        batch.unsettled -= 1
        if batch is self._current and batch.further_parts >= self._layout.batch_size:
            self.close_current()  # their memory comes on top of that of the ring
            return
        self._hand_over_if_complete(batch)

    def current_is_settled(self) -> bool:
        """Whether a batch is being filled whose images so far all have their outcomes."""
        return self._current is not None and not self._current.unsettled

    def close_current(self) -> None:
        """Take no more images into the batch that is being filled."""
        batch, self._current = self._current, None
        if batch:
            batch.closed = True
            self._hand_over_if_complete(batch)

    def release(self, batch: Batch[Item]) -> None:
        """Take back the memory of a batch that was handed over."""
        del self._unreleased[batch.number]
        self._free_buffers.append(batch.buffer)

    def has_batches_out(self) -> bool:
        """Whether a batch was handed over and is not released yet."""
        return any(batch.closed and not batch.unsettled for batch in self._unreleased.values())

    def all_handed_over(self) -> bool:
        """Whether every batch that was begun has been handed over."""
        return self._handed_over_count == self._batch_count

    def _begin(self) -> Batch[Item]:
        buffer = self._free_buffers.pop()
        batch: Batch[Item] = Batch(self._batch_count, buffer, _arrays=self._arrays[buffer])
        self._batch_count += 1
        self._current = self._unreleased[batch.number] = batch
        return batch

    def _hand_over_if_complete(self, batch: Batch[Item]) -> None:
        if batch.closed and not batch.unsettled:
            self._handed_over_count += 1
            self._hand_over(batch)


def _is_decoded(entry: Entry[Any]) -> bool:
    return isinstance(entry.outcome, ImageFacts)
