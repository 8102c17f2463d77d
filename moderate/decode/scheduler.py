"""Which image goes to which decoder, and which answers count.

An untrusted image may take over the process that decodes it. It can then answer as it likes, for
itself and for the images that the same process gets after it. So a process decodes a limited number
of images, and its answers count only once it has ended in good order. If it dies, exceeds its time
or gives a wrong answer, all its answers are discarded, and each of those images is decoded again in
a fresh process that decodes nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic

from moderate.decode.batches import Batch, BatchRing, Entry, Item
from moderate.decode.decoder import Decoder, InMemory
from moderate.decode.intake import Arrival, Intake
from moderate.decode.supervisor import Answer, Loss, Supervisor
from moderate.decode.undecoded import Undecoded
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts

log = logging.getLogger(__name__)

# Of images whose decoder has not ended yet: for all decoders together, and the least for each. One
# file more at most. With less for each, large photographs would get a fresh process every time.
_HELD_BYTES = 64 << 20
_LEAST_HELD_BYTES = 8 << 20
_MAX_HELD_SECONDS = 1.0  # for which an answer waits for the end of its decoder
_MAX_IDLE_SECONDS = 1.0  # without another image, after which a batch goes ahead as it is
_MAX_DEATHS = 2  # of decoders that had received the image
_MAX_TRIES = 10  # of one image whose decoders die before they get it


@dataclass(slots=True, eq=False)
class Task(Generic[Item]):
    """An image in progress. Its bytes are kept until its outcome counts: it may be tried again.

    index is that of the entry in its batch. alone says that it gets a decoder for itself.
    """

    entry: Entry[Item]
    batch: Batch[Item]
    index: int
    data: bytes = b""
    deaths: int = 0  # of decoders that had received it
    tries: int = 0
    alone: bool = False
    settled: bool = False


@dataclass(slots=True, eq=False)
class _Work(Generic[Item]):
    """What one decoder is doing and has done.

    answered holds the images whose outcomes wait for the decoder to end in good order.
    """

    task: Task[Item] | None = None
    answered: list[tuple[Task[Item], ImageFacts | Undecoded]] = field(default_factory=list)
    held_bytes: int = 0
    first_answer: float = 0.0  # by time.monotonic()

    def has_waited(self, now: float, seconds: float) -> bool:
        """Whether its answers have waited for longer than that."""
        return bool(self.answered) and now - self.first_answer > seconds


class Scheduler(Generic[Item]):
    """Gives images to decoders, and puts what comes of them into batches.

    Belongs to the decoding thread, like the ring and the supervisor that it uses. Serves runs one
    after the other, each between `begin` and `finish`.
    """

    def __init__(
        self,
        ring: BatchRing[Item],
        supervisor: Supervisor,
        *,
        images_per_decoder: int,
        max_busy: int,
        on_work: Callable[[], None],
        held_seconds: float | None = None,
    ) -> None:
        """max_busy decoders work at once. on_work is called when a run's first image is there.

        held_seconds is how long an answer waits for the end of its decoder, while that has no other
        image.
        """
        self._intake: Intake[Item]
        self._ring = ring
        self._supervisor = supervisor
        self._images_per_decoder = images_per_decoder
        self._max_busy = max_busy
        self._most_held_bytes = max(_LEAST_HELD_BYTES, _HELD_BYTES // max_busy)
        self._held_seconds = _MAX_HELD_SECONDS if held_seconds is None else held_seconds
        self._on_work = on_work
        self._has_work = False
        self._work: defaultdict[Decoder, _Work[Item]] = defaultdict(_Work)
        self._coming: dict[Entry[Item], Task[Item]] = {}  # whose bytes are on their way
        # Images that have their place in a batch and wait for a decoder, in the order in which
        # they are served: those whose decoder died, those whose answers were discarded, and those
        # whose bytes came in later than their place.
        self._suspects: deque[Task[Item]] = deque()
        self._discarded: deque[Task[Item]] = deque()
        self._fetched: deque[Task[Item]] = deque()
        self._lacks_room = False  # in the ring, for the next image

    def begin(self, intake: Intake[Item]) -> None:
        """Begin with the images of another run."""
        self._intake = intake
        self._has_work = False

    def is_done(self) -> bool:
        """Whether all images were handed over in their batches."""
        return self._intake.ended and self._ring.all_handed_over()

    def finish(self) -> None:
        """End the decoders that have seen an image: the next run begins with fresh ones."""
        for decoder in self._supervisor.usable():
            work = self._work[decoder]
            if work.task or work.answered:
                self._supervisor.end(decoder)

    def step(self) -> None:
        """Hand images out, then wait for something to happen and take note of it."""
        self._hand_out()
        if self.is_done():
            return
        for event in self._supervisor.events(min(self._due(), default=float("inf"))):
            if isinstance(event, Answer):
                self._take_answer(event)
            else:
                self._take_loss(event)

    def _due(self) -> Iterator[float]:
        """When decoders without an image have held their answers long enough.

        At once where it has turned out since the answer that there are no more images.
        """
        for decoder in self._supervisor.usable():
            work = self._work[decoder]
            if work.task is None and work.answered:
                yield 0.0 if self._intake.ended else work.first_answer + self._held_seconds

    # Handing images out

    def _hand_out(self) -> None:
        """Give images to idle decoders, and close the current batch where it need not wait."""
        self._take_fetched()
        self._retire_due()
        idle = self._idle()
        if self._suspects:
            # An image whose decoder died is tried again while no other image is being decoded, so
            # that no other one can be the cause.
            busy = any(work.task for work in self._work.values())
            if not busy and (decoder := self._take_fresh(idle)):
                self._assign(decoder, self._suspects[0])
            return
        while self._discarded and (decoder := self._take_fresh(idle)):
            self._assign(decoder, self._discarded.popleft())
        if self._discarded:
            return
        while idle and self._fetched:
            self._assign(idle.pop(), self._fetched.popleft())
            self._intake.note_begun()
        while (arrival := self._intake.peek()) and self._place(arrival, idle):
            pass
        if self._intake.ended or self._is_starved() or (arrival is None and self._is_slow()):
            self._ring.close_current()

    def _idle(self) -> list[Decoder]:
        """Decoders that may be given an image now."""
        usable = self._supervisor.usable()
        idle = [decoder for decoder in usable if self._work[decoder].task is None]
        idle = self._up_to_date(idle)
        busy_count = sum(work.task is not None for work in self._work.values())
        return idle[: max(0, self._max_busy - busy_count)]

    def _up_to_date(self, idle: list[Decoder]) -> list[Decoder]:
        """End those idle decoders that lack a codec which images need; the others."""
        outdated = [decoder for decoder in idle if self._supervisor.is_outdated(decoder)]
        for decoder in outdated:
            self._retire(decoder)
        return [decoder for decoder in idle if decoder not in outdated]

    def _take_fresh(self, idle: list[Decoder]) -> Decoder | None:
        """Take a decoder that has seen no image out of `idle`; None until there is one."""
        for decoder in idle:
            if not self._work[decoder].answered:
                idle.remove(decoder)
                return decoder
        if idle:
            self._retire(idle.pop())  # a fresh one will take its place
        return None

    def _place(self, arrival: Arrival[Item], idle: list[Decoder]) -> bool:
        """Put the next image in its place and have it decoded; False where it has to wait."""
        if isinstance(arrival.data, bytes):
            self._supervisor.note_codec(arrival.data)
            idle[:] = self._up_to_date(idle)
        if not self._has_work:
            self._has_work = True
            self._on_work()
            self._supervisor.start()
        self._lacks_room = not self._ring.has_room()
        if self._lacks_room:
            return False
        data = arrival.data
        if isinstance(data, bytes) and not idle:
            return False
        self._intake.take()
        task = Task(arrival.entry, *self._ring.add(arrival.entry))
        if isinstance(data, bytes):
            task.data = data
            self._assign(idle.pop(), task)
        else:
            self._coming[task.entry] = task
        return True

    def _take_fetched(self) -> None:
        for entry, data in self._intake.fetched():
            task = self._coming.pop(entry)
            if data is None:
                self._intake.note_begun()
                self._settle(task, None)
            else:
                task.data = data
                self._supervisor.note_codec(data)
                self._fetched.append(task)

    def _is_starved(self) -> bool:
        """Whether no more images can come in before some of those in progress are handed over."""
        # Batches that the caller has will make room by themselves.
        waits = self._lacks_room or self._intake.is_blocked
        return waits and not self._ring.has_batches_out()

    def _is_slow(self) -> bool:
        """Whether the current batch has waited long enough for another image."""
        idle_seconds = time.monotonic() - self._intake.last_taken
        return self._ring.current_is_settled() and idle_seconds > _MAX_IDLE_SECONDS

    def _assign(self, decoder: Decoder, task: Task[Item]) -> None:
        self._work[decoder].task = task
        try:
            self._supervisor.give(decoder, task.data)
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            self._supervisor.end(decoder)
            self._discard_answers(self._work.pop(decoder))
            self._settle(task, _internal_error(error))

    # What comes of it

    def _take_answer(self, answer: Answer) -> None:
        work = self._work[answer.decoder]
        task, work.task = work.task, None
        assert task is not None
        outcome: ImageFacts | Undecoded
        if isinstance(answer.outcome, InMemory):
            outcome = answer.outcome.facts
            try:
                # Now, as the decoder's memory is written over by its next image.
                task.batch.write(task.index, answer.outcome.parts, answer.decoder.pixels)
            except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
                outcome = _internal_error(error)
        else:
            outcome = answer.outcome
        if not work.answered:
            work.first_answer = time.monotonic()
        work.answered.append((task, outcome))
        work.held_bytes += len(task.data)
        # A decoder whose memory ran out may be short of it for the next image, too.
        worn = isinstance(outcome, Undecoded) and outcome.code is ErrorCode.OUT_OF_MEMORY
        full = len(work.answered) >= self._images_per_decoder
        heavy = work.held_bytes > self._most_held_bytes
        if worn or full or heavy or task.alone or self._supervisor.is_outdated(answer.decoder):
            self._retire(answer.decoder)

    def _take_loss(self, loss: Loss) -> None:
        """Discard what the decoder has answered.

        The image that it had is tried once more alone, or settled with an error.
        """
        work = self._work.pop(loss.decoder, None)
        if work is None:
            return
        self._discard_answers(work)
        task, reason = work.task, loss.reason
        if task is None:
            return  # the decoder died idle, which is no image's fault
        if loss.code is ErrorCode.DECODER_CRASHED:
            task.alone = True
            task.deaths += loss.had_image
            task.tries += 1
            if task.deaths < _MAX_DEATHS and task.tries < _MAX_TRIES:
                if task not in self._suspects:
                    self._suspects.append(task)
                return
            reason += ", twice"
        self._settle(task, Undecoded(loss.code, reason, ImageFacts()))

    def _retire_due(self) -> None:
        """End the decoders whose answers are waited for."""
        at_end = self._intake.ended
        starved = self._is_starved()
        now = time.monotonic()
        for decoder, work in list(self._work.items()):
            if not work.answered:
                continue
            if work.task is None and not decoder.channel_closed:
                if at_end or starved or work.has_waited(now, self._held_seconds):
                    self._retire(decoder)
            elif work.has_waited(now, self._held_seconds) and (at_end or starved):
                # It is busy with a slow image, and everything waits for its earlier answers.
                self._discard_answers(work)

    def _retire(self, decoder: Decoder) -> None:
        """End an idle decoder. Where it ends in good order, its answers count."""
        work = self._work.pop(decoder)
        if not self._supervisor.retire(decoder):
            self._discard_answers(work)
            return
        for task, outcome in work.answered:
            self._settle(task, outcome)

    def _discard_answers(self, work: _Work[Item]) -> None:
        """Have the images decoded again, each in a decoder for itself.

        An image that had one for itself already is to blame for what its decoder did after the
        answer. It is tried once more, as one that killed its decoder is.
        """
        answered, work.answered, work.held_bytes = work.answered, [], 0
        for task, _ in answered:
            if task.alone:
                task.deaths += 1
            task.alone = True
            if task.deaths >= _MAX_DEATHS:
                reason = "the decoder answered and then broke the rules, twice"
                self._settle(task, Undecoded(ErrorCode.DECODER_CRASHED, reason, ImageFacts()))
            elif task not in self._suspects:
                self._discarded.append(task)

    def _settle(self, task: Task[Item], outcome: ImageFacts | Undecoded | None) -> None:
        # Once: its batch counts its images, and is handed over when all of them are settled.
        if task.settled:
            return
        task.settled = True
        if self._suspects and self._suspects[0] is task:
            self._suspects.popleft()
        task.data = b""
        task.entry.outcome = outcome
        self._ring.settle(task.batch)


def _internal_error(error: Exception) -> Undecoded:
    log.debug("a fault in moderate itself between run and decoder", exc_info=error)
    cause = one_line(f"{type(error).__name__}: {error}", 160)
    reason = f"a fault in moderate itself while decoding ({cause})"
    return Undecoded(ErrorCode.INTERNAL_ERROR, reason, ImageFacts())
