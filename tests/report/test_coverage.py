"""What a category covers stands wherever its counts do, and in the metadata."""

from __future__ import annotations

import pytest
from labelled import *  # noqa: F403

Captured = pytest.CaptureFixture[str]
