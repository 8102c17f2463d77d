"""The headings under which the help of `moderate scan` lists its options."""

from __future__ import annotations

from typing import Any

import typer

WEIGHTS = "Weights and policy"
OUTPUT = "Output"
INPUTS = "Inputs"
URLS = "URLs"
LIMITS = "Limits"
SPEED = "Speed"
STATE = "State"
MESSAGES = "Messages"
CONFIGURATION = "Configuration"


def option(panel: str, *names: str, **settings: Any) -> Any:
    """An option under a heading of the help.

    MODERATE_<NAME> sets it too; the help says so once, not at every option.
    """
    return typer.Option(*names, rich_help_panel=panel, show_envvar=False, **settings)
