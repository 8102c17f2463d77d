"""Targets that are to have a form of export: parsed, checked, opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from moderate.errors import UsageError
from moderate.exports.catalogue import REPORTS, SHAPES
from moderate.exports.interface import ExportOptions, ExportTarget
from moderate.results.remote import shown_target, target_name
from moderate.results.targets import check_files, check_place, finishing, opened
from moderate.results.text_writers import metadata_path
from moderate.text import nearest, one_line

if TYPE_CHECKING:
    from moderate.exports.writer import ExportWriter
    from moderate.results.read import Results


def parse_report(text: str) -> ExportTarget:
    """FORMAT:FILE, as --report takes it. Raises UsageError."""
    form, colon, target = text.partition(":")
    if not (colon and target):
        raise UsageError(f"--report {one_line(text, 80)}: write FORMAT:FILE, such as sarif:x.sarif")
    return ExportTarget(form, target, _known(form, "--report", REPORTS))


def split_shaped(
    out: Sequence[str], shape: str | None, *, document: bool
) -> tuple[list[str], list[ExportTarget]]:
    """The targets of --out that hold rows as ever, and those that --shape gives another form.

    The latter are those in JSON; tables stay what they are. Raises UsageError.
    """
    if shape is None:
        if document:
            raise UsageError("--shape-document goes with --shape NAME")
        return list(out), []
    made_by = _known(shape, "--shape", SHAPES)
    suffix = ".json" if document else ".jsonl"
    shaped = [each for each in out if target_name(each).lower().endswith(suffix)]
    if not shaped:
        hint = ""
        if not document and any(target_name(each).lower().endswith(".json") for each in out):
            hint = ", or add --shape-document"
        raise UsageError(f"--shape {shape}: name a file for it, --out FILE{suffix}{hint}")
    documents = [each for each in out if target_name(each).lower().endswith(".json")]
    if documents and not document:
        raise UsageError(
            f"--out {shown_target(documents[0])}: that is for --shape-document, which leaves rows "
            "in FILE.jsonl; the other of the two is made by 'moderate report RESULTS'"
        )
    targets = [
        ExportTarget(shape, "-" if each == f"-{suffix}" else each, made_by) for each in shaped
    ]
    beside = [] if document else [each for target in targets for each in _companions(target)]
    return [each for each in out if each not in shaped], [*targets, *beside]


def check_exports(targets: Sequence[ExportTarget]) -> None:
    """Refuse targets that could not be written. Raises UsageError or OutputError."""
    for each in targets:
        if not each.is_stdout:
            suffixes = each.form_class().suffixes
            rule = f"{each.form} goes to files that end in {' or '.join(suffixes)}"
            check_files(
                "--report" if each.form in REPORTS else "--out", [each.target], suffixes, rule
            )
            check_place(metadata_path(each.target))


def open_exports(
    targets: Sequence[ExportTarget], options: ExportOptions
) -> contextlib.AbstractContextManager[list[ExportWriter]]:
    """A writer per target; whatever was not committed when the block ends is discarded."""
    return opened(targets, partial(_open, options))


def write_exports(
    results: Results, targets: Sequence[ExportTarget], options: ExportOptions
) -> list[str]:
    """Make documents of a results file; all appear, or none. Raises InputError and OutputError.

    Returns what there is to say of them.
    """
    from moderate.results.final import row_as_decided  # it imports pyarrow

    facts = dict(results.facts)
    with open_exports(targets, options) as writers:
        if not writers:
            return []
        for writer in writers:
            writer.start_with(facts)
        for row in results.rows():
            decided = row_as_decided(results, row)
            for writer in writers:
                writer.put(decided if writer.is_of_people else row)
        for writer in writers:
            writer.seal({})
        with finishing([each.target for each in targets]):
            for writer in writers:
                writer.commit({})
        return [note for writer in writers for note in writer.notes]


def _companions(lines: ExportTarget) -> list[ExportTarget]:
    """The document that some shapes have beside their lines; a URI keeps the options behind it."""
    end = getattr(lines.form_class(), "companion", None)
    if end is None or lines.is_stdout:
        return []
    name = target_name(lines.target)
    target = os.path.splitext(name)[0] + end + lines.target[len(name) :]
    return [replace(lines, target=target, document=True)]


def _open(options: ExportOptions, each: ExportTarget) -> ExportWriter:
    if each.document is not None:
        options = replace(options, document=each.document)
    from moderate.exports.writer import ExportWriter

    export = each.form_class()(options)
    return ExportWriter(None if each.is_stdout else each.target, export, each.form)


def _known(name: str, option: str, known: Mapping[str, str]) -> str:
    """What makes the form of that name."""
    if name in known:
        return known[name]
    meant = nearest(name, known)
    hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
    raise UsageError(f"{option}: there is no form {one_line(name, 40)!r}; {hint}")
