"""Globs: what they mean, held against the obvious definition, and what they cost."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderate.globs import GlobPattern, matches_any, matches_any_or_above
from moderate.policy.when import parse_when
from tests.support.operations import count_lines


def obvious(segments: tuple[bytes, ...], parts: tuple[bytes, ...], *, prefix: bool) -> bool:
    """The definition, by trying everything."""
    if prefix and not parts:
        return True
    if not segments:
        return not parts
    if segments[0] == b"**":
        return any(
            obvious(segments[1:], parts[start:], prefix=prefix) for start in range(len(parts) + 1)
        )
    return (
        bool(parts)
        and fnmatchcase(parts[0], segments[0])
        and obvious(segments[1:], parts[1:], prefix=prefix)
    )


SEGMENTS = st.lists(st.sampled_from([b"**", b"*", b"a", b"a*", b"[ab]", b"?b"]), min_size=1)
PARTS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"bb"]), min_size=1, max_size=6)


@settings(max_examples=500, deadline=None)
@given(SEGMENTS.map(lambda some: tuple(some[:6])), PARTS.map(tuple))
def test_patterns_mean_what_their_definition_says(
    segments: tuple[bytes, ...], parts: tuple[bytes, ...]
) -> None:
    pattern = GlobPattern(segments)
    assert pattern.matches(b"/".join(parts)) is obvious(segments, parts, prefix=False)
    assert pattern.may_hold(b"/".join(parts)) is obvious(segments, parts, prefix=True)


@settings(max_examples=300, deadline=None)
@given(SEGMENTS.map(lambda some: b"/".join(some[:5]).decode()), PARTS)
def test_folders_above_are_those_that_would_match_themselves(
    pattern: str, parts: list[bytes]
) -> None:
    one_by_one = any(matches_any(parts[:count], (pattern,)) for count in range(1, len(parts) + 1))
    assert matches_any_or_above(parts, (pattern,)) is one_by_one


@pytest.mark.parametrize("pattern", ["**/a/**/a/**/a/**/b", "**/" * 12 + "b", "*a*a*a*a*a*b"])
def test_a_path_of_many_segments_costs_no_more_than_in_proportion(pattern: str) -> None:
    def cost(count: int) -> int:
        parts = [b"a"] * count

        def work() -> None:
            glob = GlobPattern(tuple(pattern.encode().split(b"/")))
            assert not glob.matches(b"/".join(parts))
            glob.may_hold(b"/".join(parts))
            assert not matches_any(parts, (pattern,))
            assert not matches_any_or_above(parts, (pattern,))

        return count_lines(work)

    cost(10)  # what fnmatch prepares once
    assert cost(800) < 2.5 * cost(400)


def test_a_policys_glob_on_a_path_within_paths_costs_in_proportion() -> None:
    condition = parse_when("**/x/**/y/**/z")
    below_folder = parse_when("*.png")

    def cost(count: int) -> int:
        path = b"./" + b"dump!/" * count + b"a.jpg"
        return count_lines(lambda: (condition.holds(path, {}), below_folder.holds(path, {})))

    assert condition.holds(b"./x/y/z!/a", {})
    cost(10)
    assert cost(800) < 2.5 * cost(400)
