"""One process for all commands of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.applying import Commands, commands


@pytest.fixture(scope="module")
def forks() -> Iterator[Commands]:
    with commands() as started:
        yield started
