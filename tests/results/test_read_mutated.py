"""Results files that somebody changed: rows or one line of error, never a fault."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.analysis.decide import DecideOptions, redecide
from moderate.analysis.explain import Kept, explain
from moderate.analysis.labels import read_labels
from moderate.analysis.stored import summarise
from moderate.errors import ModerateError
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.results.targets import open_writers
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Column,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Warn,
)
from tests.support.oracle import decide, views

SUFFIXES = ("csv", "jsonl", "parquet")
ROUNDS = 120
TOKENS = (
    *(b"\0", b"\xff", b"\r", b'"', b"'", b",", b"\n\n", b"\xef\xbb\xbf", b"\xc2\x9b", b"\x1b[2J"),
    *(b"null", b"true", b"NaN", b"-0", b"1e999", b"9" * 30, b"9" * 5000, b"-1", b"1.5", b"0x1"),
    *(b"error", b"ok", b"approve", b"block", b"status", b"decision", b"path", b"nudity"),
    *(
        b"{}",
        b"[]",
        b"[" * 500,
        b'{"a":' * 500,
        b'"\\ud800"',
        b'{"path": 1, "path": 2}',
        b"; " * 99,
    ),
)


def write(target: Path) -> bytes:
    """Twelve rows of all kinds, with carried columns of several types."""
    policy = load_policy("balanced").policy
    kinds = (pa.string(), pa.int64(), pa.list_(pa.string()), pa.timestamp("ns", "Nowhere/At_All"))
    columns = tuple(Column(f"k{number}", kind) for number, kind in enumerate(kinds))
    with open_writers([str(target)]) as (writer,):
        writer.start({"policy_json": policy.model_dump_json(), "weights": "w"}, columns)
        for number in range(12):
            error = ImageError(ErrorCode.TRUNCATED, "ends early") if number % 4 == 3 else None
            scores = dict(UNSCORED)
            if error is None:
                scores |= {name: float(np.float32(number / 11)) for name in CATEGORIES[:3]}
            decision, why = decide(policy, scores, (), error)
            writer.write(
                Row(
                    ImageRef(b"%d\xe9.jpg" % number, carried=(f"={number}", number, ["a"], None)),
                    ImageFacts(64, 64, "jpeg", 1, 100, f"{number:064x}", (Warn.SMALL_IMAGE,)),
                    scores,
                    decision,
                    why,
                    views(policy, scores),
                    error,
                )
            )
        writer.commit({"started": "2026-11-02T03:00:00Z"})
    return target.read_bytes()


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, put in, doubled or exchanged with others of the file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 8, 64, 500)), len(changed) - at)
        kind = rng.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 1 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at : at + length] = rng.choice(TOKENS)
        else:
            other = rng.randrange(len(changed) + 1)
            changed[at : at + length] = changed[other : other + length]
    return bytes(changed)


ODD: tuple[Any, ...] = (
    *(
        None,
        "",
        "ok",
        "error",
        "approve",
        "review",
        "block",
        "truncated",
        "\x1b[2J",
        "\ud800",
        "\0",
    ),
    *("=1+1", "small_image; animated", "x; " * 5000, "a" * 100_000, "2026-11-02", "YQ==", "!"),
    *(0, 1, -1, 0.5, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**400),
    *(True, [], {}, [None], {"a": [1]}, [[[[1]]]], [{"path": "x", "decision": "approve"}]),
)


def odd_arrays(count: int) -> list[pa.Array]:
    """Columns of types that no run writes, or that few programs can read."""
    nulls = pa.nulls(count)
    not_utf8 = pa.array([b"\xff\xfe"] * count, pa.binary())
    text = pa.Array.from_buffers(pa.string(), count, not_utf8.buffers())
    ones = pa.array([1] * count, pa.int64())
    return [
        nulls,
        text,
        not_utf8,
        text.dictionary_encode(),
        pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), text),
        pa.StructArray.from_arrays([ones, text], names=["a", "a"]),
        pa.array([[("k", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        pa.array([Decimal(10) ** 60] * count, pa.decimal256(70, 2)),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"u" * 16] * count, pa.binary(16))),
        pa.array(["ok"] * count, pa.large_string()),
        pa.array(["error"] * count, pa.string_view()),
        pa.array([b"approve"] * count, pa.large_binary()),
        pa.array([float("nan")] * count, pa.float64()),
        pa.array([0.5] * count, pa.float64()),
        pa.array([2**64 - 1] * count, pa.uint64()),
        *(pa.array([2**62] * count, pa.duration(unit)) for unit in ("s", "ns")),
        *(
            pa.array([2**60] * count, pa.timestamp("us", zone))
            for zone in ("UTC", "No/Zone", "+99:99")
        ),
        pa.array([5] * count, pa.time64("ns")),
        pa.array([2**31 - 1] * count, pa.int32()).cast(pa.date32()),
    ]


def changed_cells(rng: random.Random, suffix: str, data: bytes) -> bytes:
    """A cell or two of other values or, in Parquet, whole columns of other types."""
    if suffix == "csv":
        lines = list(csv.reader(io.StringIO(data.decode())))
        for _ in range(rng.choice((1, 1, 2))):
            line = rng.choice(lines[1:])
            line[rng.randrange(len(line))] = str(rng.choice(ODD))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue().encode("utf-8", "replace")
    if suffix == "jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(rows)[rng.choice(list(rows[0]))] = rng.choice(ODD)
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = pq.read_table(pa.BufferReader(data))
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.randrange(table.num_columns)
        column = rng.choice(odd_arrays(table.num_rows))
        if rng.random() < 0.5:  # one value of the right type, where there is any
            with contextlib.suppress(pa.ArrowException, ValueError, TypeError, OverflowError):
                values = table.column(index).to_pylist()
                values[rng.randrange(len(values))] = rng.choice(ODD)
                column = pa.array(values, table.schema.field(index).type)
        table = table.set_column(index, table.column_names[index], column)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def everything(file: Path) -> None:
    """All that commands do with a results file. Raises ModerateError."""
    results = read_results(str(file))
    rows = list(results.rows())
    assert results.table().num_rows == len(rows)
    for row in rows:
        assert row["status"] in {"ok", "error"}
        if row["decision"] == "approve":
            assert row["status"] == "ok"
            assert row["error_code"] is None
    with contextlib.suppress(ModerateError):
        summarise(results)
    with contextlib.suppress(ModerateError):
        json.dumps(explain(results, "row:2", Kept()))
    with contextlib.suppress(ModerateError):
        read_labels(str(file), "path")
    targets = [f"{file}.again.{suffix}" for suffix in SUFFIXES]
    made = redecide(DecideOptions(str(file), "strict", targets, [f"{file}.json", f"{file}.md"]))
    assert made.summary.rows == len(rows)
    for target in targets:
        assert sum(1 for _ in read_results(target).rows()) == len(rows)


def run(folder: Path, suffix: str, seed: int, rounds: int) -> int:
    """How many of the mutants were still results."""
    file, taken = folder / f"r.{suffix}", 0
    data = write(file)
    facts = Path(f"{file}.meta.json")
    beside = facts.read_bytes() if suffix != "parquet" else b""
    rng = random.Random(f"{seed} {suffix}")
    for number in range(rounds):
        changes_facts = bool(beside) and rng.random() < 0.2
        changed = changed_cells(rng, suffix, data) if rng.random() < 0.5 else mutated(rng, data)
        file.write_bytes(data if changes_facts else changed)
        if beside:
            facts.write_bytes(mutated(rng, beside) if changes_facts else beside)
        said = ""
        try:
            everything(file)
            taken += 1
        except ModerateError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {error!r}") from error
        assert said.isprintable(), (number, said)
    return taken


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_change_to_results_gives_rows_or_one_line(tmp_path: Path, suffix: str) -> None:
    assert 0 < run(tmp_path, suffix, 11, ROUNDS) < ROUNDS


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_changes_to_results_give_rows_or_one_line(
    tmp_path: Path, suffix: str, seed: int
) -> None:
    run(tmp_path, suffix, seed, 4000)
