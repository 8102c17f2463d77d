"""How fast earlier runs and benches were on this machine, for an estimate of the next run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from moderate.classify.device import Placement
from moderate.errors import StateError
from moderate.run.interface import Job
from moderate.run.options import ScanOptions
from moderate.run.summary import Summary
from moderate.state.database import UnavailableError
from moderate.state.ledger import Ledger, RunRecord, RunStatus, this_host
from moderate.types import Origin

if TYPE_CHECKING:
    from moderate.run.bench import Bench

log = logging.getLogger(__name__)

SPEED = "speed"
"""What the counts of a run call its speed."""

_NAMED = ("weights", "device", "precision", "backend")
_FEWEST_IMAGES, _FEWEST_SECONDS = 50, 1.0  # of a run that says something of speed
_MOST_RUNS = 500  # that are looked at
_MOST_USED = 5


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one run or bench was. run is its id, None for a bench; ended is ISO 8601 in UTC.

    seconds are those in which the images were decoded and scored, without startup_seconds;
    megapixels is the mean of the images, None where that is not known.
    """

    run: str | None
    ended: str
    weights: str
    device: str
    precision: str
    backend: str
    images: int
    seconds: float
    startup_seconds: float
    megapixels: float | None = None

    @property
    def images_per_second(self) -> float:
        """Images that were decoded and scored, or failed to be, per second."""
        return self.images / self.seconds


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long some images take: as in the newest of `speeds`, and as in the fastest and slowest.

    Times are in seconds.
    """

    speeds: tuple[Speed, ...]
    seconds: float
    least_seconds: float
    most_seconds: float

    @property
    def basis(self) -> Speed:
        """The newest."""
        return self.speeds[0]


def speed_settings(options: ScanOptions) -> dict[str, str]:
    """The settings that change how much work an image is."""
    return {
        "views": str(options.views),
        "frames": str(options.frames),
        "exact_decode": str(options.exact_decode),
        "embedded": str(options.embedded),
    }


def opinion_settings(job: Job) -> dict[str, str]:
    """The second opinions of a job, which cost time, too; nothing of a job without."""
    if not job.second:
        return {}
    shown = [f"{each.bundle.sha256} {each.opinion.band}" for each in job.second]
    return {"second_opinion": "; ".join(shown)}


def speed_of_run(summary: Summary, settings: Mapping[str, str]) -> dict[str, Any]:
    """What the ledger keeps of the speed of a run that has ended.

    Of rows whose outcome was known, or is that of a copy, there may be any number in a second: they
    are not counted. fetched says that most images came from elsewhere, at the speed of that.
    """
    return {
        "images": summary.origins[Origin.NEW] + summary.origins[Origin.CHANGED],
        "megapixels": round(summary.decoded_pixels / summary.decoded / 1e6, 3)
        if summary.decoded
        else None,
        "seconds": round(summary.seconds - summary.startup_seconds, 3),
        "startup_seconds": round(summary.startup_seconds, 3),
        "fetched": 2 * summary.fetched > summary.rows,
        "settings": dict(settings),
    }


def save_bench(ledger: Ledger, job: Job, bench: Bench) -> None:
    """Keep what a bench measured. Raises UnavailableError and StateError."""
    facts = {
        "weights": bench.weights,
        "weights_sha256": job.bundle.sha256,
        "device": bench.device_name,
        "precision": bench.precision,
        "backend": bench.backend,
    }
    images = bench.images * bench.repeat
    speed = {
        "images": images,
        "megapixels": round(bench.megapixels, 3),
        "seconds": round(images / bench.end_to_end, 3),
        "startup_seconds": 0.0,
        "fetched": False,
        "settings": speed_settings(job.options),
    }
    ledger.add_bench(facts, speed)


def known_speeds(
    ledger: Ledger | None, job: Job, placement: Placement, *, fetched: bool
) -> tuple[Speed, ...]:
    """The newest speeds of this host with the job's weights, device and settings, newest first.

    A backend or precision that is not `auto` has to be the same; one that is may have changed.
    """
    if ledger is None:
        return ()
    try:
        entries = [*_runs(ledger), *_benches(ledger)]
    except (UnavailableError, StateError) as error:
        log.debug("no look at earlier runs: %s", error)
        return ()
    entries.sort(key=lambda entry: entry[0].ended, reverse=True)
    wanted = {"weights_sha256": job.bundle.sha256, "device": placement.shown}
    for name in ("precision", "backend"):
        if getattr(job.options, name) != "auto":
            wanted[name] = getattr(placement, name)
    settings = speed_settings(job.options) | opinion_settings(job)
    return tuple(
        speed
        for speed, facts, measured in entries
        if wanted.items() <= facts.items()
        and measured.get("settings") == settings
        and measured.get("fetched") is fetched
    )[:_MOST_USED]


def estimate(speeds: tuple[Speed, ...], images: int) -> Estimate | None:
    """The time for so many images to decode and score; None where no speed is known."""
    if not speeds:
        return None
    times = [
        images / speed.images_per_second + (speed.startup_seconds if images else 0.0)
        for speed in speeds
    ]
    return Estimate(speeds, times[0], min(times), max(times))


_Entry = tuple[Speed, Mapping[str, Any], Mapping[str, Any]]  # with its facts and what was measured


def _runs(ledger: Ledger) -> Iterator[_Entry]:
    for run in ledger.runs(_MOST_RUNS):
        measured = run.counts.get(SPEED)
        if run.status is RunStatus.COMPLETED and run.host == this_host():
            yield from _entry(run, run.ended, run.facts, measured)


def _benches(ledger: Ledger) -> Iterator[_Entry]:
    for bench in ledger.benches(_MOST_RUNS):
        if bench.host == this_host():
            yield from _entry(None, bench.ended, bench.facts, bench.speed)


def _entry(
    run: RunRecord | None, ended: str | None, facts: Mapping[str, Any], measured: object
) -> Iterator[_Entry]:
    """Nothing for a record that says too little of speed, or was not written by this program."""
    if not isinstance(measured, dict) or ended is None:
        return
    try:
        weights, device, precision, backend = (str(facts[name]) for name in _NAMED)
        images, seconds = int(measured["images"]), float(measured["seconds"])
        startup = float(measured["startup_seconds"])
        megapixels = measured.get("megapixels")
        if megapixels is not None:
            megapixels = float(megapixels)
        datetime.fromisoformat(ended)
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    # A bench leaves starting up and reading from the disk out, so that a moment may be enough.
    fewest_seconds = _FEWEST_SECONDS if run else 0.01
    if images >= _FEWEST_IMAGES and fewest_seconds <= seconds < float("inf") and startup >= 0:
        speed = Speed(
            run=run.id if run else None,
            ended=ended,
            weights=weights,
            device=device,
            precision=precision,
            backend=backend,
            images=images,
            seconds=seconds,
            startup_seconds=startup,
            megapixels=megapixels,
        )
        yield speed, facts, measured
