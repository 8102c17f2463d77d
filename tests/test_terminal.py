"""What reaches a terminal: real pseudo-terminals, and files that want to command them."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from moderate.state.ledger import Ledger
from moderate.terminal import GuardedTerminal
from moderate.text import for_terminal, printable
from moderate.types import CATEGORIES
from tests.support.ledgers import begin
from tests.support.pictures import scene
from tests.support.scored import drawn, write_labels, write_results

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1A\u202egpj.exe\u2028\x85\r\x00\x7f\u2066"
SHOWN = "owned"
"""What of it may be read."""

_CALLER = """
import json, sys
from moderate.cli.main import run
from moderate.terminal import guard_terminals
guard_terminals()
for arguments in json.loads(sys.argv[1]):
    print("ran", arguments[0], run(arguments), flush=True)
"""


def on_terminal(command: list[str], **environment: str) -> str:
    """All that a command writes to the terminal that is its standard input, output and error."""
    master, slave = pty.openpty()
    known = {"TERM": "xterm-256color", "COLUMNS": "200"}
    child = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **known, **environment},
    )
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 1 << 16):
            parts.append(part)
    except OSError:  # Linux's way to say that the other end is closed
        pass
    finally:
        os.close(master)
        child.wait()
    return b"".join(parts).decode("utf-8", "surrogateescape")


def commands(*each: list[str], **environment: str) -> str:
    return on_terminal([sys.executable, "-c", _CALLER, json.dumps(each)], **environment)


def unsafe(text: str) -> list[str]:
    """What moves a cursor, other than colours, tabs, and the terminal's own line ends."""
    text = re.sub("\x1b\\[[0-9;]*m", "", text).replace("\r\n", "").expandtabs()
    return [char for char in text if printable(char) != char]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results, labels, a policy, weights and a ledger with EVIL wherever text may stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    scores, labels = drawn(np.random.default_rng(1), 300)
    write_results(tmp_path / "r.jsonl", {CATEGORIES[0]: scores}, errors=2)
    write_labels(tmp_path / "l.csv", {CATEGORIES[0]: labels}, EVIL="x")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["warnings"] = f"{EVIL}; small_image"
        row["reasons"] = row["rating"] = row["format"] = EVIL
        row[f"carried {EVIL}"] = [EVIL, "b"][number % 2]
        row["duplicate_of"] = None
        if row["status"] == "error":
            row |= {"error_code": EVIL, "error_message": EVIL, "path": f"./{EVIL}"}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "r.jsonl").write_text(lines)
    facts = json.loads((tmp_path / "r.jsonl.meta.json").read_text())
    names = ("weights", "policy", "device", "precision", "run_id", "version", "backend", "torch")
    facts |= dict.fromkeys((*names, "weights_models", "weights_sha256", "policy_sha256"), EVIL)
    (tmp_path / "r.jsonl.meta.json").write_text(json.dumps(facts))
    rows[0]["nudity"] = 1.0 if (rows[0]["nudity"] or 0) < 0.5 else 0.0
    rows[1]["path"] = f"./other {EVIL}"
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = Path(__file__).parent.parent / "moderate/policy/presets/balanced.toml"
    text = policy.read_text().replace('name = "balanced"', f"name = {json.dumps('evil')}")
    (tmp_path / "p.toml").write_text(f"# \x9b1A\u202e {SHOWN}\n{text}")
    card = tmp_path / "data/moderate/weights/evil"
    card.parent.mkdir(parents=True)
    shutil.copytree(Path(__file__).parent.parent / "weights/testcard", card)
    title = "\\u001b]0;owned\\u0007\\u009b1A\\u202e"
    toml = (card / "moderation.toml").read_text()
    toml = re.sub(
        "(?m)^(title|source|licence) = .*", f'\\1 = "{title}"'.replace("\\u", "\\\\u"), toml
    )
    (card / "moderation.toml").write_text(f"# \x9b1A \u202e\n{toml}")
    with_evil = {"inputs": [EVIL], "command": ["moderate", EVIL], "targets": [EVIL]}
    begin(Ledger(tmp_path / "state"), **with_evil).update(counts={"warnings": {EVIL: 1}})
    return tmp_path


def test_no_command_passes_on_what_moves_a_terminal(here: Path) -> None:
    told = commands(
        ["report", "r.jsonl"],
        ["report", "--trend", "r.jsonl"],
        ["decide", "r.jsonl", "--policy", "strict"],
        ["decide", "r.jsonl", "--policy", "p.toml", "--out", "-"],
        ["decide", "r.jsonl", "--policy", "p.toml", "--out", "-.jsonl"],
        ["diff", "r.jsonl", "s.jsonl"],
        ["diff", "r.jsonl", "s.jsonl", "--json"],
        ["diff", "r.jsonl", "--policy", "strict"],
        ["explain", "r.jsonl", "row:301"],
        ["explain", "r.jsonl", "row:1", "--json"],
        ["explain", "r.jsonl", "./owned"],
        ["eval", "r.jsonl", "--labels", "l.csv", "--bootstrap", "0", "--slice", f"carried {EVIL}"],
        ["eval", "r.jsonl", "--labels", "l.csv", "--slice", EVIL],
        ["sample", "r.jsonl", "--by", "random", "--policy", "balanced"],
        ["tune", "r.jsonl", "--labels", "l.csv", "--category", "nudity", "--policy", "p.toml"],
        ["policy", "show", "p.toml"],
        ["policy", "check", "p.toml"],
        ["weights", "list"],
        ["weights", "list", "--json"],
        ["weights", "show", "evil"],
        ["runs", "list", "--state", "state"],
        ["runs", "show", "last", "--state", "state"],
        ["state", "info", "--state", "state"],
        ["report", f"{EVIL.replace(chr(0), '')}.csv"],
        ["policy", "check", f"{EVIL.replace(chr(0), '')}.toml"],
    )
    assert unsafe(told) == []
    assert "]0;owned" in told, "the text itself is there to be read"
    assert "a fault in moderate" not in told
    ended = re.findall(r"(?m)^ran (\w+) (\d+)", told)
    assert len(ended) == 25
    by_command = [name for name, code in ended if code == "0"]
    assert len(by_command) >= 20, told
    assert "\x1b[" in told, "colours are meant for terminals"


def test_rows_on_a_terminal_are_json_all_the_same(here: Path) -> None:
    told = commands(["decide", "r.jsonl", "--policy", "strict", "--quiet", "--out", "-.jsonl"])
    rows = [json.loads(line) for line in told.replace("\r\n", "\n").split("\n") if line[:1] == "{"]
    stored = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [row["warnings"] for row in rows] == [row["warnings"] for row in stored]
    assert [row["path"] for row in rows] == [row["path"] for row in stored]


def test_rows_that_go_elsewhere_keep_every_character(here: Path) -> None:
    command = [sys.executable, "-m", "moderate", "decide", "r.jsonl", "--policy", "strict"]
    piped = subprocess.run([*command, "--out", "-"], capture_output=True, check=True).stdout
    assert EVIL.encode() in piped


def test_names_in_a_scan_with_rows_on_the_terminal(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, with a bar, as a person runs it in a folder of uploads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    name = EVIL.replace("\0", "")
    scene((300, 300), seed=1).save(tmp_path / "in" / f"{name}.png", "PNG")
    (tmp_path / "in" / f"{name}.jpg").write_bytes(b"no image")
    (tmp_path / "in" / os.fsdecode(b"\xff\x9b1A.gif")).write_bytes(b"GIF89a")
    command = [sys.executable, "-m", "moderate", "scan", "in", "--weights", str(bundle)]
    told = on_terminal([*command, "--no-state", "--progress", "none", "--out", "-"])
    assert unsafe(told) == []
    assert told.count("\\u009b1A") >= 2
    bar = on_terminal([*command, "--no-state", "--fail-on", "review"])
    for sign in ("\x1b]", "\x07", "\x9b", "\u202e", "\x1b[1A\u202e"):
        assert sign not in bar


def test_both_ways_to_make_text_harmless_know_the_same_characters() -> None:
    bidirectional = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    for char in map(chr, range(sys.maxunicode + 1)):
        harmful = char in bidirectional or unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}
        assert (printable(char) != char) == harmful
        assert (for_terminal(char) != char) == (harmful and char not in "\t\n")
        if harmful:
            assert json.loads(f'"{for_terminal(char, kept="")}"') == char


def test_the_guard_takes_bytes_in_pieces_and_of_any_encoding() -> None:
    behind = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    guarded = GuardedTerminal(behind)
    for byte in "\u202eü\x9b".encode() + b"\x9b\xff":
        guarded.buffer.write(bytes([byte]))
    guarded.write("\x1b[0m\ud800\n\tend\r")
    behind.flush()
    written = behind.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert written == "\\u202eü\\u009b\\x9b\\xff\\u001b[0m\\ud800\n\tend\\u000d"
