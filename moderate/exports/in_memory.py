"""Rows that Python has, in the shape of a hosted service."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from moderate.errors import UsageError
from moderate.exports.catalogue import SHAPES
from moderate.exports.interface import ExportOptions
from moderate.results.table import checked_rows, row_to_dict
from moderate.text import nearest
from moderate.types import Row


def to_shape(
    rows: Iterable[Row], name: str, *, policy: str | None = None, document: bool = False
) -> Any:
    """The rows as the hosted service that `name` stands for would have answered.

    A list with an answer per row, or with document the one answer for all of them; of `rekognition`
    the lines of its manifest, or its summary. What it holds is what `--shape` writes: dicts, lists,
    texts, numbers. azure, safesearch and rekognition count by the thresholds of the policy, which
    is the one that the rows were decided by, a preset or a TOML file. Raises UsageError, and
    PolicyError where the policy cannot be read.
    """
    if name not in SHAPES:
        meant = nearest(str(name), SHAPES)
        hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(SHAPES)}"
        raise UsageError(f"to_shape: there is no shape {name!r}; {hint}")
    module, _, kind = SHAPES[name].partition(":")
    shape = getattr(import_module(f"moderate.exports.{module}"), kind)
    rows = checked_rows(rows, "to_shape", "to_shape([row], ...)")
    facts = {"run_id": rows[0].run_id} if rows else {}
    if policy is not None:
        from moderate.policy.load import load_policy

        facts["policy_json"] = load_policy(policy).policy.model_dump_json()
    elif shape.needs_policy:
        raise UsageError(f"to_shape: {name} counts by the policy's thresholds: pass policy=")
    text = io.StringIO()
    export = shape(ExportOptions(document=document))
    export.start(text.write, facts)
    for row in rows:
        export.add(row_to_dict(row))
    export.finish(facts)
    if document:
        return json.loads(text.getvalue())
    return [json.loads(line) for line in text.getvalue().splitlines()]
