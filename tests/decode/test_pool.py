"""Decoder processes: order, identity, clocks, and death."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe

import numpy as np
import pytest
from pictures import encode, scene

from moderate.decode.image import Decoded, Undecoded
from moderate.decode.pool import DecoderPool, _Slot
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, Limits

SPEC = PixelSpec(48, 48)


def pool(workers: int = 2, window: int = 16, timeout: float = 20.0) -> DecoderPool[int]:
    return DecoderPool((SPEC,), Limits(decode_timeout=timeout), workers, window)


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
    with pool(window=8) as decoders:
        outcomes = list(decoders.run(inputs))
    assert [number for number, _ in outcomes] == list(range(60))
    with pool(workers=1, window=1) as decoders:
        again = dict(decoders.run(inputs))
    for number, outcome in outcomes:
        if number % 7 == 5:
            assert outcome is None
        elif number % 7 == 3:
            assert isinstance(outcome, Undecoded)
        else:
            assert isinstance(outcome, Decoded)
            assert np.array_equal(outcome.pixels[0], again[number].pixels[0])


def test_a_killed_decoder_costs_one_image() -> None:
    good = encode(scene((60, 40)), "PNG")
    slow = encode(scene((9000, 9000)), "PNG", compress_level=1)

    def images() -> Iterator[tuple[int, bytes | None]]:
        for number in range(20):
            yield number, slow if number == 5 else good

    with DecoderPool((SPEC,), Limits(max_file_bytes=1 << 40), 2, 32) as decoders:
        victim: list[int] = []

        def kill_the_busy_one() -> None:
            while not victim:
                for worker in list(decoders._workers):
                    if worker.slot is not None and worker.slot.item == 5:
                        victim.append(worker.process.pid)
                        os.kill(worker.process.pid, signal.SIGSEGV)
                time.sleep(0.002)

        thread = threading.Thread(target=kill_the_busy_one)
        thread.start()
        outcomes = dict(decoders.run(images()))
        thread.join()
        assert len(decoders._workers) == 2
    assert isinstance(outcomes[5], Undecoded)
    assert outcomes[5].code is ErrorCode.DECODER_CRASHED
    assert "SIGSEGV" in outcomes[5].message
    assert all(isinstance(outcomes[n], Decoded) for n in range(20) if n != 5)


def test_the_clock_is_kept_from_outside() -> None:
    good = encode(scene((60, 40)), "PNG")
    with pool(timeout=1.0) as decoders:
        stopped: list[int] = []

        def stop_one() -> None:
            while not stopped:
                for worker in list(decoders._workers):
                    if worker.slot is not None and worker.slot.item == 3:
                        stopped.append(worker.process.pid)
                        os.kill(worker.process.pid, signal.SIGSTOP)

        # A decoder that is stopped answers to nothing, as one that loops in C does not.
        thread = threading.Thread(target=stop_one)
        thread.start()
        slow = encode(scene((5000, 5000)), "PNG", compress_level=1)
        begun = time.monotonic()
        outcomes = dict(decoders.run((n, slow if n == 3 else good) for n in range(8)))
        took = time.monotonic() - begun
        thread.join()
    assert isinstance(outcomes[3], Undecoded)
    assert outcomes[3].code is ErrorCode.DECODE_TIMEOUT
    assert "--decode-timeout" in outcomes[3].message
    assert took < 30, "the run waited for the stopped decoder"
    assert all(isinstance(outcomes[n], Decoded) for n in range(8) if n != 3)


def test_what_the_inputs_raise_is_raised_to_the_caller() -> None:
    def images() -> Iterator[tuple[int, bytes | None]]:
        yield 0, encode(scene((60, 40)), "PNG")
        raise RuntimeError("the listing broke")

    with pool() as decoders, pytest.raises(RuntimeError, match="the listing broke"):
        list(decoders.run(images()))


def test_no_process_is_left_when_the_caller_stops_early() -> None:
    data = encode(scene((60, 40)), "PNG")
    with pool() as decoders:
        results = decoders.run((number, data) for number in range(10_000))
        next(results)
        processes = [worker.process for worker in decoders._workers]
    assert all(process.poll() is not None for process in processes)


def test_what_may_be_under_way_is_bounded() -> None:
    data = encode(scene((60, 40)), "PNG")
    drawn = []

    def images() -> Iterator[tuple[int, bytes | None]]:
        for number in range(200):
            drawn.append(number)
            yield number, data

    with pool(window=5) as decoders:
        for number, _ in decoders.run(images()):
            time.sleep(0.01)
            assert len(drawn) <= number + 5 + 2 * 2 + 2, "window, read ahead, in hand"


def test_many_results_at_once_do_not_stop_the_pool() -> None:
    # Every result taken raises an alarm; nobody listens once everything was decoded.
    with pool(workers=1, window=40_000) as decoders:
        assert sum(1 for _ in decoders.run((n, None) for n in range(20_000))) == 20_000


HUGE = (
    b'{"facts": {"width": 9e99, "height": 1, "frames": 1, "warnings": []},'
    b' "error": ["truncated", ""]}'
)


@pytest.mark.parametrize(
    "answer",
    [b"[" * 60_000, b'{"facts": {}}', b"\xff", b"{}", b"null", HUGE, HUGE.replace(b"9e99", b"-1")],
)
def test_a_decoder_that_answers_nonsense_costs_one_image(answer: bytes) -> None:
    with pool(workers=1) as decoders:
        worker = decoders._workers[0]
        while not worker.ready:
            decoders._collect()
        worker.channel.close()
        worker.channel, ours = Pipe()
        worker.slot = slot = _Slot(1)
        worker.deadline = time.monotonic() + 60
        ours.send_bytes(answer)
        decoders._collect()
    assert isinstance(slot.outcome, Undecoded)
    assert slot.outcome.code is ErrorCode.DECODER_CRASHED


def test_a_decoder_that_dies_idle_costs_nobody() -> None:
    data = encode(scene((60, 40)), "PNG")
    with pool(workers=1, window=1) as decoders:
        for number, (_, outcome) in enumerate(decoders.run((n, data) for n in range(4))):
            assert isinstance(outcome, Decoded)
            if number == 1:
                decoders._workers[0].process.kill()
                decoders._workers[0].process.wait()


def test_a_slow_source_holds_up_neither_results_nor_the_end() -> None:
    data = encode(scene((60, 40)), "PNG")

    def images() -> Iterator[tuple[int, bytes | None]]:
        yield 0, data
        yield 1, None
        time.sleep(30)
        yield 2, data

    begun = time.monotonic()
    with pool() as decoders:
        results = decoders.run(images())
        assert [next(results)[0], next(results)[0]] == [0, 1]
    assert time.monotonic() - begun < 20


def test_decoders_never_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, moderate.decode.worker, moderate.decode.image as i; i.prepare();"
        "print([m for m in ('torch', 'timm', 'pyarrow', 'pydantic', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
