"""What people decided on rows of a results file, in the place of the machine's decisions."""

from __future__ import annotations

import os
from collections.abc import Sequence

from moderate.analysis.decide_by_policy import Counted
from moderate.policy.batch import Encoded
from moderate.regular import sha256_of
from moderate.results.final import DECIDED_BY
from moderate.review.verdicts import Final


def by_people(machine: Counted, final: Final) -> Counted:
    """What is counted where people decided; the reasons name them before those of the machine."""
    codes, reasons = machine.reasons.codes.copy(), list(machine.reasons.values)
    known: dict[tuple[str, int], int] = {}
    for index, verdict in final.verdicts.items():
        key = (verdict.by, int(codes[index]))
        if key not in known:
            known[key] = len(reasons)
            reasons.append((f"{DECIDED_BY}{key[0]}", *reasons[key[1]]))
        codes[index] = known[key]
    return Counted(final.severity, Encoded(reasons, codes), machine.bands)


def people_facts(files: Sequence[str]) -> dict[str, str]:
    """Which journals people's decisions come from, by their digests as they are now."""
    digests = [sha256_of(file) for file in files if os.path.isfile(file)]
    return {"decisions_sha256": "; ".join(digests)} if digests else {}
