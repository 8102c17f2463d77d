"""The decoder processes, seen from the run: images in, outcomes out in the same order.

One thread feeds the processes and watches their clocks, so that decoding goes on while the caller
runs the model. Each process holds one image; one that dies or overruns its time costs that image
an error row and the pool a new process, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import numpy as np

from moderate.decode.image import Decoded, Undecoded
from moderate.decode.resize import Pixels, PixelSpec
from moderate.errors import RunError
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts, Limits, Warn

Item = TypeVar("Item")

_START_TIMEOUT = 60.0  # seconds a decoder may take to import its codecs on a busy machine
_MAX_HEADER = 64 * 1024  # bytes; a decoder that sends more is not to be believed
_TICK = 0.1  # seconds between looks at the clocks


@dataclass(slots=True)
class _Slot(Generic[Item]):
    """One image's place in the order, filled when its outcome is there."""

    item: Item
    outcome: Decoded | Undecoded | None = None
    done: bool = False

    def fill(self, outcome: Decoded | Undecoded) -> None:
        """Put the outcome in its place."""
        self.outcome, self.done = outcome, True


@dataclass(slots=True)
class _Worker(Generic[Item]):
    process: subprocess.Popen[bytes]
    channel: Connection
    deadline: float
    slot: _Slot[Item] | None = None
    ready: bool = False


_Pair = tuple[Item, bytes | None]
_Result = tuple[Item, Decoded | Undecoded | None]
_END = object()


@dataclass(slots=True)
class DecoderPool(Generic[Item]):
    """`workers` decoder processes for the given specs and limits; a context manager.

    `window` is how many images may be under way or waiting for the caller: it bounds memory and
    lets later images be decoded while a slow one holds up the order.
    """

    specs: tuple[PixelSpec, ...]
    limits: Limits
    workers: int
    window: int
    _workers: list[_Worker[Item]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    # Whatever happens elsewhere (an image read, room made) wakes the feeding thread through it.
    _alarm: tuple[Connection, Connection] = field(default_factory=lambda: Pipe(duplex=False))

    def __enter__(self) -> DecoderPool[Item]:
        # Full of alarms is as good as one alarm: nobody waits to raise another.
        os.set_blocking(self._alarm[1].fileno(), False)
        self._workers = [self._start() for _ in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        for worker in self._workers:
            _end(worker)
        for end in self._alarm:
            end.close()

    def run(self, images: Iterable[_Pair[Item]]) -> Iterator[_Result[Item]]:
        """Decode (item, bytes) pairs; yields (item, outcome) in the order they came.

        An item with None for bytes is passed through with None for its outcome. `images` is
        consumed on a thread of its own, so that a slow disk holds up neither results nor clocks;
        what it raises is raised here. Once per pool.
        """
        # Few: each holds the bytes of a whole file.
        inputs: queue.Queue[Any] = queue.Queue(maxsize=2 * self.workers)
        results: queue.Queue[Any] = queue.Queue()
        room = threading.Semaphore(self.window)
        reader = threading.Thread(
            target=self._read, args=(iter(images), inputs), name="reader", daemon=True
        )
        self._thread = threading.Thread(
            target=self._feed, args=(inputs, results, room), name="decoders", daemon=True
        )
        # At once: decoding goes on while the caller still loads its model.
        reader.start()
        self._thread.start()
        return self._results(results, room)

    def _results(
        self, results: queue.Queue[Any], room: threading.Semaphore
    ) -> Iterator[_Result[Item]]:
        while (result := results.get()) is not _END:
            if isinstance(result, BaseException):
                raise result
            yield result
            room.release()
            self._wake()

    def _read(self, images: Iterator[_Pair[Item]], inputs: queue.Queue[Any]) -> None:
        last: object = _END
        try:
            for pair in images:
                if not self._put(inputs, pair):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            last = error
        self._put(inputs, last)

    def _put(self, inputs: queue.Queue[Any], value: object) -> bool:
        """Wait for room in `inputs`; False where the pool was closed meanwhile."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                inputs.put(value, timeout=_TICK)
                self._wake()
                return True
        return False

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._alarm[1].send_bytes(b"!")

    def _feed(
        self, inputs: queue.Queue[Any], results: queue.Queue[Any], room: threading.Semaphore
    ) -> None:
        order: deque[_Slot[Item]] = deque()
        more = True
        try:
            while not self._stop.is_set() and (more or order):
                more = more and self._hand_out(inputs, order, room)
                while order and order[0].done:
                    slot = order.popleft()
                    results.put((slot.item, slot.outcome))
                if more or order:
                    self._collect()
            results.put(_END)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            results.put(error)

    def _hand_out(
        self, inputs: queue.Queue[Any], order: deque[_Slot[Item]], room: threading.Semaphore
    ) -> bool:
        """Give what was read to idle decoders; False once there is nothing more to come."""
        for index, worker in enumerate(self._workers):
            if worker.ready and worker.slot is None and worker.process.poll() is not None:
                _end(worker)  # it died idle, which is no image's fault
                self._workers[index] = self._start()
        idle = [worker for worker in self._workers if worker.ready and worker.slot is None]
        while idle and not inputs.empty() and room.acquire(blocking=False):
            value = inputs.get_nowait()
            if value is _END:
                return False
            if isinstance(value, BaseException):
                raise value
            item, data = value
            slot = _Slot(item, done=data is None)
            order.append(slot)
            if data is not None:
                self._give(idle.pop(), slot, data)
        return True

    def _give(self, worker: _Worker[Item], slot: _Slot[Item], data: bytes) -> None:
        worker.slot = slot
        worker.deadline = time.monotonic() + self.limits.decode_timeout
        try:
            worker.channel.send_bytes(data)
        except BlockingIOError:
            self._replace(worker, ErrorCode.DECODE_TIMEOUT, self._overdue())
        except OSError:
            self._replace(worker, ErrorCode.DECODER_CRASHED, _how_it_died(worker.process))

    def _collect(self) -> None:
        """Wait for something to happen; take in what decoders say; end those out of time."""
        talking = {w.channel: w for w in self._workers if w.slot or not w.ready}
        for channel in wait([*talking, self._alarm[0]], timeout=_TICK):
            worker = talking.get(channel)  # type: ignore[call-overload]
            if worker is None:
                while self._alarm[0].poll():
                    self._alarm[0].recv_bytes()
                continue
            try:
                self._receive(worker)
            except BlockingIOError:
                self._replace(worker, ErrorCode.DECODE_TIMEOUT, self._overdue())
            except Exception:  # noqa: BLE001 - whatever a compromised decoder says, it costs one row
                self._replace(worker, ErrorCode.DECODER_CRASHED, _how_it_died(worker.process))
        now = time.monotonic()
        for worker in list(talking.values()):
            if (
                worker in self._workers
                and now > worker.deadline
                and (worker.slot or not worker.ready)
            ):
                self._replace(worker, ErrorCode.DECODE_TIMEOUT, self._overdue())

    def _overdue(self) -> str:
        limit = self.limits.decode_timeout
        return f"decoding took over {limit:g} s; raise the limit with --decode-timeout"

    def _receive(self, worker: _Worker[Item]) -> None:
        message = worker.channel.recv_bytes(_MAX_HEADER)
        if not worker.ready:
            worker.ready = True
            return
        header = json.loads(message)
        told = header["facts"]
        facts = ImageFacts(
            width=_number(told["width"]),
            height=_number(told["height"]),
            frames=_number(told["frames"]),
            warnings=tuple(Warn(name) for name in told["warnings"]),
        )
        outcome: Decoded | Undecoded
        if error := header.get("error"):
            outcome = Undecoded(ErrorCode(error[0]), one_line(str(error[1])), facts)
        else:
            pixels = tuple(self._receive_array(worker, spec) for spec in self.specs)
            outcome = Decoded(pixels, facts)
        assert worker.slot is not None
        worker.slot.fill(outcome)
        worker.slot = None

    def _receive_array(self, worker: _Worker[Item], spec: PixelSpec) -> Pixels:
        raw = worker.channel.recv_bytes(spec.nbytes)
        return np.frombuffer(raw, spec.dtype).reshape(spec.shape)

    def _replace(self, worker: _Worker[Item], code: ErrorCode, message: str) -> None:
        _end(worker)
        if worker.slot is None:
            # It died before its first image: the next one would too.
            raise RunError(
                "a decoder process could not start; run "
                f"'{sys.executable} -m moderate.decode.worker 0' to see why"
            )
        worker.slot.fill(Undecoded(code, message, ImageFacts()))
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker[Item]:
        ours, theirs = socket.socketpair()
        # A decoder that stops reading or answers by halves must not hold up the others for ever.
        seconds, fraction = divmod(self.limits.decode_timeout, 1)
        timeval = struct.pack("ll", int(seconds), int(fraction * 1e6))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        with theirs:
            process = subprocess.Popen(
                # -P: a folder of uploads may hold a PIL.py; it must not be imported.
                [sys.executable, "-P", "-m", "moderate.decode.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
            )
        channel = Connection(ours.detach())
        start = {"specs": [asdict(s) for s in self.specs], "limits": asdict(self.limits)}
        with contextlib.suppress(OSError):  # it died at once: the first look at the channel says so
            channel.send_bytes(json.dumps(start).encode())
        return _Worker(process, channel, time.monotonic() + _START_TIMEOUT)


def _number(told: object) -> int | None:
    """A count that fits its column. Raises ValueError for what a decoder cannot have found."""
    if told is None or (type(told) is int and 0 <= told < 1 << 63):
        return told
    raise ValueError(f"{told!r} is no count")


def _how_it_died(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return "the decoder gave a wrong answer"
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"the decoder was killed by {known.get(-code, f'signal {-code}')}"
    return f"the decoder ended with exit code {code}"


def _end(worker: _Worker[Any]) -> None:
    worker.channel.close()
    worker.process.kill()
    worker.process.wait()
