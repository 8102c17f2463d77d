"""nsfwjs's modules: what a literal says is read, and whatever else a module does is refused."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest

from moderate.errors import WeightsError
from moderate.weights.convert.min_js import read_exported_bytes, read_exported_object

BEFORE = (
    '!function(a){if("object"==typeof exports)module.exports=a();else{this.model=a()}}(function(){'
    "return function a(n,i,e){var r=i[0]={exports:{}};return i[o].exports}({1:[function(a,n,i){"
)
AFTER = "},{}]},{},[1])(1)});"


def module(literal: str, before: str = BEFORE, after: str = AFTER) -> bytes:
    return f"{before}n.exports={literal}{after}\n".encode()


def read(folder: Path, data: bytes) -> Any:
    file = folder / "model.min.js"
    file.write_bytes(data)
    return read_exported_object(file)


def refused(folder: Path, data: bytes, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        read(folder, data)
    assert "\n" not in str(caught.value)


def test_a_literal_as_a_minifier_writes_it(tmp_path: Path) -> None:
    literal = '{a:!0,b:[!1,null,-.5,1e-7,3.,12],"c d":{},$e:[],f:"x\\"y\\\\\\n",g:[[1],[2,{h:0}]]}'
    assert read(tmp_path, module(literal)) == {
        "a": True,
        "b": [False, None, -0.5, 1e-7, 3.0, 12],
        "c d": {},
        "$e": [],
        "f": 'x"y\\\n',
        "g": [[1], [2, {"h": 0}]],
    }


def test_json_is_such_a_literal(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, {"b": "c"}], "d": ""}
    assert read(tmp_path, module(json.dumps(value, separators=(",", ":")))) == value


def test_bytes(tmp_path: Path) -> None:
    file = tmp_path / "group1-shard1of1.min.js"
    file.write_bytes(module(json.dumps(base64.b64encode(b"\0\1weights").decode())))
    assert read_exported_bytes(file) == b"\0\1weights"
    for literal in ('"a"', '"ab=cd"', '"ab\\n="', "{}", '"', '"AA=="+"AA=="'):
        file.write_bytes(module(literal))
        with pytest.raises(WeightsError, match="base64"):
            read_exported_bytes(file)


@pytest.mark.parametrize(
    ("literal", "words"),
    [
        ("{a:require('fs')}", "no literal"),
        ("{a:alert(1)}", "no literal"),
        ("{a:1}+{b:2}", "no literal"),
        ("{a:1,a:2}", "stands twice"),
        ("{a:1,}", "no literal"),
        ("{a:[1,]}", "no literal"),
        ("{a:[1 2]}", "no literal"),
        ("{a}", "no literal"),
        ("{1:2}", "no literal"),
        ("{a:undefined}", "no literal"),
        ("{a:void 0}", "no literal"),
        ("{a:NaN}", "no literal"),
        ("{a:0x10}", "no literal"),
        ("{a:1e999}", "too large"),
        ("{a:" + "9" * 30 + "}", "too long"),
        ("{a:`x`}", "no literal"),
        ("{a:'x'}", "no literal"),
        ('{a:"\\u0041"}', "no literal"),
        ('{a:"x', "no literal"),
        ("{a:" + "[" * 100 + "]" * 100 + "}", "too deep"),
        ("{", "no literal"),
        ('"text"', "exports text"),
    ],
)
def test_what_is_no_literal(tmp_path: Path, literal: str, words: str) -> None:
    refused(tmp_path, module(literal), words)


def test_what_is_no_such_module(tmp_path: Path) -> None:
    refused(tmp_path, b"", "exports one literal")
    refused(tmp_path, b'{"a":1}', "exports one literal")
    refused(tmp_path, module("{}", after=AFTER + "alert(1);"), "exports one literal")
    refused(tmp_path, module("{}", before=" " * 5000), "exports one literal")
    refused(tmp_path, module("{}") + b"\xff", "not ASCII")
    with pytest.raises(WeightsError, match="a folder, not a regular file"):
        read_exported_object(tmp_path)


def test_damage_gives_a_value_or_an_error(tmp_path: Path) -> None:
    chance = random.Random(12)  # the same mutants in every run
    whole = module('{a:!0,b:[!1,null,-.5,1e-7],"c d":{},$e:[],f:"x\\"y\\\\",g:[[1],[2,{h:0}]]}')
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'{}[]",:!01.e-+a\\ \n\xff(')
        del data[chance.randrange(len(data)) :: chance.randint(50, 400)]
        try:
            value = read(tmp_path, bytes(data))
        except WeightsError:
            continue
        assert isinstance(value, dict)
