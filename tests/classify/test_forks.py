"""Models in forked processes: an error or an answer, never a wait without end or an abort."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moderate.testcards import write_cards
from tests.support.patience import PATIENCE

FORKED = """
import gc, os, sys
import moderate

def scan(backend):
    rows = moderate.scan(sys.argv[1], weights="testcard", device="cpu", backend=backend)
    return sorted(row.decision.value for row in rows)

def in_child(function):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            print("child", function())
        except moderate.ModerateError as error:
            print("child", type(error).__name__, str(error).partition(":")[0])
        sys.stdout.flush()
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

"""

REFUSED = (
    "child DeviceError this process was forked from one that had already loaded a model, which "
    "does not work twice"
)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    write_cards(folder, count=1, seed=0)
    return folder


def run(cards: Path, code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FORKED + code, str(cards)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("first", ["torch", "openvino"])
def test_a_scan_in_a_process_forked_after_a_scan_is_one_error(cards: Path, first: str) -> None:
    code = f"""
scan({first!r})
for second in ("torch", "openvino", "auto"):
    in_child(lambda: scan(second))
"""
    assert run(cards, code) == [REFUSED, "ended 0"] * 3


def test_a_classifier_in_a_process_forked_after_another_is_one_error(cards: Path) -> None:
    code = """
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place

def build():
    with Classifier(load_bundle("testcard"), place("cpu", "fp32", "torch")) as classifier:
        return classifier.depth

print(build())
in_child(build)
"""
    assert run(cards, code) == ["1", REFUSED, "ended 0"]


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_torch_used_before_the_fork_by_somebody_else_hangs_nothing(
    cards: Path, backend: str
) -> None:
    code = f"""
import torch
torch.set_num_threads(4)
print(float((torch.ones(2000, 2000) @ torch.ones(2000, 2000))[0, 0]))
in_child(lambda: len(scan({backend!r})))
"""
    assert run(cards, code) == ["2000.0", "child 11", "ended 0"]


def test_children_forked_during_and_after_a_scan_end_in_peace(cards: Path) -> None:
    code = """
import multiprocessing

def end():
    gc.collect()
    sys.exit(3)

rows = moderate.scan(sys.argv[1], weights="testcard", device="cpu", backend="openvino")
next(rows)
for _ in range(2):  # while the model is loaded, and afterwards
    child = os.fork()
    if child == 0:
        end()
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(len(list(rows)))
"""
    assert run(cards, code) == ["ended 3", "10", "ended 3", "0"]
