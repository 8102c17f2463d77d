"""torch's old .pth files: read as torch reads them, and never unpickled."""

from __future__ import annotations

import io
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from moderate.errors import WeightsError
from moderate.weights.convert.legacy_pth import read_legacy_pth


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def saved(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def read(folder: Path, data: bytes) -> dict[str, torch.Tensor]:
    file = folder / "model.pth"
    file.write_bytes(data)
    return read_legacy_pth(file)


def refused(folder: Path, data: bytes, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        read(folder, data)
    assert "\n" not in str(caught.value)


def test_a_state_dict_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    state = network().state_dict()
    state["turned"] = torch.arange(12.0).reshape(3, 4).T
    state["part"] = torch.arange(10.0)[3:7]
    state["empty"] = torch.zeros(0, 3)
    data = saved(state)
    expected = torch.load(io.BytesIO(data), weights_only=True)
    found = read(tmp_path, data)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


class Evil:
    """What pickle runs when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_what_could_run_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for evil in (
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(getattr, "a", "upper"),
        Evil(torch.load, str(mark)),
    ):
        refused(tmp_path, saved({"weight": evil}), "could run code")
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001))
        refused(tmp_path, head + pickle.dumps(evil, 2), "could run code")
        refused(tmp_path, pickle.dumps(evil, 2), "could run code")
        refused(tmp_path, pickle.dumps(evil, 4), "protocol 4")
    assert not mark.exists()


def test_other_files_and_other_contents(tmp_path: Path) -> None:
    new = io.BytesIO()
    torch.save(network().state_dict(), new)
    refused(tmp_path, new.getvalue(), "opcode b'P'")
    refused(tmp_path, b"", "cut off")
    refused(tmp_path, pickle.dumps([1, 2], 2), "before version 1.6")
    refused(tmp_path, saved({}), "holds no tensors")
    refused(tmp_path, saved({"epoch": 3, "w": torch.ones(2)}), "tensors alone")
    refused(tmp_path, saved({"a": {"b": torch.ones(2)}}), "tensors alone")
    refused(tmp_path, saved(torch.ones(2)), "tensors alone")
    refused(tmp_path, saved({1: torch.ones(2)}), "not text")
    refused(tmp_path, saved({"w": torch.ones(2, dtype=torch.float64)}), "DoubleStorage")
    refused(tmp_path, saved({"w": nn.Parameter(torch.ones(2))}), "_rebuild_parameter")
    refused(tmp_path, saved(network()), "Sequential|could run code")
    with_hooks = OrderedDict(w=torch.ones(2))
    with_hooks.other = 1  # type: ignore[attr-defined]
    refused(tmp_path, saved(with_hooks), "attributes of a state dict")
    with pytest.raises(WeightsError, match="a folder, not a regular file"):
        read_legacy_pth(tmp_path)


def test_sizes_that_disagree(tmp_path: Path) -> None:
    good = saved({"w": torch.ones(4)})
    refused(tmp_path, good + b"\0", "something follows")
    refused(tmp_path, good[:-1], "cut off")
    size = good.rindex((4).to_bytes(8, "little"))
    refused(tmp_path, good[:size] + (5).to_bytes(8, "little") + good[size + 8 :], "another size")
    # A tensor that steps nowhere would be as large as it likes.
    wide = saved({"w": torch.ones(1).expand(1 << 30)})
    refused(tmp_path, wide, "inside its storage")
    shared = torch.ones(1000)
    many = saved({f"w{number}": shared for number in range(100)})
    refused(tmp_path, many, "more values than the file")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = saved(network().state_dict())
    for end in range(0, len(whole), 7):
        refused(tmp_path, whole[:end], "model.pth: ")


def test_damage_gives_tensors_or_an_error(tmp_path: Path) -> None:
    chance = random.Random(12)  # the same mutants in every run
    whole = saved(network().state_dict())
    pickles = whole.rindex(b"K\x04")
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(min(pickles + 200, len(data)))] = chance.randrange(256)
        if chance.random() < 0.3:
            start = chance.randrange(pickles)
            data[start:start] = data[start : start + chance.randint(1, 20)]
        try:
            tensors = read(tmp_path, bytes(data))
        except WeightsError:
            continue
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
