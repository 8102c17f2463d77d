"""Why one image got its decision, as cards: one per image, and what judged it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moderate.report.model import Fact, Facts, Paragraph, Part, Report, Table, Tone
from moderate.run.segments import read_segments
from moderate.text import shell_word, timestamp
from moderate.types import Warn

_SEGMENTS_SHOWN = 20
_NOT_RECORDED = "not recorded"
_DECISIONS: dict[str, Tone] = {"approve": "good", "review": "warning", "block": "bad"}
_SOURCES = {
    "results": "from the audit facts of the results",
    "ledger": "from the ledger",
    None: _NOT_RECORDED,
}


def report(explained: Mapping[str, Any]) -> Report:
    """What `moderate.analysis.explain.explain` gave; names and digests are never cut short."""
    return Report("moderate: explain", tuple(_parts(explained)), explained, ascii_json=True)


def _parts(explained: Mapping[str, Any]) -> Iterator[Part]:
    for image in explained["images"]:
        yield _facts(_head(image))
        yield _scores(image)
        if opinion := image.get("second_opinion"):
            yield _facts(_labelled(_opinion(image, opinion)))
        yield Facts(tuple(_labelled(_image_facts(image))), layout="columns", space_after=True)
    matches = explained["matches"]
    if more := matches - len(explained["images"]):
        yield Paragraph(f"and {more:,} more of {matches:,} rows that match")
    yield _facts(_labelled(_judged_by(explained)))
    for note in explained["notes"]:
        yield _facts([Fact("note", note, "warning")])


def _facts(items: Iterable[Fact]) -> Facts:
    return Facts(tuple(items), layout="columns")


def _labelled(pairs: Iterable[tuple[str, str]]) -> Iterator[Fact]:
    return (Fact(label, value) for label, value in pairs)


def _head(image: Mapping[str, Any]) -> Iterator[Fact]:
    decision, final = image["decision"], image["final_decision"]
    head = final or decision
    if head in _DECISIONS:
        yield Fact(head.upper(), image["path"], label_tone=_DECISIONS[head])
    else:
        yield Fact(head, image["path"])
    if final:
        when = f", {image['decided_at']}" if image["decided_at"] else ""
        yield Fact("decided", f"by {image['decided_by']}{when}")
        yield Fact("machine", decision)
    yield from _labelled(_continued("why", image["reasons"]))
    if image["follows"] is False:
        problem = "the policy decides otherwise from these scores: the row was changed"
        yield Fact("PROBLEM", problem, label_tone="bad")


def _scores(image: Mapping[str, Any]) -> Table:
    return Table(
        "",
        ("scores", "category", "score", "review from", "block from", "band"),
        tuple(map(_score, image["scores"])),
        text_columns=(0, 1, 5),
        min_width=8,  # the labels above and below are as wide
        space_after=False,
    )


def _opinion(image: Mapping[str, Any], opinion: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the first weights said, and what the second made of it."""
    first = opinion["first_scores"]
    said = ", ".join(f"{name} {_shown(score)}" for name, score in first.items())
    yield "first", f"the weights of the scan: {said or _NOT_RECORDED}"
    if opinion["error"]:
        yield "second", f"{opinion['weights']} gave none: {opinion['error']}"
        return
    now = {each["category"]: each["score"] for each in image["scores"]}
    changes = [
        f"{name} {_shown(score)} to {_shown(now[name])}"
        for name, score in first.items()
        if now.get(name) != score
    ]
    yield "second", f"{opinion['weights']}: {', '.join(changes) or 'the same scores'}"


def _shown(score: float | None) -> str:
    return "not scored" if score is None else str(score)


def _score(score: Mapping[str, Any]) -> tuple[str, ...]:
    thresholds = (
        _NOT_RECORDED if score[name] is None else f"{score[name]:g}" for name in ("review", "block")
    )
    if score["score"] is None:
        return ("", score["category"], "not scored", *thresholds, "")
    band = score["band"] or _NOT_RECORDED
    return ("", score["category"], str(score["score"]), *thresholds, band)


def _label_line(label: Mapping[str, Any]) -> str:
    score = "not scored" if label["score"] is None else str(label["score"])
    if label["review"] is None:
        return f"{label['label']} {score}"
    limits = f"review from {label['review']:g}, block from {label['block']:g}"
    return f"{label['label']} {score} ({limits}: {label['band'] or 'not scored'})"


def _image_facts(image: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _continued("labels", list(map(_label_line, image["labels"])))
    if image["rating"]:
        yield "rating", _rating_text(image)
    yield "status", image["status"]
    if image["error_code"]:
        yield "error", f"{image['error_code']}: {image['error_message'] or ''}"
    for label, name in _continued("warnings", image["warnings"]):
        known = name in set(Warn)
        yield label, f"{name}: {Warn(name).meaning}" if known else name
    size = [image["format"] or "format unknown"]
    if image["width"] is not None and image["height"] is not None:
        size.append(f"{image['width']} x {image['height']}")
    if (image["frames"] or 1) > 1:
        scored = image["frames_scored"]
        some = "" if scored is None else f" ({scored} scored)"
        size.append(f"{image['frames']} frames{some}")
    if image["duration"] is not None:
        size.append(f"{image['duration']:g} s")
    if image["bytes"] is not None:
        size.append(f"{image['bytes']:,} bytes")
    yield "file", ", ".join(size)
    if image["highest_at"]:
        yield "highest at", image["highest_at"]
    if image["unseen"]:
        yield "not seen", f"{image['unseen']:.0%} of the picture"
    if image["embedded"]:
        yield "embedded", image["embedded"]
    yield from _continued("segments", _segment_lines(image["segments"]))
    if image["sha256"]:
        yield "sha256", image["sha256"]
    if image["duplicate_of"]:
        yield "same as", image["duplicate_of"]
    if image["scored_at"]:
        yield "scored", f"{image['scored_at']} ({image['origin'] or _NOT_RECORDED})"
    if image["path_bytes"]:
        yield "name", f"not UTF-8; its bytes in base64: {image['path_bytes']}"
    yield "row", f"{image['row']:,}"
    for name, value in image["carried"].items():
        yield "carried", f"{name} = {'null' if value is None else value}"


def _rating_text(image: Mapping[str, Any]) -> str:
    """The level; with what fitted, and how well, where it was matched by its description."""
    level = str(image["rating"])
    if "rating_description" not in image:
        return level
    probability = image["rating_probability"]
    how_well = "" if probability is None else f" {probability}"
    return f"{level}{how_well}: {image['rating_description']}"


def _judged_by(explained: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    policy, weights, run = explained["policy"], explained["weights"], explained["run"]
    yield "policy", policy["name"] or _NOT_RECORDED
    if policy["file"]:
        yield "file", policy["file"]
    if policy["sha256"]:
        yield "sha256", policy["sha256"]
    yield "", f"thresholds: {_SOURCES[policy['thresholds_from']]}"
    purpose = f" (purpose: {weights['purpose']})" if weights["purpose"] else ""
    yield "weights", (weights["name"] or _NOT_RECORDED) + purpose
    if weights["sha256"]:
        yield "sha256", weights["sha256"]
    yield from (("", model) for model in weights["models"])
    for second in weights.get("second", ()):
        yield "second", second["name"]
        yield "sha256", second["sha256"]
    if run["config"]:
        yield "config", run["config"]
        yield "sha256", run["config_sha256"] or _NOT_RECORDED
    versions = [("moderate", run["version"]), ("torch", run["torch"]), ("timm", run["timm"])]
    yield (
        "versions",
        ", ".join(f"{name} {known}" for name, known in versions if known) or _NOT_RECORDED,
    )
    device = [run[name] for name in ("device", "precision", "backend") if run[name]]
    yield "device", ", ".join(device) or _NOT_RECORDED
    if run["jpeg_decode"]:
        yield "decoding", f"JPEG {run['jpeg_decode']}"
    if run["looked_at"]:
        yield "scored", run["looked_at"]
    yield "run", run["id"] or _NOT_RECORDED
    if run["started"]:
        yield "", f"{run['started']} to {run['ended'] or 'an end that is not recorded'}"
    if record := explained["ledger"]:
        yield from _by_ledger(record)
    yield "results", explained["results"]


def _by_ledger(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "", f"{record['status']}: {record['message']}" if record["message"] else record["status"]
    who = f"{record['user']}@" if record["user"] else ""
    yield "by", f"{who}{record['host']}, process {record['pid']}"
    yield "command", " ".join(map(shell_word, record["command"]))


def _segment_lines(text: str | None) -> list[str]:
    """Segments of a video in words; as they are where they are not as this program writes them."""
    lines = []
    for segment in read_segments(text):
        try:
            name = segment.get("category") or f"label {segment['label']}"
            start, end = timestamp(segment["start"]), timestamp(segment["end"])
            score = f"{segment['maximum']} ({segment['decision']})"
        except (KeyError, TypeError, ValueError, OverflowError):
            return [text or ""]
        lines.append(f"{start} to {end}: {name}, at most {score}")
    more = len(lines) - _SEGMENTS_SHOWN
    if more > 0:
        lines[_SEGMENTS_SHOWN:] = [f"and {more} more"]
    return lines or ([text] if text else [])


def _continued(label: str, values: list[str]) -> Iterator[tuple[str, str]]:
    """The values under one label, which only the first of them has."""
    for value in values:
        yield label, value
        label = ""
