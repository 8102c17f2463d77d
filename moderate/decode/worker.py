"""A decoder process: takes an image's bytes over a socket, answers with pixels.

Messages are frames of `multiprocessing.connection`, never pickles: a JSON header, then raw bytes.
It opens no file and never imports torch. It ends when its parent does: the socket closes.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Connection
from typing import Any

from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import ImageFacts, Limits


def facts_to_json(facts: ImageFacts) -> dict[str, Any]:
    """The decoder's part of the facts, as JSON values."""
    return {
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "warnings": [warning.value for warning in facts.warnings],
    }


def answer(outcome: Decoded | Undecoded) -> bytes:
    """The header of an answer; the arrays of a `Decoded` follow it, one frame each."""
    header: dict[str, Any] = {"facts": facts_to_json(outcome.facts)}
    if isinstance(outcome, Undecoded):
        header["error"] = [outcome.code.value, outcome.message]
    return json.dumps(header).encode()


def serve(channel: Connection) -> None:
    """Decode until the parent closes the channel. The first frame holds specs and limits."""
    start = json.loads(channel.recv_bytes())
    specs = tuple(PixelSpec(**spec) for spec in start["specs"])
    limits = Limits(**start["limits"])
    prepare()
    channel.send_bytes(b"ready")
    while True:
        outcome = decode(channel.recv_bytes(), specs, limits)
        channel.send_bytes(answer(outcome))
        if isinstance(outcome, Decoded):
            for array in outcome.pixels:
                channel.send_bytes(array.tobytes())


def main() -> None:
    """Run on the socket whose file descriptor is the first argument."""
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
