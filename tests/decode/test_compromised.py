"""Decoders that an image has taken over: they cannot touch what other images give.

The fork server imports a `sitecustomize` of the test's, by which images with a marker run hostile
code in the process that decodes them, as if a codec had a hole. The sandbox, the channel and the
memory are the real ones.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL.PngImagePlugin import PngInfo

from moderate.decode.image import Undecoded
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, ImageFacts, Limits
from tests.support.pictures import encode, scene

SPEC = PixelSpec(48, 48)

HOSTILE = """
    import gc, json, mmap, os, socket
    import numpy
    import moderate.decode.image as image

    honest = image.decode
    seen = []

    def everywhere():
        for found in gc.get_objects():
            if isinstance(found, mmap.mmap):
                yield found
        for descriptor in range(3, 64):  # memory that was never mapped, or not for writing
            try:
                yield mmap.mmap(descriptor, 0)
            except (OSError, ValueError):
                pass

    def channel():
        return next(found for found in gc.get_objects() if isinstance(found, socket.socket))

    def answer(token):
        facts = {"width": 9, "height": 9, "frames": 1, "warnings": [], "frames_scored": None,
                 "unseen": 0.0, "embedded": [], "pdq": None}
        message = {"token": token, "facts": facts, "error": None, "parts": [[0, None, None]]}
        channel().send(json.dumps(message).encode())

    def paint():
        for memory in everywhere():
            try:
                memory[:] = b"\\xff" * len(memory)
            except (TypeError, ValueError):
                pass

    def black(outcome):
        return image.Decoded(tuple(0 * array for array in outcome.pixels), outcome.facts)

    def decode(data, specs, limits, options):
        outcome = honest(data, specs, limits, options)
        if b"ATTACK" in data:
            seen.append(data)
            ATTACK(data)
        elif seen:
            outcome = LATER(outcome) or outcome
        return outcome

    image.decode = decode
"""

ATTACKS = {
    # Writes over all memory that it can reach.
    "paints over all memory": """
        def ATTACK(data): paint()
        def LATER(outcome): pass
    """,
    # Answers before its task is done, and again for the task to come.
    "answers early and twice": """
        def ATTACK(data):
            answer("0" * 32)
        def LATER(outcome): pass
    """,
    # Does nothing odd at first, then turns the next images black, and is found out after some.
    "spoils later images and gives itself away": """
        def ATTACK(data): pass
        def LATER(outcome):
            seen.append(None)
            if len(seen) > 6:
                answer("")
            return black(outcome)
    """,
    "spoils later images and dies": """
        def ATTACK(data): pass
        def LATER(outcome):
            seen.append(None)
            if len(seen) > 6:
                os._exit(0)
            return black(outcome)
    """,
    "closes its channel and lives on": """
        def ATTACK(data):
            channel().close()
            while True: pass
        def LATER(outcome): pass
    """,
}


def picture(number: int, marker: bytes = b"") -> bytes:
    text = PngInfo()
    if marker:
        text.add_text("Comment", marker.decode())
    return encode(scene((60, 40), seed=number), "PNG", pnginfo=text)


def decode_all(
    images: dict[int, bytes], workers: int = 2
) -> tuple[dict[int, object], dict[int, np.ndarray]]:
    outcomes: dict[int, object] = {}
    pixels: dict[int, np.ndarray] = {}
    with DecoderPool[int]((SPEC,), Limits(decode_timeout=5), workers, 8) as pool:
        for batch in pool.run(images.items()):
            arrays = iter(batch.pixels()[0] if batch.pixels() else ())
            for entry in batch.entries:
                outcomes[entry.item] = entry.outcome
                if isinstance(entry.outcome, ImageFacts):
                    pixels[entry.item] = next(arrays).copy()
            pool.release(batch)
    return outcomes, pixels


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_image_does_to_its_decoder_changes_no_other_image(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that is found out after some images may be retired in good order before that, when another
    # one's end leaves images to be decoded alone: what it has spoilt by then counts.
    attackers = {7} if attack.startswith("spoils") else {7, 23}
    images = {n: picture(n, b"ATTACK" if n in attackers else b"") for n in range(60)}
    _, untouched = decode_all(images)
    code = textwrap.dedent(HOSTILE) + textwrap.dedent(ATTACKS[attack])
    (tmp_path / "sitecustomize.py").write_text(code)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # the same code under test, too
    # Nor is it retired because it has worked for long, on a busy machine.
    monkeypatch.setattr("moderate.decode.scheduler._MAX_HELD_SECONDS", 60.0)
    outcomes, pixels = decode_all(images)
    assert sorted(outcomes) == list(range(60)), "one outcome each"
    for number in set(range(60)) - attackers:
        assert isinstance(outcomes[number], ImageFacts), outcomes[number]
        assert np.array_equal(pixels[number], untouched[number]), number


def test_an_image_whose_decoder_always_lies_is_an_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = textwrap.dedent(HOSTILE) + textwrap.dedent(ATTACKS["answers early and twice"])
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcomes, _ = decode_all({n: picture(n, b"ATTACK" if n == 3 else b"") for n in range(10)})
    lost = outcomes[3]
    assert isinstance(lost, Undecoded)
    assert lost.code is ErrorCode.DECODER_CRASHED
    assert "wrong answer, twice" in lost.message


def test_a_decoder_finds_nothing_of_the_image_before_in_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = textwrap.dedent(HOSTILE) + textwrap.dedent("""
        def ATTACK(data): pass
        def LATER(outcome): pass
        def decode(data, specs, limits, options):
            inputs = [m for m in everywhere() if b"ATTACK" in m[len(data):]]
            if inputs:
                os._exit(3)
            return honest(data, specs, limits, options)
        image.decode = decode
    """)
    (tmp_path / "sitecustomize.py").write_text(spy)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    long = picture(0, b"x" * 5000 + b"ATTACK")
    outcomes, _ = decode_all({n: picture(n) if n % 2 else long for n in range(20)}, workers=1)
    assert all(isinstance(outcome, ImageFacts) for outcome in outcomes.values()), outcomes


def test_a_process_decodes_a_limited_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = textwrap.dedent(HOSTILE) + textwrap.dedent("""
        def decode(data, specs, limits, options):
            seen.append(data)
            if len(seen) > 5:
                os._exit(3)
            return honest(data, specs, limits, options)
        image.decode = decode
    """)
    (tmp_path / "sitecustomize.py").write_text(count)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    images = [(n, picture(n)) for n in range(40)]
    with DecoderPool[int]((SPEC,), Limits(), 2, 8, images_per_decoder=5) as pool:
        for batch in pool.run(images):
            assert all(isinstance(entry.outcome, ImageFacts) for entry in batch.entries)
            pool.release(batch)
