"""`moderate explain`: why one image got the decision it has."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    image: Annotated[
        str,
        typer.Argument(metavar="ID", help="A path, 8 or more digits of its sha256, or row:N."),
    ],
) -> None:
    """Print an image's scores, what the policy made of them, and what judged it, when and where."""
