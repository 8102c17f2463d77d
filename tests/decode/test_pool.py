"""Decoder processes: order, identity, clocks, and death."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.decode.batches import Batch, Passed
from moderate.decode.decoder import Decoder
from moderate.decode.image import Undecoded
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.decode.scheduler import Scheduler
from moderate.decode.supervisor import Supervisor
from moderate.errors import RunError
from moderate.types import ErrorCode, ImageFacts, Limits
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

SPEC = PixelSpec(48, 48)
FLOAT = PixelSpec(20, 30, antialias=False)
GOOD = encode(scene((60, 40)), "PNG")
Images = Iterable[tuple[int, bytes | None]]
Outcome = ImageFacts | Undecoded | None


def pool(
    workers: int = 2,
    batch_size: int = 8,
    *,
    limits: Limits | None = None,
    specs: tuple[PixelSpec, ...] = (SPEC,),
    scheduler: type[Scheduler[int]] = Scheduler,
    supervisor: type[Supervisor] = Supervisor,
) -> DecoderPool[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moderate.decode.pool.Scheduler", scheduler)
        patch.setattr("moderate.decode.pool.Supervisor", supervisor)
        return DecoderPool(specs, limits or Limits(decode_timeout=30), workers, batch_size)


def children_of(pid: int) -> list[int]:
    """The process's children, whichever of its threads started them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return sorted(found)


def run(
    decoders: DecoderPool[int], images: Images
) -> tuple[dict[int, Outcome], dict[int, tuple[np.ndarray, ...]]]:
    """Outcomes and pixels by item; every batch is checked on its way."""
    outcomes: dict[int, Outcome] = {}
    pixels: dict[int, tuple[np.ndarray, ...]] = {}
    by_place: dict[int, int] = {}
    numbers: list[int] = []
    for batch in decoders.run(images):
        if isinstance(batch, Passed):
            by_place[batch.place] = batch.item
            outcomes[batch.item] = None
            decoders.release(batch)
            continue
        arrays = batch.pixels()
        good = [entry.item for entry in batch.entries if isinstance(entry.outcome, ImageFacts)]
        for array in arrays:
            assert len(array) == len(good)
        for index, item in enumerate(good):
            pixels[item] = tuple(array[index].copy() for array in arrays)
        numbers.append(batch.number)
        by_place |= {entry.place: entry.item for entry in batch.entries}
        outcomes |= {entry.item: entry.outcome for entry in batch.entries}
        decoders.release(batch)
    in_order = [by_place[place] for place in sorted(by_place)]
    assert in_order == sorted(in_order), "the input's order"
    assert sorted(by_place) == list(range(len(by_place))), "no place is left out"
    assert sorted(numbers) == list(range(len(numbers))), "no number is left out"
    return outcomes, pixels


class Deadly(Scheduler[int]):
    """Its decoders meet `fate` whenever they get one of the `doomed` images."""

    doomed: frozenset[int] = frozenset()
    fate: signal.Signals = signal.SIGKILL
    lives: dict[int, int]

    def _assign(self, decoder: Decoder, task: Any) -> None:
        super()._assign(decoder, task)
        self.lives = getattr(self, "lives", {})
        if task.entry.item in self.doomed and self.lives.get(task.entry.item, 99) > 0:
            self.lives[task.entry.item] = self.lives.get(task.entry.item, 99) - 1
            os.kill(decoder.pid, self.fate)


# A picture that takes long enough to be killed with.
SLOW = encode(scene((3000, 3000)), "PNG", compress_level=1)


def test_order_and_identity_with_errors_in_between() -> None:
    inputs: list[tuple[int, bytes | None]] = []
    for number in range(60):
        if number % 7 == 3:
            inputs.append((number, b"broken"))
        elif number % 7 == 5:
            inputs.append((number, None))
        else:
            size = (2000, 1500) if number % 10 == 0 else (60, 40)
            inputs.append((number, encode(scene(size, seed=number), "PNG")))
    with pool(specs=(SPEC, FLOAT)) as decoders:
        outcomes, pixels = run(decoders, inputs)
    with pool(workers=1, batch_size=1, specs=(SPEC, FLOAT)) as decoders:
        _, again = run(decoders, inputs)
    assert sorted(outcomes) == list(range(60))
    assert pixels.keys() == again.keys()
    for number, outcome in outcomes.items():
        if number % 7 == 5:
            assert outcome is None
        elif number % 7 == 3:
            assert isinstance(outcome, Undecoded)
        else:
            assert isinstance(outcome, ImageFacts)
            assert [array.shape for array in pixels[number]] == [(48, 48, 3), (20, 30, 3)]
            assert [array.dtype for array in pixels[number]] == [np.uint8, np.float32]
            for one, two in zip(pixels[number], again[number], strict=True):
                assert np.array_equal(one, two)
    assert len({array[0].tobytes() for array in pixels.values()}) == len(pixels)


@pytest.mark.parametrize("fate", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_file_that_kills_decoders_is_tried_twice_and_costs_one_image(
    fate: signal.Signals,
) -> None:
    with pool(scheduler=Deadly) as decoders:
        deadly = decoders._scheduler
        assert isinstance(deadly, Deadly)
        deadly.doomed, deadly.fate = frozenset({5}), fate
        outcomes, pixels = run(decoders, ((n, SLOW if n == 5 else GOOD) for n in range(20)))
        assert deadly.lives[5] == 97
    lost = outcomes[5]
    assert isinstance(lost, Undecoded)
    assert lost.code is ErrorCode.DECODER_CRASHED
    assert fate.name in lost.message
    assert "twice" in lost.message
    assert set(pixels) == set(range(20)) - {5}


def test_an_image_whose_decoder_was_killed_by_chance_is_scored() -> None:
    with pool(scheduler=Deadly) as decoders:
        deadly = decoders._scheduler
        assert isinstance(deadly, Deadly)
        deadly.doomed = frozenset({5, 6, 11})
        deadly.lives = dict.fromkeys(deadly.doomed, 1)
        outcomes, pixels = run(
            decoders, ((n, SLOW if n in deadly.doomed else GOOD) for n in range(20))
        )
    assert set(pixels) == set(range(20))
    assert all(isinstance(outcome, ImageFacts) for outcome in outcomes.values())


def test_a_third_of_the_images_kill_their_decoders_and_the_others_are_untouched() -> None:
    doomed = frozenset(range(0, 60, 3))
    with pool(scheduler=Deadly) as decoders:
        deadly = decoders._scheduler
        assert isinstance(deadly, Deadly)
        deadly.doomed = doomed
        outcomes, pixels = run(decoders, ((n, SLOW if n in doomed else GOOD) for n in range(60)))
    with pool() as decoders:
        _, untroubled = run(decoders, ((n, GOOD) for n in range(60) if n not in doomed))
    crashed = {n for n, outcome in outcomes.items() if isinstance(outcome, Undecoded)}
    assert crashed == doomed
    assert pixels.keys() == untroubled.keys()
    for number, arrays in pixels.items():
        assert np.array_equal(arrays[0], untroubled[number][0])


def test_the_clock_is_kept_from_outside() -> None:
    with pool(scheduler=Deadly, limits=Limits(decode_timeout=1.0)) as decoders:
        deadly = decoders._scheduler
        assert isinstance(deadly, Deadly)
        # A decoder that is stopped answers to nothing, as one that loops in C does not.
        deadly.doomed, deadly.fate = frozenset({3}), signal.SIGSTOP
        # Without a clock outside of it, this would wait for the stopped decoder without end.
        outcomes, pixels = run(decoders, ((n, SLOW if n == 3 else GOOD) for n in range(8)))
    late = outcomes[3]
    assert isinstance(late, Undecoded)
    assert late.code is ErrorCode.DECODE_TIMEOUT
    assert "--decode-timeout" in late.message
    assert set(pixels) == set(range(8)) - {3}


def test_later_batches_are_handed_over_while_one_image_holds_up_its_own() -> None:
    with pool(scheduler=Deadly, batch_size=2, limits=Limits(decode_timeout=5.0)) as decoders:
        deadly = decoders._scheduler
        assert isinstance(deadly, Deadly)
        deadly.doomed, deadly.fate = frozenset({0}), signal.SIGSTOP
        numbers = []
        # Far more batches than the ring holds.
        for batch in decoders.run((n, SLOW if n == 0 else GOOD) for n in range(100)):
            numbers.append(batch.number)
            decoders.release(batch)
    assert numbers[-1] == 0
    assert sorted(numbers) == list(range(50))


def test_what_the_inputs_raise_is_raised_to_the_caller() -> None:
    def images() -> Iterator[tuple[int, bytes | None]]:
        yield 0, GOOD
        raise RuntimeError("the listing broke")

    with pool() as decoders, pytest.raises(RuntimeError, match="the listing broke"):
        list(decoders.run(images()))


def test_no_process_is_left_when_the_caller_stops_early() -> None:
    with pool() as decoders:
        batches = decoders.run((number, GOOD) for number in range(10_000))
        next(batches)
        decoders.sandbox()
        server = decoders._supervisor._server
        assert server is not None
        children = [server.process.pid, *children_of(server.process.pid)]
    assert len(children) >= 3
    assert server.process.poll() is not None
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def test_what_may_be_under_way_is_bounded() -> None:
    drawn = []

    def images() -> Iterator[tuple[int, bytes | None]]:
        for number in range(10_000):
            drawn.append(number)
            yield number, GOOD

    with pool(batch_size=4) as decoders:
        batches = decoders.run(images())
        for _ in range(5):
            next(batches)  # and never released
        time.sleep(1)
        assert len(drawn) <= decoders._ring.capacity + 2 * 2 + 2, "the ring, read ahead, in hand"


def test_rows_without_images_do_not_wait_for_a_batch_and_are_bounded() -> None:
    drawn = []

    def images() -> Iterator[tuple[int, bytes | None]]:
        for number in range(100_000):
            drawn.append(number)
            yield number, None

    with pool(workers=1, batch_size=4096) as decoders:
        batches = decoders.run(images())
        waiting: list[Batch[int] | Passed[int]] = [next(batches)]
        time.sleep(1)
        assert len(drawn) < 30_000, "nobody released anything"
        total = 1
        decoders.release(waiting[0])
        for passed in batches:
            assert isinstance(passed, Passed)
            total += 1
            decoders.release(passed)
    assert total == 100_000


PLAIN_FACTS = {"width": 1, "height": 1, "frames": 1, "warnings": []}


@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 60_000,
        b'{"facts": {}}',
        b"\xff",
        b"{}",
        b"null",
        {"facts": {**PLAIN_FACTS, "width": 9e99}, "error": None},
        {"facts": {**PLAIN_FACTS, "width": -1}, "error": None},
        {"facts": {**PLAIN_FACTS, "width": 2**63 - 1}, "error": None},
        {"facts": {**PLAIN_FACTS, "height": 2**32}, "error": None},
        {"facts": {**PLAIN_FACTS, "frames": 2**63 - 1}, "error": None},
        {"facts": PLAIN_FACTS, "error": ["no_such_code", ""]},
        {"facts": {**PLAIN_FACTS, "warnings": ["boo"]}, "error": None},
        {"facts": {**PLAIN_FACTS, "warnings": ["animated"] * 2}, "error": None},
        {"token": "", "facts": PLAIN_FACTS, "error": None},
        {"token": None, "facts": PLAIN_FACTS, "error": None},
        {"token": "0" * 32, "facts": PLAIN_FACTS, "error": None},
    ],
)  # fmt: skip
def test_a_decoder_that_answers_nonsense_costs_one_image(answer: bytes | dict[str, Any]) -> None:
    class Lying(Scheduler[int]):
        def _assign(self, decoder: Decoder, task: Any) -> None:
            super()._assign(decoder, task)
            if task.entry.item == 1:
                honest, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                os.kill(decoder.pid, signal.SIGSTOP)
                os.dup2(honest.fileno(), decoder._channel.fileno())
                self._supervisor._selector.unregister(decoder)
                self._supervisor._selector.register(decoder, 1)
                said = answer
                if isinstance(said, dict):  # wrong in one thing alone
                    said = json.dumps({"token": decoder._token, **said}).encode()
                ours.send(said)
                kept.extend((honest, ours))

    kept: list[socket.socket] = []
    with pool(scheduler=Lying) as decoders:
        outcomes, pixels = run(decoders, ((n, GOOD) for n in range(6)))
    lost = outcomes[1]
    assert isinstance(lost, Undecoded)
    assert lost.code is ErrorCode.DECODER_CRASHED
    assert "wrong answer" in lost.message
    assert set(pixels) == {0, 2, 3, 4, 5}


def test_a_decoder_that_dies_idle_costs_nobody() -> None:
    with pool(workers=1, batch_size=1) as decoders:
        for batch in decoders.run((n, GOOD) for n in range(400)):
            assert isinstance(batch.entries[0].outcome, ImageFacts)
            if batch.number == 1:
                time.sleep(3)  # the ring is full, the decoder idle
                (decoder,) = decoders._supervisor.usable()
                assert decoder.pid is not None
                os.kill(decoder.pid, signal.SIGKILL)
            decoders.release(batch)


def test_a_picture_over_the_memory_limit_is_out_of_memory_and_its_decoder_is_replaced() -> None:
    limits = Limits(max_decoder_bytes=300 << 20, decode_timeout=60)
    big = encode(scene((9900, 9900)), "PNG", compress_level=1)
    limits = Limits(max_file_bytes=1 << 30, max_decoder_bytes=300 << 20, decode_timeout=60)
    with pool(workers=1, limits=limits) as decoders:
        outcomes, pixels = run(decoders, ((n, big if n == 2 else GOOD) for n in range(5)))
    lost = outcomes[2]
    assert isinstance(lost, Undecoded)
    assert lost.code is ErrorCode.OUT_OF_MEMORY
    assert set(pixels) == {0, 1, 3, 4}


def test_a_slow_source_holds_up_neither_results_nor_the_end() -> None:
    ended = threading.Event()

    def images() -> Iterator[tuple[int, bytes | None]]:
        yield 0, GOOD
        yield 1, None
        ended.wait(PATIENCE)
        yield 2, GOOD

    with pool(batch_size=1) as decoders:
        batches = decoders.run(images())
        results = (next(batches), next(batches))
        assert [r.item for r in results if isinstance(r, Passed)] == [1]
        assert [e.item for r in results if isinstance(r, Batch) for e in r.entries] == [0]
    ended.set()  # without it the end would have been waited for


def later(seconds: float, item: int, data: bytes | None) -> Future[tuple[int, bytes | None]]:
    future: Future[tuple[int, bytes | None]] = Future()
    threading.Timer(seconds, future.set_result, ((item, data),)).start()
    return future


def test_bytes_that_come_later_keep_their_place() -> None:
    rng = random.Random(0)
    pictures = [encode(scene((60, 40), seed=number), "PNG") for number in range(40)]

    def images() -> Iterator[tuple[int, Any]]:
        for number, data in enumerate(pictures):
            if number % 5 == 4:
                yield number, data
            else:  # what cannot be had comes as None, as an item that says why
                yield -1, later(rng.random() / 5, number, None if number % 7 == 3 else data)

    with pool(batch_size=6) as decoders:
        outcomes, pixels = run(decoders, images())
    missing = {number for number in range(40) if number % 7 == 3 and number % 5 != 4}
    assert {number for number, outcome in outcomes.items() if outcome is None} == missing
    with pool() as decoders:
        _, expected = run(decoders, enumerate(pictures))
    assert pixels.keys() == expected.keys() - missing
    for number, arrays in pixels.items():
        assert np.array_equal(arrays[0], expected[number][0])


def test_one_that_is_long_on_its_way_holds_up_its_own_batch_alone() -> None:
    with pool(batch_size=2) as decoders:
        numbers = []
        images = ((n, later(4, n, GOOD) if n == 0 else GOOD) for n in range(60))
        for batch in decoders.run(images):
            numbers.append(batch.number)
            decoders.release(batch)
    assert numbers[-1] == 0
    assert sorted(numbers) == list(range(30))


def test_what_is_on_its_way_is_bounded() -> None:
    drawn = []

    def images() -> Iterator[tuple[int, Any]]:
        for number in range(10_000):
            drawn.append(number)
            yield number, Future()

    with pool(batch_size=4096) as decoders:
        decoders.run(images())
        time.sleep(1)
        assert 100 < len(drawn) < 140


def test_a_fault_while_fetching_ends_the_run() -> None:
    broken: Future[tuple[int, bytes | None]] = Future()
    broken.set_exception(RuntimeError("a fault of ours"))
    with pool() as decoders, pytest.raises(RuntimeError, match="a fault of ours"):
        list(decoders.run([(0, GOOD), (1, broken)]))  # type: ignore[list-item]


def test_a_stream_that_pauses_gets_its_rows_before_the_batch_is_full() -> None:
    ended = threading.Event()

    def images() -> Iterator[tuple[int, bytes | None]]:
        yield from ((number, GOOD) for number in range(3))
        ended.wait(PATIENCE)
        yield 3, GOOD

    with pool(batch_size=32) as decoders:
        batch = next(decoders.run(images()))
    ended.set()
    assert [entry.item for entry in batch.entries] == [0, 1, 2]


def test_decoders_do_not_outlive_their_parent() -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from moderate.decode.pool import DecoderPool\n"
        "from moderate.decode.resize import PixelSpec\n"
        "from moderate.types import Limits\n"
        "data = sys.stdin.buffer.read()\n"
        "with DecoderPool((PixelSpec(48, 48),), Limits(max_file_bytes=1 << 30), 2, 8) as pool:\n"
        "    run = pool.run((n, data) for n in range(10_000))\n"
        "    pool.wait_until_ready()\n"
        "    server, decoders = pool._supervisor._server, pool._supervisor.usable()\n"
        "    print(server.process.pid, *[d.pid for d in decoders], flush=True)\n"
        "    time.sleep(600)\n"
    )
    big = encode(scene((5000, 5000)), "PNG", compress_level=1)
    process = subprocess.Popen(
        [sys.executable, "-c", code, os.getcwd()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(big)
    process.stdin.close()
    children = [int(pid) for pid in process.stdout.readline().split()]
    time.sleep(0.5)  # in the middle of decoding
    process.kill()
    process.wait()
    end = time.monotonic() + 20  # two seconds on an idle machine
    while time.monotonic() < end and any(os.path.exists(f"/proc/{pid}") for pid in children):
        time.sleep(0.05)
    assert len(children) >= 2  # the server, and decoders that are not just being replaced
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def test_the_fork_server_imports_no_more_than_decoders_need() -> None:
    code = (
        "import sys, moderate.decode.worker, moderate.decode.sandbox, moderate.decode.ring;"
        "import moderate.decode.image as i; i.prepare(ffmpeg=False);"
        "print(*{name.partition('.')[0] for name in sys.modules}, 'importlib.metadata' * "
        "('importlib.metadata' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    superfluous = {"torch", "timm", "pyarrow", "pydantic", "typer", "openvino", "av", "email"}
    superfluous |= {"importlib.metadata", "http", "ssl", "sqlite3"}
    assert not superfluous & set(done.stdout.split())


def test_the_faster_decoder_of_heic_is_loaded_when_there_is_one() -> None:
    """And all images of that kind get it: libheif shows a damaged one in another way."""
    jpeg, heic = encode(scene((64, 48)), "JPEG"), encode(scene((640, 480)), "HEIF")
    damaged = heic[:1000] + bytes(100) + heic[1100:]

    def decoded(images: list[bytes]) -> tuple[bool, bytes]:
        """Whether the fork server has FFmpeg at the end, and the last image's pixels."""
        pool = DecoderPool[int]((PixelSpec(32, 32),), Limits(), 1, 1, images_per_decoder=100)
        found, pixels = False, {}
        with pool:
            for batch in pool.run(enumerate(images)):
                assert isinstance(batch, Batch)
                (entry,) = batch.entries
                assert isinstance(entry.outcome, ImageFacts)
                pixels[entry.item] = batch.pixels()[0].tobytes()
                server = pool._supervisor._server
                assert server is not None
                found = "libavcodec" in Path(f"/proc/{server.process.pid}/maps").read_text()
                pool.release(batch)
        return found, pixels[len(images) - 1]

    assert not decoded([jpeg, jpeg])[0]
    alone, after_others = decoded([damaged]), decoded([jpeg, jpeg, damaged])
    assert alone == after_others
    assert alone[0]


def test_starts_that_fail_later_do_not_end_the_run() -> None:
    class Unlucky(Supervisor):
        failures = 0

        def _start_missing(self) -> None:
            while (
                len(self._decoders) < self._count
                and self._starts.ever_succeeded
                and self.failures < 15
            ):
                self.failures += 1
                self._note_failed_start("as if there were no process left")
                return
            super()._start_missing()

    class Killing(Scheduler[int]):
        def _assign(self, decoder: Decoder, task: Any) -> None:
            super()._assign(decoder, task)
            if task.entry.item % 4 == 0 and task.tries == 0:
                os.kill(decoder.pid, signal.SIGKILL)

    with pool(scheduler=Killing, supervisor=Unlucky) as decoders:
        outcomes, pixels = run(decoders, ((n, SLOW if n % 4 == 0 else GOOD) for n in range(24)))
        assert isinstance(decoders._supervisor, Unlucky)
        assert decoders._supervisor.failures == 15
    assert set(pixels) == set(range(24))
    assert all(isinstance(outcome, ImageFacts) for outcome in outcomes.values())


def test_decoders_that_never_start_are_said_in_one_line() -> None:
    class Hopeless(Supervisor):
        def _start_missing(self) -> None:
            super()._start_missing()
            if self._server:
                self._server.process.kill()

    with pool(supervisor=Hopeless) as decoders, pytest.raises(RunError, match="do not start"):
        list(decoders.run([(0, GOOD)]))


def test_a_decoder_that_was_dead_before_it_got_the_image_is_no_mark_against_it() -> None:
    class Early(Scheduler[int]):
        def _assign(self, decoder: Decoder, task: Any) -> None:
            if task.entry.item == 5 and task.tries < 4:
                os.kill(decoder.pid, signal.SIGKILL)
                while os.path.exists(f"/proc/{decoder.pid}"):
                    time.sleep(0.01)
            super()._assign(decoder, task)

    with pool(scheduler=Early) as decoders:
        _, pixels = run(decoders, ((n, GOOD) for n in range(12)))
    assert set(pixels) == set(range(12))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_matter(closed: str) -> None:
    code = (
        "import sys; data = open(sys.argv[1], 'rb').read()\n"
        "from moderate.decode.pool import DecoderPool\n"
        "from moderate.decode.resize import PixelSpec\n"
        "from moderate.types import ImageFacts, Limits\n"
        "with DecoderPool((PixelSpec(48, 48),), Limits(), 2, 8) as pool:\n"
        "    (batch,) = pool.run([(0, data), (1, data)])\n"
        "    assert all(isinstance(entry.outcome, ImageFacts) for entry in batch.entries)\n"
        "open(sys.argv[2], 'w').write('done')\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        picture, done = os.path.join(folder, "a.png"), os.path.join(folder, "done")
        with open(picture, "wb") as file:
            file.write(GOOD)
        command = [sys.executable, "-c", code, picture, done]
        ended = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], check=False)
        assert ended.returncode == 0
        assert os.path.exists(done)


def test_a_pool_that_lasts_serves_one_run_after_another() -> None:
    images = [(number, GOOD if number % 3 else b"broken") for number in range(20)]
    with DecoderPool[int]((SPEC,), Limits(decode_timeout=30), 2, 4, lasts=True) as decoders:
        results = [run_again(decoders, images) for _ in range(3)]
        assert run_again(decoders, []) == {}
        assert not decoders.ended
        server = decoders._supervisor._server
    assert results[0] == results[1] == results[2]
    assert sorted(results[0]) == list(range(20))
    assert server is not None
    assert server.process.poll() is not None
    assert decoders.ended
    with pytest.raises(RunError, match="the decoders have ended"):
        decoders.run([])


def run_again(decoders: DecoderPool[int], images: Images) -> dict[int, Outcome]:
    """Outcomes by item; unlike `run`, for a pool whose batches have been counted before."""
    outcomes: dict[int, Outcome] = {}
    for batch in decoders.run(images):
        assert isinstance(batch, Batch)
        outcomes |= {entry.item: entry.outcome for entry in batch.entries}
        decoders.release(batch)
    return outcomes


def test_answers_wait_for_nothing_once_there_are_no_more_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where that turns out after the answer, as where reading takes longer than decoding."""
    answered = threading.Event()
    take, events = Scheduler._take_answer, Supervisor.events
    waits: list[float] = []

    def taken(self: Scheduler[int], answer: Any) -> None:
        take(self, answer)
        answered.set()

    def waited(self: Supervisor, until: float) -> Any:
        scheduler = decoders._scheduler
        held = any(work.answered and not work.task for work in scheduler._work.values())
        if held and scheduler._intake.ended:
            waits.append(until - time.monotonic())
        return events(self, until)

    def images() -> Iterator[tuple[int, bytes | None]]:
        yield 0, GOOD
        assert answered.wait(60)

    monkeypatch.setattr("moderate.decode.scheduler._MAX_HELD_SECONDS", 3600)
    monkeypatch.setattr(Scheduler, "_take_answer", taken)
    monkeypatch.setattr(Supervisor, "events", waited)
    with pool(workers=1) as decoders:
        outcomes, _ = run(decoders, images())
    assert isinstance(outcomes[0], ImageFacts)
    assert all(wait <= 0 for wait in waits)
    assert waits, "the end came after the answer"
