"""The fork server and the decoder processes that it forks.

The server imports the codecs once and never sees an image. Every decoder is a fork of it, which
restricts itself before it gets its first image, decodes some, and is killed by the run. That makes
a fresh process cheap: a few milliseconds instead of the imports.

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

if TYPE_CHECKING:
    from moderate.decode.resize import PixelSpec
    from moderate.types import ImageFacts, Limits

MAX_PACKET = 64 * 1024
"""Bytes; the longest message that either side sends or believes."""

MAX_SIDE = (1 << 32) - 1
"""Pixels; the largest that a header of any supported format can state."""

DESCRIPTORS_PER_DECODER = 3
"""Sent with a request to fork: the channel's end, input memory, output memory."""


def serve_images(
    channel: socket.socket,
    input_fd: int,
    output_fd: int,
    specs: tuple[PixelSpec, ...],
    limits: Limits,
    *,
    require_sandbox: bool,
) -> None:
    """Decode until the run closes the channel. Runs in a process of its own."""
    import numpy as np

    from moderate.decode.image import Decoded, Undecoded, decode, out_of_memory
    from moderate.decode.ring import Layout
    from moderate.decode.sandbox import harden, missing
    from moderate.types import ErrorCode, ImageFacts

    ((*output,),) = Layout(specs, 1, 1).arrays(mmap.mmap(output_fd, 0))
    inputs = mmap.mmap(input_fd, 0, prot=mmap.PROT_READ)
    os.close(output_fd)
    os.close(input_fd)
    active = harden(limits.max_decoder_bytes)
    if require_sandbox and (lacking := missing(active)):
        reason = f"--require-sandbox: this system lacks {', '.join(lacking)}; see 'moderate doctor'"
        channel.send(json.dumps({"refused": reason}).encode())
        return
    channel.send(json.dumps({"ready": active}).encode())
    while task := channel.recv(MAX_PACKET):
        length, token = json.loads(task)
        outcome: Decoded | Undecoded
        try:
            outcome = decode(inputs[:length], specs, limits)
        except MemoryError:
            outcome = out_of_memory(limits, ImageFacts())
        except Exception as fault:  # noqa: BLE001 - a fault of ours costs the image, not the process
            reason = f"a fault in moderate itself while decoding ({type(fault).__name__}: {fault})"
            outcome = Undecoded(ErrorCode.INTERNAL_ERROR, reason[:300], ImageFacts())
        if isinstance(outcome, Undecoded):
            facts, error = outcome.facts, [outcome.code.value, outcome.message]
        else:
            facts, error = outcome.facts, None
            for array, pixels in zip(output, outcome.pixels, strict=True):
                np.copyto(array[0], pixels, casting="no")
        del outcome
        answer = {"token": token, "facts": _facts(facts), "error": error}
        channel.send(json.dumps(answer).encode())


def _facts(facts: ImageFacts) -> dict[str, Any]:
    # A side that no header can hold is not a fact, and the run would not believe it.
    sides = (facts.width, facts.height)
    width, height = (side if side is None or 0 <= side <= MAX_SIDE else None for side in sides)
    return {
        "width": width,
        "height": height,
        "frames": facts.frames,
        "warnings": [warning.value for warning in facts.warnings],
    }


class _Server:
    """Forks decoders, ends them, and reports how they ended. One thread, for it forks."""

    def __init__(self, control: socket.socket) -> None:
        from moderate.decode.image import prepare
        from moderate.decode.resize import PixelSpec
        from moderate.types import Limits

        self._control = control
        start = json.loads(control.recv(MAX_PACKET))
        self._specs = tuple(PixelSpec(**spec) for spec in start["specs"])
        self._limits = Limits(**start["limits"])
        self._require_sandbox = bool(start["require_sandbox"])
        self._numbers: dict[int, int] = {}  # the run's number of a decoder by its pid
        os.nice(start["niceness"])
        prepare()
        # The death of a child wakes the loop by a byte in this pipe.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.freeze()  # what is here by now stays shared with the forks

    def run(self) -> None:
        """Serve until the run closes its end or ends."""
        while True:
            ready, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
            self._reap()
            if self._control.fileno() in ready and not self._serve_request():
                return

    def _serve_request(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(
            self._control, MAX_PACKET, DESCRIPTORS_PER_DECODER
        )
        if not packet:
            return False
        request = json.loads(packet)
        if "kill" in request:
            for pid, number in self._numbers.items():
                if number == request["kill"]:  # not reaped yet, so that it is nobody else's pid
                    os.kill(pid, signal.SIGKILL)
            return True
        number = request["fork"]
        try:
            pid = os.fork()
        except OSError as error:
            self._report({"not_forked": number, "reason": error.strerror})
        else:
            if pid == 0:
                self._become_decoder(descriptors)
            self._numbers[pid] = number
            self._report({"forked": number, "pid": pid})
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _become_decoder(self, descriptors: list[int]) -> NoReturn:
        """In the fork: forget the server, decode, and end without returning to its code."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A decoder that held the control socket could have others forked or killed.
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
                        require_sandbox=self._require_sandbox,
                    )
                    code = 0
                except (ConnectionError, KeyboardInterrupt):
                    code = 0
                except Exception as error:  # noqa: BLE001 - the run tells the user
                    reason = f"{type(error).__name__}: {error}"[:1000]
                    channel.send(json.dumps({"failed": reason}).encode())
        finally:
            os._exit(code)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                number = self._numbers.pop(pid)
                self._report({"ended": number, "code": os.waitstatus_to_exitcode(status)})

    def _report(self, event: dict[str, Any]) -> None:
        self._control.send(json.dumps(event).encode())

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
    with socket.socket(fileno=int(sys.argv[1])) as control:
        try:
            server = _Server(control)
        except (ConnectionError, KeyboardInterrupt):
            return
        except Exception as error:  # noqa: BLE001 - the run tells the user
            reason = f"{type(error).__name__}: {error}"[:1000]
            control.send(json.dumps({"failed": reason}).encode())
            sys.exit(1)
        try:
            server.run()
        except ConnectionError:  # the run has gone without a word
            pass
        finally:
            server.end_decoders()


if __name__ == "__main__":
    main()
