"""What second opinions did in a run, and what they cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from moderate.policy.second_opinion import SecondOpinion


@dataclass(slots=True)
class OpinionCounts:
    """The second opinions of one bundle of weights.

    rows counts those that were in the band, failed those of them that keep the first scores, as
    there was no second opinion. changed counts rows by their decision without and with it, where
    the two differ. scored are the images that this run decoded and scored for it, which took so
    many seconds (wall clock), model_seconds of them in the model; startup_seconds, in which the
    model was loaded, come on top.
    """

    opinion: SecondOpinion
    weights: str
    sha256: str
    purpose: str
    rows: int = 0
    failed: int = 0
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    scored: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    startup_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """What does not depend on what was known before."""
        return {
            "weights": self.weights,
            "weights_sha256": self.sha256,
            "from": self.opinion.lower,
            "to": self.opinion.upper,
            "rows": self.rows,
            "failed": self.failed,
            "changed": {
                f"{before} to {after}": count
                for (before, after), count in sorted(self.changed.items())
            },
        }

    def cost_as_json(self) -> dict[str, Any]:
        """What this run spent on it."""
        return {
            "weights": self.weights,
            "images": self.scored,
            "seconds": round(self.seconds, 3),
            "model_seconds": round(self.model_seconds, 3),
            "startup_seconds": round(self.startup_seconds, 3),
        }

    def text(self, rows: int) -> str:
        """Both as a line for people; rows is how many the run has."""
        share = f"{self.rows / rows:.1%}" if rows else "0 %"
        parts = [f"{self.rows:,} of {rows:,} rows ({share})"]
        if self.failed:
            parts.append(f"{self.failed:,} of them without an answer, for review")
        changes = [
            f"{count:,} from {before} to {after}"
            for (before, after), count in sorted(self.changed.items())
        ]
        parts.append(f"decisions changed: {', '.join(changes) or 'none'}")
        parts.append(
            f"{self.scored:,} images scored in {self.seconds:.1f} s, {self.model_seconds:.1f} s of "
            "it the model"
        )
        return "; ".join(parts)
