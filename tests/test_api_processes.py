"""Scans and moderators where processes fork, end, and start without a script of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pictures import encode, scene

BEGIN = """
import gc, os, sys
import moderate

folder, weights, out = sys.argv[1:]
options = dict(weights=weights, device="cpu", backend="torch", workers=1, batch_size=1)

def start():
    rows = moderate.scan(folder, out=out, **options)
    next(rows)
    moderator = moderate.Moderator(**options)
    moderator.moderate([folder + "/0.png"])
    return rows, moderator
"""


def run(tmp_path: Path, bundle: Path, code: str, *, stdin: bool = False) -> list[str]:
    """What the code prints, which is run without a file of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encode(scene((60, 40), seed=number), "PNG"))
    done = subprocess.run(
        [sys.executable, *(["-"] if stdin else ["-c", BEGIN + code]), str(folder), str(bundle),
         str(tmp_path / "out.csv")],
        input=BEGIN + code if stdin else None, capture_output=True, text=True, timeout=250,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_every_use_in_a_forked_process_is_one_error_and_harms_nothing(
    tmp_path: Path, bundle: Path
) -> None:
    code = """
import multiprocessing

def uses(rows, moderator):
    yield lambda: next(rows)
    yield lambda: moderator.moderate([])
    yield lambda: moderator.__enter__()
    yield lambda: moderate.scan(folder, **options)
    yield lambda: moderate.Moderator(**options)

def scan():
    return len(list(moderate.scan(folder, **options)))

rows, moderator = start()
sys.stdout.flush()
if (child := os.fork()) == 0:
    for use in uses(rows, moderator):
        try:
            use()
        except moderate.ModerateError as error:
            line = str(error).partition(":")[0].replace(str(os.getppid()), "N")
            print(type(error).__name__, line)
    rows.close()
    moderator.close()
    del rows, moderator, use
    gc.collect()
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(scan)
except moderate.ModerateError as error:
    print(type(error).__name__)
print(len(list(rows)), len(moderator.moderate([folder + "/1.png"])), os.path.exists(out))
"""
    forked = "from which this one was forked"
    loaded = "this process was forked from one that had already loaded a model, which does not "
    assert run(tmp_path, bundle, code) == [
        f"UsageError this scan belongs to process N, {forked}",
        f"UsageError this Moderator belongs to process N, {forked}",
        f"UsageError this Moderator belongs to process N, {forked}",
        f"DeviceError {loaded}work twice",
        f"DeviceError {loaded}work twice",
        "3",
        "DeviceError",
        "3 1 True",
    ]


@pytest.mark.parametrize("stdin", [False, True], ids=["python -c", "python -"])
def test_the_interpreter_ends_though_a_scan_and_a_moderator_are_open(
    tmp_path: Path, bundle: Path, stdin: bool
) -> None:
    code = """
import threading

thread = threading.Thread(target=lambda: globals().update(held=start()))
thread.start()  # not the main thread
thread.join()
"""
    assert run(tmp_path, bundle, code, stdin=stdin) == []
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    assert not (tmp_path / "out.csv").exists()


def test_an_interrupt_ends_a_scan_and_a_call_with_all_they_hold(
    tmp_path: Path, bundle: Path
) -> None:
    code = """
import signal, subprocess, threading
from moderate.classify.classifier import Classifier

submit = Classifier.submit

def interrupted(self, batch):
    signal.raise_signal(signal.SIGINT)
    return submit(self, batch)

for use in (lambda: list(moderate.scan(folder, out=out, **options)),
            lambda: moderate.Moderator(**options).moderate([folder + "/0.png"] * 50)):
    Classifier.submit = interrupted
    try:
        use()
    except KeyboardInterrupt:
        print("interrupted")
    Classifier.submit = submit
    command = ["ps", "-o", "pid=", "--ppid", str(os.getpid())]
    children = subprocess.run(command, capture_output=True).stdout.split()
    print(len(children), "decoders" in [thread.name for thread in threading.enumerate()])
"""
    lines = run(tmp_path, bundle, code)
    assert lines == ["interrupted", "1 False"] * 2, "ps itself is the one child"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
