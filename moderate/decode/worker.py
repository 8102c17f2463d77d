"""A decoder process: finds an image's bytes in shared memory, leaves its pixels there.

Messages are packets of JSON over one socket, never pickles. It opens nothing, never imports torch,
and restricts itself before it sees the first image. It ends when its parent does.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moderate.types import ImageFacts

MAX_PACKET = 64 * 1024
"""Bytes; the longest message that either side sends or believes."""


def serve(channel: socket.socket, ring_fd: int, input_fd: int) -> None:
    """Decode until the parent closes the channel. The first packet says how."""
    import numpy as np

    from moderate.decode.image import Decoded, Undecoded, decode, out_of_memory, prepare
    from moderate.decode.resize import PixelSpec
    from moderate.decode.ring import Layout
    from moderate.decode.sandbox import harden, missing
    from moderate.types import ImageFacts, Limits

    start = json.loads(channel.recv(MAX_PACKET))
    specs = tuple(PixelSpec(**spec) for spec in start["specs"])
    limits = Limits(**start["limits"])
    places = Layout(specs, start["batch_size"], start["batches"]).arrays(mmap.mmap(ring_fd, 0))
    inputs = mmap.mmap(input_fd, 0)
    os.close(ring_fd)
    os.close(input_fd)
    os.nice(start["niceness"])
    prepare()
    active = harden(limits.max_decoder_bytes)
    if start["require_sandbox"] and (lacking := missing(active)):
        said = f"--require-sandbox: this system lacks {', '.join(lacking)}; see 'moderate doctor'"
        channel.send(json.dumps({"refused": said}).encode())
        return
    channel.send(json.dumps({"ready": active}).encode())
    while task := channel.recv(MAX_PACKET):
        length, batch, place = json.loads(task)
        outcome: Decoded | Undecoded
        try:
            outcome = decode(inputs[:length], specs, limits)
        except MemoryError:
            outcome = out_of_memory(limits, ImageFacts())
        if isinstance(outcome, Undecoded):
            facts, error = outcome.facts, [outcome.code.value, outcome.message]
        else:
            facts, error = outcome.facts, None
            for array, pixels in zip(places[batch], outcome.pixels, strict=True):
                np.copyto(array[place], pixels, casting="no")
        del outcome
        channel.send(json.dumps({"facts": _facts(facts), "error": error}).encode())


def _facts(facts: ImageFacts) -> dict[str, Any]:
    return {
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "warnings": [warning.value for warning in facts.warnings],
    }


def main() -> None:
    """Run on the descriptors given as arguments: socket, ring, input."""
    channel_fd, ring_fd, input_fd = (int(argument) for argument in sys.argv[1:4])
    with socket.socket(fileno=channel_fd) as channel:
        try:
            serve(channel, ring_fd, input_fd)
        except (ConnectionError, KeyboardInterrupt):
            return
        except Exception as error:  # noqa: BLE001 - the parent tells the user
            said = f"{type(error).__name__}: {error}"[:1000]
            channel.send(json.dumps({"failed": said}).encode())
            sys.exit(1)


if __name__ == "__main__":
    main()
