"""Why one image got its decision: the row, the thresholds it was held against, what judged it."""

from __future__ import annotations

import base64
import contextlib
import difflib
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from moderate.arrow import plain_value
from moderate.errors import PolicyError, UsageError
from moderate.fetch.naming import is_uri, shown_text
from moderate.levels import scale_labels
from moderate.own_categories import label_names, score_column
from moderate.policy.batch import Subject
from moderate.policy.judge import Judge
from moderate.policy.load import parse_policy
from moderate.policy.model import Policy
from moderate.policy.reasons import BLOCK_LIST, CLEARED
from moderate.results.final import FINAL_COLUMNS, final_of
from moderate.results.read import Results
from moderate.results.schema import shortest
from moderate.results.text_writers import metadata_path
from moderate.run.hash_columns import PDQ, PDQ_QUALITY, hash_of_cells
from moderate.run.opinion_columns import (
    SECOND_ERROR,
    SECOND_WEIGHTS,
    first_score,
    opinion_columns,
)
from moderate.state.ledger import RunRecord
from moderate.text import path_text, printable
from moderate.types import (
    CATEGORIES,
    ErrorCode,
    ImageError,
    Labels,
    Status,
    Warn,
)

MOST_IMAGES = 10
"""Cards shown of one answer."""

MOST_COMPARED = 100_000
"""Paths that a mistyped one is compared with."""

_DIGEST = re.compile(r"[0-9a-fA-F]{8,64}")
_ROW = re.compile(r"row:([0-9]{1,18})")
_QUERY = re.compile(r"[?#]")
_SIGNING = re.compile(r"x-(amz|goog|oss|cos)-|(expires|s[et]|sk[et])=|[^=]*=\*\*\*", re.IGNORECASE)
_FACTS = (
    *("format", "width", "height", "frames", "frames_scored", "highest_at", "unseen", "embedded"),
    *("segments", "duration", "bytes", "sha256", "duplicate_of"),
)
_OWN_FACTS = (
    *("version", "torch", "timm", "device", "precision", "backend", "jpeg_decode", "looked_at"),
    *("config", "config_sha256"),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the ledger has of a file's run: its record, its policy as TOML, or why it has none."""

    record: RunRecord | None = None
    policy: str | None = None
    missing: str | None = None


def explain(results: Results, wanted: str, kept: Kept) -> dict[str, Any]:
    """All that is known of the images that `wanted` names, as JSON values.

    wanted is a path, the end of one, a URL, 8 or more digits of a sha256, or row:N. Raises
    UsageError, with similar paths, where there is none; InputError for results not to be read.
    """
    policy, source, notes = _policy(results.facts, kept)
    notes += _notes(results, kept)
    rows = _find(results, wanted)
    judging = _judge(policy, results.facts, notes, results.labels)
    images = [_image(number, row, results, judging) for number, row in islice(rows, MOST_IMAGES)]
    if not images:
        raise UsageError(_none(results, wanted))
    facts = results.facts
    return {
        "schema": 1,
        "results": results.name,
        "id": shown_text(wanted),
        "matches": len(images) + sum(1 for _ in rows),
        "images": images,
        "policy": {
            "name": facts.get("policy"),
            "file": facts.get("policy_file"),
            "sha256": facts.get("policy_sha256"),
            "thresholds_from": source,
            "on_error": policy and policy.on_error.value,
            "on_unscored": policy and policy.on_unscored,
        },
        "weights": {
            "name": facts.get("weights"),
            "sha256": facts.get("weights_sha256"),
            "models": [model for model in facts.get("weights_models", "").split("; ") if model],
            "purpose": facts.get("purpose"),
            **_second_weights(facts),
        },
        "run": {
            "id": facts.get("run_id"),
            **{name: facts.get(name) for name in _OWN_FACTS},
            "started": facts.get("started"),
            "ended": facts.get("ended"),
        },
        "ledger": kept.record and _ledger(kept.record),
        "notes": notes,
    }


def _find(results: Results, wanted: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if numbered := _ROW.fullmatch(wanted):
        return results.find(number=int(numbered[1]))
    sha256 = wanted.lower() if _DIGEST.fullmatch(wanted) else None
    rows = results.find(_spellings(wanted), sha256)
    first = next(rows, None)
    if first is not None:
        return chain([first], rows)
    return results.find(_alike(results, wanted))


def _spellings(wanted: str) -> list[str]:
    """A path or URL as rows have it: with `./`, from the root, from here, without its secrets."""
    text = path_text(os.fsencode(wanted))
    spellings = [text, f"./{text}", shown_text(wanted)]
    if not is_uri(os.fsencode(wanted)):
        spellings.append(f"./{os.path.normpath(text)}")
        with contextlib.suppress(OSError):  # the working directory is gone
            absolute = os.path.abspath(text)
            spellings += [absolute, f"./{os.path.relpath(absolute)}"]
    return spellings


def _alike(results: Results, wanted: str) -> Collection[str]:
    """The paths of rows that end as a path does, or that have more parameters than a URL.

    A parameter with another value names another image. Unicode forms do not matter. Of an absolute
    path that is below none of the rows' folders from here, as a scan elsewhere has them, it is the
    row with the longest end of it.
    """
    text = shown_text(wanted)
    if is_uri(os.fsencode(wanted)):
        literal, *_ = _QUERY.split(text, maxsplit=1)
        asked = _parameters(text)

        def fits(path: str) -> bool:
            start, *_ = _QUERY.split(path, maxsplit=1)
            return start == literal and asked <= _parameters(path)

    else:
        text = unicodedata.normalize("NFC", os.path.normpath(text))
        literal = os.path.basename(text)

        def fits(path: str) -> bool:
            path = unicodedata.normalize("NFC", path)
            plain, *_ = _QUERY.split(path, maxsplit=1) if "://" in path else (path,)
            is_below = text.startswith("/") and path.startswith("./") and text.endswith(path[1:])
            is_end = path.endswith(f"/{text}") or plain.endswith(f"/{text}")
            return is_below or (not text.startswith("/") and is_end)

    paths: dict[str, None] = {}
    for array in results.column("path"):
        compared = array if literal.isascii() else pc.utf8_normalize(array, "NFC")
        candidates = array.filter(pc.match_substring(compared, literal)).to_pylist()
        paths.update(dict.fromkeys(filter(fits, candidates)))
    return [max(paths, key=len)] if paths and text.startswith("/") else paths


def _parameters(url: str) -> frozenset[str]:
    """The parameters of a masked URL that say which image is meant, each with its value.

    Those of a signature are left out, which the same image has others of when it is signed again.
    """
    parameters = url.partition("#")[0].partition("?")[2].split("&")
    return frozenset(each for each in parameters if each and not _SIGNING.match(each))


def _none(results: Results, wanted: str) -> str:
    where = printable(results.name)
    if _ROW.fullmatch(wanted):
        return f"{where} has no row {wanted.partition(':')[2]}"
    paths = (path for array in results.column("path") for path in array.to_pylist())
    compared = list(islice(paths, MOST_COMPARED))
    close = difflib.get_close_matches(_spellings(wanted)[1], compared, n=3, cutoff=0.6)
    hint = f"; close: {', '.join(map(printable, close))}" if close else ""
    name = printable(shown_text(wanted))
    return f"no row of {where} is of {name}, by path or by sha256 (8 digits or more){hint}"


def _policy(facts: Mapping[str, str], kept: Kept) -> tuple[Policy | None, str | None, list[str]]:
    """The policy that decided, where it comes from (`results` or `ledger`), and notes on both."""
    notes: list[str] = []
    in_results: Policy | None = None
    if text := facts.get("policy_json"):
        try:
            in_results = Policy.model_validate_json(text)
        except ValidationError:
            notes.append("the policy in the audit facts is none that this version can read")
    in_ledger: Policy | None = None
    if kept.policy is not None:
        try:
            loaded = parse_policy(kept.policy, "in the ledger")
            in_ledger = loaded.policy if loaded.sha256 == facts.get("policy_sha256") else None
        except PolicyError as error:
            notes.append(str(error))
    if in_results and in_ledger and not _same_rules(in_results, in_ledger):
        notes.append("the policy in the audit facts is not the one of that digest in the ledger")
    if in_results:
        return in_results, "results", notes
    return in_ledger, "ledger" if in_ledger else None, notes


def _same_rules(one: Policy, other: Policy) -> bool:
    """Whether two policies decide alike; earlier versions named an edited preset as the preset."""
    return one == other.model_copy(update={"name": one.name})


def _judge(
    policy: Policy | None,
    facts: Mapping[str, str],
    notes: list[str],
    labels_there: Sequence[str],
) -> tuple[Judge, bool] | None:
    """What decided, on the day of the run, and whether it had lists whose entries are not kept."""
    if policy is None:
        return None
    try:
        day = date.fromisoformat(facts.get("started", "")[:10])
    except ValueError:
        day = None
    gone: dict[str, Any] = {"ignore_file": None, "block_file": None, "list_files": {}}
    try:
        judge = Judge(policy.model_copy(update=gone), today=day, labels_there=labels_there)
    except PolicyError as error:
        notes.append(str(error))
        return None
    return judge, bool(policy.list_files)


def _notes(results: Results, kept: Kept) -> list[str]:
    notes = []
    if not results.facts:
        notes.append(f"no audit facts: {metadata_path(results.name)} is missing")
    if results.mismatch:
        notes.append(
            f"{results.name} was changed, or is of another run: its digest is not the one in "
            f"{metadata_path(results.name)}"
        )
    else:
        outputs = kept.record.outputs if kept.record else {}
        if outputs and results.sha256 not in outputs.values():
            notes.append(f"{results.name} is not as its run wrote it, by the ledger's digests")
    if kept.missing:
        notes.append(kept.missing)
    if results.facts.get("purpose") == "demo":
        notes.append(
            f"{results.facts.get('weights')} is a demonstration: it knows drawn test cards only "
            "and is no moderation model"
        )
    return notes


def _image(
    number: int, row: Mapping[str, Any], results: Results, judging: tuple[Judge, bool] | None
) -> dict[str, Any]:
    exact = row["path_bytes"]
    carried = {name: row[name] for name in results.carried}
    final = final_of(results, row)
    path = row["path"].encode("utf-8", "backslashreplace") if exact is None else exact
    hashed = hash_of_cells(carried.get(PDQ), carried.get(PDQ_QUALITY))
    subject = Subject(path, carried, row["sha256"], hashed)
    policy = judging and judging[0].policy_for(subject)
    scores = {category: row[category] for category in results.categories}
    labels = {name: row[score_column(name)] for name in results.labels}
    about_opinions = opinion_columns(carried)
    return {
        "row": number,
        "path": row["path"],
        "path_bytes": None if exact is None else base64.b64encode(exact).decode("ascii"),
        "final_decision": final and final.decision,
        "decided_by": final and final.by,
        "decided_at": final and final.at,
        "decision": row["decision"],
        "reasons": _parts(row["reasons"]),
        "follows": _follows(row, subject, judging, labels),
        "scores": [
            {
                "category": str(category),
                "score": None if score is None else float(shortest(score)),
                "review": limits and limits.review,
                "block": limits and limits.block,
                "band": limits.decision(score).value if limits and score is not None else None,
            }
            for category, score in scores.items()
            for limits in (policy.limits(category) if policy else None,)
        ],
        "labels": [
            {
                "label": name,
                "score": None if score is None else float(shortest(score)),
                "review": limits and limits.review,
                "block": limits and limits.block,
                "band": limits.decision(score).value if limits and score is not None else None,
            }
            for name in label_names(labels)
            for score in (labels[name],)
            for limits in (policy.labels.get(name) if policy else None,)
        ],
        "rating": row["rating"],
        **_described_rating(row, policy, labels),
        "status": row["status"],
        "error_code": row["error_code"],
        "error_message": row["error_message"],
        "warnings": _parts(row["warnings"]),
        **{name: row[name] for name in _FACTS},
        "origin": row["origin"],
        "scored_at": row["scored_at"],
        **_second_opinion(carried),
        "carried": {
            name: _json_value(value)
            for name, value in carried.items()
            if not (final and name in FINAL_COLUMNS) and name not in about_opinions
        },
    }


def _described_rating(
    row: Mapping[str, Any], policy: Policy | None, labels: Labels
) -> dict[str, Any]:
    """The description and the probability of a rating by description; nothing of others."""
    scale = policy.described_levels if policy else ()
    level = next((level for level in scale if level.value == row["rating"]), None)
    if level is None:
        return {}
    names = scale_labels(scale, tuple(labels))
    score = labels[names[scale.index(level)]] if names else None
    return {
        "rating_description": level.description,
        "rating_probability": None if score is None else float(shortest(score)),
    }


def _second_weights(facts: Mapping[str, str]) -> dict[str, Any]:
    if "second_weights" not in facts:
        return {}
    digests = facts.get("second_weights_sha256", "").split("; ")
    names = facts["second_weights"].split("; ")
    return {
        "second": [
            {"name": name, "sha256": digest} for name, digest in zip(names, digests, strict=False)
        ]
    }


def _second_opinion(carried: Mapping[str, Any]) -> dict[str, Any]:
    """Whose second opinion a row has, and the scores before; nothing in runs without any."""
    if not opinion_columns(carried):
        return {}
    weights = carried[SECOND_WEIGHTS]
    first = {
        category.value: _number(carried[first_score(category)])
        for category in CATEGORIES
        if first_score(category) in carried
    }
    if weights in (None, ""):
        return {"second_opinion": None}
    error = carried.get(SECOND_ERROR) or None
    return {"second_opinion": {"weights": str(weights), "error": error, "first_scores": first}}


def _number(value: Any) -> float | None:
    """A score in a carried column, which CSV has as text."""
    try:
        return None if value in (None, "") else float(shortest(float(value)))
    except (TypeError, ValueError):
        return None


def _follows(
    row: Mapping[str, Any],
    subject: Subject,
    judging: tuple[Judge, bool] | None,
    labels: Labels,
) -> bool | None:
    """Whether the policy decides so from what the row holds; None where that cannot be told."""
    if judging is None:
        return None
    judge, lists_missing = judging
    if any(name not in labels for name in judge.scored):
        return None
    try:
        warnings = [Warn(name) for name in _parts(row["warnings"])]
        error = None
        if row["status"] == Status.ERROR:
            error = ImageError(ErrorCode(row["error_code"]), row["error_message"] or "")
    except ValueError:  # a name of another version
        return None
    scores = {category: row[category.value] for category in CATEGORIES}
    judged = judge.judge(subject, scores, warnings, error, labels, row["unseen"])
    if judged.decision == row["decision"]:
        return True
    by_list = (row["reasons"] or "").startswith((BLOCK_LIST, CLEARED))
    return None if by_list and lists_missing else False


def _parts(joined: str | None) -> list[str]:
    return joined.split("; ") if joined else []


def _json_value(value: Any) -> Any:
    """A carried value as JSON has it: what it has no type for as text."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if hasattr(value, "cast"):  # an Arrow scalar that Python has nothing equal to
        return _json_value(plain_value(value))
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _ledger(record: RunRecord) -> dict[str, Any]:
    return {
        "status": record.status.value,
        "message": record.message,
        "host": record.host,
        "user": record.user,
        "pid": record.pid,
        "command": list(record.command),
        "started": record.started,
        "ended": record.ended,
    }
