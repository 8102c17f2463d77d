"""The columns that a policy makes, by columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from moderate.policy.batch import Decided, Encoded
from moderate.policy.thresholds import DECISIONS


def policy_columns(decided: Decided) -> dict[str, Any]:
    """The columns that a policy makes, as Arrow arrays by their names in results."""
    decisions = Encoded([each.value for each in DECISIONS], decided.severity.astype(np.int32))
    reasons = ["; ".join(each) or None for each in decided.reasons.values]
    unscored = np.isnan(decided.nsfw_score)
    return {
        "decision": texts(decisions),
        "reasons": texts(Encoded(reasons, decided.reasons.codes)),
        "label": texts(decided.label),
        **{
            name: pa.array(getattr(decided, name).astype(np.float32), mask=unscored)
            for name in ("nsfw_score", "safe_score", "confidence")
        },
        "risk": texts(decided.risk),
        "is_nsfw": pa.array(decided.is_nsfw, pa.bool_(), mask=unscored),
        "rating": texts(decided.rating),
    }


def texts(column: Encoded[Any]) -> Any:
    """A column of text as an Arrow array; of values that are None, too."""
    if not column.values:
        return pa.nulls(len(column), pa.string())
    codes = pa.array(column.codes, mask=column.codes < 0)
    return pa.array(column.values, pa.string()).take(codes)
