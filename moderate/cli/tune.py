"""`moderate tune`: thresholds and a calibration out of labels, with evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.cli.messages import say
from moderate.cli.output import Force, print_report
from moderate.errors import InputError, UsageError
from moderate.text import printable, shell_word

if TYPE_CHECKING:
    from moderate.analysis.calibrate import Calibrated


def tune(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="As eval reads them, of images that 'moderate sample' chose."
        ),
    ],
    target_recall: Annotated[
        float | None,
        typer.Option(metavar="R", help="Positives that are at least reviewed; else 0.95."),
    ] = None,
    max_false_block: Annotated[
        float | None,
        typer.Option(metavar="R", help="Negatives that are blocked, at most: raises block."),
    ] = None,
    lower_block: Annotated[
        bool,
        typer.Option(
            "--lower-block", help="Let --max-false-block lower block thresholds of --policy, too."
        ),
    ] = False,
    max_review_share: Annotated[
        float | None,
        typer.Option(metavar="R", help="Refuse what sends more of all images to review."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(metavar="C", help="That all bounds hold together.")
    ] = 0.95,
    holdout: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="Share of labels that only check the proposal; else 0.3, and 0 of labels with "
            "inclusion probabilities.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the split.")] = 0,
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CATEGORY", help="Tune this one alone, which may be your own. May be repeated."
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="What the new policy is based on.")
    ] = "balanced",
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE.toml", help="Where to write the new policy."),
    ] = None,
    calibrate: Annotated[
        Literal["temperature", "isotonic"] | None,
        typer.Option(help="Fit a calibration and write it into a copy of the bundle."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="With --calibrate: the bundle of the results."),
    ] = None,
    bundle_out: Annotated[
        str | None, typer.Option(metavar="DIR", help="With --calibrate: where the copy goes.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The labels' column of ids.")
    ] = None,
    assume_random: Annotated[
        bool, typer.Option("--assume-random", help="Take labels of a chosen sample as they are.")
    ] = False,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Propose thresholds that meet an aim, from labelled images.

    Their bounds hold on images not seen yet.

    With --calibrate, thresholds are those of the calibrated scores, for the copy of the bundle.
    """
    from moderate.analysis import evidence as files
    from moderate.analysis.calibrate import check_bundle_out, fit, write_copy
    from moderate.analysis.tune import HOLDOUT, Aim
    from moderate.analysis.tune import tune as choose
    from moderate.classify.bundle import load_bundle
    from moderate.policy.load import load_policy
    from moderate.report.tuning import calibration_report, report
    from moderate.results.read import read_results
    from moderate.results.targets import check_files, check_overwriting, read_identities, write_text

    aim = Aim(
        0.95 if target_recall is None else target_recall,
        max_false_block,
        max_review_share,
        confidence,
        HOLDOUT if holdout is None else holdout,
        seed,
        lower_block,
    )
    aim.check()
    if calibrate is None and (weights is not None or bundle_out is not None):
        raise UsageError("--weights and --bundle-out go with --calibrate")
    if calibrate is not None and (weights is None or bundle_out is None):
        raise UsageError("--calibrate needs --weights, the bundle, and --bundle-out, its copy")
    if bundle_out is not None:
        check_bundle_out(bundle_out)
    if out is not None:
        check_files("--out", [out], (".toml",), "a policy is a .toml file")
        check_overwriting(
            [], [out], read_identities([results, labels, policy]), force=force, kind="policy"
        )
    base = load_policy(policy)
    read = read_results(results)
    evidence = files.gather(
        read,
        labels,
        categories=category or (),
        seed=seed,
        id_column=id_column,
        assume_random=assume_random,
    )
    if holdout is None and evidence.weighted and calibrate is None:
        aim = replace(aim, holdout=0.0)  # its bound needs none, and every label counts
    calibrated: list[Calibrated] = []
    bundle = None
    if weights is not None and calibrate is not None:
        bundle = load_bundle(weights)
        calibrated = fit(evidence, bundle, calibrate, aim.holdout)
        if not as_json:
            print_report(calibration_report(calibrated), as_json=False)
        evidence = files.calibrated(evidence, calibrated)
    tuning = None
    asked = (target_recall, max_false_block, max_review_share, out)
    if bundle is None or any(value is not None for value in asked):
        tuning = choose(evidence.labelled, evidence.scores, base.policy, aim)
        if files.asks_otherwise(base.policy):
            if calibrated and max_review_share is not None:
                raise UsageError(
                    "--max-review-share with --calibrate needs a policy that decides by scores "
                    "alone: calibrate first, then scan and tune with the calibrated bundle"
                )
            if not calibrated:
                tuning = files.decided(read, base, tuning, evidence)
    problem = tuning.problem if tuning else None
    if bundle is not None and bundle_out is not None and problem is None:
        kept = {each.category: each.calibration for each in calibrated if each.calibration}
        copy = write_copy(bundle, kept, bundle_out)
        folder = bundle_out if "/" in bundle_out else f"./{bundle_out}"
        say(
            "info",
            "bundle_written",
            f"the calibrated weights {printable(copy.name)} are in {printable(folder)}; scan with "
            f"them: moderate scan INPUT --weights {shell_word(folder)}; thresholds "
            "tuned on the old scores do not fit the new ones",
            path=bundle_out,
            weights=copy.name,
            sha256=copy.sha256,
        )
        evidence = replace(evidence, weights=copy.name, weights_sha256=copy.sha256)
    if as_json or tuning:
        print_report(report(tuning, evidence, calibrated), as_json=as_json)
    for each in tuning.tuned if tuning else ():
        for warning in each.warnings:
            say("warning", "middle_band", f"warning: {each.category}: {warning}")
    if problem is not None:
        raise InputError(f"nothing is written: {problem}")
    if tuning is None:
        return
    if out is None:
        if not as_json:
            say("info", "not_written", "the policy is not written; add --out FILE.toml to keep it")
        return
    text = files.policy_text(base, tuning, evidence)
    files.check_policy(text, out)
    write_text(out, text)
