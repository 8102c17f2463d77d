"""What a scan is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moderate.config import ConfigRecord
from moderate.decode.limits import IMAGES_PER_DECODER
from moderate.decode.parts import EmbeddedChoice, FrameChoice, ViewChoice
from moderate.decode.video import VideoOptions
from moderate.exports.interface import ExportOptions, ExportTarget
from moderate.fetch.options import HttpOptions
from moderate.results.interface import CsvForm
from moderate.sources.memory import Input
from moderate.sources.resolve import InputOptions
from moderate.types import MOST_LISTED, Limits, Origin


@dataclass(frozen=True, slots=True)
class StateOptions:
    """Where the state is, and the command line for the ledger.

    folder is None for a user without a home folder, who named no other. required: somebody named
    the folder, so that a name which can be no folder's is a mistake. imports are folders of other
    states, whose scores and runs are added before the run begins.
    """

    folder: Path | None
    required: bool = False
    command: Sequence[str] = ()
    imports: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan is asked to do; the defaults are those of the command line.

    inputs are names, as on the command line, and images in memory (see `moderate.scan`).
    exports are documents in the forms of other programs, export is how they are made; its baseline
    has the findings that fail no check again. thumbnails has pages of the summary show some of the
    most severe images.
    batch_size, workers (None for one per core) and images_per_decoder change speed alone. rescore
    has everything scored anew, retry_errors what was an error; verify has every file read, and
    scored where its content is new. frames, views and formats are those of `DecodeOptions`.
    embedded says whether what else is in an image's file is warned of or gets rows of its own.
    video is None where videos are refused. limit counts a file once, with all its rows.

    state is None for a run that remembers nothing and leaves nothing behind. lock is a file that
    one run at a time holds; lock_wait says for how many seconds to wait for it, None not at all.
    config is the file that some of this was read from, for the record. keep_labels writes the
    scores of the networks' own labels; those that the policy has thresholds for are written in any
    case. only writes and counts the rows of these origins alone; empty for all. max_listed is how
    many rows of each decision over `approve` the summary keeps for a list. force replaces existing
    files that no run of this tool wrote as they are. partition_by are the columns that targets of
    `out` which are folders are divided by. pdq writes the perceptual hash of each picture;
    near_duplicates does, too, and writes which earlier row each picture looks like.
    """

    inputs: Sequence[Input] = ()
    weights: str | None = None
    policy: str = "balanced"
    out: Sequence[str] = ()
    summary: Sequence[str] = ()
    exports: Sequence[ExportTarget] = ()
    export: ExportOptions = field(default_factory=ExportOptions)
    thumbnails: bool = False
    reading: InputOptions = field(default_factory=InputOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    compile: bool = False
    require_sandbox: bool = False
    exact_decode: bool = False
    frames: FrameChoice | int = "auto"
    views: ViewChoice = "auto"
    formats: tuple[str, ...] = ()
    embedded: EmbeddedChoice = "warn"
    batch_size: int = 32
    workers: int | None = None
    images_per_decoder: int = IMAGES_PER_DECODER
    limit: int | None = None
    hourly_cost: float | None = None
    video: VideoOptions | None = None
    state: StateOptions | None = None
    rescore: bool = False
    retry_errors: bool = False
    verify: bool = False
    lock: str | None = None
    lock_wait: float | None = None
    config: ConfigRecord | None = None
    keep_labels: bool = False
    only: tuple[Origin, ...] = ()
    max_listed: int = MOST_LISTED
    force: bool = False
    csv: CsvForm = field(default_factory=CsvForm)
    partition_by: tuple[str, ...] = ()
    pdq: bool = False
    near_duplicates: bool = False

    @property
    def looked_at(self) -> str:
        """What of each file is looked at, in words for the record."""
        said = [f"frames {self.frames}", f"views {self.views}", f"embedded content {self.embedded}"]
        if self.formats:
            said.append(f"formats {' '.join(f'+{name}' for name in self.formats)}")
        if video := self.video:
            least = f", {video.min_frames} frames or more" if video.min_frames > 1 else ""
            stop = f", stopped on {video.stop_on}" if video.stop_on != "never" else ""
            said.append(f"videos every {video.every:g} s{least}{stop}")
        return "; ".join(said)

    @property
    def targets(self) -> list[str]:
        """All files that are to be written."""
        return [*self.out, *(each.target for each in self.exports), *self.summary]
