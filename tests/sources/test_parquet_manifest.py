"""Parquet manifests: every type a column may have, names, kept columns, damage, memory."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from moderate.errors import InputError
from moderate.sources.columns import ManifestOptions
from moderate.sources.parquet_manifest import ParquetManifest, parquet_manifest
from moderate.types import ErrorCode, ImageRef, Inline, StoredObject, Url
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

PNG = encode(scene((20, 20)), "PNG")
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HF_METADATA = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}


def write(path: Path, columns: dict[str, pa.Array], **options: Any) -> bytes:
    pq.write_table(pa.table(columns), path, **options)
    return os.fsencode(path)


def source_of(path: bytes, **options: Any) -> ParquetManifest:
    return parquet_manifest([path], ManifestOptions(**options))


def refs(source: ParquetManifest) -> list[ImageRef]:
    found = list(source)
    assert all(isinstance(one, ImageRef) for one in found)
    return found  # type: ignore[return-value]


def members(source: ParquetManifest) -> list[str]:
    """Names within the manifest."""
    return [os.fsdecode(one.path).split("!/", 1)[1] for one in refs(source)]


def codes(source: ParquetManifest) -> list[ErrorCode | None]:
    return [one.error and one.error.code for one in refs(source)]


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
    pa.binary(),
]


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_paths_and_urls_of_every_text_type(tmp_path: Path, kind: pa.DataType) -> None:
    values = [
        "a.jpg",
        "/abs/b c.jpg",
        "https://example.com/c.jpg",
        "s3://bucket/d.jpg",
        None,
        "a.jpg",
    ]
    array = pa.array(values).cast(pa.binary() if kind == pa.binary() else pa.string())
    if kind != pa.binary():
        array = pa.array(values, kind)
    source = source_of(write(tmp_path / "m.parquet", {"path": array}))
    folder = os.fsencode(tmp_path)
    found = refs(source)
    assert [one.path for one in found] == [
        folder + b"/a.jpg",
        b"/abs/b c.jpg",
        b"https://example.com/c.jpg",
        b"s3://bucket/d.jpg",
        folder + b"/m.parquet!/row-000004",
        folder + b"/a.jpg",
    ]
    assert [one.location for one in found[:4]] == [
        None,
        None,
        Url("https://example.com/c.jpg"),
        StoredObject("s3://bucket/d.jpg"),
    ]
    assert found[4].error is not None
    assert found[4].error.code is ErrorCode.BAD_INPUT
    assert found[4].error.message.endswith("m.parquet: the image is null")
    assert list(source) == found


BYTES_TYPES = [
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(len(PNG)),
    pa.dictionary(pa.int32(), pa.binary()),
]


@pytest.mark.parametrize("kind", BYTES_TYPES, ids=str)
def test_bytes_of_every_binary_type(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "m.parquet", {"image": pa.array([PNG, None, PNG], kind)})
    found = refs(source_of(path))
    assert [one.location for one in found] == [Inline(PNG), Inline(b""), Inline(PNG)]
    assert members(source_of(path)) == ["row-000000", "row-000001", "row-000002"]
    assert codes(source_of(path)) == [None, ErrorCode.BAD_INPUT, None]


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()], ids=str)
def test_hugging_face_image(tmp_path: Path, binary: pa.DataType) -> None:
    kind = pa.struct([("bytes", binary), ("path", pa.string())])
    rows = [
        {"bytes": PNG, "path": "a.png"},
        {"bytes": PNG, "path": None},
        {"bytes": None, "path": "sub/b.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": "empty.png"},
        {"bytes": PNG, "path": "https://u:hunter2@example.com/c.png"},
        {"bytes": None, "path": "https://u:hunter2@example.com/d.png"},
    ]
    table = pa.table({"n": pa.array(range(8)), "image": pa.array(rows, kind)})
    file = tmp_path / "m.parquet"
    pq.write_table(table.replace_schema_metadata(HF_METADATA), file)
    found = refs(source_of(os.fsencode(file), keep=("n",)))
    prefix = f"{file}!/"
    assert [os.fsdecode(one.path) for one in found] == [
        prefix + "a.png",
        prefix + "row-000001",
        f"{tmp_path}/sub/b.png",
        prefix + "row-000003",
        prefix + "row-000004",
        prefix + "empty.png",
        prefix + "https://***@example.com/c.png",
        "https://***@example.com/d.png",
    ]
    assert [one.location for one in found] == [
        Inline(PNG),
        Inline(PNG),
        None,
        Inline(b""),
        Inline(b""),
        Inline(b""),
        Inline(PNG),
        Url("https://u:hunter2@example.com/d.png"),
    ]
    assert [one.carried for one in found] == [(number,) for number in range(8)]
    bad = ErrorCode.BAD_INPUT
    assert [one.error and one.error.code for one in found] == [
        None, None, None, bad, bad, ErrorCode.EMPTY_FILE, None, None
    ]  # fmt: skip


def test_a_struct_of_another_name_and_chosen_fields(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": PNG, "path": "a.png"}], HF_IMAGE)
    one = write(tmp_path / "one.parquet", {"photo": rows, "n": pa.array([1])})
    assert members(source_of(one)) == ["a.png"]
    two = write(tmp_path / "two.parquet", {"left": rows, "right": rows, "id": pa.array([7])})
    with pytest.raises(InputError, match=r"which column.*it has: left, right, id"):
        source_of(two)
    assert members(source_of(two, image_column="right")) == ["a.png"]
    assert refs(source_of(two, image_column="left.bytes"))[0].location == Inline(PNG)
    assert members(source_of(two, image_column="left.bytes")) == ["7"]
    by_path = refs(source_of(two, image_column="left.path"))
    assert by_path == [ImageRef(os.fsencode(tmp_path) + b"/a.png")]
    for wrong in ("left.size", "middle", "id.x"):
        with pytest.raises(InputError, match=f"--image-column {wrong}.*no such column"):
            source_of(two, image_column=wrong)
    with pytest.raises(InputError, match=r"--image-column id.*int64"):
        source_of(two, image_column="id")


def test_bytes_are_named_by_a_usual_column(tmp_path: Path) -> None:
    columns = {"img_bytes": pa.array([PNG, PNG]), "id": pa.array([5, 6])}
    path = write(tmp_path / "m.parquet", columns)
    assert members(source_of(path)) == ["5", "6"]
    columns["file_name"] = pa.array(["x/../a.png", None])
    path = write(tmp_path / "m.parquet", columns)
    assert members(source_of(path)) == ["x/../a.png", "row-000001"]


def test_columns_are_told_apart_by_type(tmp_path: Path) -> None:
    # As in a result file of ours: `bytes` is a size there.
    columns = {"bytes": pa.array([9]), "image": pa.array([3]), "path": pa.array(["a.png"])}
    path = write(tmp_path / "m.parquet", columns)
    assert refs(source_of(path, base=b"")) == [ImageRef(b"a.png")]


def test_the_size_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"image": pa.array([b"x" * 100, b"x" * 101, b""])})
    source = source_of(path, max_file_bytes=100)
    assert codes(source) == [None, ErrorCode.FILE_TOO_LARGE, ErrorCode.EMPTY_FILE]


def test_text_that_is_not_utf8_and_bad_values(tmp_path: Path) -> None:
    raw = pa.array([b"/d/\xff.png", b"a\0b", b"", b"file:///etc/passwd", b"x" * 70_000])
    text = pa.StringArray.from_buffers(5, raw.buffers()[1], raw.buffers()[2])
    path = write(tmp_path / "m.parquet", {"path": text})
    bad = ErrorCode.BAD_INPUT
    assert codes(source_of(path)) == [
        None, bad, bad, ErrorCode.BAD_URL, ErrorCode.PATH_TOO_LONG,
    ]  # fmt: skip
    assert refs(source_of(path))[0].path == b"/d/\xff.png"


KEPT: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int8": (pa.int8(), [1, None]),
    "uint64": (pa.uint64(), [2**64 - 1, None]),
    "half": (pa.float16(), [0.5, None]),
    "double": (pa.float64(), [0.1, None]),
    "bool": (pa.bool_(), [True, None]),
    "text": (pa.string(), ["ü", None]),
    "large": (pa.large_string(), ["ü", None]),
    "blob": (pa.binary(), [b"\xff", None]),
    "fixed": (pa.binary(2), [b"ab", None]),
    "date": (pa.date32(), [datetime.date(2024, 2, 29), None]),
    "time": (pa.time64("us"), [datetime.time(1, 2, 3, 4), None]),
    "stamp": (pa.timestamp("us"), [datetime.datetime(2024, 1, 2, 3, 4, 5, 6), None]),
    "zoned": (
        pa.timestamp("ms", "UTC"),
        [datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), None],
    ),
    "span": (pa.duration("us"), [datetime.timedelta(seconds=1), None]),
    "money": (pa.decimal128(10, 2), [decimal.Decimal("1.20"), None]),
    "list": (pa.list_(pa.int32()), [[1, None], None]),
    "struct": (pa.struct([("a", pa.int32()), ("b", pa.string())]), [{"a": 1, "b": None}, None]),
    "map": (pa.map_(pa.string(), pa.int32()), [[("k", 1)], None]),
    "choice": (pa.dictionary(pa.int32(), pa.string()), ["yes", None]),
    "nothing": (pa.null(), [None, None]),
}


def test_kept_columns_come_with_their_types_and_values(tmp_path: Path) -> None:
    columns = {name: pa.array(values, kind) for name, (kind, values) in KEPT.items()}
    path = write(tmp_path / "m.parquet", {"url": pa.array(["a", "b"]), **columns})
    source = source_of(path, keep=tuple(KEPT))
    assert [(column.name, column.type) for column in source.columns] == [
        (name, kind) for name, (kind, _) in KEPT.items()
    ]
    carried = [one.carried for one in refs(source)]
    for position, (name, (kind, values)) in enumerate(KEPT.items()):
        assert [row[position] for row in carried] == values, name
        assert pa.array([row[position] for row in carried], kind).equals(columns[name]), name


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("ns"), 1_700_000_000_123_456_789),
        (pa.timestamp("ns", "UTC"), 1_700_000_000_123_456_789),
        (pa.time64("ns"), 1001),
        (pa.duration("ns"), 1001),
        (pa.timestamp("us"), 10**18),
    ],
    ids=str,
)
def test_what_python_cannot_hold_is_carried_exactly(
    tmp_path: Path, kind: pa.DataType, value: int
) -> None:
    array = pa.array([value, None, 0], kind)
    path = write(tmp_path / "m.parquet", {"url": pa.array(["a", "b", "c"]), "t": array})
    source = source_of(path, keep=("t",))
    assert source.columns[0].type == kind
    assert pa.array([one.carried[0] for one in refs(source)], kind).equals(array)


def test_a_kept_column_under_another_name(tmp_path: Path) -> None:
    columns = {"path": pa.array(["a"]), "label": pa.array([3], pa.int8())}
    path = write(tmp_path / "m.parquet", columns)
    source = source_of(path, keep=("truth=label",))
    assert [(column.name, column.type) for column in source.columns] == [("truth", pa.int8())]
    assert [one.carried for one in refs(source)] == [(3,)]


def test_an_error_row_carries_its_columns(tmp_path: Path) -> None:
    columns = {"path": pa.array([None, "a"]), "n": pa.array([1, 2])}
    path = write(tmp_path / "m.parquet", columns)
    assert [one.carried for one in refs(source_of(path, keep=("n",)))] == [(1,), (2,)]


def test_kept_columns_that_cannot_be(tmp_path: Path) -> None:
    images = pa.array([{"bytes": PNG, "path": "a"}], HF_IMAGE)
    path = write(tmp_path / "m.parquet", {"image": images, "width": pa.array([1])})
    for name, says in (
        ("colour", "no such column; it has: image, width"),
        ("width", "--keep original_width=width"),
        ("image", "holds images"),
    ):
        with pytest.raises(InputError, match=f"--keep {name}.*{says}"):
            source_of(path, keep=(name,))


def test_kept_urls_are_masked(tmp_path: Path) -> None:
    urls = [" https://u:hunter2@example.com/a?sig=hunter2", None]
    path = write(tmp_path / "m.parquet", {"url": pa.array(urls)})
    carried = [one.carried[0] for one in refs(source_of(path, keep=("url",)))]
    assert carried == ["https://***@example.com/a?sig=***", None]


def test_several_files(tmp_path: Path) -> None:
    one = write(tmp_path / "1.parquet", {"path": pa.array(["a"]), "n": pa.array([1])})
    two = write(tmp_path / "2.parquet", {"n": pa.array([2]), "path": pa.array(["b"])})
    other = write(tmp_path / "3.parquet", {"path": pa.array(["c"]), "n": pa.array(["3"])})
    source = parquet_manifest([one, two], ManifestOptions(keep=("n",), base=b""))
    assert [(found.path, found.carried) for found in refs(source)] == [(b"a", (1,)), (b"b", (2,))]
    with pytest.raises(InputError, match=r"--keep n: .*3\.parquet has it as string, unlike"):
        parquet_manifest([one, two, other], ManifestOptions(keep=("n",)))


def test_no_rows_is_an_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"path": pa.array([], pa.string())})
    assert list(source_of(path)) == []


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    good = Path(os.fsdecode(write(tmp_path / "good.parquet", {"path": pa.array(["a"] * 100)})))
    data = good.read_bytes()
    broken = {
        "empty": b"",
        "text": b"path\na.jpg\n" * 100,
        "truncated": data[:-20],
        "magic": data[:-4] + b"XXXX",
        "encrypted footer": data[:-4] + b"PARE",
        "footer length": data[:-8] + b"\xff\xff\xff\x7f" + b"PAR1",
        "footer": data[:4] + bytes(len(data) - 12) + data[-8:],
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.parquet is not readable Parquet") as caught:
            source_of(os.fsencode(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        source_of(os.fsencode(tmp_path / "none.parquet"))
    with pytest.raises(InputError, match="not a regular file"):
        source_of(os.fsencode(tmp_path))


class PlainKms(pe.KmsClient):
    """Keys in the open: only the form of the file matters here."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped)


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_one_line(tmp_path: Path, plaintext_footer: bool) -> None:
    config = pe.EncryptionConfiguration(
        footer_key="k", column_keys={"k": ["path"]}, plaintext_footer=plaintext_footer
    )
    keys = pe.CryptoFactory(PlainKms).file_encryption_properties(pe.KmsConnectionConfig(), config)
    path = write(tmp_path / "m.parquet", {"path": pa.array(["a"])}, encryption_properties=keys)
    with pytest.raises(InputError, match=r"m\.parquet.*(encrypt|decrypt)") as caught:
        list(source_of(path))
    assert "\n" not in str(caught.value)


FUZZ = """
import os, random, sys
from moderate.errors import InputError
from moderate.sources.columns import ManifestOptions
from moderate.sources.parquet_manifest import parquet_manifest
data = open(sys.argv[1], "rb").read()
path = os.fsencode(sys.argv[1] + ".damaged")
generator = random.Random(7)
refused = 0
for _ in range(100):
    damaged = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        damaged[-1 - generator.randrange(min(len(data), 2500))] = generator.randrange(256)
    open(path, "wb").write(damaged)
    try:
        rows = len(list(parquet_manifest([path], ManifestOptions(keep=("n", "t", "l")))))
        assert rows == 51, rows
    except InputError as error:
        assert "\\n" not in str(error)
        refused += 1
print(refused)
"""


def test_a_damaged_footer_neither_crashes_nor_loses_rows(tmp_path: Path) -> None:
    columns = {
        "image": pa.array([{"bytes": PNG, "path": str(n)} for n in range(50)] + [None], HF_IMAGE),
        "n": pa.array([*range(50), None]),
        "t": pa.array([1] * 51, pa.timestamp("ns")),
        "l": pa.array([[1, 2]] * 51),
    }
    path = write(tmp_path / "m.parquet", columns, row_group_size=20)
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 50 < int(done.stdout) < 100


def test_a_corrupt_row_group_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    values = [f"{number:032x}" for number in range(4000)]
    write(path, {"path": pa.array(values)}, row_group_size=1000, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    found: list[Any] = []
    with pytest.raises(InputError, match=r"row group 2 of .*m\.parquet cannot be read") as caught:
        found.extend(source_of(os.fsencode(path)))
    assert "\n" not in str(caught.value)


def test_a_page_whose_checksum_is_wrong_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    columns = {"image": pa.array([b"x" * 5000] * 3)}
    write(path, columns, compression="none", use_dictionary=False, write_page_checksum=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x" * 5000, b"x" * 2500 + b"y" + b"x" * 2499, 1))
    with pytest.raises(InputError, match="row group 0"):
        list(source_of(os.fsencode(path)))


def test_a_manifest_of_any_name(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff m.parquet")
    with open(path, "wb") as file:
        pq.write_table(pa.table({"image": pa.array([PNG])}), file)
    assert refs(source_of(path)) == [ImageRef(path + b"!/row-000000", location=Inline(PNG))]


PEAK = """
import os, re, sys
from moderate.sources.columns import ManifestOptions
from moderate.sources.parquet_manifest import parquet_manifest
source = parquet_manifest([os.fsencode(sys.argv[1])], ManifestOptions())
count = sum(1 for _ in source)
# Not ru_maxrss, which begins with what the parent had.
print(count, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def count_and_peak(path: Path) -> tuple[int, int]:
    """Rows, and the peak memory in kB of reading them."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    count, peak = done.stdout.split()
    return int(count), int(peak)


def write_groups(path: Path, groups: int, rows: int, size: int) -> None:
    """Row groups of `rows` random values, in pages of a few."""
    schema = pa.schema([("image", pa.binary()), ("unused", pa.binary())])
    with pq.ParquetWriter(path, schema, write_batch_size=4) as writer:
        for _ in range(groups):
            images = pa.array([os.urandom(size) for _ in range(rows)])
            unused = pa.array([os.urandom(size)] * rows)
            writer.write_table(pa.table([images, unused], schema), row_group_size=rows)


def test_memory_is_flat(tmp_path: Path) -> None:
    write_groups(tmp_path / "small.parquet", 1, 10, 1 << 20)
    write_groups(tmp_path / "groups.parquet", 10, 10, 1 << 20)
    write_groups(tmp_path / "one.parquet", 1, 150, 1 << 20)
    few, base = count_and_peak(tmp_path / "small.parquet")
    assert few == 10
    for name, rows in (("groups", 100), ("one", 150)):
        count, peak = count_and_peak(tmp_path / f"{name}.parquet")
        assert count == rows
        assert peak - base < 40_000, name


def test_a_dictionary_that_repeats_one_large_value_is_not_unfolded(tmp_path: Path) -> None:
    one = pa.array([b"\0" * 8_000_000])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), one)
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image": repeated}), path, store_schema=False)
    assert path.stat().st_size < 1_000_000
    count, peak = count_and_peak(path)
    assert count == 500
    assert peak < 300_000  # unfolded, it would be 4 GB
