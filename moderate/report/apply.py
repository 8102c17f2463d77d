"""What applying decisions to files did, or would do, and what undoing it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moderate.apply.run import Applied, Undone
from moderate.report.model import Fact, Facts, Part, Report, Table, counted, sentences
from moderate.report.runs import size
from moderate.text import path_text, printable, shell_word
from moderate.types import Decision

_DONE = {"copy": "copied", "move": "moved", "link": "linked"}
_EXAMPLES = 3  # paths for each reason


def report(applied: Applied) -> Report:
    """Of `moderate apply RESULTS`."""
    return Report(
        "moderate: apply",
        tuple(_parts(applied)),
        _data(applied),
        _headline(applied),
    )


def undo_report(undone: Undone) -> Report:
    """Of `moderate apply --undo LOG`."""
    count = sum(undone.done.values())
    left = sum(map(len, undone.refused.values()))
    headline = f"{counted(count, 'file')} brought back"
    if left:
        headline += f", {left:,} not"
    elif not count:
        headline = "nothing to bring back"
    parts: list[Part] = []
    if undone.examples:
        parts.append(_first_files(undone.examples, count))
    parts.extend(_refused(undone.refused, undone.most_listed, "Not brought back"))
    facts = [Fact("results", undone.results)] if undone.results else []
    parts.append(Facts((*facts, Fact("log", undone.log)), layout="whole"))
    data = {
        "schema": 1,
        "undo": True,
        "log": undone.log,
        "results": undone.results,
        "complete": undone.is_complete,
        "files": count,
        "by_decision": dict(undone.done),
        "first": _first_data(undone.examples),
        "not_applied": _refused_data(undone.refused, undone.most_listed),
    }
    return Report("moderate: apply --undo", tuple(parts), data, headline)


def _headline(applied: Applied) -> str:
    count = sum(applied.done.values())
    files = f"{counted(count, 'file')} ({size(applied.byte_count)})"
    if not count and applied.before:
        headline = f"nothing more to {applied.kind}"
    elif applied.acted:
        headline = f"{_DONE[applied.kind]} {files}"
    else:
        headline = f"would {applied.kind} {files}; nothing is touched without --yes"
    if left := sum(map(len, applied.refused.values())):
        headline += f"; {left:,} not applicable" if not applied.acted else f"; {left:,} not applied"
    return headline


def _parts(applied: Applied) -> Iterator[Part]:
    plan = applied.plan
    done = _DONE[applied.kind]
    columns = [(done if applied.acted else f"to {applied.kind}", applied.done)]
    if applied.there:
        columns.append(("there already", applied.there))
    if applied.before:
        columns.append(("done before", applied.before))
    if plan.unasked:
        columns.append(("left alone", plan.unasked))
    decisions = [
        each.value for each in reversed(Decision)
        if each in applied.targets or plan.unasked[each.value]
    ]  # fmt: skip
    yield Table(
        "Files by decision",
        ("decision", *(name for name, _ in columns), "to"),
        tuple(
            (name, *(f"{counts[name]:,}" for _, counts in columns), _folder(applied, name))
            for name in decisions
        ),
        text_columns=(0, len(columns) + 1),
        wide=True,
    )
    if applied.examples:
        yield _first_files(applied.examples, sum(applied.done.values()))
    yield from _refused(applied.refused, applied.most_listed,
                        "Not applied" if applied.acted else "Not applicable")  # fmt: skip
    if plan.inside:
        yield _inside(applied)
    facts = []
    if applied.root is not None:
        root = path_text(applied.root.path)
        facts.append(Fact("root", f"{root} ({applied.root.why})"))
    facts.append(Fact("log", applied.log))
    if applied.acted and (applied.done or applied.finished):
        facts.append(Fact("undo", f"moderate apply --undo {shell_word(applied.log)}"))
    yield Facts(tuple(facts), layout="whole", label_width=6)
    if lines := _notes(applied):
        yield sentences(lines)


def _folder(applied: Applied, decision: str) -> str:
    path = applied.targets.get(decision)
    return "no folder given" if path is None else path_text(path)


def _first_files(examples: Sequence[tuple[str, str, int]], count: int) -> Table:
    title = "Files" if count == len(examples) else f"First {len(examples)} of {count:,} files"
    rows = tuple((path, decision, size(nbytes)) for path, decision, nbytes in examples)
    widths = (max(len(each) for each in Decision), max(len(shown) for _, _, shown in rows))
    return Table(title, ("path", "decision", "size"), rows, name_last=widths)


def _refused(refused: Mapping[str, Sequence[str]], most: int, title: str) -> Iterator[Part]:
    if not refused or not most:
        return
    rows = [
        row
        for reason, paths in sorted(refused.items(), key=lambda item: -len(item[1]))
        for row in _reason_rows(reason, paths, min(most, _EXAMPLES))
    ]
    yield Table(title, ("reason", "rows"), tuple(rows), name_last=(6,))


def _reason_rows(reason: str, paths: Sequence[str], most: int) -> Iterator[tuple[str, str]]:
    yield reason, f"{len(paths):,}"
    for path in paths[:most]:
        yield f"  {path}", ""
    if len(paths) > most:
        yield f"  and {len(paths) - most:,} more", ""


def _inside(applied: Applied) -> Table:
    """Files that are not applied, and hold what has rows."""
    held = sorted(applied.plan.inside.items(), key=lambda item: -item[1].worst.severity)
    rows = tuple(
        (path_text(path), *(f"{inside.counts[d.value]:,} {d.value}" for d in reversed(Decision)))
        for path, inside in held[: applied.most_listed]
    )
    widths = tuple(max((len(row[n]) for row in rows), default=0) for n in (1, 2, 3))
    more = len(held) - len(rows)
    notes = ("they are left as they are, whatever is in them",)
    return Table(
        "Files that hold rows of their own",
        ("path", *(d.value for d in reversed(Decision))),
        rows,
        notes=((f"and {more:,} more", *notes) if more else notes),
        name_last=widths,
    )


def _notes(applied: Applied) -> list[str]:
    plan = applied.plan
    lines: list[str] = [f"note: {printable(note)}" for note in applied.notes]
    if applied.finished:
        lines.append(f"finished what a stopped run was at: {counted(applied.finished, 'file')}")
    if plan.covered:
        lines.append(f"{counted(plan.covered, 'row')} of frames and of embedded files: "
                     "they go with their file")  # fmt: skip
    if plan.again:
        lines.append(f"{counted(plan.again, 'row')} that name a file once more")
    if applied.other_names and applied.kind == "move":
        lines.append(
            f"{counted(applied.other_names, 'file')} with other hard links, which stay where they "
            "are"
        )
    if applied.done and not applied.acted:
        lines.append("only sizes were compared; the sha256 of a file is verified before it is "
                     "touched")  # fmt: skip
    return lines


def _data(applied: Applied) -> dict[str, Any]:
    """All of it as JSON values. `schema` counts up when a key changes its meaning."""
    plan, root = applied.plan, applied.root
    decisions = [each.value for each in Decision]
    return {
        "schema": 1,
        "dry_run": not applied.acted,
        "kind": applied.kind,
        "root": None if root is None else path_text(root.path),
        "root_is": None if root is None else root.why,
        "log": applied.log,
        "complete": applied.is_complete,
        "rows": plan.rows,
        "files": sum(applied.done.values()),
        "bytes": applied.byte_count,
        "finished_first": applied.finished,
        "by_decision": {
            name: {
                "folder": path_text(applied.targets[name]) if name in applied.targets else None,
                "files": applied.done[name],
                "there_already": applied.there[name],
                "done_before": applied.before[name],
                "no_folder": plan.unasked[name],
            }
            for name in decisions
        },
        "first": _first_data(applied.examples),
        "not_applied": _refused_data(applied.refused, applied.most_listed),
        "inside": [
            {"path": path_text(path), **{name: inside.counts[name] for name in decisions}}
            for path, inside in list(plan.inside.items())[: applied.most_listed]
        ],
        "inside_count": len(plan.inside),
        "rows_of_parts": plan.covered,
        "rows_again": plan.again,
        "files_with_other_links": applied.other_names,
        "notes": list(applied.notes),
    }


def _first_data(examples: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    return [
        {"path": path, "decision": decision, "bytes": nbytes} for path, decision, nbytes in examples
    ]


def _refused_data(refused: Mapping[str, Sequence[str]], most: int) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "rows": len(paths), "first": list(paths[:most])}
        for reason, paths in refused.items()
    ]
