"""The decoder processes, seen from the run: images in, batches of pixels out.

One thread reads images, another feeds the processes and watches their clocks, so that decoding
goes on while the caller runs the model. Every image has its place in a batch before it is decoded,
in input order; a batch is handed over when its last image is settled, so one slow image holds up
its own batch only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from moderate.cores import available_cores
from moderate.decode.decoder import Decoder, DecoderGoneError, Place
from moderate.decode.image import Undecoded
from moderate.decode.resize import Pixels, PixelSpec
from moderate.decode.ring import allocate, layout
from moderate.errors import RunError
from moderate.types import ErrorCode, ImageFacts, Limits

Item = TypeVar("Item")

_MOST_ENTRIES = 4096  # in a batch: what needs no decoding waits with its neighbours, but not all
_MOST_AHEAD = 4 * _MOST_ENTRIES  # entries under way, for their rows wait in order
_MOST_COMING = 128  # images on their way from elsewhere, each up to a whole file in memory
_IDLE = 1.0  # seconds without input after which a batch goes ahead as it is
_FAILED_STARTS = 3  # in a row, before the first decoder of the run was ready
_FAILED_RESTARTS = 20  # in a row and with none left, later: the machine may be short of something
_LONGEST_PAUSE = 1.0  # seconds before the next attempt
_MOST_TRIES = 10  # of one image whose decoders die before they get it
_TICK = 1.0  # seconds between looks around when nothing is due


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
        good = [index for index, entry in enumerate(self.images) if _decoded(entry)]
        if good == list(range(len(good))):
            return tuple(array[: len(good)] for array in self._arrays)
        return tuple(array[good] for array in self._arrays)


@dataclass(slots=True, eq=False)
class _Task(Generic[Item]):
    """An image under way. Its bytes are kept: should its decoder die, it gets a second chance."""

    entry: Entry[Item]
    batch: Batch[Item]
    place: Place
    data: bytes = b""
    deaths: int = 0  # of decoders that had it
    tries: int = 0


Coming = Future[tuple[Item, "bytes | None"]]
"""An item whose bytes are still on their way: what it becomes, with its bytes or without."""

_END = object()
_WORK = object()


class DecoderPool(Generic[Item]):
    """`workers` decoder processes for the given specs and limits; a context manager, used once.

    They are started when the first image is there to be decoded, or `at_once`. `niceness` is added
    to that of the decoders, so that a model on the same cores goes first.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        limits: Limits,
        workers: int,
        batch_size: int,
        *,
        niceness: int = 0,
        require_sandbox: bool = False,
        at_once: bool = False,
    ) -> None:
        self._limits = limits
        self._count = workers
        self._start = {"niceness": niceness, "require_sandbox": require_sandbox}
        self._layout = layout(specs, batch_size)
        self._ring_fd = allocate("moderate-ring", self._layout.nbytes)
        self._memory = mmap.mmap(self._ring_fd, self._layout.nbytes)
        self._arrays = self._layout.arrays(self._memory)
        # Whatever happens elsewhere (an image read, a batch released) wakes the feeding thread.
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        # Signals end the caller's thread anywhere: it shares no lock with the others that it could
        # leave locked. SimpleQueue has none that shows, and a flag needs none.
        self._stopped = False
        self._inputs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(2 * workers)  # few: each is a whole file in memory
        self._coming = threading.Semaphore(_MOST_COMING)
        self._arrived: queue.SimpleQueue[tuple[_Task[Item], Coming[Item]]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._upcoming: Any = None  # the caller's thread's
        self._on_work: Callable[[], None] = lambda: None
        self._weigh: Callable[[Item], int] = lambda item: 1
        self._released: queue.SimpleQueue[Batch[Item]] = queue.SimpleQueue()
        self._started: queue.SimpleQueue[tuple[str, ...] | None] = queue.SimpleQueue()
        self._feeder: threading.Thread | None = None
        # What follows belongs to the feeding thread.
        self._selector = selectors.DefaultSelector()
        self._decoders: dict[Decoder, _Task[Item] | None] = {}
        self._suspects: deque[_Task[Item]] = deque()
        self._here: deque[_Task[Item]] = deque()  # arrived, and in their place already
        self._open: dict[int, Batch[Item]] = {}  # handed over or not, but not released; in order
        self._current: Batch[Item] | None = None
        # The one used last comes first: the ring's other pages are touched by stragglers alone.
        self._free = list(range(self._layout.batches))
        self._taken = 0
        self._batches = 0
        self._handed_over = 0
        self._next: Any = None
        self._last_input = 0.0
        self._ended = False
        self._working = at_once  # decoders are wanted
        self._began = False  # an image for them was seen
        self._failed_starts = 0
        self._ever_ready = False
        self._start_again = 0.0
        # More at once would only run into each other's time limits.
        self._most_busy = max(1, min(workers, 2 * available_cores()))

    def __enter__(self) -> DecoderPool[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._wake()
        if self._feeder:
            self._feeder.join()
        os.close(self._ring_fd)
        self._bell.close()
        self._alarm.close()

    @property
    def buffers(self) -> list[Pixels]:
        """The ring's memory, whole, as one array of bytes: what a GPU's driver may pin."""
        return [np.frombuffer(self._memory, np.uint8)]

    def run(
        self,
        images: Iterable[tuple[Item, bytes | Coming[Item] | None]],
        *,
        on_work: Callable[[], None] = lambda: None,
        weigh: Callable[[Item], int] = lambda item: 1,
    ) -> Iterator[Batch[Item]]:
        """Decode (item, bytes) pairs; yields batches as they are complete. Give each to `release`.

        Numbers of batches count up from 0 in input order; a batch with a slow image comes after
        later ones. An item with None for bytes is passed through; one whose bytes are still on
        their way holds its place meanwhile. `images` is consumed on a thread of its own; what it
        raises is raised here.

        `on_work` is called once, in the caller's thread between batches, as soon as there is an
        image to decode. `weigh` says how many rows an item without bytes stands for.
        """
        self._on_work, self._weigh = on_work, weigh
        reader = threading.Thread(target=self._read, args=(iter(images),), daemon=True)
        # The processes are started there, for they end with the thread that started them.
        self._feeder = threading.Thread(target=self._feed, name="decoders", daemon=True)
        # At once: decoding goes on while the caller still loads its model.
        reader.start()
        self._feeder.start()
        return self._complete()

    def release(self, batch: Batch[Item]) -> None:
        """Its pixels are no longer needed: the ring may use their memory again."""
        self._released.put(batch)
        self._wake()

    def protections(self) -> tuple[str, ...]:
        """What the decoders are hardened with; waits for the first to be ready.

        Empty where none could be started: then the batches raise the reason. Not to be called
        before there was work.
        """
        return self._started.get() or ()

    def wait_until_ready(self) -> None:
        """Wait for all decoders, or for the end of the attempt to start them."""
        for _ in range(self._count):
            if self._started.get() is None:
                return

    def has_next(self, timeout: float) -> bool:
        """Whether there is another batch, or the end, within `timeout` seconds."""
        if self._upcoming is None:
            with contextlib.suppress(queue.Empty):
                self._upcoming = self._results.get(timeout=timeout)
        if self._upcoming is _WORK:
            self._upcoming = None
            self._on_work()
        return self._upcoming is not None

    def _complete(self) -> Iterator[Batch[Item]]:
        while True:
            result = self._upcoming or self._results.get()
            self._upcoming = None
            if result is _WORK:
                self._on_work()
                continue
            if result is _END:
                return
            if isinstance(result, BaseException):
                raise result
            yield result

    def _wake(self) -> None:
        # Full of alarms is as good as one alarm; a closed bell is a pool at its end.
        with contextlib.suppress(OSError):
            self._bell.send(b"!")

    # The reading thread

    def _read(self, images: Iterator[tuple[Item, bytes | Coming[Item] | None]]) -> None:
        last: object = _END
        try:
            for pair in images:
                (self._coming if isinstance(pair[1], Future) else self._room).acquire()
                if self._stopped:
                    return
                self._inputs.put(pair)
                self._wake()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            last = error
        self._inputs.put(last)
        self._wake()

    # The feeding thread

    def _feed(self) -> None:
        try:
            self._selector.register(self._alarm, selectors.EVENT_READ)
            while not (self._stopped or self._all_handed_over()):
                if self._working:
                    self._start_missing()
                self._hand_out()
                self._wait()
            self._results.put(_END)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._results.put(error)
        finally:
            self._stopped = True
            self._started.put(None)
            self._room.release()
            self._coming.release()
            for decoder in self._decoders:
                decoder.process.kill()  # all at once, then wait for each
            for decoder in self._decoders:
                decoder.end()
            self._selector.close()

    def _hand_out(self) -> None:
        """Give what was read to idle decoders, as far as there is room in the ring."""
        self._take_arrivals()
        idle = [d for d, task in self._decoders.items() if d.ready and task is None]
        busy = sum(task is not None for task in self._decoders.values())
        idle = idle[: max(0, self._most_busy - busy)]
        if self._suspects:
            # One that killed a decoder is tried again alone: no neighbour can be the cause then.
            if idle and not any(self._decoders.values()):
                self._give(idle[0], self._suspects[0])
            return
        while idle and self._here:
            self._give(idle.pop(), self._here.popleft())
            self._coming.release()
        while self._peek() and self._has_room():
            item, data = self._next
            coming = isinstance(data, Future)
            if data is not None and not coming and not idle:
                break
            batch = self._current or self._new_batch()
            entry = Entry(item)
            if data is not None:
                if batch.buffer < 0:
                    if not self._free:
                        break
                    batch.buffer = self._free.pop()
                    batch._arrays = self._arrays[batch.buffer]
                place = Place(batch.buffer, len(batch.images))
                batch.images.append(entry)
                batch.unsettled += 1
                task = _Task(entry, batch, place)
                if coming:
                    data.add_done_callback(partial(self._arrive, task))
                else:
                    task.data = data
                    self._give(idle.pop(), task)
            if not coming:
                self._room.release()
            batch.entries.append(entry)
            self._next = None
            weight = 1 if coming or data is not None else self._weigh(item)
            self._taken += weight
            batch.weight += weight
            self._last_input = time.monotonic()
            full = len(batch.images) == self._layout.batch_size
            if full or batch.weight >= max(_MOST_ENTRIES, self._layout.batch_size):
                self._close(batch)
        open_one = self._current
        if open_one and (self._ended or (self._next is None and self._is_due(open_one))):
            self._close(open_one)

    def _is_due(self, batch: Batch[Item]) -> bool:
        """Whether a batch that is not full should go ahead while there is no more input."""
        # Rows that wait for no image need not wait for a full batch either.
        idle = time.monotonic() - self._last_input > _IDLE
        return bool(batch.entries) and not batch.unsettled and (not batch.images or idle)

    def _arrive(self, task: _Task[Item], data: Coming[Item]) -> None:
        """On whatever thread the bytes came in."""
        self._arrived.put((task, data))
        self._wake()

    def _take_arrivals(self) -> None:
        """Raises what fetching raised, which is a fault of ours: its errors are results."""
        with contextlib.suppress(queue.Empty):
            while arrival := self._arrived.get_nowait():
                task, data = arrival
                task.entry.item, fetched = data.result()
                if fetched is None:
                    self._coming.release()
                    self._settle(task, None)
                else:
                    task.data = fetched
                    self._here.append(task)

    def _peek(self) -> bool:
        """Whether there is a next input, in self._next. Raises what reading it raised."""
        if self._next is None and not self._ended:
            with contextlib.suppress(queue.Empty):
                self._next = self._inputs.get_nowait()
            if self._next is _END:
                self._next, self._ended = None, True
            elif isinstance(self._next, BaseException):
                raise self._next
            elif self._next is not None and self._next[1] is not None and not self._began:
                self._begin()
        return self._next is not None

    def _begin(self) -> None:
        """The first image to decode: start the decoders, and have the caller get ready too."""
        self._began = self._working = True
        self._results.put(_WORK)
        self._start_missing()

    def _has_room(self) -> bool:
        oldest = next(iter(self._open.values()), None)
        if oldest is None or oldest is self._current:
            return True
        return self._taken - oldest.first < _MOST_AHEAD

    def _new_batch(self) -> Batch[Item]:
        batch: Batch[Item] = Batch(self._batches, self._taken)
        self._batches += 1
        self._current = self._open[batch.number] = batch
        return batch

    def _close(self, batch: Batch[Item]) -> None:
        self._current = None
        batch.closed = True
        self._hand_over(batch)

    def _hand_over(self, batch: Batch[Item]) -> None:
        if batch.closed and not batch.unsettled:
            self._handed_over += 1
            self._results.put(batch)

    def _all_handed_over(self) -> bool:
        return self._ended and self._handed_over == self._batches

    def _give(self, decoder: Decoder, task: _Task[Item]) -> None:
        self._decoders[decoder] = task
        try:
            decoder.give(task.data, task.place)
        except DecoderGoneError as gone:
            self._lost(decoder, ErrorCode.DECODER_CRASHED, str(gone), delivered=gone.delivered)

    def _wait(self) -> None:
        """Wait for something to happen; take in what decoders say; end those out of time."""
        if self._all_handed_over():
            return
        now = time.monotonic()
        due = [d.deadline for d in self._decoders if d.busy or not d.ready]
        if self._working and len(self._decoders) < self._count:
            due.append(self._start_again)
        for key, _ in self._selector.select(max(0.0, min([*due, now + _TICK]) - now)):
            if isinstance(key.fileobj, Decoder):
                self._hear(key.fileobj)
            else:
                with contextlib.suppress(BlockingIOError):
                    while self._alarm.recv(4096):
                        pass
        with contextlib.suppress(queue.Empty):
            while batch := self._released.get_nowait():
                del self._open[batch.number]
                if batch.buffer >= 0:
                    self._free.append(batch.buffer)
        now = time.monotonic()
        for decoder in [d for d in self._decoders if (d.busy or not d.ready) and now > d.deadline]:
            limit = self._limits.decode_timeout
            said = f"decoding took over {limit:g} s; raise the limit with --decode-timeout"
            if not decoder.ready:
                said = "one was not ready after a minute; is the machine overloaded?"
            self._lost(decoder, ErrorCode.DECODE_TIMEOUT, said)

    def _hear(self, decoder: Decoder) -> None:
        try:
            if not decoder.ready:
                self._started.put(decoder.hear_ready())
                self._failed_starts, self._ever_ready = 0, True
                return
            task = self._decoders[decoder]
            outcome = decoder.hear_outcome()
        except DecoderGoneError as gone:
            self._lost(decoder, ErrorCode.DECODER_CRASHED, str(gone))
            return
        if task is None:  # nobody asked it
            self._replace(decoder)
            return
        self._decoders[decoder] = None
        self._settle(task, outcome)
        if isinstance(outcome, Undecoded) and outcome.code is ErrorCode.OUT_OF_MEMORY:
            self._replace(decoder)  # what the picture left in its memory is the next one's loss

    def _lost(
        self, decoder: Decoder, code: ErrorCode, message: str, *, delivered: bool = True
    ) -> None:
        """A decoder died or overran its time: settle its image, or try that once more alone."""
        task = self._decoders[decoder]
        if not decoder.ready:
            self._remove(decoder)
            self._start_failed(message)
            return
        self._replace(decoder)
        if task is None:
            return  # it died idle, which is no image's fault
        if code is ErrorCode.DECODER_CRASHED:
            task.deaths += delivered
            task.tries += 1
            if task.deaths < 2 and task.tries < _MOST_TRIES:
                if task not in self._suspects:
                    self._suspects.append(task)
                return
            message += ", twice"
        self._settle(task, Undecoded(code, message, ImageFacts()))

    def _settle(self, task: _Task[Item], outcome: ImageFacts | Undecoded | None) -> None:
        if self._suspects and self._suspects[0] is task:
            self._suspects.popleft()
        task.entry.outcome = outcome
        task.batch.unsettled -= 1
        self._hand_over(task.batch)

    def _start_missing(self) -> None:
        """Bring the decoders up to their number; where one does not start, go on with the others.

        Raises RunError where none does.
        """
        while len(self._decoders) < self._count and time.monotonic() >= self._start_again:
            try:
                decoder = Decoder(self._limits, self._layout, self._ring_fd, self._start)
            except OSError as error:
                self._start_failed(f"{error.strerror}; fewer --workers need less")
                return
            self._decoders[decoder] = None
            self._selector.register(decoder, selectors.EVENT_READ, decoder)

    def _start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        most = _FAILED_RESTARTS if self._ever_ready else _FAILED_STARTS
        if self._failed_starts >= most and not any(d.ready for d in self._decoders):
            raise RunError(f"decoder processes do not start: {reason}")
        pause = min(_LONGEST_PAUSE, 0.02 * 2 ** min(self._failed_starts, 10))
        self._start_again = time.monotonic() + pause

    def _remove(self, decoder: Decoder) -> None:
        del self._decoders[decoder]
        self._selector.unregister(decoder)
        decoder.end()

    def _replace(self, decoder: Decoder) -> None:
        self._remove(decoder)
        self._start_missing()


def _decoded(entry: Entry[Any]) -> bool:
    return isinstance(entry.outcome, ImageFacts)
