"""The `moderate` command: its subcommands, its version, and how errors reach the user."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import re
import signal
import sys
from types import FrameType
from typing import Any

import typer

from moderate import stopping
from moderate.cli import exit_codes
from moderate.cli.commands import application
from moderate.cli.configuration import environment_flag
from moderate.cli.messages import parser_message, say_error, speaking
from moderate.errors import ModerateError, ReaderGoneError
from moderate.folders import settle_temporary
from moderate.native import working_directory_problem
from moderate.stopping import Stopped
from moderate.system_limits import no_thread_limit, system_limit, with_limit
from moderate.terminal import guard_terminals, output_has_no_reader
from moderate.text import printable

_STOP_AGAIN = 1.0  # seconds
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def run(arguments: list[str]) -> int:
    """Run one command; every error becomes one line on stderr and an exit code."""
    debug = _wanted("debug", arguments)
    stopping.begin()
    settle_temporary()
    with speaking(as_json=_wanted("log-json", arguments), debug=debug):
        return _run(arguments, debug)


def _wanted(option: str, arguments: list[str]) -> bool:
    """Whether an option that has to be known before the options are parsed is set."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return f"--{option}" in options or environment_flag(option)


def _flush_output() -> None:
    """Write what is printed and still held back, while a failure can still be reported."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError("standard output was closed by its reader") from error


def _full_disk(error: Exception) -> str | None:
    """The line for a file system that takes no more, wherever that was noticed; else None."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return None
    where = f" {printable(os.fsdecode(error.filename))}" if error.filename else ""
    return f"cannot write{where}: {error.strerror}; make room, or write elsewhere"


def _hint_at_names(message: str, arguments: list[str]) -> str:
    """What to do where a file name that starts with `-` was read as options; else nothing."""
    if not message.startswith("No such option"):
        return ""
    is_name = re.compile(r"-[^-].*[./].*", re.DOTALL).fullmatch
    name = next((each for each in arguments if is_name(each)), None)
    return f"; if {printable(name)} is a file, write ./{printable(name)}" if name else ""


def _run(arguments: list[str], debug: bool) -> int:
    if arguments[:1] != ["scan"]:  # which imports most of what it uses first
        gc.enable()
    try:
        try:
            code: Any = application(arguments)(
                arguments, prog_name="moderate", standalone_mode=False
            )
            _flush_output()
        except SystemExit as left:
            # What Typer makes of any write to a closed pipe, as if something had been found.
            broken = left.__context__
            if not isinstance(broken, BrokenPipeError):
                raise
            if output_has_no_reader():
                raise ReaderGoneError("the output was closed by its reader") from broken
            raise broken from None
        except Exception:
            stopping.check()
            raise
    except typer.TyperException as error:
        message = parser_message(error) or "see moderate --help"
        say_error("error", message + _hint_at_names(message, arguments))
        return exit_codes.ERROR
    except ReaderGoneError:
        from moderate.results.text_writers import stdout_is_closed

        stdout_is_closed()
        return exit_codes.PIPE_CLOSED
    except ModerateError as error:
        say_error("error", with_limit(error), error if debug else None)
        return exit_codes.ERROR
    except Stopped as stopped:
        signal.setitimer(signal.ITIMER_REAL, 0)
        number = signal.Signals(stopped.args[0])
        if number == signal.SIGINT and (limit := no_thread_limit()):
            # What OpenBLAS does to a process that may not have its threads.
            say_error("error", f"{limit}; raise the limit")
            return exit_codes.ERROR
        kept = "; ".join(getattr(stopped, "__notes__", ())) or "no result file was written"
        say_error("stopped", f"stopped by {number.name}; {kept}", signal=number.name)
        return stopping.exit_code(number)
    except Exception as error:  # noqa: BLE001 - the last place to tell of it
        if limit := system_limit(error):
            say_error("error", f"{limit}; raise the limit", error if debug else None)
            return exit_codes.ERROR
        if full := _full_disk(error):
            say_error("error", full, error if debug else None)
            return exit_codes.ERROR
        problem = working_directory_problem() if isinstance(error, OSError) else None
        if problem:
            advice = "name every file by its full path, or change to another folder"
            say_error("error", f"{problem}; {advice}", error if debug else None)
            return exit_codes.ERROR
        fault = f"a fault in moderate itself: {type(error).__name__}: {error}"
        advice = "report this" if debug else "run again with --debug and report what it prints"
        say_error("fault", f"{fault}; {advice}", error if debug else None)
        return exit_codes.ERROR
    return code if isinstance(code, int) else exit_codes.DONE


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    guard_terminals()
    handled = stopping.signals()
    for number in handled:
        signal.signal(number, _stop)
    try:
        code = run(sys.argv[1:])
    except Stopped as stopped:  # again, while the first was reported
        code = stopping.exit_code(stopped.args[0])
    for number in (*handled, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)  # all is done: there is nothing left to stop
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # Not sys.exit, which waits for threads: one may wait for a lock that a signal left taken, and
    # a signal on the way out would have the last word on the exit code.
    os._exit(code)


def _stop(number: int, _frame: FrameType | None) -> None:
    # A second signal is not to cut short what tidies up after the first.
    if stopping.note(number):
        _stop_again(number)


def _stop_again(number: int) -> None:
    # Python drops what is raised inside a finaliser, and tidying up may wait for something that
    # never comes: the signal comes again until the command has ended.
    signal.signal(signal.SIGALRM, lambda *_: _stop_again(number))
    signal.setitimer(signal.ITIMER_REAL, _STOP_AGAIN)
    raise Stopped(number)
