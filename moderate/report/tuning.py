"""A proposal of thresholds and a calibration, for the terminal and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from moderate.analysis.calibrate import Calibrated
from moderate.analysis.evidence import Evidence, evidence_lines
from moderate.analysis.tune import Measured, Tuning
from moderate.report.plain import print_tables
from moderate.report.tables import Table
from moderate.report.terminal import safe_text
from moderate.results.schema import shortest


def tables(tuning: Tuning) -> Iterator[Table]:
    """The thresholds, and what others would do, a table a category."""
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


def as_json(
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
                each.category.value: {
                    "thresholds": each.thresholds.model_dump(),
                    "recall": asdict(each.recall),
                    "false_blocks": each.false_blocks and asdict(each.false_blocks),
                    "table": [asdict(row) for row in each.table],
                    "notes": list(each.notes),
                }
                for each in tuning.tuned
            },
        },
        "calibration": [
            {
                **asdict(each),
                "category": each.category.value,
                "calibration": each.calibration
                and each.calibration.model_dump(mode="json", exclude_defaults=True),
            }
            for each in calibrated
        ],
    }


def show(tuning: Tuning, evidence: Evidence, stream: IO[str]) -> None:
    """Print the trade-offs and the evidence."""
    out = print_tables(list(tables(tuning)), stream)
    out.print(
        safe_text("* proposed; false alarms: negatives at or above, blocked if it were block")
    )
    out.print()
    for line in evidence_lines(tuning, evidence):
        out.print(safe_text(line, "yellow" if line.startswith("note:") else ""))


def show_calibrated(calibrated: Sequence[Calibrated], stream: IO[str]) -> None:
    """Print what calibration did on the holdout."""
    table = Table(
        "Calibration, measured on the holdout",
        ("category", "positives", "negatives", "log loss", "after", "ECE", "after", "kept"),
        tuple(
            (
                each.category.value,
                str(each.positives),
                str(each.negatives),
                f"{each.before.log_loss:.4f}",
                f"{each.after.log_loss:.4f}",
                f"{each.before.ece:.4f}",
                f"{each.after.ece:.4f}",
                "yes" if each.calibration else "no: no better",
            )
            for each in calibrated
        ),
    )
    print_tables([table], stream)


def _shown(share: Measured) -> tuple[str, str]:
    if share.share is None:
        return "-", "-"
    return f"{share.share:.4f}", f"{share.low:.3f}-{share.high:.3f}"
