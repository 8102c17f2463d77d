"""TOML from anyone: what is read, what is refused before the parser sees it, and what it costs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moderate
from moderate.toml_files import MAX_DEPTH, MAX_TOML_BYTES, TomlError, parse_toml, read_toml
from tests.support.operations import count_lines
from tests.support.patience import PATIENCE

GOOD = {
    "floats and dates": "a = [1.5, 2.5, 3.5]\nb = 1979-05-27T07:32:00.999-07:00\n",
    "many floats": "a = [" + "1.5, " * 500 + "1.5]\n",
    "dots in strings": f'a = "{"." * 500}"\nb = \'{"." * 500}\'\n"{"." * 99}" = 1\n',
    "brackets in strings": f'a = "{"[" * 500}"\n',
    "dots in comments": f"# {'.' * 500} {'[' * 500}\na = 1\n",
    "text of many lines": f'a = """{"." * 99}\n{"[" * 99}\\"\\"" \n{"." * 99}"""\nb = 1\n',
    "quotes at the end of text": 'a = """x"""""\nb = """"x"""\nc = \'\'\'x\'\'\'\'\'\nd = 1\n',
    "six quotes": "a = \"\"\"\"\"\"\nb = ''''''\nc = \"\"\nd = ''\n",
    "tables": "[a.b.c]\nd.e.f = 1\n[[g.h]]\ni = {j = {k.l = [[1], [2]]}, m.n = 2}\n",
    "as deep as allowed": ".".join("a" * MAX_DEPTH) + " = 1\n",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=list(GOOD))
def test_what_is_toml_is_read(text: str) -> None:
    assert parse_toml(text) == tomllib.loads(text)


DEEP = {
    "a dotted key": ".".join("a" * 100_000) + " = 1",
    "a dotted key with spaces": " . ".join("a" * 100_000) + " = 1",
    "a quoted dotted key": ".".join(['"a"'] * 100_000) + " = 1",
    "a table's name": "[" + ".".join("a" * 100_000) + "]",
    "arrays": "a = " + "[" * 100_000,
    "arrays over lines": "a = " + "[\n" * 100_000,
    "inline tables": "a = " + "{a = " * 100_000,
    "inline tables with dotted keys": "a = " + "{a.b.c = " * 1_000,
    "after text that ends in quotes": 'x = """y"""""\n' + ".".join("a" * 100_000) + " = 1",
    "after a literal that ends in quotes": "x = '''y''''\n" + ".".join("a" * 100_000) + " = 1",
    "after a comment with a quote": "# it's\n" + ".".join("a" * 100_000) + " = 1",
    "after an escaped quote": 'x = "\\""\n' + ".".join("a" * 100_000) + " = 1",
    "one more than allowed": ".".join("a" * (MAX_DEPTH + 1)) + " = 1",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=list(DEEP))
def test_deep_nesting_never_reaches_the_parser(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parser(text: str) -> None:
        raise AssertionError("the parser was called")

    monkeypatch.setattr(tomllib, "loads", parser)
    with pytest.raises(TomlError, match="nested deeper than 32 levels in line "):
        parse_toml(text)


@pytest.mark.parametrize(
    "text", ["a = ", 'a = "', 'a = """\n.', "a = '''", "a = " + "9" * 5_000, "]", "\x00", "a\rb"]
)
def test_what_is_no_toml_is_one_line(text: str) -> None:
    with pytest.raises(TomlError, match=r"^not valid TOML: .*$"):
        parse_toml(text)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                ".",
                "=",
                "[",
                "]",
                "{",
                "}",
                ",",
                "\n",
                '"',
                "'",
                '"""',
                "'''",
                "\\",
                "#",
                " ",
                "1",
            ]
        ),
        max_size=30,
    ).map("".join)
)
def test_the_check_and_the_parser_read_the_same(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(TomlError):
            parse_toml(text)
    else:
        assert parse_toml(text) == expected


UNITS = {
    "keys": lambda n: "".join(f"a{i}.b.c = 1\n" for i in range(n)),
    "open texts": lambda n: 'a = """' + '\\"""\n' * n,
    "open strings": lambda n: 'a = "' + '\\"' * n,
    "quotes": lambda n: '"' * n,
    "comments": lambda n: "#'\"\n" * n,
    "arrays": lambda n: "a = [" + "[1.5]," * n + "]",
}


@pytest.mark.parametrize("build", UNITS.values(), ids=list(UNITS))
def test_reading_costs_in_proportion_to_the_size(build) -> None:  # type: ignore[no-untyped-def]
    def cost(count: int) -> int:
        def work() -> None:
            with contextlib.suppress(TomlError):
                parse_toml(build(count))

        return count_lines(work)

    cost(10)
    assert cost(1600) < 2.5 * cost(800) + 200


def test_a_file_that_is_none_is_one_line_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (MAX_TOML_BYTES + 1))
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe9'")
    cases = {
        tmp_path / "fifo.toml": "a FIFO, not a regular file",
        Path("/dev/zero"): "a device, not a regular file",
        tmp_path: "a folder, not a regular file",
        tmp_path / "large.toml": "larger than 4 MiB",
        tmp_path / "none.toml": "No such file or directory",
        tmp_path / "latin.toml": "not valid TOML: not UTF-8 at byte 6",
    }
    for path, message in cases.items():
        with pytest.raises(TomlError, match=f"^{re.escape(message)}$"):
            read_toml(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["policy", "check", "FILE"],
        ["scan", "in", "--weights", "testcard", "--policy", "FILE"],
        ["scan", "in", "--weights", "testcard", "--config", "FILE"],
        ["scan", "in", "--weights", "BUNDLE"],
    ],
    ids=["policy check", "policy", "config", "weights"],
)
@pytest.mark.parametrize("kind", ["fifo", "deep"])
def test_every_command_that_reads_toml_refuses_at_once(
    arguments: list[str], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "bundle").mkdir()
    for file in (tmp_path / "some.toml", tmp_path / "bundle" / "moderation.toml"):
        if kind == "fifo":
            os.mkfifo(file)
        else:
            file.write_text(DEEP["a dotted key"])
    names = {"FILE": str(tmp_path / "some.toml"), "BUNDLE": str(tmp_path / "bundle")}
    done = subprocess.run(
        [sys.executable, "-m", "moderate", *(names.get(word, word) for word in arguments)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(moderate.__file__).parents[1]),
            "XDG_STATE_HOME": str(tmp_path / "state"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    expected = "a FIFO, not a regular file" if kind == "fifo" else "nested deeper than 32 levels"
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_else_reads_toml() -> None:
    folder = Path(moderate.__file__).parent
    readers = [
        str(file.relative_to(folder))
        for file in folder.rglob("*.py")
        if re.search(r"^\s*(import|from) tomllib", file.read_text("utf-8"), re.MULTILINE)
    ]
    assert readers == ["toml_files.py"]
