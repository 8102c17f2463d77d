"""Which rows an override is for: globs on paths as shown, and values of carried columns."""

from __future__ import annotations

import datetime
import fnmatch
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderate.policy.when import parse_when
from moderate.results.cells import carried_csv
from moderate.sources.directory import WalkOptions


def holds(when: str, path: str = "./x.jpg", **columns: Any) -> bool:
    return parse_when(when).holds(path.encode(), columns)


@pytest.mark.parametrize(
    ("when", "path", "meant"),
    [
        ("avatars/**", "./avatars/a.jpg", True),
        ("avatars/**", "./uploads/avatars/deep/a.jpg", True),
        ("avatars/**", "/data/avatars/a.jpg", True),
        ("avatars/**", "./my_avatars/a.jpg", False),
        ("avatars/**", "./avatars.jpg", False),
        ("avatars/*", "./avatars/deep/a.jpg", False),
        ("avatars/*.jpg", "./uploads/avatars/a.jpg", True),
        ("avatars/*.jpg", "./uploads/avatars/a.png", False),
        ("a/**/b.jpg", "./a/b.jpg", True),
        ("a/**/**/b.jpg", "./x/a/1/2/b.jpg", True),
        ("*.jpg", "./deep/a.jpg", True),
        ("*.jpg", "./deep.jpg/a.png", False),
        ("avatars", "./avatars/a.jpg", False),
        ("**", "./anything", True),
        ("./avatars/**", "./avatars/a.jpg", True),
        ("./avatars/**", "./uploads/avatars/a.jpg", False),
        ("./avatars/**", "/avatars/a.jpg", False),
        ("./a.jpg", "./a.jpg", True),
        ("./a.jpg", "./b/a.jpg", False),
        ("/data/avatars/**", "/data/avatars/a.jpg", True),
        ("/data/avatars/**", "./data/avatars/a.jpg", False),
        ("/data/avatars/**", "/x/data/avatars/a.jpg", False),
        # Members of archives and frames of videos: by their own path, and with what they are in.
        ("dump.zip", "./in/dump.zip!/a/b.jpg", True),
        ("dump.zip!/**", "./in/dump.zip!/a/b.jpg", True),
        ("dump.zip!/**", "./in/dump.zip", False),
        ("in/*.zip", "./in/dump.zip!/a/b.jpg", True),
        ("./in/dump.zip", "./in/dump.zip!/a/b.jpg", True),
        ("a/*.jpg", "./in/dump.zip!/a/b.jpg", True),
        ("./a/*.jpg", "./in/dump.zip!/a/b.jpg", False),
        ("b.jpg", "./in/dump.zip!/a/b.jpg", True),
        ("*.mp4", "./clips/clip.mp4!/00:00:05.000", True),
        ("clips/**", "./clips/clip.mp4!/00:00:05.000", True),
        ("clip.mp4!/00:00:05.*", "./clips/clip.mp4!/00:00:05.000", True),
        ("clip.mp4!/00:00:05.*", "./clips/clip.mp4", False),
        # URLs and objects: without query, a pattern with a scheme from the start.
        ("https://cdn.example/avatars/**", "https://cdn.example/avatars/a.jpg?w=1", True),
        ("https://cdn.example/**", "http://cdn.example/a.jpg", False),
        ("https://cdn.example/**", "./https:/cdn.example/a.jpg", False),
        ("https://cdn.example/**", "./dump.zip!/https://cdn.example/a.jpg", False),
        ("cdn.example/**", "https://cdn.example/a.jpg", True),
        ("avatars/*.jpg", "https://cdn.example/avatars/a.jpg?x=/b.png", True),
        ("*.png", "https://cdn.example/avatars/a.jpg?x=/b.png", False),
        ("./cdn.example/**", "https://cdn.example/a.jpg", False),
        ("s3://bucket/day=1/**", "s3://bucket/day=1/a.jpg", True),
        ("s3://bucket/*.zip", "s3://bucket/d.zip!/avatars/a.jpg", True),
        ("day=1/**", "./in/day=1/a.jpg", True),
        ("a[=]b.jpg", "./in/a=b.jpg", True),
        ("caf?.jpg", "./caf\udce9.jpg", True),
    ],
)  # fmt: skip
def test_paths(when: str, path: str, meant: bool) -> None:
    assert parse_when(when).holds(path.encode("utf-8", "surrogateescape"), {}) is meant


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4)
PARTS = st.text("ab.*?", min_size=1, max_size=3).filter(lambda part: part != ".")
GLOBS = st.lists(PARTS, min_size=1, max_size=4)


@settings(deadline=None)
@given(PATHS, PATHS, GLOBS)
def test_below_any_folder_it_is_what_include_takes(
    above: list[str], below: list[str], parts: list[str]
) -> None:
    when, path = "/".join(parts), "/".join(["", *above, *below])
    tails = ["/".join([*above, *below][start:]) for start in range(len(above + below))]
    options = WalkOptions(include=(when,))
    expected = any(not options.leaves_out(tail.encode(), folder=False) for tail in tails)
    assert holds(when, path) is expected
    if len(parts) == 1:
        assert expected is fnmatch.fnmatchcase(below[-1], when)


@pytest.mark.parametrize(
    ("when", "columns", "meant"),
    [
        ("source = forum", {"source": "forum"}, True),
        ("source = forum", {"source": "Forum"}, False),
        ("source = forum", {"source": None}, False),
        ("source = forum", {}, False),
        ("source != forum", {"source": "blog"}, True),
        ("source != forum", {"source": "forum"}, False),
        ("source != forum", {"source": None}, True),
        ("source != forum", {}, True),
        ("source =", {"source": None}, True),
        ("source =", {"source": ""}, True),
        ("source !=", {"source": "x"}, True),
        ("source !=", {}, False),
        ("my column = a = b", {"my column": "a = b"}, True),
        ("folder = a/b", {"folder": "a/b"}, True),
        ("age = 7", {"age": 7}, True),
        ("age = 7", {"age": 7.0}, False),
        ("age = 7.0", {"age": 7.0}, True),
        ("adult = true", {"adult": True}, True),
        ("day = 2024-01-02", {"day": datetime.date(2024, 1, 2)}, True),
        ("tags = [\"a\", \"b\"]", {"tags": ["a", "b"]}, True),
    ],
)  # fmt: skip
def test_columns(when: str, columns: dict[str, Any], meant: bool) -> None:
    assert holds(when, **columns) is meant


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.datetimes() | st.dates()
    | st.binary() | st.text("abc é\t", max_size=5) | st.lists(st.integers() | st.none())
    | st.dictionaries(st.text("ab"), st.floats()) | st.just(pa.scalar(7, pa.time64("ns")))
)  # fmt: skip


@settings(deadline=None)
@given(VALUES)
def test_a_value_is_compared_as_results_in_csv_have_it(value: Any) -> None:
    text = "" if value is None else carried_csv(value)
    if text[:1] == "'" and text[1:2] in set("=+-@\t"):
        text = text[1:]
    plain = " ".join(text.split())
    if plain != text or (text and text[0] in "'\""):
        return  # not a value that can be written
    assert holds(f"c = {text}".strip(), c=value)
    assert not holds(f"c != {text}".strip(), c=value)


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("source=forum", "spaces around its sign"),
        ("source == forum", "spaces around its sign"),
        ("source!=forum", "spaces around its sign"),
        ("source = 'forum'", "without quotes: source = forum"),
        ("format = gif", "a column of the results"),
        ("avatars/", "avatars/**"),
        ("/", "folder"),
        ("./.", "matches nothing"),
        ("", "matches nothing"),
    ],
)
def test_what_would_never_match_is_refused(when: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_when(when)
    assert told in str(caught.value)


def test_many_stars_cost_no_time() -> None:
    pattern = "/".join(["**"] * 500 + ["a", "**", "b", "**", "c"])
    assert not holds(pattern, "/" + "/".join("ab" * 60) + "/d")
