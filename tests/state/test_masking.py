"""What of a command line is kept: never a secret, never a file."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moderate.state.masking import MAX_CHARACTERS, mask_argument, mask_command
from moderate.text import printable

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given_arguments", "expected"),
    [
        (["--url-header", "Authorization: Bearer hunter2"], ["--url-header", "Authorization: ***"]),
        (["--url-header=Cookie: a=hunter2; b=c"], ["--url-header=Cookie: ***"]),
        (["--url-header", "hunter2"], ["--url-header", "***"]),
        (["--url-header=hunter2"], ["--url-header=***"]),
        (["--url-header", "Bearer hunter2: x"], ["--url-header", "***"]),
        (["--url-header", "X-Key:hunter2", "photos"], ["--url-header", "X-Key: ***", "photos"]),
        (
            ["--url-header", "--url-header", "A: hunter2"],
            ["--url-header", "***", "A: ***"],
        ),
        # The `--` is the value of an option here, and the header is one all the same.
        (
            ["--include", "--", "--url-header", "A: hunter2"],
            ["--include", "--", "--url-header", "A: ***"],
        ),
        (["--url-header"], ["--url-header"]),
        ([], []),
    ],
)
def test_headers(given_arguments: list[str], expected: list[str]) -> None:
    assert list(mask_command(given_arguments)) == expected


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("photos", "photos"),
        ("--out=results.csv", "--out=results.csv"),
        ("--where=metadata:photos", "--where=metadata:photos"),
        ("a://", "a://"),
        ("://x", "://x"),
        ("http://h/a.jpg?size=3", "http://h/a.jpg?size=3"),
        ("http://me:hunter2@h/a.jpg", "http://***@h/a.jpg"),
        ("--config=http://me:hunter2@h/a", "--config=http://***@h/a"),
        ("-Chttp://me:hunter2@h/a", "-Chttp://***@h/a"),
        ("name=http://h/a?token=hunter2&b=c", "name=http://h/a?token=***&b=c"),
        ("--a-http://me:hunter2@h/a", "--a-http://***@h/a"),
        ("http://a/b,http://me:hunter2@h/c", "http://a/b,http://***@h/c"),
        ("http://h/?next=http://me:hunter2@h/c", "http://h/?next=http://***@h/c"),
        ("http://me:hunter2/http://x@h/c", "http://***@h/c"),
        ("s3://me:hunter2@bucket/a?region=hunter2", "s3://bucket/a"),
        ("--out=gs://me:hunter2@bucket/a.csv", "--out=gs://bucket/a.csv"),
        ("a\x1b]0;\u202etxt", "a\\x1b]0;\\u202etxt"),
        ("http://me:hunter2\n@h/a", "http://***@h/a"),
    ],
)
def test_arguments(argument: str, expected: str) -> None:
    assert mask_argument(argument) == expected


@pytest.mark.parametrize("prefix", ["", "--weights=", "name=", "DATA="])
@pytest.mark.parametrize("scheme", ["data:", "DATA:"])
def test_data_urls_are_kept_by_type_and_digest(prefix: str, scheme: str) -> None:
    masked = mask_argument(f"{prefix}{scheme}image/png;base64,{'hunter2' * 5000}")
    assert masked.startswith(f"{prefix}{scheme}image/png,sha256=")
    assert SECRET not in masked
    assert len(masked) < 120


def test_long_arguments_are_cut() -> None:
    assert mask_argument("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    assert mask_argument("x" * 100_000) == "x" * (MAX_CHARACTERS - 1) + "…"


def test_a_secret_beyond_the_cut_is_masked_first() -> None:
    masked = mask_argument(f"http://{'hunter2' * 1000}:{'x' * 3000}@h/a")
    assert masked == "http://***@h/a"


def test_of_very_many_urls_the_first_are_kept() -> None:
    masked = mask_argument(",".join(["http://me:hunter2@h/a"] * 5_000))
    assert SECRET not in masked
    assert masked.startswith("http://***@h/a")


@given(
    st.text(st.characters(exclude_categories=()), max_size=40),
    st.text("abc=,;-+.:/ \\\"'?&#@*%x", max_size=20),
)
@example("\ud800", "\udcff")
@example("ht\ttp", "://")
def test_anything_comes_out_printable_and_short(before: str, after: str) -> None:
    for masked in mask_command([before, after, before + after, "--url-header", after]):
        assert masked == printable(masked)
        assert len(masked) <= MAX_CHARACTERS


@given(
    st.text("ab=,;-+.: \"'*%x", max_size=12),
    st.sampled_from(["http", "https", "ftp", "x-y.z+1"]),
    st.text("abcXYZ019._~-", min_size=1, max_size=8),
    st.text("ab/?=&.", max_size=12),
)
def test_no_password_before_a_host_is_kept(before: str, scheme: str, user: str, after: str) -> None:
    url = f"{scheme}://{user}:{SECRET}@host/{after}"
    for argument in (before + url, f"--opt={url}", f"{url},{url}", f"http://a/{after}?u={url}"):
        assert SECRET not in mask_argument(argument), argument


@given(st.text("ab: =-\"'", max_size=12))
def test_no_header_value_is_kept(around: str) -> None:
    value = f"Name:{around}{SECRET}{around}"
    for command in (["--url-header", value], [f"--url-header={value}"]):
        assert SECRET not in "".join(mask_command(command))
