"""What comes into the decoder pool: inputs are read on one thread and taken by another.

Both sides of the hand-over are here, with the bounds on how much may wait between them. There are
three, because three different things cost memory: images that were read (each a whole file),
images on their way (at most a whole file each, from elsewhere), and rows, which wait for the
oldest input that is not finished.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic

from moderate.decode.batches import Entry, Item, Passed
from moderate.decode.supervisor import Alarm

_MAX_COMING = 128  # images on their way from elsewhere
_MAX_ROWS_AHEAD = 16_384  # rows from the oldest input that is not released to the newest one

Coming = Future[tuple[Item, "bytes | None"]]
"""An item whose bytes are still on their way: what it becomes, with its bytes or without."""


@dataclass(slots=True, eq=False)
class Arrival(Generic[Item]):
    """An image that was read: its entry, with its bytes or the future of them."""

    entry: Entry[Item]
    data: bytes | Coming[Item]


class _Window(Generic[Item]):
    """Counts inputs, and how many rows lie between the oldest unreleased one and the next.

    Used by the reading thread, except `release`, which any thread may call.
    """

    def __init__(self) -> None:
        self._next_place = 0
        self._rows = 0
        # Oldest first: the place, the rows before it, and whether it is an image.
        self._unreleased: deque[tuple[int, int, bool]] = deque()
        self._released: set[int] = set()  # places in _unreleased that are not the oldest
        self._releases: queue.SimpleQueue[list[int]] = queue.SimpleQueue()

    def is_full(self) -> bool:
        """Whether the next input has to wait for the release of the oldest."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._released.update(self._releases.get_nowait())
        self._forget_released()
        return bool(self._unreleased) and self._rows - self._unreleased[0][1] >= _MAX_ROWS_AHEAD

    def oldest_is_image(self) -> bool:
        """Whether the oldest unreleased input has to be decoded."""
        return bool(self._unreleased) and self._unreleased[0][2]

    def wait(self) -> None:
        """Wait for a release."""
        self._released.update(self._releases.get())

    def add(self, rows: int, *, is_image: bool) -> int:
        """Count another input, which stands for so many rows; its place."""
        place = self._next_place
        self._unreleased.append((place, self._rows, is_image))
        self._next_place += 1
        self._rows += rows
        return place

    def release(self, places: list[int]) -> None:
        """Note that these inputs are done with; an empty list only ends a wait."""
        self._releases.put(places)

    def _forget_released(self) -> None:
        while self._unreleased and self._unreleased[0][0] in self._released:
            self._released.remove(self._unreleased.popleft()[0])


class Intake(Generic[Item]):
    """Inputs on their way to the decoders.

    Three kinds of threads meet here. The reading thread runs `read`. The decoding thread takes
    what was read, with `peek`, `take` and the methods below them. `_note_arrival` runs on whatever
    thread a fetched image came in on. `release` and `stop` may be called from any thread. They
    share queues, semaphores and flags that have one writer, and no lock: a signal can end the
    caller's thread anywhere, also while it would hold one.
    """

    def __init__(self, workers: int, alarm: Alarm, pass_on: Callable[[Passed[Item]], None]) -> None:
        """pass_on gets, on the reading thread, what needs no decoding."""
        self._alarm = alarm
        self._pass_on = pass_on
        self._window: _Window[Item] = _Window()
        self._stopped = False
        self._inputs: queue.SimpleQueue[Arrival[Item] | BaseException | None] = queue.SimpleQueue()
        self._fetched: queue.SimpleQueue[tuple[Entry[Item], Coming[Item]]] = queue.SimpleQueue()
        self._may_read = threading.Semaphore(2 * workers)
        self._may_come = threading.Semaphore(_MAX_COMING)
        self._next: Arrival[Item] | None = None  # the decoding thread's
        self.is_blocked = False
        """Whether reading waits for the release of an image. Set by the reading thread."""
        self.ended = False
        """Whether everything that there is was taken. Set by the decoding thread."""
        self.last_taken = 0.0
        """When the last image was taken, by time.monotonic(). Set by the decoding thread."""

    # The reading thread

    def read(
        self,
        images: Iterator[tuple[Item, bytes | Coming[Item] | None]],
        row_count: Callable[[Item], int],
    ) -> None:
        """Read all images; what that raises is raised by `peek` when its turn comes."""
        end: BaseException | None = None
        try:
            for item, data in images:
                if not self._wait_for_room(data):
                    return
                if data is None:
                    self._pass_on(Passed(self._window.add(row_count(item), is_image=False), item))
                else:
                    entry = Entry(self._window.add(1, is_image=True), item)
                    self._inputs.put(Arrival(entry, data))
                    self._alarm.ring()
        except BaseException as error:  # noqa: BLE001 - handed to the decoding thread
            end = error
        self._inputs.put(end)
        self._alarm.ring()

    def _wait_for_room(self, data: bytes | Coming[Item] | None) -> bool:
        """Wait until another input may come in; False where the pool has ended meanwhile."""
        while self._window.is_full() and not self._stopped:
            # An image may be in a batch that waits for more images. They cannot come, so that the
            # decoding thread has to let the batch go ahead.
            self.is_blocked = self._window.oldest_is_image()
            self._alarm.ring()
            self._window.wait()
        self.is_blocked = False
        if data is not None:
            (self._may_come if isinstance(data, Future) else self._may_read).acquire()
        return not self._stopped

    # Any thread

    def release(self, places: list[int]) -> None:
        """Note that the inputs in these places are done with."""
        self._window.release(places)

    def stop(self) -> None:
        """Let the reading thread come to its end, if it waits for room."""
        self._stopped = True
        self._may_read.release()
        self._may_come.release()
        self._window.release([])

    def _note_arrival(self, entry: Entry[Item], coming: Coming[Item]) -> None:
        self._fetched.put((entry, coming))
        self._alarm.ring()

    # The decoding thread

    def peek(self) -> Arrival[Item] | None:
        """The next image, if there is one by now. Raises what reading raised."""
        if self._next is None and not self.ended:
            try:
                arrival = self._inputs.get_nowait()
            except queue.Empty:
                return None
            if isinstance(arrival, BaseException):
                raise arrival
            self._next, self.ended = arrival, arrival is None
        return self._next

    def take(self) -> Arrival[Item]:
        """Take the image that `peek` has shown.

        Where its bytes are on their way, `fetched` gives them later.
        """
        arrival, self._next = self._next, None
        assert arrival is not None
        if isinstance(arrival.data, Future):
            arrival.data.add_done_callback(partial(self._note_arrival, arrival.entry))
        else:
            self._may_read.release()
        self.last_taken = time.monotonic()
        return arrival

    def fetched(self) -> Iterator[tuple[Entry[Item], bytes | None]]:
        """Entries whose bytes have come in since the last call; None where they cannot be had.

        Call `note_begun` for each. Raises what fetching raised: failures to fetch are results, so
        that it is a fault of this program.
        """
        with contextlib.suppress(queue.Empty):
            while True:
                entry, coming = self._fetched.get_nowait()
                entry.item, data = coming.result()
                yield entry, data

    def note_begun(self) -> None:
        """Note that a fetched image does not wait any more."""
        self._may_come.release()
