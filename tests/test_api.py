"""Moderating from Python: scans and moderators, as a notebook or a worker uses them."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import moderate
from moderate import Decision, ErrorCode, InputOptions, Limits, Moderator, Origin, Row, ScanOptions
from moderate.classify.classifier import Classifier
from moderate.decode.fork_server import ForkServer
from moderate.decode.supervisor import Supervisor
from moderate.errors import InputError, UsageError, WeightsError
from moderate.state.ledger import Ledger, RunStatus
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

OPTIONS: dict[str, Any] = {"device": "cpu", "backend": "torch", "workers": 2}


@pytest.fixture(scope="module")
def moderator(bundle: Path) -> Iterator[Moderator]:
    with Moderator(weights=bundle, **OPTIONS) as ready:
        yield ready


def write(folder: Path, count: int = 3, kind: str = "PNG") -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.{kind.lower()}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(scene((80, 60), seed=number), kind))
    return paths


def decoding() -> int:
    """How many pools of decoders there are in this process; the shared moderator's is one."""
    return sum(thread.name == "decoders" for thread in threading.enumerate())


# Moderators


def test_each_item_of_whatever_kind_has_its_row_in_order(
    tmp_path: Path, moderator: Moderator
) -> None:
    (path,) = write(tmp_path, 1)
    picture = scene((90, 70), seed=9)
    with path.open("rb") as file:
        rows = moderator.moderate(
            [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file, b"no image",
             picture, np.asarray(picture), path.read_bytes()[:-60], None, np.zeros((2, 2)),
             tmp_path / "none.png", tmp_path, "http://127.0.0.1:9/a.png", Image.open(path)]
        )  # fmt: skip
    assert [row.path for row in rows] == [
        str(path), str(path), "memory://2", "memory://3", str(path), "memory://5", "memory://6",
        "memory://7", "memory://8", "memory://9", "memory://10", str(tmp_path / "none.png"),
        str(tmp_path), "http://127.0.0.1:9/a.png", "memory://14",
    ]  # fmt: skip
    assert [row.error and row.error.code for row in rows] == [
        None, None, None, None, None, ErrorCode.NOT_AN_IMAGE, None, None, ErrorCode.TRUNCATED,
        ErrorCode.BAD_INPUT, ErrorCode.BAD_INPUT, ErrorCode.NOT_FOUND,
        ErrorCode.NOT_A_REGULAR_FILE, ErrorCode.ADDRESS_NOT_ALLOWED, None,
    ]  # fmt: skip
    same = [rows[number] for number in (0, 1, 2, 3, 4, 14)]
    assert all(row.scores == rows[0].scores for row in same)
    assert [row.duplicate_of for row in same] == [None, *[str(path)] * 5]
    assert rows[6].scores != rows[0].scores
    assert (rows[7].scores, rows[7].duplicate_of) == (rows[6].scores, "memory://6")
    facts = rows[6].facts
    assert (facts.width, facts.height) == (90, 70)
    assert (facts.format, facts.bytes, facts.sha256) == (None, None, None), "it was no file"
    assert {row.decision for row in rows if row.error} == {Decision.REVIEW}
    assert moderator.moderate([]) == []
    (alone,) = moderator.moderate([path])
    assert alone.duplicate_of is None, "another call is another run"
    assert (alone.origin, alone.scores) == (Origin.NEW, rows[0].scores)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pixels_score_as_the_same_pixels_in_a_png_file_bit_for_bit(
    tmp_path: Path, moderator: Moderator, mode: str
) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (333, 517, 4), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    path = tmp_path / "a.png"
    picture.save(path)
    items: list[Any] = [path, picture]
    if mode != "P":
        items.append(np.asarray(picture))
    rows = moderator.moderate(items)
    assert all(row.error is None for row in rows)
    assert all(row.scores == rows[0].scores for row in rows)
    assert all(row.facts.warnings == rows[0].facts.warnings for row in rows)


def test_pixels_are_not_held_to_the_limit_of_files(bundle: Path) -> None:
    picture = scene((900, 700))
    limits = Limits(max_file_bytes=100_000, max_pixels=700_000)
    with Moderator(weights=bundle, limits=limits, **OPTIONS) as small:
        rows = small.moderate([picture, encode(picture, "BMP"), scene((1000, 701))])
    codes = [row.error and row.error.code for row in rows]
    assert codes == [None, ErrorCode.FILE_TOO_LARGE, ErrorCode.TOO_MANY_PIXELS]


def test_a_second_call_loads_nothing_and_begins_with_decoders_that_are_there(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    for owner in (ForkServer, Classifier):
        begin = owner.__init__

        def counted(self: Any, *args: Any, begin: Any = begin, **kwargs: Any) -> None:
            started.append(type(self).__name__)
            begin(self, *args, **kwargs)

        monkeypatch.setattr(owner, "__init__", counted)
    given: list[int] = []
    give = Supervisor.give

    def noted(self: Supervisor, decoder: Any, data: bytes) -> None:
        given.append(decoder.number)
        give(self, decoder, data)

    monkeypatch.setattr(Supervisor, "give", noted)
    paths = write(tmp_path, 2)
    with Moderator(weights=bundle, **OPTIONS) as ready:
        assert sorted(started) == ["Classifier", "ForkServer"], "when it is entered"
        first = ready.moderate(paths)
        used = set(given)
        supervisor = ready._resources.pool._supervisor  # type: ignore[union-attr]
        waited = threading.Event()
        while len(supervisor.usable()) < 2:  # fresh ones take the place of those that saw an image
            assert not waited.wait(0.01)
        there = {decoder.number for decoder in supervisor.usable()}
        given.clear()
        second = ready.moderate(paths)
        assert set(given) <= there
        assert not used & set(given), "no decoder sees images of two calls"
    assert len(started) == 2
    assert [row.scores for row in first] == [row.scores for row in second]


def test_one_call_at_a_time_from_whatever_thread(moderator: Moderator) -> None:
    pictures = [encode(scene((60, 50), seed=number), "PNG") for number in range(6)]
    expected = [row.scores for row in moderator.moderate(pictures)]
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(moderator.moderate, [picture]) for picture in pictures]
        assert [row.scores for call in calls for row in call.result()] == expected

    async def served() -> list[Row]:
        return moderator.moderate(pictures[:1]) + await asyncio.to_thread(
            moderator.moderate, pictures[1:]
        )

    assert [row.scores for row in asyncio.run(served())] == expected


def test_a_generator_of_images_may_use_the_moderator_itself(moderator: Moderator) -> None:
    image = np.zeros((300, 300, 3), np.uint8)

    def approved() -> Iterator[Any]:
        (row,) = moderator.moderate([image])
        assert row.error is None
        yield image

    found: list[Row] = []
    caller = threading.Thread(
        target=lambda: found.extend(moderator.moderate(approved())), daemon=True
    )
    caller.start()
    caller.join(PATIENCE)
    assert [row.error for row in found] == [None]


def test_a_call_that_is_broken_off_leaves_a_moderator_that_works(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, before = encode(scene((60, 50)), "PNG"), decoding()
    ready = Moderator(weights=bundle, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "submit", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            ready.moderate([image])
    assert decoding() == before
    (row,) = ready.moderate([image])
    assert row.error is None
    ready.close()
    ready.close()
    assert decoding() == before
    with pytest.raises(UsageError, match="this Moderator is closed"):
        ready.moderate([image])
    forgotten = Moderator(weights=bundle, **OPTIONS)
    forgotten.moderate([image])
    del forgotten
    assert decoding() == before


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_wrong_use_is_one_clear_line(tmp_path: Path, bundle: Path, moderator: Moderator) -> None:
    def refused(error: type[Exception], text: str, **options: Any) -> None:
        with pytest.raises(error, match=text):
            moderate.scan(tmp_path, **{"weights": bundle, **options})

    for unfit in (ScanOptions(inputs=["a"]), ScanOptions(out=["a.csv"]), ScanOptions(limit=1)):
        with pytest.raises(UsageError, match=r"use moderate\.scan for that"):
            Moderator(weights=bundle, options=unfit)
    with pytest.raises(WeightsError, match="no weights chosen"):
        Moderator()
    with pytest.raises(UsageError, match=r"write moderate\(\[image\]\)"):
        moderator.moderate("a.jpg")
    with pytest.raises(InputError):
        moderate.scan(weights=bundle)
    with pytest.raises(UsageError, match="unpack it"):
        moderate.scan([tmp_path], weights=bundle)  # type: ignore[arg-type]
    refused(UsageError, "batch_size: pass a whole number, not str", batch_size="3")
    refused(UsageError, "batch_size: pass a whole number, not bool", batch_size=True)
    refused(UsageError, "options: pass a moderate.ScanOptions, not dict", options={})
    refused(UsageError, "reading: pass a moderate.InputOptions",
            options=ScanOptions(reading=moderate.WalkOptions()))  # type: ignore[arg-type]  # fmt: skip
    refused(UsageError, "limits: max_pixels '3': use a number", limits=Limits(max_pixels="3"))  # type: ignore[arg-type]
    refused(UsageError, "weights: pass a name or a path, not int", weights=3)
    refused(UsageError, "out: pass a path or a list of paths, not bytes", out=b"a.csv")
    refused(UsageError, "state: pass a folder or a moderate.StateOptions, not int", state=3)
    refused(UsageError, "csv: pass a moderate.CsvForm, not dict", options=ScanOptions(csv={}))  # type: ignore[arg-type]
    refused(UsageError, "hourly_cost: pass a number", options=ScanOptions(hourly_cost="1"))  # type: ignore[arg-type]
    refused(UsageError, "limit 0: use 1 or more", options=ScanOptions(limit=0))
    refused(UsageError, "--views 3: use 'auto', '1', '3', 'tiles'", options=ScanOptions(views=3))  # type: ignore[arg-type]
    refused(UsageError, "--embedded True: use 'warn', 'score'", options=ScanOptions(embedded=True))  # type: ignore[arg-type]


def test_a_text_is_neither_a_list_nor_a_flag(tmp_path: Path, bundle: Path) -> None:
    """Taken as its letters, `include="*.png"` would include everything, and "no" would be yes."""

    def refused(words: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=words):
            moderate.scan(tmp_path, weights=bundle, options=ScanOptions(**options))

    def walk(**changes: Any) -> InputOptions:
        return InputOptions(walk=moderate.WalkOptions(**changes))

    refused(r"^reading.walk.include: pass a list of texts, not str", reading=walk(include="*.png"))
    refused("reading.walk.exclude: .*, not a list of int", reading=walk(exclude=[1]))
    refused("reading.walk.hidden: pass True or False, not str", reading=walk(hidden="no"))
    refused("reading.keep: pass a list of texts, not str", reading=InputOptions(keep="owner"))  # type: ignore[arg-type]
    refused("reading.shard '1/2': pass", reading=InputOptions(shard="1/2"))  # type: ignore[arg-type]
    refused(r"reading.shard \(3, 2\): pass", reading=InputOptions(shard=(3, 2)))
    refused("force: pass True or False, not str", force="no")
    refused("only: pass a list of origins", only="new")
    refused("only: 'nwe' is no origin: use new, changed, reused, duplicate", only=["nwe"])
    (tmp_path / "list.txt").write_text("a.png\n")
    listed = InputOptions(files_from=tmp_path / "list.txt", relative_to=tmp_path)  # type: ignore[arg-type]
    (row,) = moderate.scan(options=ScanOptions(reading=listed), weights=bundle, **OPTIONS)
    assert row.path == str(tmp_path / "a.png")


def test_a_moderator_that_was_refused_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", faults.append)
    with pytest.raises(TypeError, match="positional"):
        Moderator("testcard")  # type: ignore[misc]
    with pytest.raises(TypeError, match="state"):
        Moderator(weights="testcard", state="folder")  # type: ignore[call-arg]
    gc.collect()
    assert faults == []


def test_a_table_is_of_rows() -> None:
    for wrong in ("text", [1]):
        with pytest.raises(UsageError, match="to_table takes rows of a scan"):
            moderate.to_table(wrong)  # type: ignore[arg-type]


# Scans


def test_a_scan_takes_every_option_of_the_command_line(tmp_path: Path, bundle: Path) -> None:
    paths = write(tmp_path / "in")
    listed = tmp_path / "list.csv"
    listed.write_text("path,owner\n" + "".join(f"in/{path.name},{path.stem}\n" for path in paths))
    array = np.asarray(scene((50, 40), seed=77))
    out, summary = tmp_path / "out.parquet", tmp_path / "summary.json"
    options = ScanOptions(reading=InputOptions(keep=("owner",)), keep_labels=True, limit=4)
    rows = moderate.scan(
        listed, paths[0].read_bytes(), array, options=options, weights=bundle, policy="strict",
        out=out, summary=[summary], **OPTIONS
    )  # fmt: skip
    assert rows.summary is None
    taken = list(rows)
    assert [row.path for row in taken] == [*map(str, paths), "memory://1"]
    assert [row.to_dict()["owner"] for row in taken] == ["0", "1", "2", None]
    assert taken[3].duplicate_of == str(paths[0])
    table = pq.read_table(out)
    assert moderate.to_table(taken).equals(table.replace_schema_metadata(None))
    assert table.schema.metadata[b"policy"] == b"strict"
    written = json.loads(summary.read_text())
    assert written.pop("generator").startswith("moderate ")
    assert rows.summary == written
    assert rows.summary["rows"] == 4
    assert repr(taken[0]).startswith(f"<Row {taken[0].path!r}: {taken[0].decision}, nudity 0.")
    assert any("--limit 4" in note for note in rows.summary["notes"])


def test_a_scan_with_a_state_goes_on_where_another_was_broken_off(
    tmp_path: Path, bundle: Path
) -> None:
    paths, before = write(tmp_path / "in", 8), decoding()
    state, out = tmp_path / "state", tmp_path / "out.csv"
    arguments: dict[str, Any] = {"weights": bundle, "state": state, "out": out, **OPTIONS}
    for row in moderate.scan(tmp_path / "in", batch_size=1, **arguments):
        assert row.path == str(paths[0])
        break
    assert not list(tmp_path.glob(".*.part")), "nothing of its files is left"
    assert not out.exists()
    assert decoding() == before
    again = list(moderate.scan(tmp_path / "in", batch_size=1, **arguments))
    assert again[0].origin is Origin.REUSED
    assert len(again) == 8
    assert out.exists()
    ledger = Ledger(state)
    runs = ledger.runs()
    assert sorted(run.status for run in runs) == [RunStatus.COMPLETED, RunStatus.INTERRUPTED]
    (broken,) = (run for run in runs if run.status is RunStatus.INTERRUPTED)
    assert broken.message == "its caller took no more rows"
    ledger.close()


def test_a_scan_that_is_left_ends_its_processes(tmp_path: Path, bundle: Path) -> None:
    # More than can be decoded ahead, so that decoding is not over when the first row is there.
    write(tmp_path / "in", 500)
    before = decoding()
    out = tmp_path / "out.csv"
    arguments: dict[str, Any] = {"weights": bundle, "out": out, "batch_size": 1, **OPTIONS}
    with pytest.raises(ZeroDivisionError), moderate.scan(tmp_path / "in", **arguments) as rows:
        next(rows)
        raise ZeroDivisionError
    assert list(rows) == []
    left = moderate.scan(tmp_path / "in", **arguments)
    next(left)
    assert decoding() == before + 1
    del left
    assert decoding() == before
    moderate.scan(tmp_path / "in", **arguments).close()  # before it began
    assert os.listdir(tmp_path) == ["in"]


def test_rows_are_taken_by_one_thread_at_a_time(tmp_path: Path, bundle: Path) -> None:
    write(tmp_path / "in", 1)
    rows = moderate.scan(tmp_path / "in", weights=bundle, **OPTIONS)
    assert rows._lock.acquire()
    with pytest.raises(UsageError, match="another thread is taking a row"):
        next(rows)
    rows._lock.release()
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(list, rows).result()) == 1


def test_the_public_api_is_what_is_listed() -> None:
    assert sorted(moderate.__all__) == [
        "Category", "CsvForm", "Decision", "ErrorCode", "HttpOptions", "ImageError", "ImageFacts",
        "InputOptions", "Limits", "ModerateError", "Moderator", "Origin", "Row", "Rows",
        "ScanOptions", "StateOptions", "Status", "VideoOptions", "Views", "WalkOptions", "Warn",
        "__version__", "row_to_dict", "scan", "to_shape", "to_table",
    ]  # fmt: skip
    for name in moderate.__all__:
        assert getattr(moderate, name) is not None
        assert name in dir(moderate)
    assert (Path(moderate.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'scam'"):
        moderate.scam  # noqa: B018
