"""What the command says on stderr: lines for people, or a JSON object per line for log shippers.

Everything takes this way: the command's own messages, Python's logging, warnings, and whatever a
library prints there.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

import typer

from moderate.text import printable

Level = Literal["info", "warning", "error"]

_NOISY = ("PIL", "urllib3", "filelock")


@dataclass(slots=True)
class _Voice:
    """How this process speaks: `undo` takes back what speaking JSON changed."""

    json: bool = False
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_voice = _Voice()
_lock = threading.RLock()  # a signal's handler may speak while its own thread does


def say(level: Level, event: str, message: str, **fields: Any) -> None:
    """One message for whoever runs the command.

    For people it reads `moderate: MESSAGE`, or `moderate: error: MESSAGE`. As JSON it is an object
    of time, level, event, message, and the fields, which people are not shown.
    """
    line = printable(" ".join(message.split()))
    if _voice.json:
        _write(_json_line(datetime.now(UTC), level, event, line, fields))
    else:
        _write(f"moderate: error: {line}" if level == "error" else f"moderate: {line}")


def say_item(event: str, line: str, **fields: Any) -> None:
    """One line of a list that a message announced, indented, as it is: names keep their blanks."""
    text = printable(line)
    _write(_json_line(datetime.now(UTC), "warning", event, text, fields) if _voice.json
           else f"  {text}")  # fmt: skip


def say_error(event: str, message: str, error: BaseException | None = None, **fields: Any) -> None:
    """An error, with the traceback of `error` where one is given: before it, or as a field."""
    if error is not None:
        text = "".join(traceback.format_exception(error))
        if _voice.json:
            fields["traceback"] = text
        else:
            _write(_printable_lines(text.rstrip("\n")))
    say("error", event, message, **fields)


def speaks_json() -> bool:
    """Whether messages are JSON."""
    return _voice.json


@contextlib.contextmanager
def speaking(*, as_json: bool, debug: bool) -> Iterator[None]:
    """Let logging and, for JSON, all else that goes to stderr come out as messages do.

    Logging is that of warnings and worse, with `debug` of everything. All is as before afterwards.
    """
    root, handler = logging.getLogger(), _Handler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.WARNING)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if as_json:
            speak_json()
        yield
    finally:
        _voice.undo.close()
        _voice.json = False
        root.setLevel(level)
        root.removeHandler(handler)


def speak_json() -> None:
    """From now on, until the end of `speaking`, messages are JSON; harmless when repeated."""
    if _voice.json:
        return
    _voice.json = True
    logging.captureWarnings(True)
    _voice.undo.callback(logging.captureWarnings, False)
    if sys.stderr is not None:
        stderr = _Stderr(sys.stderr)
        _voice.undo.enter_context(contextlib.redirect_stderr(stderr))
        _voice.undo.callback(stderr.close)
    thread_hook, finaliser_hook = threading.excepthook, sys.unraisablehook
    threading.excepthook = _thread_failed
    sys.unraisablehook = _finaliser_failed
    _voice.undo.callback(setattr, threading, "excepthook", thread_hook)
    _voice.undo.callback(setattr, sys, "unraisablehook", finaliser_hook)


class _Handler(logging.Handler):
    """Log records as messages.

    As JSON, a record may bring its own `event`, and a dict of `fields`, in logging's `extra`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("moderate: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`. What cannot be formatted is written all the same."""
        try:
            if not _voice.json:
                _write(_printable_lines(self.format(record)))
            else:
                _write(_record_line(record))
        except Exception:  # noqa: BLE001 - a message that cannot be put together ends no run
            say("warning", "log", f"{record.name}: {record.msg}")


class _Stderr(io.TextIOBase):
    """Stands in for stderr while messages are JSON: each line printed there is one, too."""

    def __init__(self, real: TextIO) -> None:
        self.real = real
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream behind."""
        return self.real.encoding

    def fileno(self) -> int:
        """That of the stream behind."""
        return self.real.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Say every whole line; bars that draw themselves anew end theirs with a CR."""
        with _lock:
            *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            say("warning", "output", line)
        return len(text)

    def flush(self) -> None:
        """Pass it on; half a line waits for its end."""
        with contextlib.suppress(OSError, ValueError):
            self.real.flush()

    def close(self) -> None:
        """Say what has no line end. The stream behind stays open."""
        if self._rest:
            self.write("\n")


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _write(line: str) -> None:
    stream = sys.stderr.real if isinstance(sys.stderr, _Stderr) else sys.stderr
    if stream is None:
        return
    # Nobody reads on, or the disk of the log is full: no reason to end a night's run.
    with _lock, contextlib.suppress(OSError, ValueError):
        stream.write(line + "\n")
        stream.flush()


def _json_line(
    time: datetime, level: Level, event: str, message: str, fields: dict[str, Any]
) -> str:
    moment = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    values = {"time": moment, "level": level, "event": event, "message": message}
    # ASCII alone: valid whatever the stream's encoding, and nothing that moves a terminal's cursor.
    more = {key: value for key, value in _plain(fields).items() if key not in values}
    return json.dumps(values | more)


def _record_line(record: logging.LogRecord) -> str:
    level: Level = "info"
    if record.levelno >= logging.WARNING:
        level = "error" if record.levelno >= logging.ERROR else "warning"
    fields = {"logger": record.name, **getattr(record, "fields", {})}
    if record.exc_info:
        fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    message = printable(" ".join(record.getMessage().split()))
    event = getattr(record, "event", "log")
    return _json_line(datetime.fromtimestamp(record.created, UTC), level, event, message, fields)


def _plain(value: Any) -> Any:
    """A value as strict JSON has it: no NaN, no half surrogate, what it has no type for as text."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread else "unknown"
    _say_fault(f"in thread {name}", failed.exc_type, failed.exc_value, failed.exc_traceback)


def _finaliser_failed(failed: sys.UnraisableHookArgs) -> None:
    _say_fault("while tidying up", failed.exc_type, failed.exc_value, failed.exc_traceback)


def _say_fault(
    where: str,
    kind: type[BaseException],
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    say("error", "fault", f"{where}: {kind.__name__}: {error}", traceback=text)


def parser_message(error: typer.TyperException) -> str:
    """What the parser says of a mistake, in the words of other messages in place of its own."""
    from moderate.validation import plain_words

    return plain_words(error.format_message().replace(": Value error, ", ": "))
