"""`moderate train`: a head for categories out of labels, on an installed network."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from moderate.cli.messages import say
from moderate.cli.output import Force, print_report, write_report

_EVERY = 10.0  # seconds between lines of progress


def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS|DIR",
            help="Rows of a scan, with --labels; or a folder with a folder of images per category, "
            "and one named safe.",
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            "--from", metavar="NAME|DIR", help="Weights whose network sees for the new head."
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the new weights.")],
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="As eval reads them, of images in RESULTS."),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CATEGORY",
            help="Train this one, which may be your own; else all that are labelled. "
            "May be repeated.",
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="CATEGORY=FOLDER,...",
            help="Which folders of DIR show a category, or are safe. May be repeated.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The network of weights that hold several."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Score the other categories of --from, too, by its networks."),
    ] = False,
    holdout: Annotated[
        float, typer.Option(metavar="R", help="Share of images that check the head, 0.1 to 0.5.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the split and folds.")] = 0,
    id_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The labels' column of ids.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]")] = "auto",
    allow_private_network: Annotated[
        bool,
        typer.Option("--allow-private-network", help="URLs may lead to private addresses."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Install anew over what is there.")
    ] = False,
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write the report: .json, .md or .html; repeatable."
        ),
    ] = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Train weights of your own on labelled images.

    The network of installed weights stays as it is; its last layer is replaced by one that is
    fitted to your labels. Some images are held out and say how good it is.

    Training is refused where the labels are too few for that, or say nothing.
    """
    from moderate.errors import UsageError
    from moderate.fetch.options import HttpOptions
    from moderate.report.training import report
    from moderate.results.read import read_results
    from moderate.results.targets import check_overwriting, check_reports, read_identities
    from moderate.text import printable
    from moderate.train.inputs import (
        Labelled,
        check_categories,
        from_folders,
        from_results,
        read_map,
    )
    from moderate.train.run import Options
    from moderate.train.run import train as run
    from moderate.types import Limits

    names = check_categories(category or ())
    folders = read_map(mapping or ())
    targets = out or []
    check_reports("--out", targets, local=True)
    check_overwriting(
        [], targets, read_identities([labels, source if labels else None]), force=force
    )
    if labels is None and id_column is not None:
        raise UsageError("--id-column goes with --labels")
    if labels is None and os.path.isfile(source):
        raise UsageError(f"{printable(source)} is a file of results: name its labels with --labels")
    if labels is not None and folders:
        raise UsageError("--map is for a folder with a folder per category, without --labels")

    def read() -> Labelled:
        if labels is None:
            return from_folders(source, names, folders)
        return from_results(read_results(source), labels, names, id_column)

    options = Options(base, name, model, keep, holdout, seed, device, replace)
    http = HttpOptions(allow_private=allow_private_network)
    training = run(read, options, Limits(), http, _Progress())
    shown = report(training)
    write_report(shown, targets)
    print_report(shown, as_json=as_json)
    if not as_json:
        typer.echo(f"installed {printable(str(training.folder))}")
        typer.echo(f"use it:   moderate scan DIR --weights {training.name}")


class _Progress:
    """Lines on stderr while features are extracted."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._before = -1

    def __call__(self, done: int, whole: int) -> None:
        now = time.monotonic()
        if self._before < 0:
            self._before = done
        if now - self._last < _EVERY:
            return
        self._last = now
        rate = (done - self._before) / (now - self._begun)
        text = f"features of {done:,} of {whole:,} images, {rate:.0f}/s"
        say("info", "features", text, done=done, images=whole)
