"""`moderate testcards`: harmless cards whose decisions are known, to test a pipeline with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moderate.cli.output import Force


def testcards(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write; made if missing.")],
    count: Annotated[
        int, typer.Option(min=1, max=100_000, help="Cards of each of the eleven sorts.")
    ] = 1,
    size: Annotated[int, typer.Option(min=96, max=8000, help="Side in pixels.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds draw other cards.")] = 0,
    image_format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="png, jpeg, webp, gif, bmp, heic or avif; repeat for a mix.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write harmless test cards, and cards.csv with their decisions."""
    from moderate.errors import OutputError, UsageError
    from moderate.testcards import SUFFIXES, write_cards
    from moderate.text import printable

    kinds = tuple(name.upper() for name in image_format or ["png"])
    if unknown := [kind for kind in kinds if kind not in SUFFIXES]:
        raise UsageError(
            f"--format {unknown[0].lower()}: use one of {', '.join(k.lower() for k in SUFFIXES)}"
        )
    try:
        cards = write_cards(
            Path(folder), count=count, seed=seed, size=size, kinds=kinds, force=force
        )
    except FileExistsError:
        raise OutputError(f"{printable(folder)} is a file; name a folder for the cards") from None
    except OSError as error:
        raise OutputError(f"cannot write to {printable(folder)}: {error.strerror}") from error
    typer.echo(f"wrote {len(cards)} cards and cards.csv to {printable(folder)}")
