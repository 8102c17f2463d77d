"""The same pictures by every route give the same scores; what is carried, cut and shared."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.cli.main import run
from moderate.types import Category
from tests.support.http_servers import Farm, Request, Server, answer, plain
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene
from tests.support.s3_server import S3Server, fake_credentials, serve_s3

COUNT = 12
MOMENT = 1_700_000_000_123_456_789
KINDS = ("PNG", "JPEG", "WEBP")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with fake_credentials(), serve_s3() as server:
        yield server


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, bytes]:
    """Names and bytes, in the order of a walk; written to tmp_path/in."""
    found = {
        f"{number:02}.{KINDS[number % 3].lower()}": encode(
            scene((90, 60), seed=number), KINDS[number % 3]
        )
        for number in range(COUNT)
    }
    (tmp_path / "in").mkdir()
    for name, data in found.items():
        (tmp_path / "in" / name).write_bytes(data)
    return found


def scan(
    *arguments: str | Path, bundle: Path, out: Path | None = None, code: int = 0
) -> list[dict[str, Any]]:
    target = out or Path("rows.jsonl").resolve()
    ended = run(
        ["scan", *map(str, arguments), "--weights", str(bundle), "--device", "cpu", "-q",
         "--out", str(target)]
    )  # fmt: skip
    assert ended == code
    return [json.loads(line) for line in target.read_text().splitlines()]


def scores(rows: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [tuple(row[category.value] for category in Category) for row in rows]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def by_list(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    Path("list.txt").write_text("# uploads\n\n" + "".join(f"in/{name}\n" for name in pictures))
    return ["list.txt"]


def by_files_from(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    Path("names").write_bytes(b"".join(f"in/{name}\0".encode() for name in pictures))
    return ["--files-from", "names", "-0"]


def by_data_urls(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    lines = [f"data:;base64,{base64.b64encode(data).decode()}\n" for data in pictures.values()]
    Path("urls.txt").write_text("".join(lines))
    return ["urls.txt"]


def by_parquet_bytes(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    pq.write_table(pa.table({"image": list(pictures.values())}), "bytes.parquet")
    return ["bytes.parquet"]


def by_parquet_folder(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    rows = [{"bytes": data, "path": name} for name, data in pictures.items()]
    Path("parts").mkdir()
    pq.write_table(pa.table({"image": rows[:5]}), "parts/0.parquet")
    pq.write_table(pa.table({"image": rows[5:]}), "parts/1.parquet")
    return ["parts"]


def by_csv(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    Path("m.csv").write_text("id,path\n" + "".join(f"1,in/{name}\n" for name in pictures))
    return ["m.csv"]


def by_jsonl(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    Path("m.jsonl").write_text(
        "".join(json.dumps({"source-ref": f"in/{name}"}) + "\n" for name in pictures)
    )
    return ["m.jsonl"]


def by_zip(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    with zipfile.ZipFile("dump.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pictures.items():
            archive.writestr(f"a/{name}", data)
    return ["dump.zip"]


def by_tar_shards(folder: Path, pictures: dict[str, bytes]) -> list[str]:
    items = list(pictures.items())
    for shard, part in enumerate((items[:4], items[4:])):
        with tarfile.open(f"shard-{shard}.tar.gz", "w:gz") as archive:
            for name, data in part:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return ["shard-*.tar.gz"]


@pytest.mark.parametrize(
    "route",
    [by_list, by_files_from, by_data_urls, by_parquet_bytes, by_parquet_folder, by_csv, by_jsonl,
     by_zip, by_tar_shards],
)  # fmt: skip
def test_every_route_gives_the_same_scores(
    tmp_path: Path,
    bundle: Path,
    pictures: dict[str, bytes],
    route: Callable[[Path, dict[str, bytes]], list[str]],
) -> None:
    base = scan("in", bundle=bundle)
    rows = scan(*route(tmp_path, pictures), bundle=bundle, out=tmp_path / "again.jsonl")
    assert scores(rows) == scores(base)
    assert [row["sha256"] for row in rows] == [row["sha256"] for row in base]


def test_urls_give_the_same_scores_in_order_whatever_comes_first(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], capsys: Captured
) -> None:
    base = scan("in", bundle=bundle)

    def slowly(data: bytes, seconds: float) -> Any:
        async def behave(request: Request) -> bool:
            await asyncio.sleep(seconds)
            await request.send(answer(data))
            return True

        return behave

    behaviours = {
        f"/{name}": slowly(data, (COUNT - number) / 10)
        for number, (name, data) in enumerate(pictures.items())
    }
    with contextlib.closing(Farm()) as farm:
        server = farm.start(Server({**behaviours, "/gone.jpg": plain(answer(status="404 No"))}))
        urls = [server.url(f"/{name}", user="me:secret@") for name in pictures]
        Path("urls.txt").write_text("\n".join([*urls[:6], server.url("/gone.jpg"), *urls[6:]]))
        rows = scan(
            "urls.txt", "--allow-host", "127.0.0.1", bundle=bundle, out=tmp_path / "urls.jsonl"
        )
        refused = scan("urls.txt", bundle=bundle, out=tmp_path / "refused.jsonl", code=2)
        named = scan(urls[0], "--allow-private-network", bundle=bundle, out=tmp_path / "1.jsonl")
    gone = rows.pop(6)
    assert gone["error_code"] == "http_error"
    assert "404" in gone["error_message"]
    assert scores(rows) == scores(base)
    assert [row["path"].rpartition("/")[2] for row in rows] == list(pictures)
    assert {row["error_code"] for row in refused} == {"address_not_allowed"}
    assert scores(named) == scores(base)[:1]
    for file in tmp_path.glob("*.jsonl*"):
        assert "secret" not in file.read_text()
    assert "secret" not in "".join(capsys.readouterr())


ABSURD = {
    "/length.png": "Content-Length: 9223372036854775808",
    "/longer.png": "Content-Length: 18446744073709551615",
    "/longest.png": f"Content-Length: {'9' * 400}",
    "/retry.png": "Content-Length: 1\r\nRetry-After: 1e400\r\nContent-Range: bytes 0-1/"
    + "9" * 400,
}


def test_absurd_numbers_of_a_server_cost_their_own_rows(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes]
) -> None:
    """Whatever a later stage makes of a size: Parquet has 63 bits for it."""
    behaviours = {
        path: plain(f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\nx".encode(), keep=False)
        for path, headers in ABSURD.items()
    }
    with contextlib.closing(Farm()) as farm:
        server = farm.start(Server({**behaviours, "*": plain(answer(pictures["00.png"]))}))
        urls = [server.url(path) for path in ("/first.png", *ABSURD, "/last.png")]
        Path("urls.txt").write_text("\n".join(urls))
        targets = [str(tmp_path / f"out.{suffix}") for suffix in ("parquet", "csv", "jsonl")]
        written = [part for target in targets for part in ("--out", target)]
        arguments = ["scan", "urls.txt", "--allow-host", "127.0.0.1", "--weights", str(bundle)]
        assert run([*arguments, *written, "-q"]) == 0
    rows = pq.read_table(targets[0]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", *["error"] * len(ABSURD), "ok"]
    codes = {row["error_code"] for row in rows} - {None}
    assert codes <= {"file_too_large", "fetch_failed", "not_an_image"}


def test_urls_of_a_dead_host_are_given_up_and_tried_in_the_next_run(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes]
) -> None:
    dead = threading.Event()
    dead.set()

    async def behave(request: Request) -> bool:
        await asyncio.sleep(60 if dead.is_set() else 0)
        await request.send(answer(pictures["00.png"]))
        return True

    with contextlib.closing(Farm()) as farm:
        server = farm.start(Server({"*": behave}))
        alive = farm.start(Server({"*": plain(answer(pictures["00.png"]))}))
        urls = [server.url(f"/{number}.png") for number in range(300)]
        Path("urls.txt").write_text("\n".join([*urls, alive.url("/last.png")]))
        # A second each; without giving up it would be ten for all of them.
        options = ["--allow-host", "127.0.0.1", "--url-timeout", "1", "--retry-errors"]
        state = ["--state", str(tmp_path / "state")]
        rows = scan("urls.txt", *options, *state, bundle=bundle, out=tmp_path / "1.jsonl")
        assert len(server.requests) < 200
        dead.clear()
        patient = [*options, "--url-timeout", "60"]  # this machine may be slow, too
        again = scan("urls.txt", *patient, *state, bundle=bundle, out=tmp_path / "2.jsonl")
    assert [row["status"] for row in rows] == ["error"] * 300 + ["ok"]
    codes = Counter(row["error_code"] for row in rows)
    assert codes["host_unreachable"] + codes["fetch_timeout"] == 300
    assert codes["host_unreachable"] > 100
    assert {row["status"] for row in again} == {"ok"}


def test_an_object_store_gives_and_takes(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], s3: S3Server
) -> None:
    base = scan("in", bundle=bundle)
    s3.put("uploads", {f"day/{name}": data for name, data in pictures.items()})
    rows = scan(s3.uri("uploads", "day/"), bundle=bundle, out=tmp_path / "s3.jsonl")
    assert scores(rows) == scores(base)
    assert [row["path"] for row in rows] == [f"s3://uploads/day/{name}" for name in pictures]
    by_zip(tmp_path, pictures)
    s3.put("dumps", {"dump.zip": Path("dump.zip").read_bytes()})
    rows = scan(s3.uri("dumps", "dump.zip"), bundle=bundle, out=tmp_path / "zip.jsonl")
    assert scores(rows) == scores(base)
    assert rows[0]["path"].startswith("s3://dumps/dump.zip!/a/")
    for name in ("out.parquet", "out.csv"):
        code = run(
            ["scan", "in", "--weights", str(bundle), "-q", "--out", s3.uri("dumps", f"r/{name}"),
             "--summary", s3.uri("dumps", "r/summary.json")]
        )  # fmt: skip
        assert code == 0
    assert set(s3.keys("dumps")) == {
        "dump.zip", "r/out.parquet", "r/out.csv", "r/out.csv.meta.json", "r/summary.json",
    }  # fmt: skip
    body = s3.client.get_object(Bucket="dumps", Key="r/out.parquet")["Body"].read()
    assert pq.read_table(io.BytesIO(body)).num_rows == COUNT


def test_a_bucket_that_is_not_there_is_one_line(
    bundle: Path, pictures: dict[str, bytes], s3: S3Server, capsys: Captured
) -> None:
    arguments = ["--weights", str(bundle), "-q"]
    assert run(["scan", s3.uri("nowhere", "x/"), *arguments]) == 2
    assert run(["scan", "in", "--out", s3.uri("nowhere", "out.csv"), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("nowhere" in line for line in lines)


def test_columns_are_carried_with_their_types(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes]
) -> None:
    names = [f"in/{name}" for name in pictures]
    table = pa.table(
        {
            "path": names,
            "user": pa.array(range(COUNT), pa.int32()),
            "when": pa.array(range(MOMENT, MOMENT + COUNT), pa.timestamp("ns")),
            "weight": pa.array([0.1 + n for n in range(COUNT)], pa.float64()),
            "label": [None if n == 3 else "=cmd()" for n in range(COUNT)],
            "tags": [[str(n), "x"] for n in range(COUNT)],
        }
    )  # fmt: skip
    pq.write_table(table, "m.parquet")
    Path("m.csv").write_text("path,user\nin/00.png,7\nnot there.png,8\n")
    keep = ["--keep", "user", "--keep", "when", "--keep", "weight", "--keep", "tags"]
    keep += ["--keep", "truth=label", "--out", "out.parquet", "--out", "out.csv"]
    rows = scan("m.parquet", *keep, bundle=bundle, out=tmp_path / "rows.jsonl")
    assert [row["user"] for row in rows] == list(range(COUNT))
    assert rows[0]["weight"] == 0.1, "a float64 stays one"
    assert rows[1]["tags"] == ["1", "x"]
    assert rows[0]["when"].endswith("123456789"), "to the nanosecond"
    names = ["path", "path_bytes", "uri", "user", "when", "weight", "tags", "truth"]
    assert list(rows[0])[:8] == names
    back = pq.read_table("out.parquet")
    for name in ("user", "when", "weight", "tags"):
        assert back.schema.field(name).type == table.schema.field(name).type
        assert back[name].equals(table[name])
    assert "'=cmd()" in Path("out.csv").read_text()
    # Several inputs, of which only some have the column.
    rows = scan("in", "m.csv", "--keep", "user", bundle=bundle, out=tmp_path / "both.jsonl")
    assert [row["user"] for row in rows] == [None] * COUNT + ["7", "8"]


def test_what_cannot_be_kept_is_one_line(
    bundle: Path, pictures: dict[str, bytes], capsys: Captured
) -> None:
    Path("m.csv").write_text("path,user\nin/00.png,7\n")
    for arguments, said in (
        (["in", "--keep", "user"], "--keep"),
        (["m.csv", "--keep", "nobody"], "nobody"),
        (["m.csv", "--keep", "status=user"], "status"),
        (["m.csv", "--image-column", "nope"], "nope"),
        (["m.csv", "--shard", "3/2"], "3/2"),
        (["m.csv", "--out", "m.csv"], "m.csv is an input"),
        (["in", "--url-header", "nonsense-token"], "--url-header"),
        (["in", "--allow-host", "10.0.0.0/99"], "10.0.0.0/99"),
    ):
        before = Path("m.csv").read_text()
        assert run(["scan", *arguments, "--weights", str(bundle), "-q"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert "nonsense-token" not in line
        assert Path("m.csv").read_text() == before


def test_shares_add_up_and_filters_work_on_every_source(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes]
) -> None:
    by_zip(tmp_path, pictures)
    by_list(tmp_path, pictures)
    for source in ("in", "dump.zip", "list.txt"):
        whole = [row["path"] for row in scan(source, bundle=bundle)]
        shares = [
            [row["path"] for row in scan(source, "--shard", f"{n}/3", bundle=bundle)]
            for n in (1, 2, 3)
        ]
        assert sorted(path for share in shares for path in share) == sorted(whole)
        assert max(map(len, shares)) < COUNT
        only = [row["path"] for row in scan(source, "--include", "*.webp", bundle=bundle)]
        assert only == [path for path in whole if path.endswith(".webp")]
        assert len(scan(source, "--limit", "5", bundle=bundle)) == 5


def test_the_summary_says_when_a_limit_cut_the_input(
    bundle: Path, pictures: dict[str, bytes], capsys: Captured
) -> None:
    assert run(["scan", "in", "--weights", str(bundle), "--limit", "5"]) == 0
    assert "--limit 5" in capsys.readouterr().out
    assert run(["scan", "in", "--weights", str(bundle), "--limit", "50"]) == 0
    assert "--limit" not in capsys.readouterr().out


def test_a_share_without_images_is_an_empty_valid_output(tmp_path: Path, bundle: Path) -> None:
    Path("none.txt").write_text("# none of them is in this share\n")
    arguments = ["--weights", str(bundle), "-q", "--out", "o.parquet"]
    assert run(["scan", "none.txt", "--shard", "1/2", *arguments]) == 0
    assert pq.read_table("o.parquet").num_rows == 0


@pytest.mark.parametrize("content", [b"PAR1 but no more", b"", b"\x00\x01\x02"])
def test_a_broken_manifest_ends_the_run_and_leaves_nothing(
    tmp_path: Path, bundle: Path, content: bytes, capsys: Captured
) -> None:
    Path("m.parquet").write_bytes(content)
    assert run(["scan", "m.parquet", "--weights", str(bundle), "-q", "--out", "o.csv"]) == 2
    assert "m.parquet" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["m.parquet"]


def test_a_manifest_that_breaks_midway_leaves_nothing(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], capsys: Captured
) -> None:
    rows = [f"in/{name}" for name in pictures] * 2000
    pq.write_table(pa.table({"path": rows}), "m.parquet", row_group_size=4000, compression="none")
    data = bytearray(Path("m.parquet").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = b"\xff" * 3000
    Path("m.parquet").write_bytes(data)
    arguments = ["--weights", str(bundle), "-q", "--out", "o.csv"]
    assert run(["scan", "m.parquet", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "m.parquet" in line
    assert not Path("o.csv").exists()


def test_rows_of_a_stream_come_while_it_is_open(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "moderate", "scan", "-", "--weights", str(bundle), "-q",
         "--out", "-.jsonl"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for name in list(pictures)[:3]:
        process.stdin.write(f"in/{name}\n")
        process.stdin.flush()
        row = json.loads(process.stdout.readline())
        assert row["path"] == f"./in/{name}"
        assert row["status"] == "ok"
    process.stdin.close()
    assert process.wait(timeout=PATIENCE) == 0


def test_no_input_is_ever_overwritten(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], capsys: Captured
) -> None:
    Path("m.csv").write_text("path\nin/00.png\n")
    os.link("m.csv", "hard.csv")
    os.symlink("m.csv", "soft.csv")
    by_parquet_folder(tmp_path, pictures)
    Path("in/rows.jsonl").write_text("not an image")
    Path("list.txt").write_text("in/01.jpeg\nout.csv\n")
    Path("out.csv").write_text("an upload")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for arguments in (
        ["m.cs*", "--out", "m.csv"],
        ["hard.csv", "--out", "m.csv"],
        ["m.csv", "--out", "soft.csv"],
        ["m.csv", "--out", "o.csv", "--summary", "m.csv"],
        ["parts", "--out", "parts/0.parquet"],
        ["parts/*.parquet", "--out", "parts/1.parquet"],
        ["in", "--all-files", "--out", "in/rows.jsonl"],
        ["--files-from", "list.txt", "--out", "out.csv"],
    ):
        assert run(["scan", *arguments, "--weights", str(bundle), "-q", "--force"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is an input" in line or "suffix" in line
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_list_may_not_say_where_a_store_is(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], s3: S3Server
) -> None:
    s3.put("lured", {"a.png": pictures["00.png"]})
    asked = len(s3.requests)
    lines = [
        s3.uri("lured", "a.png"),
        f"gs://lured/a.png?endpoint_override=127.0.0.1:{s3.port}&scheme=http",
        f"hdfs://127.0.0.1:{s3.port}/a.png",
        "abfs://box@127.0.0.1/a.png",
    ]
    Path("urls.txt").write_text("\n".join(lines))
    rows = scan("urls.txt", bundle=bundle, code=2)
    assert [row["error_code"] for row in rows] == ["bad_url"] * 4
    assert len(s3.requests) == asked
    named = scan(s3.uri("lured", "a.png"), bundle=bundle, out=tmp_path / "named.jsonl")
    assert named[0]["status"] == "ok"


def test_credentials_are_in_no_message(
    bundle: Path, pictures: dict[str, bytes], capsys: Captured
) -> None:
    for option, name in (("--out", "out"), ("--out", "o.txt"), ("--summary", "s.txt")):
        target = f"s3://KEY:hunter2@bucket/{name}"
        assert run(["scan", "in", option, target, "--weights", str(bundle), "-q"]) == 2
    Path("urls.txt").write_text('"http://me:hunter2@host/x.jpg"\n<https://me:hunter2@host/x>\n')
    rows = scan("urls.txt", bundle=bundle, code=2)
    assert [row["error_code"] for row in rows] == ["bad_input", "bad_input"]
    assert "hunter2" not in "".join(capsys.readouterr()) + json.dumps(rows)


@contextlib.contextmanager
def ending(event: threading.Event) -> Iterator[None]:
    """Set the event at the end, for the server's threads that wait for it."""
    try:
        yield
    finally:
        event.set()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_upload_that_hangs(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], s3: S3Server, number: int
) -> None:
    s3.put(f"slow{number}", {})
    ended = threading.Event()

    def hang(environ: dict[str, Any]) -> None:
        if environ["REQUEST_METHOD"] in {"PUT", "POST"}:
            ended.wait(PATIENCE)

    held = tmp_path / "held"
    held.mkdir()
    with s3.refusing(hang), ending(ended):
        process = subprocess.Popen(
            [sys.executable, "-m", "moderate", "scan", "in", "--weights", str(bundle), "-q",
             "--out", s3.uri(f"slow{number}", "out.csv")],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(held)},
        )  # fmt: skip
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not any(
            method in {"PUT", "POST"} and f"/slow{number}/" in path
            for method, path, _ in s3.requests
        ):
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert len(err.splitlines()) == 1
    assert os.listdir(held) == []
    assert s3.keys(f"slow{number}") == {}


def test_an_object_that_does_not_come_costs_its_own_row(
    tmp_path: Path, bundle: Path, pictures: dict[str, bytes], s3: S3Server
) -> None:
    s3.put("late", {f"{number:02}.png": pictures["00.png"] for number in range(24)})
    ended = threading.Event()

    def hang(environ: dict[str, Any]) -> None:
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith("7.png"):
            ended.wait(PATIENCE)

    with s3.refusing(hang), ending(ended):
        rows = scan(s3.uri("late", ""), "--url-timeout", "3", bundle=bundle)
    codes = {row["path"][-6:-4]: row["error_code"] for row in rows}
    assert {name for name, code in codes.items() if code} == {"07", "17"}
    assert codes["07"] == codes["17"] == "fetch_timeout"


def test_mistakes_in_naming_the_inputs_are_explained(
    tmp_path: Path, pictures: dict[str, bytes], bundle: Path, capfd: Captured
) -> None:
    Path("lists").mkdir()
    Path("in").rename("lists/in")
    lines = [f"in/{name}\n" for name in pictures]
    Path("lists/list.txt").write_text("".join(lines))
    rows = scan("lists/list.txt", "--summary", "s.json", bundle=bundle, code=2)
    assert {row["error_code"] for row in rows} == {"not_found"}
    assert rows[0]["error_message"].endswith(
        "it is there relative to the list's own folder (lists), as lists/in/00.png"
    )
    note = "12 of 12 missing paths of lists/list.txt are there relative to the list's own folder"
    assert any(text.startswith(note) for text in json.loads(Path("s.json").read_text())["notes"])
    assert f"{note} (lists); run from there, or give --relative-to lists." in capfd.readouterr().err
    packed = Path("lists/packed.txt.gz")
    packed.write_bytes(gzip.compress(Path("lists/list.txt").read_bytes()))
    rows = scan(packed, "--relative-to", "lists", bundle=bundle)
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) == COUNT
    assert "missing" not in capfd.readouterr().err


def test_a_folder_without_images_says_which_option_finds_some(
    tmp_path: Path, pictures: dict[str, bytes], bundle: Path, capfd: Captured
) -> None:
    Path("links").mkdir()
    for name in pictures:
        Path("links", name).symlink_to(tmp_path / "in" / name)
    arguments = ["--weights", str(bundle), "--device", "cpu", "-q", "--no-state"]
    assert run(["scan", "links", *arguments]) == 2
    error = capfd.readouterr().err
    assert (
        "none of 12 files in links is an image (12 symbolic link); 12 symbolic links were not"
        in error
    )
    assert "--follow-symlinks follows them" in error
    Path("quiet").mkdir()
    Path("quiet/.gitkeep").touch()
    assert run(["scan", "quiet", *arguments]) == 0
    assert "no images in quiet; nothing was scored; only hidden files" in capfd.readouterr().err
    assert run(["scan", "in", "--include", "*.JPG", *arguments]) == 2
    assert "(4 .jpeg); add --include '*.jpeg' to scan them" in capfd.readouterr().err
