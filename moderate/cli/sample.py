"""`moderate sample`: picks scored images for people to label."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from moderate.cli.messages import say
from moderate.cli.output import Force


def sample(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    by: Annotated[
        Literal["uncertainty", "random", "band"],
        typer.Option(
            help="uncertainty: nearest to the policy's thresholds, spread over the categories; "
            "random: each with the same chance, which is what prevalence and tune need; "
            "band: N of each decision, or with --category of each band of it."
        ),
    ],
    count: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many; with --by band, of each band.")
    ] = 100,
    random: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="N more by chance alone: with --by band, a mixture."),
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, other images.")] = 0,
    category: Annotated[
        str | None,
        typer.Option(
            metavar="CATEGORY", help="Look at this category alone, which may be your own."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Whose thresholds; else those of the run."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE.csv", help="Else standard output.")
    ] = None,
    force: Force = False,
) -> None:
    """Choose images to label, and write them to a CSV file.

    Fill in 1 or 0 per category, and leave empty what is unknown.

    Images that are errors, copies of others, or not scored are left out.
    """
    from moderate.analysis.policies import policy_of
    from moderate.analysis.sample import as_csv
    from moderate.analysis.sample import sample as choose
    from moderate.errors import ReaderGoneError
    from moderate.policy.load import load_policy
    from moderate.results.read import read_results
    from moderate.results.targets import (
        check_files,
        check_overwriting,
        identities,
        read_identities,
        write_text,
    )

    if out is not None:
        check_files("--out", [out], (".csv",), "labels are a .csv file")
        lists = load_policy(policy).files if policy else ()
        check_overwriting(
            [], [out], read_identities([results]) | identities(lists), force=force, kind="labels"
        )
    read = read_results(results)
    taken = choose(
        read,
        policy_of(read, policy),
        by=by,
        count=count,
        seed=seed,
        category=category,
        random=random,
    )
    if out is None:
        try:
            sys.stdout.write(as_csv(taken))
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError("standard output was closed by its reader") from error
    else:
        write_text(out, as_csv(taken))
    left = f"{taken.errors} errors, {taken.duplicates} copies, {taken.unscored} not scored"
    say(
        "info",
        "sampled",
        f"{len(taken.chosen)} of {taken.eligible} images to label; left out: {left}",
        chosen=len(taken.chosen),
        eligible=taken.eligible,
    )
    if by == "random":
        use = "a uniform sample: prevalence and bounds from it hold for all images"
    elif by == "band" or random:
        use = (
            "keep the column inclusion_probability and all lines: eval and tune weight by it, so "
            "that prevalence and bounds hold for all images"
        )
    else:
        use = (
            "chosen for being undecided: prevalence and bounds from it would not hold for all "
            "images; add --random N for a mixture that they hold for"
        )
    say("info", "use", use)
