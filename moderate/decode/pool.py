"""The decoder processes, seen from the run: images in, batches of pixels out.

Threads: one reads images, another (the feeding thread) hands them to the processes and watches
their clocks, so that decoding goes on while the caller runs the model. Batches and their memory
are described in `batches`, one process in `decoder`, the server that forks them in `fork_server`.

Trust: an untrusted image may take over the process that decodes it. It can then answer for itself
as it likes, and for the images that the same process gets after it. So a process decodes a limited
number of images, and its answers count only once it has ended in good order. If it dies, overruns
its time or gives a wrong answer, whatever it gave before is discarded, and each of those images is
decoded again in a fresh process of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
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
from typing import Any, Generic

from moderate.cores import available_cores
from moderate.decode.batches import Batch, BatchRing, Entry, Item
from moderate.decode.decoder import Decoder
from moderate.decode.fork_server import Ended, Forked, ForkServer, NotForked, ServerGone
from moderate.decode.image import Undecoded
from moderate.decode.limits import IMAGES_PER_DECODER
from moderate.decode.process import ChannelClosedError, WrongAnswerError, exit_reason
from moderate.decode.resize import Pixels, PixelSpec
from moderate.errors import RunError
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts, Limits

log = logging.getLogger(__name__)

_MOST_HELD_BYTES = 8 << 20  # of images whose process has not ended yet; a file more at the most
_MOST_HELD_SECONDS = 1.0  # for which an answer waits for the end of its process
_MOST_COMING = 128  # images on their way from elsewhere, each up to a whole file in memory
_IDLE = 1.0  # seconds without input after which a batch goes ahead as it is
_FAILED_STARTS = 3  # in a row, before the first decoder of the run was ready
_FAILED_RESTARTS = 20  # in a row and with none left, later: the machine may be short of something
_LONGEST_PAUSE = 1.0  # seconds before the next attempt
_MOST_TRIES = 10  # of one image whose decoders die before they get it
_EXIT_PATIENCE = 1.0  # seconds between the end of a decoder's channel and its own
_TICK = 1.0  # seconds between looks around when nothing is due


@dataclass(slots=True, eq=False)
class _Task(Generic[Item]):
    """An image under way. Its bytes are kept until its outcome counts, for it may be tried again.

    index is its place among the images of the batch; alone says that it gets a process of its own.
    """

    entry: Entry[Item]
    batch: Batch[Item]
    index: int
    data: bytes = b""
    deaths: int = 0  # of decoders that had it
    tries: int = 0
    alone: bool = False


@dataclass(slots=True, eq=False)
class _Work(Generic[Item]):
    """What one decoder has done and is doing.

    has_delivery says that the task has reached it; answered holds the images whose outcomes wait
    for the process to end in good order.
    """

    task: _Task[Item] | None = None
    has_delivery: bool = False
    answered: list[tuple[_Task[Item], ImageFacts | Undecoded]] = field(default_factory=list)
    held_bytes: int = 0
    first_answer: float = 0.0


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
        images_per_decoder: int = IMAGES_PER_DECODER,
    ) -> None:
        self._specs = specs
        self._limits = limits
        self._count = workers
        self._niceness = niceness
        self._require_sandbox = require_sandbox
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
        self._arrivals: queue.SimpleQueue[tuple[_Task[Item], Coming[Item]]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._upcoming: Any = None  # the caller's thread's
        self._on_work: Callable[[], None] = lambda: None
        self._weigh: Callable[[Item], int] = lambda item: 1
        self._released: queue.SimpleQueue[Batch[Item]] = queue.SimpleQueue()
        self._started: queue.SimpleQueue[tuple[str, ...] | None] = queue.SimpleQueue()
        self._feeder: threading.Thread | None = None
        # What follows belongs to the feeding thread.
        self._ring: BatchRing[Item] = BatchRing(specs, batch_size, self._results.put)
        # With more answers waiting than half the ring holds, decoders would wait for each other.
        self._images_per_decoder = max(
            1, min(images_per_decoder, self._ring.capacity // (2 * workers))
        )
        self._selector = selectors.DefaultSelector()
        self._server: ForkServer | None = None
        self._numbers = itertools.count()
        self._decoders: dict[Decoder, _Work[Item]] = {}
        self._suspects: deque[_Task[Item]] = deque()  # whose decoder died
        self._discarded: deque[_Task[Item]] = deque()  # whose answer must not count
        self._arrived: deque[_Task[Item]] = deque()  # whose bytes came in after their place
        self._next: Any = None
        self._lacks_room = False  # in the ring, for self._next
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
        self._bell.close()
        self._alarm.close()

    @property
    def buffers(self) -> list[Pixels]:
        """The memory that pixels of batches are views of, as arrays of bytes."""
        return [self._ring.memory]

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
            while not (self._stopped or self._is_done()):
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
                decoder.end()
            if self._server:
                self._server.close()
            self._selector.close()

    def _is_done(self) -> bool:
        return self._ended and self._ring.all_handed_over()

    # Handing images out

    def _hand_out(self) -> None:
        """Give what was read to idle decoders, as far as there is room in the ring."""
        self._take_arrivals()
        self._retire_those_due()
        idle = self._idle()
        if self._suspects:
            # One that killed a decoder is tried again alone: no neighbor can be the cause then.
            if not any(work.task for work in self._decoders.values()) and (
                fresh := self._fresh(idle)
            ):
                self._give(fresh, self._suspects[0])
            return
        while self._discarded and (fresh := self._fresh(idle)):
            self._give(fresh, self._discarded.popleft())
        if self._discarded:
            return
        while idle and self._arrived:
            self._give(idle.pop(), self._arrived.popleft())
            self._coming.release()
        while self._peek() and self._place_next(idle):
            self._last_input = time.monotonic()
        if (current := self._ring.current) and (
            self._ended or (self._next is None and self._is_due(current))
        ):
            self._ring.close_current()

    def _idle(self) -> list[Decoder]:
        """Decoders that may be given an image now."""
        idle = [d for d, work in self._decoders.items() if d.ready and _is_idle(d, work)]
        busy = sum(work.task is not None for work in self._decoders.values())
        return idle[: max(0, self._most_busy - busy)]

    def _fresh(self, idle: list[Decoder]) -> Decoder | None:
        """Take a decoder that has seen no image out of `idle`; None where one is to come."""
        for decoder in idle:
            if not self._decoders[decoder].answered:
                idle.remove(decoder)
                return decoder
        if idle:
            self._retire(idle.pop())  # the one in its place is fresh
        return None

    def _place_next(self, idle: list[Decoder]) -> bool:
        """Put the next input in its place, and hand it to a decoder; False where it has to wait."""
        item, data = self._next
        entry = Entry(item)
        room = self._ring.has_room() if data is None else self._ring.has_room_for_image()
        self._lacks_room = not room
        if not room:
            return False
        if data is None:
            self._ring.add(entry, self._weigh(item))
            self._room.release()
        else:
            coming = isinstance(data, Future)
            if not (coming or idle):
                return False
            task = _Task(entry, *self._ring.add_image(entry))
            if coming:
                data.add_done_callback(partial(self._arrive, task))
            else:
                task.data = data
                self._give(idle.pop(), task)
                self._room.release()
        self._next = None
        return True

    def _is_due(self, batch: Batch[Item]) -> bool:
        """Whether a batch that is not full should go ahead while there is no more input."""
        # Rows that wait for no image need not wait for a full batch either.
        idle = time.monotonic() - self._last_input > _IDLE
        return bool(batch.entries) and not batch.unsettled and (not batch.images or idle)

    def _arrive(self, task: _Task[Item], data: Coming[Item]) -> None:
        """On whatever thread the bytes came in."""
        self._arrivals.put((task, data))
        self._wake()

    def _take_arrivals(self) -> None:
        """Raises what fetching raised, which is a fault of ours: its errors are results."""
        with contextlib.suppress(queue.Empty):
            while arrival := self._arrivals.get_nowait():
                task, data = arrival
                task.entry.item, fetched = data.result()
                if fetched is None:
                    self._coming.release()
                    self._settle(task, None)
                else:
                    task.data = fetched
                    self._arrived.append(task)

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

    def _give(self, decoder: Decoder, task: _Task[Item]) -> None:
        work = self._decoders[decoder]
        work.task, work.has_delivery = task, True
        try:
            decoder.give(task.data)
        except ChannelClosedError:
            work.has_delivery = False  # so that its end is not held against the image
            self._channel_closed(decoder)
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            work.task = None
            self._discard_answers(self._remove(decoder))
            self._settle(task, _fault(error))

    # Hearing decoders

    def _wait(self) -> None:
        """Wait for something to happen; take in what decoders say; end those out of time."""
        if self._is_done():
            return
        now = time.monotonic()
        for key, _ in self._selector.select(max(0.0, min([*self._due(), now + _TICK]) - now)):
            source = key.fileobj
            if isinstance(source, Decoder):
                if source in self._decoders:  # its server may have gone in this very round
                    self._receive(source)
            elif isinstance(source, ForkServer):
                self._take_events(source)
            else:
                with contextlib.suppress(BlockingIOError):
                    while self._alarm.recv(4096):
                        pass
        with contextlib.suppress(queue.Empty):
            while batch := self._released.get_nowait():
                self._ring.release(batch)
        self._end_those_out_of_time()

    def _due(self) -> Iterator[float]:
        """When something has to be looked at, though nobody says anything."""
        for decoder, work in self._decoders.items():
            if decoder.channel_closed or not decoder.ready:
                yield decoder.deadline
            elif decoder.clock:
                yield decoder.clock.next_look
            elif work.answered:
                yield work.first_answer + _MOST_HELD_SECONDS
        if self._working and len(self._decoders) < self._count:
            yield self._start_again

    def _end_those_out_of_time(self) -> None:
        now = time.monotonic()
        for decoder in list(self._decoders):
            if decoder.channel_closed:
                if now > decoder.deadline:
                    self._lost(decoder, "the decoder closed its channel")
            elif not decoder.ready:
                if now > decoder.deadline:
                    reason = "one was not ready after a minute; is the machine overloaded?"
                    self._lost(decoder, reason)
            elif decoder.clock and now >= decoder.clock.next_look and decoder.clock.expired():
                limit = self._limits.decode_timeout
                reason = f"decoding took over {limit:g} s; raise the limit with --decode-timeout"
                self._lost(decoder, reason, ErrorCode.DECODE_TIMEOUT)

    def _receive(self, decoder: Decoder) -> None:
        try:
            if not decoder.is_sandboxed:
                self._started.put(decoder.receive_ready())
                self._failed_starts, self._ever_ready = 0, True
                return
            outcome = decoder.receive_outcome()
        except WrongAnswerError as error:
            self._lost(decoder, str(error))
        except ChannelClosedError:
            self._channel_closed(decoder)
        else:
            self._take_outcome(decoder, outcome)

    def _take_outcome(self, decoder: Decoder, outcome: ImageFacts | Undecoded) -> None:
        work = self._decoders[decoder]
        task, work.task = work.task, None
        assert task is not None
        if isinstance(outcome, ImageFacts):
            try:
                task.batch.write(task.index, decoder.pixels)
            except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
                outcome = _fault(error)
        if not work.answered:
            work.first_answer = time.monotonic()
        work.answered.append((task, outcome))
        work.held_bytes += len(task.data)
        # Memory that ran out is the next image's loss.
        worn = isinstance(outcome, Undecoded) and outcome.code is ErrorCode.OUT_OF_MEMORY
        full = len(work.answered) >= self._images_per_decoder or work.held_bytes > _MOST_HELD_BYTES
        if worn or full or task.alone:
            self._retire(decoder)

    def _channel_closed(self, decoder: Decoder) -> None:
        """How the process ended is reported by the server; wait for that, but not long."""
        if not decoder.channel_closed:
            decoder.channel_closed = True
            decoder.deadline = time.monotonic() + _EXIT_PATIENCE
            self._selector.unregister(decoder)

    def _take_events(self, server: ForkServer) -> None:
        by_number = {decoder.number: decoder for decoder in self._decoders}
        for event in server.events():
            if isinstance(event, ServerGone):
                self._server_gone(server, event.reason)
                continue
            decoder = by_number.get(event.number)
            if decoder not in self._decoders:  # it was ended by us
                continue
            assert decoder is not None
            if isinstance(event, Forked):
                decoder.pid = event.pid
            elif isinstance(event, NotForked):
                self._lost(decoder, event.reason)
            elif isinstance(event, Ended):
                self._lost(decoder, exit_reason(event.code, "decoder"))

    def _server_gone(self, server: ForkServer, reason: str) -> None:
        """Its decoders are gone with it, which no image is to blame for."""
        self._selector.unregister(server)
        self._server = None
        server.close()
        decoders = [decoder for decoder in self._decoders if decoder.server is server]
        starting = [decoder for decoder in decoders if not decoder.ready]
        for decoder in starting:
            self._remove(decoder)
        if starting:
            self._start_failed(reason)
        for decoder in decoders:
            if decoder.ready:
                self._decoders[decoder].has_delivery = False
                self._lost(decoder, reason)

    # Ends of decoders

    def _retire_those_due(self) -> None:
        """End idle decoders whose answers are waited for."""
        at_end = self._ended and self._next is None
        # Batches that the caller has will make room by themselves.
        starved = self._lacks_room and not self._ring.has_batches_out()
        now = time.monotonic()
        for decoder, work in list(self._decoders.items()):
            if not work.answered:
                continue
            held = now - work.first_answer > _MOST_HELD_SECONDS
            if _is_idle(decoder, work):
                if at_end or starved or held:
                    self._retire(decoder)
            elif held and (at_end or starved):
                # It is busy with a slow image, and everybody waits for what it gave before.
                self._discard_answers(work)

    def _retire(self, decoder: Decoder) -> None:
        """End an idle decoder in good order: its answers count."""
        if decoder.has_unasked_packet():
            self._lost(decoder, "the decoder gave a wrong answer")
            return
        work = self._remove(decoder)
        for task, outcome in work.answered:
            self._settle(task, outcome)

    def _lost(
        self, decoder: Decoder, reason: str, code: ErrorCode = ErrorCode.DECODER_CRASHED
    ) -> None:
        """A decoder ended in bad order: nothing that it gave counts.

        The image that it had is settled with an error, or tried once more alone.
        """
        work = self._remove(decoder)
        self._discard_answers(work)
        if not decoder.ready:
            self._start_failed(reason)
            return
        task = work.task
        if task is None:
            return  # it died idle, which is no image's fault
        if code is ErrorCode.DECODER_CRASHED:
            task.alone = True
            task.deaths += work.has_delivery
            task.tries += 1
            if task.deaths < 2 and task.tries < _MOST_TRIES:
                if task not in self._suspects:
                    self._suspects.append(task)
                return
            reason += ", twice"
        self._settle(task, Undecoded(code, reason, ImageFacts()))

    def _discard_answers(self, work: _Work[Item]) -> None:
        """Have the images decoded again, each in a process of its own."""
        for task, _ in work.answered:
            task.alone = True
            self._discarded.append(task)
        work.answered, work.held_bytes = [], 0

    def _settle(self, task: _Task[Item], outcome: ImageFacts | Undecoded | None) -> None:
        if self._suspects and self._suspects[0] is task:
            self._suspects.popleft()
        task.data = b""
        task.entry.outcome = outcome
        self._ring.settle(task.batch)

    def _remove(self, decoder: Decoder) -> _Work[Item]:
        if not decoder.channel_closed:
            self._selector.unregister(decoder)
        decoder.end()
        return self._decoders.pop(decoder)

    # Starts of decoders

    def _start_missing(self) -> None:
        """Bring the decoders up to their number; where one does not start, go on with the others.

        Raises RunError where none does.
        """
        while len(self._decoders) < self._count and time.monotonic() >= self._start_again:
            try:
                server = self._running_server()
                decoder = Decoder(server, next(self._numbers), self._specs, self._limits)
            except OSError as error:
                self._start_failed(f"{error.strerror}; fewer --workers need less")
                return
            self._decoders[decoder] = _Work()
            self._selector.register(decoder, selectors.EVENT_READ)

    def _running_server(self) -> ForkServer:
        if self._server is None:
            self._server = ForkServer(
                self._specs,
                self._limits,
                niceness=self._niceness,
                require_sandbox=self._require_sandbox,
            )
            self._selector.register(self._server, selectors.EVENT_READ)
        return self._server

    def _start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        most = _FAILED_RESTARTS if self._ever_ready else _FAILED_STARTS
        if self._failed_starts >= most and not any(d.ready for d in self._decoders):
            raise RunError(f"decoder processes do not start: {reason}")
        pause = min(_LONGEST_PAUSE, 0.02 * 2 ** min(self._failed_starts, 10))
        self._start_again = time.monotonic() + pause


def _fault(error: Exception) -> Undecoded:
    log.debug("a fault in moderate itself between run and decoder", exc_info=error)
    cause = one_line(f"{type(error).__name__}: {error}", 160)
    reason = f"a fault in moderate itself while decoding ({cause})"
    return Undecoded(ErrorCode.INTERNAL_ERROR, reason, ImageFacts())


def _is_idle(decoder: Decoder, work: _Work[Any]) -> bool:
    return work.task is None and not decoder.channel_closed
