"""What a look ahead at a scan found, and what the scan would cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from moderate.report.model import Fact, Facts, Part, Report, Table, counted
from moderate.report.runs import SHORT_ID, duration, size
from moderate.report.summary import problem_tables, skipped_table
from moderate.results.targets import to_stdout
from moderate.run.dry_run import Amount, DryRun
from moderate.run.interface import Job
from moderate.run.opinion_shares import OpinionShare
from moderate.run.options import ScanOptions
from moderate.run.speeds import Estimate, speed_settings
from moderate.text import shell_word


def report(found: DryRun, job: Job) -> Report:
    """All of it. job is the one that was looked at."""
    parts: tuple[Part, ...] = (*_tables(found), Facts(tuple(_facts(found, job))))
    data = as_json(found, job)
    return Report("moderate: dry run", parts, data, headline(found), ascii_json=True)


def headline(found: DryRun) -> str:
    """How many images there are, and how many of them are left to score."""
    parts = [f"{found.known:,} known {'by content' if found.verified else 'without reading'}"]
    if found.errors:
        parts.append(counted(found.errors, "error"))
    if found.skipped:
        parts.append(f"{counted(found.skipped.total(), 'file')} skipped")
    left = "frames and images" if found.videos else "images"
    rows = counted(found.rows, "image")
    return f"{rows} found, {found.to_score:,} {left} to score ({', '.join(parts)})"


def _tables(found: DryRun) -> Iterator[Table]:
    lines = [(*_numbers(each.amount), each.kind, each.name) for each in found.inputs]
    header = ("images", "size", "known", "kind", "input")
    yield Table("Inputs", header, tuple(lines), text_columns=(3, 4), wide=True)
    if found.formats:
        largest = sorted(found.formats.items(), key=lambda each: (-each[1].images, each[0]))
        yield Table(
            "Formats",
            ("format", "images", "size", "known"),
            tuple((name, *_numbers(amount)) for name, amount in largest),
        )
    codes = dict(sorted(found.error_codes.items()))
    yield from problem_tables(codes, found.error_examples, {})
    if found.skipped:
        yield skipped_table(found.skipped, found.highlights.skipped)


def _numbers(amount: Amount) -> tuple[str, str, str]:
    of_bytes = size(amount.nbytes) if amount.nbytes else "-"
    return f"{amount.images:,}", of_bytes, f"{amount.known:,}"


def _facts(found: DryRun, job: Job) -> Iterator[Fact]:
    how = "every file was read" if found.verified else "by size and times; --verify reads each file"
    yield Fact("known", f"{found.known:,} of {found.rows:,} images, {how}")
    if found.copies:
        yield Fact("copies", f"{counted(found.copies, 'image')} with the bytes of another one")
    yield from _unread_facts(found)
    yield from _cost_facts(found, job)
    weights = job.bundle
    yield Fact("weights", f"{weights.name} ({weights.sha256[:12]})")
    yield from map(_opinion_fact, found.second)
    place = found.placement
    yield Fact("device", f"{place.shown}, {place.precision}, {place.backend}")
    targets = [each for each in job.options.targets if not to_stdout(each)]
    written = f"nothing, and not {', '.join(found.highlights.outputs)}" if targets else "nothing"
    yield Fact("written", f"{written}: this was a dry run")
    if found.limited:
        yield Fact("note", f"Stopped at --limit {job.options.limit}: there may be more.", "warning")
    for note in found.input_notes:
        yield Fact("note", note, "warning")


def _opinion_fact(each: OpinionShare) -> Fact:
    bundle = each.second.bundle
    text = f"by {bundle.name} ({bundle.sha256[:12]}) {each.second.opinion.band}; "
    if each.share is None:
        text += "for how many of the images is not known before a run"
    else:
        text += f"about {each.share:.1%} of the images in run {(each.run or '')[:SHORT_ID]}"
    return Fact("second opinion", text)


def _unread_facts(found: DryRun) -> Iterator[Fact]:
    if found.unread:
        yield Fact("to fetch", f"{counted(found.unread, 'image')} from URLs and stores; not done")
    if found.unread_rows:
        rows = counted(found.unread_rows, "row")
        yield Fact("Parquet", f"{rows} counted and not read; --verify reads them")
    if found.videos:
        known = found.videos - found.unknown_videos
        text = f"{counted(found.videos, 'video')}, about {found.video_frames:,} frames"
        if found.unknown_videos:
            text += f" of {known:,} of them; the length of {found.unknown_videos:,} is unknown"
        yield Fact("videos", text)


def _cost_facts(found: DryRun, job: Job) -> Iterator[Fact]:
    estimate = found.estimate
    if not (found.to_score or found.unknown_videos):
        yield Fact("time", "that of writing the rows: nothing is left to score", "strong")
        return
    if estimate is None:
        yield Fact("time", f"unknown: {_no_basis(job, found)}", "warning")
        if job.options.hourly_cost is not None:
            yield Fact("cost", "unknown, as the time is", "warning")
        return
    yield Fact("time", _range(estimate, duration), "strong")
    if (hourly := job.options.hourly_cost) is not None:
        price = _range(estimate, lambda seconds: f"{hourly * seconds / 3600:.4f}")
        yield Fact("cost", f"{price} at {hourly:g} per hour", "strong")
    yield Fact("basis", basis(estimate))
    yield Fact("", _unaccounted(found))


def _range(estimate: Estimate, show: Any) -> str:
    """The expected value, with the least and the most where there are several speeds."""
    about = f"about {show(estimate.seconds)}"
    least, most = show(estimate.least_seconds), show(estimate.most_seconds)
    if least == most:
        return about
    return f"{about}, {least} to {most} by the last {len(estimate.speeds)}"


def basis(estimate: Estimate) -> str:
    """What the estimate comes from."""
    speed = estimate.basis
    which = f"run {speed.run[:SHORT_ID]}" if speed.run else "moderate bench"
    text = (
        f"{which} of {speed.ended[:10]} with {speed.weights} on {speed.device}: "
        f"{speed.images_per_second:.1f} images/s over {speed.images:,} images"
    )
    if speed.megapixels is not None:
        text += f" of {speed.megapixels:.1f} megapixels"
    if len(estimate.speeds) > 1:
        rates = [each.images_per_second for each in estimate.speeds]
        text += f" (the last {len(rates)}: {min(rates):.1f} to {max(rates):.1f})"
    return text


def _unaccounted(found: DryRun) -> str:
    """What the estimate leaves out."""
    parts = ["images of another size, or a busy machine, take another time"]
    if found.unknown_videos:
        parts.append("videos of unknown length are not in it")
    if found.unread:
        parts.append("fetching depends on the servers")
    if not found.verified:
        parts.append("copies and known contents under new names take less")
    return "; ".join(parts)


def _no_basis(job: Job, found: DryRun) -> str:
    options = job.options
    if 2 * found.unread > found.rows:
        return "no run that fetched images with these weights on this machine is recorded yet"
    if job.second:
        return "no run with these weights and second opinions on this machine yet"
    if options.state is None:
        return "--no-state leaves earlier runs and benches out"
    if speed_settings(options) != speed_settings(ScanOptions(inputs=(), weights=options.weights)):
        # No bench measures that.
        return "no run with these weights and settings on this machine yet"
    bench = f"moderate bench --weights {shell_word(str(options.weights))}"
    for name in ("device", "precision", "backend"):
        if (chosen := getattr(options, name)) != "auto":
            bench += f" --{name} {chosen}"
    return f"no run or bench of these weights on this machine yet; run {bench}"


def _second_as_json(found: DryRun) -> dict[str, Any]:
    if not found.second:
        return {}
    return {
        "second_opinions": [
            {
                "weights": each.second.bundle.name,
                "weights_sha256": each.second.bundle.sha256,
                "from": each.second.opinion.lower,
                "to": each.second.opinion.upper,
                "share": None if each.share is None else round(each.share, 4),
                "run": each.run,
            }
            for each in found.second
        ]
    }


def as_json(found: DryRun, job: Job) -> dict[str, Any]:
    """All of it as JSON values; sizes in bytes, times in seconds, null for what is not known."""
    estimate, hourly = found.estimate, job.options.hourly_cost
    times = None
    if estimate:
        times = {
            "expected": round(estimate.seconds, 1),
            "least": round(estimate.least_seconds, 1),
            "most": round(estimate.most_seconds, 1),
        }
    cost = None
    if times and hourly is not None:
        cost = {name: round(hourly * value / 3600, 6) for name, value in times.items()}
    place = found.placement
    return {
        "inputs": [
            {"name": each.name, "kind": each.kind, **asdict(each.amount)} for each in found.inputs
        ],
        "input_count": found.input_count,
        "images": found.rows,
        "bytes": found.nbytes,
        "formats": {name: asdict(of) for name, of in sorted(found.formats.items())},
        "known": found.known,
        "known_by": "content" if found.verified else "size and times",
        "to_score": found.to_score,
        "copies": found.copies,
        "not_fetched": found.unread,
        "parquet_rows_not_read": found.unread_rows,
        "videos": found.videos,
        "video_frames": found.video_frames,
        "videos_of_unknown_length": found.unknown_videos,
        "errors": found.errors,
        "error_codes": dict(sorted(found.error_codes.items())),
        "skipped": found.skipped.total(),
        "skipped_by_reason": dict(sorted(found.skipped.items())),
        "stopped_at_limit": found.limited,
        "weights": job.bundle.name,
        "weights_sha256": job.bundle.sha256,
        **_second_as_json(found),
        "device": place.shown,
        "precision": place.precision,
        "backend": place.backend,
        "seconds": times,
        "cost": cost,
        "hourly_cost": hourly,
        "basis": [
            {**asdict(each), "images_per_second": round(each.images_per_second, 2)}
            for each in (estimate.speeds if estimate else ())
        ],
        "notes": list(found.input_notes),
    }
