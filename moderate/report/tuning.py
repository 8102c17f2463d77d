"""A proposal of thresholds, and a calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from moderate.analysis.calibrate import Calibrated
from moderate.analysis.evidence import Evidence, evidence_lines
from moderate.analysis.tune import Measured, Tuning
from moderate.report.model import Paragraph, Part, Report, Table, sentences
from moderate.results.schema import shortest

_LEGEND = "* proposed; false alarms: negatives at or above, blocked if it were block"


def report(tuning: Tuning | None, evidence: Evidence, calibrated: Sequence[Calibrated]) -> Report:
    """The trade-offs and the evidence, and the calibration that the thresholds are for.

    A terminal does not show the latter: it is `calibration_report`, which comes before.
    """
    calibration: tuple[Part, ...] = (_calibration(calibrated),) if calibrated else ()
    proposal: tuple[Part, ...] = ()
    if tuning:
        reasons = sentences(evidence_lines(tuning, evidence))
        proposal = (*_tables(tuning), Paragraph(_LEGEND), reasons)
    return Report(
        "moderate: thresholds",
        (*calibration, *proposal),
        _data(tuning, evidence, calibrated),
        terminal_parts=proposal,
        ascii_json=True,
    )


def calibration_report(calibrated: Sequence[Calibrated]) -> Report:
    """What calibration did on the holdout."""
    data = [_calibrated_data(each) for each in calibrated]
    table = _calibration(calibrated)
    return Report("moderate: calibration", (table,), data, ascii_json=True)


def _calibration(calibrated: Sequence[Calibrated]) -> Table:
    return Table(
        "Calibration: fitted on the train part, measured on the holdout (pos. + neg. labels)",
        ("category", "fitted on", "measured on", "log loss", "after", "ECE", "after", "kept"),
        tuple(
            (
                str(each.category),
                f"{each.positives} + {each.negatives}",
                f"{each.held_positives} + {each.held_negatives}",
                f"{each.before.log_loss:.4f}",
                f"{each.after.log_loss:.4f}",
                f"{each.before.ece:.4f}",
                f"{each.after.ece:.4f}",
                "yes" if each.calibration else "no",
            )
            for each in calibrated
        ),
        ("kept: no where it is no better on the holdout; those scores stay as they are",),
    )


def _tables(tuning: Tuning) -> Iterator[Table]:
    """The thresholds and their alternatives, one table per category."""
    for each in tuning.tuned:
        yield Table(
            f"{each.category}: review thresholds",
            ("threshold", "recall", "interval", "review share", "false alarms", "interval"),
            tuple(
                (
                    shortest(row.threshold) + (" *" if row.chosen else ""),
                    *_shown(row.recall),
                    f"{row.review_share:.2%}",
                    *_shown(row.false_blocks),
                )
                for row in each.table
            ),
        )


def _data(
    tuning: Tuning | None, evidence: Evidence, calibrated: Sequence[Calibrated]
) -> dict[str, Any]:
    """The whole proposal as JSON values."""
    return {
        "schema": 1,
        "results": {"file": evidence.results, "sha256": evidence.results_sha256},
        "labels": {"file": evidence.labels, "sha256": evidence.labels_sha256},
        "weights": {"name": evidence.weights, "sha256": evidence.weights_sha256},
        "notes": list(evidence.notes),
        "tuning": tuning
        and {
            "aim": asdict(tuning.aim),
            "alpha": tuning.alpha,
            "problem": tuning.problem,
            "images": tuning.images,
            "review_share": tuning.review_share,
            "block_share": tuning.block_share,
            "categories": {
                str(each.category): {
                    "thresholds": each.thresholds.model_dump(),
                    "recall": asdict(each.recall),
                    "false_blocks": each.false_blocks and asdict(each.false_blocks),
                    "table": [asdict(row) for row in each.table],
                    "notes": list(each.notes),
                }
                for each in tuning.tuned
            },
        },
        "calibration": [_calibrated_data(each) for each in calibrated],
    }


def _calibrated_data(calibrated: Calibrated) -> dict[str, Any]:
    calibration = calibrated.calibration
    return {
        **asdict(calibrated),
        "category": str(calibrated.category),
        "holdout": calibrated.held_positives + calibrated.held_negatives,
        "calibration": calibration and calibration.model_dump(mode="json", exclude_defaults=True),
    }


def _shown(share: Measured) -> tuple[str, str]:
    if share.share is None:
        return "-", "-"
    return f"{share.share:.4f}", f"{share.low:.3f}-{share.high:.3f}"
