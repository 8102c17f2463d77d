"""Names in commands that messages ask to run are exactly these names again."""

from __future__ import annotations

import os
import subprocess

from moderate.text import printable, shell_word

NAMES = [
    b"plain.jsonl",
    b"two words",
    b"quote's",
    b"$HOME `id` \\033",
    b"line\nbreak\t1",
    b"\x1b[31mred 7's \\033",
    b"caf\xe9",
    "\u202egpj.exe 'é'".encode(),
]


def test_a_word_for_the_shell_is_the_name_again() -> None:
    words = [shell_word(os.fsdecode(name)) for name in NAMES]
    assert all(printable(word) == word for word in words)
    script = f"printf '%s\\0' {' '.join(words)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == NAMES
    assert shell_word("\ud800") == r"$'\355\240\200'", "no path, but nothing breaks"
