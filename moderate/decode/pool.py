"""The pool of decoder processes, as the run uses it: images in, batches of pixels out.

Three threads work on it, so that reading and decoding go on while the caller runs the model:

- The reading thread draws the inputs, and gives them to the `Intake`. What needs no decoding goes
  straight on to the caller.
- The decoding thread owns the `Scheduler`, which gives images to decoders and their pixels to
  batches; the `BatchRing` with the memory of the batches; and the `Supervisor`, which starts,
  watches and ends the decoder processes.
- The caller's thread draws the results, and releases them when it is done with their pixels.

They pass each other values through queues, and wake the decoding thread through the `Alarm`. There
is no lock among what the caller's thread uses: a signal may end it anywhere, and a lock that it
holds at that moment would stay locked for the others.

A pool may serve several runs, one after the other. The decoding thread and what it owns live as
long as the pool; each run has a reading thread, an `Intake` and a `Scheduler` of its own.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Generic

from moderate.cores import available_cores
from moderate.decode.batches import Batch, BatchRing, Item, Passed
from moderate.decode.intake import Coming, Intake
from moderate.decode.limits import IMAGES_PER_DECODER
from moderate.decode.parts import DEFAULT_OPTIONS, DecodeOptions
from moderate.decode.resize import Pixels, PixelSpec
from moderate.decode.scheduler import Scheduler
from moderate.decode.supervisor import Alarm, Supervisor
from moderate.errors import RunError
from moderate.types import Limits


class _Signal(Enum):
    WORK = "there is an image to decode"
    END = "there is nothing more"


class DecoderPool(Generic[Item]):
    """`workers` decoder processes for the given specs and limits; a context manager.

    It serves one run. One that `lasts` serves others after it, each of which begins when the one
    before has given all its results; a run that is broken off, or that raises, is the last.

    The decoders are started when the first image is there to be decoded, or `at_once`. `niceness`
    is added to that of the decoders, so that a model on the same cores goes first. An answer whose
    decoder gets no other image is given after `held_seconds`, None: a second; the decoder ends
    then, and another one is started. `replicas` of the model have batches at the same time.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        limits: Limits,
        workers: int,
        batch_size: int,
        *,
        options: DecodeOptions = DEFAULT_OPTIONS,
        niceness: int = 0,
        require_sandbox: bool = False,
        at_once: bool = False,
        images_per_decoder: int = IMAGES_PER_DECODER,
        lasts: bool = False,
        held_seconds: float | None = None,
        replicas: int = 1,
    ) -> None:
        self._lasts = lasts
        self._workers = workers
        self._unreported = workers  # decoders whose sandbox is to be reported; decoding thread's
        self._at_once = at_once
        self._stopped = False  # set by the caller's thread at the end, or the decoding thread
        self._alarm = Alarm()
        # To the caller's thread.
        self._results: queue.SimpleQueue[Batch[Item] | Passed[Item] | BaseException | _Signal] = (
            queue.SimpleQueue()
        )
        self._sandboxes: queue.SimpleQueue[tuple[str, ...] | None] = queue.SimpleQueue()
        self._first_sandbox: tuple[str, ...] | None = None  # the caller's thread's
        # From the caller's thread.
        self._runs: queue.SimpleQueue[Intake[Item]] = queue.SimpleQueue()
        self._released: queue.SimpleQueue[Batch[Item]] = queue.SimpleQueue()
        self._on_work: Callable[[], None] = lambda: None
        self._upcoming: Batch[Item] | Passed[Item] | BaseException | _Signal | None = None
        self._decoding_thread: threading.Thread | None = None

        self._intake: Intake[Item] | None = None  # of the run in progress
        # These belong to the decoding thread.
        self._ring: BatchRing[Item] = BatchRing(specs, batch_size, self._results.put, replicas)
        self._supervisor = Supervisor(
            specs,
            limits,
            options,
            workers,
            self._alarm,
            niceness=niceness,
            require_sandbox=require_sandbox,
            on_ready=self._note_ready,
        )
        self._scheduler: Scheduler[Item] = Scheduler(
            self._ring,
            self._supervisor,
            # If more answers wait than half the ring holds, decoders wait for each other.
            images_per_decoder=max(
                1, min(images_per_decoder, self._ring.capacity // (2 * workers))
            ),
            # More at once would only run into each other's time limits.
            max_busy=max(1, min(workers, 2 * available_cores())),
            on_work=lambda: self._results.put(_Signal.WORK),
            held_seconds=held_seconds,
        )

    def __enter__(self) -> DecoderPool[Item]:
        """Return itself; a pool that lasts starts its decoders now if it is to, before any run."""
        if self._lasts:
            self._start_decoding()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._alarm.ring()
        # Garbage may be collected on any thread, and the last reference to a run be in it.
        if self._decoding_thread and self._decoding_thread is not threading.current_thread():
            self._decoding_thread.join()
        self._alarm.close()

    @property
    def ended(self) -> bool:
        """Whether it can serve no more runs."""
        return self._stopped

    @property
    def buffers(self) -> list[Pixels]:
        """The memory that pixels of batches are views of, as arrays of bytes."""
        return [self._ring.memory]

    def run(
        self,
        images: Iterable[tuple[Item, bytes | Coming[Item] | None]],
        *,
        on_work: Callable[[], None] = lambda: None,
        row_count: Callable[[Item], int] = lambda item: 1,
    ) -> Iterator[Batch[Item] | Passed[Item]]:
        """Decode (item, bytes) pairs; yields batches as they are complete. Give each to `release`.

        An item with None for bytes needs no decoding and is yielded as `Passed`; one whose bytes
        are still on their way has its place meanwhile. Inputs come out of order, but each with its
        place in the input's order. How far they get ahead of the oldest one that is not released is
        bounded by their rows: `row_count` says how many an item without bytes stands for.

        `images` is drawn on a thread of its own; what it raises is raised here. `on_work` is called
        once, in the caller's thread between batches, as soon as there is an image to decode.

        Raises RunError where the pool has ended.
        """
        if self._stopped:
            raise RunError("the decoders have ended; begin anew")
        self._on_work, self._upcoming = on_work, None
        self._intake = intake = Intake[Item](self._workers, self._alarm, self._results.put)
        self._runs.put(intake)
        # A daemon, never waited for: it may be in the middle of a slow source.
        reader = threading.Thread(target=intake.read, args=(iter(images), row_count), daemon=True)
        # At once, so that decoding goes on while the caller still loads its model.
        reader.start()
        self._start_decoding()
        self._alarm.ring()
        return self._complete()

    def release(self, result: Batch[Item] | Passed[Item]) -> None:
        """Note that the caller is done with a result: its memory may be used for others."""
        assert self._intake is not None
        if isinstance(result, Passed):
            self._intake.release([result.place])
            return
        self._intake.release([entry.place for entry in result.entries])
        self._released.put(result)
        self._alarm.ring()

    def sandbox(self) -> tuple[str, ...] | None:
        """The protections that decoders run under; waits for the first to be ready.

        None where none got ready: none was needed after all, or the batches raise the reason. Not
        to be called before there was work.
        """
        if self._first_sandbox is None:
            self._first_sandbox = self._sandboxes.get()
        return self._first_sandbox

    def wait_until_ready(self) -> None:
        """Wait for all decoders, or for the end of the attempt to start them."""
        for _ in range(self._workers):
            if self._sandboxes.get() is None:
                return

    def has_next(self, timeout: float) -> bool:
        """Whether there is another result, or the end, within `timeout` seconds."""
        if self._upcoming is None:
            with contextlib.suppress(queue.Empty):
                self._upcoming = self._results.get(timeout=timeout)
        if self._upcoming is _Signal.WORK:
            self._upcoming = None
            self._on_work()
        return self._upcoming is not None

    def _start_decoding(self) -> None:
        if self._decoding_thread is None:
            self._decoding_thread = threading.Thread(
                target=self._decode, name="decoders", daemon=True
            )
            self._decoding_thread.start()

    def _complete(self) -> Iterator[Batch[Item] | Passed[Item]]:
        while True:
            result = self._upcoming or self._results.get()
            self._upcoming = None
            if result is _Signal.END:
                return
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, _Signal):
                self._on_work()
            else:
                yield result

    def _note_ready(self, sandbox: tuple[str, ...]) -> None:
        # Of the first ones only: nobody asks for the others, however many there are.
        if self._unreported:
            self._unreported -= 1
            self._sandboxes.put(sandbox)

    def _decode(self) -> None:
        """The decoding thread."""
        try:
            if self._at_once:
                self._supervisor.start()
            while not self._stopped:
                try:
                    intake = self._runs.get_nowait()
                except queue.Empty:
                    self._wait_for_run()
                else:
                    self._serve(intake)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._results.put(error)
        finally:
            self._stopped = True
            self._sandboxes.put(None)
            if self._intake:
                self._intake.stop()
            self._supervisor.close()

    def _serve(self, intake: Intake[Item]) -> None:
        """Decode the images of one run."""
        self._scheduler.begin(intake)
        while not (self._stopped or self._scheduler.is_done()):
            self._scheduler.step()
            self._take_released()
        if not self._stopped:
            if self._lasts:
                self._scheduler.finish()
            self._stopped = not self._lasts
            self._results.put(_Signal.END)

    def _wait_for_run(self) -> None:
        """Between runs: decoders that have ended are replaced, so that the next run finds them."""
        for _ in self._supervisor.events(float("inf")):
            pass  # a decoder that ends without an image costs nobody anything
        self._take_released()

    def _take_released(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._ring.release(self._released.get_nowait())
