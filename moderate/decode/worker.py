"""The fork server and the decoder processes that it forks.

The server imports the codecs once and never sees an image. Every decoder is a fork of it, which
restricts itself before it gets its first image, decodes a limited number of images, and is killed
by the run. A fresh process therefore costs a few milliseconds instead of the imports.

Messages are packets of JSON over sockets, never pickles. A decoder finds an image's bytes in its
input memory and leaves the pixels in its output memory; it shares no memory with other decoders.
It opens nothing and never imports torch. Server and decoders end when the run does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from moderate.decode.process import MAX_PACKET, enter_sandbox, send, send_failure

if TYPE_CHECKING:
    from moderate.decode.parts import DecodeOptions
    from moderate.decode.resize import PixelSpec
    from moderate.types import ImageFacts, Limits

MAX_SIDE = (1 << 32) - 1
"""Pixels; the largest side that a header of any supported format can state."""

DESCRIPTORS_PER_DECODER = 3
"""Sent with a request to fork: the channel's end, input memory, output memory."""


def serve_images(
    channel: socket.socket,
    input_fd: int,
    output_fd: int,
    specs: tuple[PixelSpec, ...],
    limits: Limits,
    options: DecodeOptions,
    *,
    require_sandbox: bool,
) -> None:
    """Decode until the run closes the channel. Runs in a process of its own."""
    import numpy as np

    from moderate.decode.image import Decoded, Undecoded, decode, out_of_memory
    from moderate.decode.parts import MOST_PARTS
    from moderate.decode.ring import Layout
    from moderate.types import ErrorCode, ImageFacts

    ((*output,),) = Layout(specs, MOST_PARTS, 1).arrays(mmap.mmap(output_fd, 0))
    inputs = mmap.mmap(input_fd, 0, prot=mmap.PROT_READ)
    os.close(output_fd)
    os.close(input_fd)
    if not enter_sandbox(channel, limits.max_decoder_bytes, require_sandbox=require_sandbox):
        return
    while task := channel.recv(MAX_PACKET):
        length, token = json.loads(task)
        outcome: Decoded | Undecoded
        parts: list[Any] = []
        try:
            outcome = decode(inputs[:length], specs, limits, options)
        except MemoryError:
            outcome = out_of_memory(limits, ImageFacts())
        except Exception as fault:  # noqa: BLE001 - a fault of ours costs the image, not the process
            reason = f"a fault in moderate itself while decoding ({type(fault).__name__}: {fault})"
            outcome = Undecoded(ErrorCode.INTERNAL_ERROR, reason[:300], ImageFacts())
        if isinstance(outcome, Undecoded):
            facts, error = outcome.facts, [outcome.code.value, outcome.message]
        else:
            facts, error = outcome.facts, None
            parts = [[part.frame, part.milliseconds, part.box] for part in outcome.parts]
            for place, one_part in enumerate((outcome.pixels, *outcome.more)):
                for array, pixels in zip(output, one_part, strict=True):
                    np.copyto(array[place], pixels, casting="no")
        del outcome
        send(channel, {"token": token, "facts": _as_json(facts), "error": error, "parts": parts})


def _as_json(facts: ImageFacts) -> dict[str, Any]:
    # A side that no header can hold is not a fact, and the run would reject it.
    sides = (facts.width, facts.height)
    width, height = (side if side is None or 0 <= side <= MAX_SIDE else None for side in sides)
    return {
        "width": width,
        "height": height,
        "frames": facts.frames,
        "frames_scored": facts.frames_scored,
        "unseen": facts.unseen,
        "embedded": facts.embedded,
        "pdq": [facts.pdq.bits.hex(), facts.pdq.quality] if facts.pdq else None,
        "warnings": [warning.value for warning in facts.warnings],
    }


class _Server:
    """Forks decoders, ends them, and reports how they ended.

    It has one thread, because a fork copies only the thread that calls it. The run talks to it over
    the control socket; SIGCHLD tells it that a decoder has ended.
    """

    def __init__(self, control: socket.socket) -> None:
        from moderate.decode.image import prepare
        from moderate.decode.parts import DecodeOptions
        from moderate.decode.resize import PixelSpec
        from moderate.types import Limits

        self._control = control
        settings = json.loads(control.recv(MAX_PACKET))
        self._specs = tuple(PixelSpec(**spec) for spec in settings["specs"])
        self._limits = Limits(**settings["limits"])
        self._options = DecodeOptions.from_json(settings["options"])
        self._require_sandbox = bool(settings["require_sandbox"])
        self._numbers: dict[int, int] = {}  # the run's number of each decoder, by pid
        os.nice(settings["niceness"])
        # FFmpeg is loaded when the first HEIC is there: most runs see none.
        prepare(ffmpeg=False)
        # The handler does nothing. It has to be there, so that Python writes a byte to this pipe
        # for the signal, which ends the wait of the loop below.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.enable()
        gc.freeze()  # collecting garbage would copy the pages that forks share with the server

    def run(self) -> None:
        """Serve until the run closes its end or ends."""
        while True:
            ready, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
            self._reap()
            if self._control.fileno() in ready and not self._serve_request():
                return

    def _serve_request(self) -> bool:
        """Serve one request; False where the run has closed its end."""
        packet, descriptors, _, _ = socket.recv_fds(
            self._control, MAX_PACKET, DESCRIPTORS_PER_DECODER
        )
        if not packet:
            return False
        request = json.loads(packet)
        if "kill" in request:
            for pid, number in self._numbers.items():
                # As long as the decoder is not reaped, no other process can have its pid.
                if number == request["kill"]:
                    os.kill(pid, signal.SIGKILL)
            return True
        if "load_ffmpeg" in request:
            from moderate.decode.hevc import load_ffmpeg

            load_ffmpeg()
            gc.freeze()
            return True
        number = request["fork"]
        try:
            pid = os.fork()
        except OSError as error:
            send(self._control, {"not_forked": number, "reason": error.strerror})
        else:
            if pid == 0:
                self._become_decoder(descriptors)
            self._numbers[pid] = number
            send(self._control, {"forked": number, "pid": pid})
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _become_decoder(self, descriptors: list[int]) -> NoReturn:
        """In the fork: let go of what the server has, decode, and exit without returning to it."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A decoder that had the control socket could have others forked or killed.
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            channel_fd, input_fd, output_fd = descriptors
            with socket.socket(fileno=channel_fd) as channel:
                try:
                    serve_images(
                        channel,
                        input_fd,
                        output_fd,
                        self._specs,
                        self._limits,
                        self._options,
                        require_sandbox=self._require_sandbox,
                    )
                    code = 0
                except (ConnectionError, KeyboardInterrupt):
                    code = 0
                except Exception as error:  # noqa: BLE001 - the run tells the user
                    send_failure(channel, error)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Report the decoders that have ended."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = reaped
                number = self._numbers.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                send(self._control, {"ended": number, "code": code})

    def end_decoders(self) -> None:
        """Kill all decoders and wait until they are gone."""
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._numbers:
            os.waitpid(pid, 0)


def main() -> None:
    """Run the fork server on the control socket whose descriptor is the argument."""
    from moderate.decode.sandbox import end_with_parent

    end_with_parent()
    gc.disable()  # until all is imported: there is no garbage to collect among it
    with socket.socket(fileno=int(sys.argv[1])) as control:
        try:
            server = _Server(control)
        except (ConnectionError, KeyboardInterrupt):
            return
        except Exception as error:  # noqa: BLE001 - the run tells the user
            send_failure(control, error)
            sys.exit(1)
        try:
            server.run()
        except ConnectionError:  # the run has ended without closing its end
            pass
        finally:
            server.end_decoders()


if __name__ == "__main__":
    main()
