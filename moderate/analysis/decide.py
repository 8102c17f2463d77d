"""Decisions again from stored scores: a results file under another policy, without an image.

What people decided on its rows can come to it, with the policy or alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moderate.analysis.decide_by_people import by_people, people_facts
from moderate.analysis.decide_by_policy import AsStored, ByPolicy
from moderate.analysis.decide_writing import count_ratings, count_rows, written_columns
from moderate.analysis.pieces import pieces
from moderate.analysis.policies import policy_of
from moderate.analysis.stored_opinions import opinions_note
from moderate.classify.coverage import Coverage
from moderate.config import ConfigRecord
from moderate.errors import UsageError
from moderate.policy.load import LoadedPolicy, load_policy
from moderate.policy.thresholds import DECISIONS
from moderate.results.final import FINAL_COLUMNS, has_final
from moderate.results.interface import CsvForm
from moderate.results.read import Results, read_results
from moderate.results.targets import (
    check_overwriting,
    check_reports,
    check_targets,
    finishing,
    identities,
    open_texts,
    open_writers,
    read_identities,
)
from moderate.review.verdicts import People, read_decisions
from moderate.run.summary import Audit, Summary
from moderate.text import utc
from moderate.types import (
    MOST_LISTED,
    Column,
)
from moderate.version import __version__


@dataclass(frozen=True, slots=True)
class DecideOptions:
    """What to decide again and by what; the names are those of the command line."""

    results: str
    policy: str | None
    out: Sequence[str] = ()
    summary: Sequence[str] = ()
    max_listed: int = MOST_LISTED
    force: bool = False
    csv: CsvForm = field(default_factory=CsvForm)
    partition_by: tuple[str, ...] = ()
    decisions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Redecided:
    """What came of it: counts as of a scan, and of changes.

    facts are the audit facts of what was written, before those of the source. changes counts the
    rows by severity, before (first axis) and now. notes are sentences for every form of it. people
    is None without journals of their decisions.
    """

    source: str
    facts: dict[str, str]
    before: dict[str, str]
    summary: Summary
    changes: NDArray[np.int64]
    notes: tuple[str, ...]
    outputs: dict[str, str] = field(default_factory=dict)
    people: People | None = None


def redecide(
    options: DecideOptions, summary_text: Callable[[Redecided, str], str] | None = None
) -> Redecided:
    """Read a results file, decide on its rows by another policy, and write them.

    Without a policy, the decisions stay as they are. With journals of what people decided, rows get
    the columns of `verdicts`, and what is counted is what people decided.

    summary_text gives the text of a summary for a target; without it, no summary is written.
    Nothing is put under a target's name before all rows are there. Raises UsageError, PolicyError,
    InputError for what is no results file, OutputError.
    """
    clock, started = time.monotonic(), datetime.now(UTC)
    check_targets(options.out, options.partition_by)
    check_reports("--summary", options.summary)
    results = read_results(options.results)
    if options.policy is None and not options.decisions:
        raise UsageError(
            "there is nothing to decide by: name a policy, decisions of people, or both"
        )
    loaded = None if options.policy is None else load_policy(options.policy)
    inputs = read_identities([options.results]) | identities(options.decisions)
    inputs |= identities(loaded.files if loaded else ())
    check_overwriting(options.out, options.summary, inputs, force=options.force)
    machine = ByPolicy(loaded, results) if loaded else AsStored(policy_of(results), results.carried)
    decisions = read_decisions(options.decisions) if options.decisions else None
    people = People.of(decisions) if decisions else None
    facts = _facts(results, loaded, started) | people_facts(options.decisions)
    facts = {"policy": machine.policy.name, "policy_sha256": "", **facts}
    audit = audit_of_facts(facts, started)
    summary = Summary(audit, machine.policy, machine.judge, own=results.own_categories)
    summary.max_listed = options.max_listed
    changes = np.zeros((len(DECISIONS), len(DECISIONS)), np.int64)
    made = Redecided(
        results.path,
        facts,
        dict(results.facts),
        summary,
        changes,
        tuple(_notes(results, options, loaded)),
        people=people,
    )
    summary_targets = options.summary if summary_text else ()
    with (
        open_writers(options.out, options.csv, options.partition_by) as writers,
        open_texts(summary_targets) as summaries,
    ):
        columns = written_columns(results, options.out)
        if decisions:
            # Those of an earlier time are replaced, and are the last of the carried ones.
            columns = [column for column in columns if column.name not in FINAL_COLUMNS]
            columns += [Column(name, pa.string()) for name in FINAL_COLUMNS]
        for writer in writers:
            writer.start(facts, columns, results.labels)
        count = 0
        for piece in pieces(results):
            counted, own = machine.decide(piece)
            carried = dict(piece.carried)
            if decisions and people:
                final = decisions.final(piece.first, own, counted.severity)
                people.count(final)
                counted = by_people(counted, final)
                carried |= final.columns()
            count_rows(summary, piece, counted)
            count_ratings(summary, own["rating"])
            np.add.at(changes, (piece.severity, counted.severity), 1)
            for writer in writers:
                writer.write_columns(
                    [own[name] for name in results.own],
                    [carried[column.name] for column in columns],
                )
            count += len(piece)
        if decisions:
            decisions.check_rows(count)
        summary.ended, summary.seconds = datetime.now(UTC), time.monotonic() - clock
        # What takes its time, and may fail, comes first: files appear all or none.
        for writer in writers:
            writer.seal(facts)
        if summary_text:
            for file in summaries:
                file.seal(summary_text(made, file.target))
        with finishing([*options.out, *summary_targets]):
            for writer in writers:
                made.outputs.update(writer.commit(facts))
            for file in summaries:
                file.commit()
    return made


def _facts(results: Results, loaded: LoadedPolicy | None, started: datetime) -> dict[str, str]:
    """The audit facts of the source, with what is true of these decisions."""
    replaced = {"sha256", "csv"}
    if loaded:  # a preset has no file to take the place of the earlier one
        replaced.add("policy_file")
    facts = {key: value for key, value in results.facts.items() if key not in replaced}
    if loaded:
        facts |= {
            "policy": loaded.policy.name,
            "policy_sha256": loaded.sha256,
            "policy_json": loaded.policy.model_dump_json(),
            **({"policy_file": loaded.shown_file} if loaded.shown_file else {}),
        }
    return facts | {
        "tool": "moderate",
        "decided_from": results.sha256,
        "decided": utc(started),
        "decided_version": __version__,
    }


def _notes(results: Results, options: DecideOptions, loaded: LoadedPolicy | None) -> Iterator[str]:
    if loaded and (note := opinions_note(loaded, results)):
        yield note
    if has_final(results) and not options.decisions:
        yield (
            "People have decided on the source: final_decision stays as it was, and the machine's "
            "decisions are counted. Give --decisions again to put them together."
        )
    if not results.facts:
        yield "The source has no audit facts: which weights gave the scores is not known."
    elif results.mismatch:
        yield ("The audit facts beside the source describe another file: its digest is not theirs.")


def audit_of_facts(facts: dict[str, str], started: datetime) -> Audit:
    """What a summary asks of a run, as far as the facts have it."""
    return Audit(
        version=facts.get("version", ""),
        run_id=facts.get("run_id", ""),
        weights=facts.get("weights", ""),
        weights_sha256=facts.get("weights_sha256", ""),
        weights_purpose=facts.get("purpose", ""),
        weights_models=tuple(facts.get("weights_models", "").split("; ")),
        policy=facts["policy"],
        policy_sha256=facts["policy_sha256"],
        policy_json=facts["policy_json"],
        policy_file=facts.get("policy_file"),
        device=facts.get("device", ""),
        precision=facts.get("precision", ""),
        backend=facts.get("backend", ""),
        sandbox=None,
        exact_decode=facts.get("jpeg_decode") == "full",
        torch=facts.get("torch", ""),
        timm=facts.get("timm", ""),
        started=started,
        config=ConfigRecord(facts["config"], facts.get("config_sha256", ""))
        if "config" in facts
        else None,
        coverage=Coverage.of_facts(facts),
        looked_at=facts.get("looked_at", ""),
        levels=facts.get("levels", ""),
    )
