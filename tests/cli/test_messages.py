"""What goes to stderr: lines for people as ever, or one JSON object a line whatever happens."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from moderate.cli.main import run
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith("MODERATE_"):
            monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)


def objects(text: str) -> list[dict[str, Any]]:
    """Every line as an object, with the four keys that all have; a NaN is no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    for each in found:
        assert list(each)[:4] == ["time", "level", "event", "message"]
        assert TIME.fullmatch(each["time"])
        assert each["level"] in {"info", "warning", "error"}
        assert "\n" not in each["message"]
        str(each).encode()  # no half surrogates
    return found


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


RUN = "import sys; from moderate.cli.main import main; main()"

EVERYTHING = """
import logging, sys, threading, warnings
from moderate.cli.messages import say, say_error, speaking

with speaking(as_json=sys.argv[1] == "json", debug=False):
    say("info", "run_started", "begins\\n\\x1b[31m\\u202e", rows=1, rate=float("nan"),
        path="\\udcff\\n", deep={"a": {1: (2.5, None, True)}}, time="mine")
    logging.getLogger("lib").warning("two\\nlines %s", "\\u00fc")
    logging.getLogger("lib").info("not said")
    logging.getLogger("lib").warning("with an event", extra={"event": "e", "fields": {"n": 3}})
    logging.getLogger("lib").error("%d is no number", "x")
    warnings.warn("old\\nstyle", UserWarning)
    own = logging.getLogger("torch"); own.propagate = False
    own.addHandler(logging.StreamHandler()); own.warning("its own handler")
    print("a library\\nprints", file=sys.stderr); sys.stderr.write("\\r 50%\\r100%")
    thread = threading.Thread(target=lambda: 1 / 0, name="counter"); thread.start(); thread.join()
    try:
        raise ValueError("bad")
    except ValueError as error:
        say_error("error", "it failed", error)
    logging.getLogger("lib").warning("caught", exc_info=ValueError("inner"))
print("on stdout")
say("warning", "late", "after it")
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_as_json_every_line_is_an_object_whatever_is_said(encoding: str) -> None:
    done = python(EVERYTHING, "json", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (0, "on stdout\n"), done.stderr
    assert done.stderr.isascii()
    *lines, last = done.stderr.splitlines()
    assert last == "moderate: after it"
    said = objects("\n".join(lines))
    assert {key: said[0][key] for key in list(said[0])[1:]} == {
        "level": "info", "event": "run_started", "message": "begins \\x1b[31m\\u202e",
        "rows": 1, "rate": "nan", "path": "\\udcff\n", "deep": {"a": {"1": [2.5, None, True]}},
    }  # fmt: skip
    assert said[1]["message"] == "two lines ü"
    assert (said[1]["event"], said[1]["logger"]) == ("log", "lib")
    assert (said[2]["event"], said[2]["n"]) == ("e", 3)
    assert "is no number" in said[3]["message"]
    assert "UserWarning: old style" in said[4]["message"]
    assert said[4]["logger"] == "py.warnings"
    printed = [each["message"] for each in said if each["event"] == "output"]
    assert printed == ["its own handler", "a library", "prints", "50%", "100%"]
    fault = next(each for each in said if each["event"] == "fault")
    assert "counter: ZeroDivisionError" in fault["message"]
    assert "Traceback (most recent call last)" in fault["traceback"]
    error = next(each for each in said if each["event"] == "error")
    assert error["message"] == "it failed"
    assert "ValueError: bad" in error["traceback"]
    caught = next(each for each in said if each["message"] == "caught")
    assert "ValueError: inner" in caught["traceback"]


def test_for_people_nothing_has_changed() -> None:
    done = python(EVERYTHING, "plain")
    lines = done.stderr.splitlines()
    assert lines[0] == "moderate: begins \\x1b[31m\\u202e"
    assert lines[1:3] == ["moderate: two", "lines ü"]
    assert "moderate: with an event" in lines
    assert "moderate: error: it failed" in lines
    assert lines.index("ValueError: bad") < lines.index("moderate: error: it failed")
    assert "a library" in lines
    assert '"message":' not in done.stderr


@pytest.mark.parametrize("lost", ["os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
                                  "sys.stderr = None", "os.close(2)"])  # fmt: skip
def test_a_broken_stderr_ends_nothing(lost: str) -> None:
    done = python(
        f"import os, sys; from moderate.cli.messages import *; {lost}\n"
        "say('info', 'a', 'b')\n"
        "with speaking(as_json=True, debug=False): say('info', 'a', 'b')\n"
        "print('went on')"
    )
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("value", ["1", "true"])
def test_the_environment_makes_every_error_json(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MODERATE_LOG_JSON", value)
    for arguments, part in (
        (["scan", "nowhere"], "--weights testcard"),
        (["policy", "show", "nope"], "no policy 'nope'"),
        (["paint"], "paint"),
    ):
        assert run(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (said,) = objects(err)
        assert (said["level"], said["event"]) == ("error", "error")
        assert part in said["message"]
    monkeypatch.setenv("MODERATE_LOG_JSON", "0")
    assert run(["policy", "show", "nope"]) == 2
    assert capsys.readouterr().err.startswith("moderate: error: no policy")


def test_the_option_is_known_before_it_is_parsed(capsys: Captured) -> None:
    assert run(["scan", "--log-json", "--nonesuch"]) == 2
    (said,) = objects(capsys.readouterr().err)
    assert "--nonesuch" in said["message"] or "--log-json" in said["message"]
    assert run(["policy", "show", "--", "--log-json"]) == 2
    assert capsys.readouterr().err.startswith("moderate: error: no policy '--log-json'")


@pytest.mark.parametrize("as_json", [False, True])
def test_errors_with_debug_show_their_traceback_and_exit_2(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setenv("MODERATE_DEBUG", "1")
    monkeypatch.setenv("MODERATE_LOG_JSON", str(int(as_json)))
    assert run(["policy", "show", "nope"]) == 2
    err = capsys.readouterr().err
    if as_json:
        said = objects(err)[-1]
        assert "no policy 'nope'" in said["message"]
        assert "PolicyError: no policy" in said["traceback"]
    else:
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("moderate: error: no policy 'nope'")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_fault_of_our_own_is_one_message_and_exit_2(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, debug: bool, as_json: bool
) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("moderate.policy.load.load_policy", broken)
    monkeypatch.setenv("MODERATE_DEBUG", str(int(debug)))
    monkeypatch.setenv("MODERATE_LOG_JSON", str(int(as_json)))
    assert run(["policy", "show", "strict"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    if as_json:
        said = objects(err)[-1]
        assert said["event"] == "fault"
        assert ("traceback" in said) == debug
        message = said["message"]
    else:
        assert ("Traceback" in err) == debug
        message = err.splitlines()[-1]
    assert "a fault in moderate itself: ZeroDivisionError: by zero; " in message
    assert ("run again with --debug" in message) != debug
    assert debug or len(err.splitlines()) == 1


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("notes", [(), ("12 images are scored", "run it again")])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_what_was_kept_is_said_when_a_signal_stops_a_run(
    notes: tuple[str, ...], number: int, code: int, as_json: bool
) -> None:
    script = (
        "import sys, time\n"
        "from moderate.cli import commands, main\n"
        "@commands.all_commands().command()\n"
        "def nap() -> None:\n"
        "    try:\n"
        "        print('asleep', flush=True)\n"
        "        time.sleep(60)\n"
        "    except BaseException as error:\n"
        f"        for note in {notes!r}: error.add_note(note)\n"
        "        raise\n"
        "main.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "nap"],
        env={**os.environ, "MODERATE_LOG_JSON": str(int(as_json))},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    name = signal.Signals(number).name
    kept = "; ".join(notes) or "no result file was written"
    if as_json:
        (said,) = objects(err)
        assert (said["event"], said["signal"]) == ("stopped", name)
        assert said["message"] == f"stopped by {name}; {kept}"
    else:
        assert err == f"moderate: error: stopped by {name}; {kept}\n"


def test_a_whole_scan_says_nothing_but_json(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(encode(scene((80, 60), seed=index), "PNG"))
    (folder / "\u202e\n.jpg").write_bytes(b"no image")
    done = python(
        RUN, "scan", str(folder), "--weights", str(bundle), "--out", "rows.csv",
        "--state", str(tmp_path / "state"), MODERATE_LOG_JSON="1", MODERATE_DEBUG="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    objects(done.stderr)
    assert len((tmp_path / "rows.csv").read_text().splitlines()) >= 5


def test_stderr_and_logging_are_as_before_afterwards(capsys: Captured) -> None:
    before = (sys.stderr, logging.getLogger().handlers[:], logging.getLogger().level,
              threading.excepthook, sys.unraisablehook)  # fmt: skip
    assert run(["scan", "--log-json"]) == 2
    after = (sys.stderr, logging.getLogger().handlers[:], logging.getLogger().level,
             threading.excepthook, sys.unraisablehook)  # fmt: skip
    assert after == before
    objects(capsys.readouterr().err)
