"""What messages say on how an extra is installed, which depends on how the tests are run."""

from __future__ import annotations

import re


def how_to_install(extra: str) -> str:
    """A pattern for the command, from a checkout or from where moderate was installed from."""
    return rf"pip install (-e )?'?\S+\[{re.escape(extra)}\]'?"
