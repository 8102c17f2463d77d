"""The vocabulary: what travels along the trip of one image, and the closed lists of codes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

_LARGEST_NUMBER = (1 << 63) - 1
_URI = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://|data:")


class Category(StrEnum):
    """The five things an image is scored for."""

    NUDITY = "nudity"
    SEXUAL_ACTIVITY = "sexual_activity"
    SUGGESTIVE = "suggestive"
    VIOLENCE = "violence"
    DRUG_USE = "drug_use"


CATEGORIES: tuple[Category, ...] = tuple(Category)

Scores = Mapping[Category, float | None]
"""Score per category: a float32 value in 0.0..1.0, or None where the weights cannot tell."""

UNSCORED: Scores = dict.fromkeys(CATEGORIES)


Places = Mapping[str, str]
"""Where in a file of several frames or parts the score of a category or label is highest.

By the term that reasons have for it; empty where there was one frame, seen as a whole.
"""

Labels = Mapping[str, float | None]
"""Score per label of a network, named MODEL/LABEL, or per own category of the weights, by its name,
which has no slash: a float32 value in 0.0..1.0."""

PARTLY_SEEN_FROM = 0.1
"""The share of a picture outside the model's view from which it has the warning `partly_seen`."""

MOST_LISTED = 20
"""Images that failed a run and are listed, if nothing else is asked for."""

LABEL_PREFIX = "label:"
"""What the names of columns start with that hold the scores of a label."""


class Decision(StrEnum):
    """What to do with an image, mildest first."""

    APPROVE = "approve"
    REVIEW = "review"
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """0 for approve, 1 for review, 2 for block."""
        return list(Decision).index(self)


class Status(StrEnum):
    """Whether an image was scored."""

    OK = "ok"
    ERROR = "error"


class ErrorCode(StrEnum):
    """Why an image could not be scored: a closed list."""

    NOT_FOUND = "not_found"
    PERMISSION_DENIED = "permission_denied"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    PATH_TOO_LONG = "path_too_long"
    READ_ERROR = "read_error"
    BAD_INPUT = "bad_input"
    BAD_URL = "bad_url"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    FETCH_TIMEOUT = "fetch_timeout"
    FETCH_FAILED = "fetch_failed"
    HOST_UNREACHABLE = "host_unreachable"
    HTTP_ERROR = "http_error"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    BAD_ARCHIVE_MEMBER = "bad_archive_member"
    ARCHIVE_LIMIT = "archive_limit"
    EMPTY_FILE = "empty_file"
    FILE_TOO_LARGE = "file_too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_SCANS = "too_many_scans"
    TRUNCATED = "truncated"
    CORRUPT_IMAGE = "corrupt_image"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_CRASHED = "decoder_crashed"
    OUT_OF_MEMORY = "out_of_memory"
    CLASSIFY_FAILED = "classify_failed"
    NON_FINITE_SCORE = "non_finite_score"
    INTERNAL_ERROR = "internal_error"

    @property
    def meaning(self) -> str:
        """One line for the README and the summary."""
        return _ERROR_MEANINGS[self]


_ERROR_MEANINGS: dict[ErrorCode, str] = {
    ErrorCode.NOT_FOUND: "nothing is there under that name",
    ErrorCode.PERMISSION_DENIED: "the file or folder may not be read by this user",
    ErrorCode.NOT_A_REGULAR_FILE: "a FIFO, socket, device or folder where a file was expected",
    ErrorCode.PATH_TOO_LONG: "the path is longer than the system can open",
    ErrorCode.READ_ERROR: "reading failed (disk, network share, too many links)",
    ErrorCode.BAD_INPUT: "a line or value of a list or manifest that names no image",
    ErrorCode.BAD_URL: "not a URL that can be fetched, or a data: URL that does not decode",
    ErrorCode.ADDRESS_NOT_ALLOWED: "the URL leads to an address that is not public",
    ErrorCode.FETCH_TIMEOUT: "the server did not deliver within the time allowed",
    ErrorCode.FETCH_FAILED: "no connection, or it broke off, or the body is not what was promised",
    ErrorCode.HOST_UNREACHABLE: "not asked for, as its host did not answer for other URLs either",
    ErrorCode.HTTP_ERROR: "the server answered with another status than 200",
    ErrorCode.TOO_MANY_REDIRECTS: "more than five redirects",
    ErrorCode.BAD_ARCHIVE_MEMBER: "broken, encrypted, or compressed in a way that is not supported",
    ErrorCode.ARCHIVE_LIMIT: "the archive is a bomb, or too large to be read",
    ErrorCode.EMPTY_FILE: "the file has no bytes",
    ErrorCode.FILE_TOO_LARGE: "more bytes than --max-file-size (videos: --max-video-size)",
    ErrorCode.NOT_AN_IMAGE: "the bytes are no image (HTML, text, an archive, ...)",
    ErrorCode.UNSUPPORTED_FORMAT: "a format that is not read, or only where --formats names it",
    ErrorCode.TOO_MANY_PIXELS: "more pixels than --max-megapixels",
    ErrorCode.TOO_MANY_SCANS: "a JPEG of over 1,000 passes, made to cost time",
    ErrorCode.TRUNCATED: "the file ends before the picture does",
    ErrorCode.CORRUPT_IMAGE: "the picture cannot be decoded",
    ErrorCode.DECODE_TIMEOUT: "decoding took longer than --decode-timeout",
    ErrorCode.DECODER_CRASHED: "the decoder process died on this picture, twice",
    ErrorCode.OUT_OF_MEMORY: "decoding needs more memory than --max-decoder-memory",
    ErrorCode.CLASSIFY_FAILED: "the model failed on this picture",
    ErrorCode.NON_FINITE_SCORE: "the model gave NaN or infinity",
    ErrorCode.INTERNAL_ERROR: "a fault in moderate itself, on this image alone; please report it",
}


class Warn(StrEnum):
    """Something unusual about an image that was scored: a closed list."""

    SMALL_IMAGE = "small_image"
    EXTENSION_MISMATCH = "extension_mismatch"
    ANIMATED = "animated"
    MULTI_PICTURE = "multi_picture"
    ALPHA_AMBIGUOUS = "alpha_ambiguous"
    BAD_METADATA = "bad_metadata"
    SYMLINK_OUTSIDE = "symlink_outside"
    VIDEO_INCOMPLETE = "video_incomplete"
    VIDEO_STOPPED = "video_stopped"
    PARTLY_SCORED = "partly_scored"
    PARTLY_SEEN = "partly_seen"
    EMBEDDED_CONTENT = "embedded_content"
    NO_SECOND_OPINION = "no_second_opinion"

    @property
    def meaning(self) -> str:
        """One line for the README."""
        return _WARN_MEANINGS[self]


_WARN_MEANINGS: dict[Warn, str] = {
    Warn.SMALL_IMAGE: "the longest side is under 256 px",
    Warn.EXTENSION_MISMATCH: "the name claims another image format than the bytes are",
    Warn.ANIMATED: "more than one frame; frames_scored says how many were scored",
    Warn.MULTI_PICTURE: "a file that holds further pictures beside the first (MPO, gain map, "
    "HEIC with several images); frames_scored says how many were scored",
    Warn.ALPHA_AMBIGUOUS: "scored on white; on black, or with transparency ignored, "
    "it would show something else",
    Warn.BAD_METADATA: "EXIF could not be read, so the orientation is unknown",
    Warn.SYMLINK_OUTSIDE: "reached through a link that leads out of the input folder",
    Warn.VIDEO_INCOMPLETE: "some of the video was not scored: it is damaged, breaks off, "
    "has more frames than are taken, or further moving pictures",
    Warn.VIDEO_STOPPED: "the rest of the video was not scored: a frame was as severe as "
    "--video-stop-on",
    Warn.PARTLY_SCORED: "frames or pictures that differ from those that were scored were left out",
    Warn.PARTLY_SEEN: "10 % of the picture or more is outside what the model sees",
    Warn.EMBEDDED_CONTENT: "the file holds something else that was not scored",
    Warn.NO_SECOND_OPINION: "the second opinion that the policy asks for could not be had: "
    "the scores are those of the first weights, and no policy approves that",
}


class SkipReason(StrEnum):
    """Why a file in a directory got no row: counted in the summary, never silent."""

    NOT_AN_IMAGE = "not an image"
    HIDDEN = "hidden"
    SYMLINK = "symbolic link"
    LOOP = "folder already visited"
    EXCLUDED = "excluded by --include or --exclude"
    NOT_REGULAR = "not a regular file"


class Origin(StrEnum):
    """Where a row's scores or error come from: a closed list."""

    NEW = "new"
    CHANGED = "changed"
    REUSED = "reused"
    DUPLICATE = "duplicate"

    @property
    def meaning(self) -> str:
        """One line for the README."""
        return _ORIGIN_MEANINGS[self]


_ORIGIN_MEANINGS: dict[Origin, str] = {
    Origin.NEW: "scored, or tried, in this run: no earlier run kept an outcome of this content",
    Origin.CHANGED: "a file that was known with another content",
    Origin.REUSED: "an earlier run had the outcome: scores or an error of the same content",
    Origin.DUPLICATE: "the same content as that of an earlier row of this run",
}


@dataclass(frozen=True, slots=True)
class Url:
    """Bytes behind an http or https URL, which may hold credentials: never shown as it is."""

    url: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Bytes in a file system that pyarrow knows, by its URI (s3://bucket/key, gs://bucket/key)."""

    uri: str


@dataclass(frozen=True, slots=True)
class Inline:
    """Bytes that came with the input itself: a column of a manifest, a member of an archive.

    from_pixels: the input was pixels, which were encoded to have them scored; format, size and
    digest of these bytes are no facts about it. start_of: data is only the start of so many bytes,
    as for a look ahead; None where it is all of them.
    """

    data: bytes
    from_pixels: bool = False
    start_of: int | None = None


Location = Url | StoredObject | Inline


@dataclass(frozen=True, slots=True)
class Listing:
    """The list or manifest that names an image: its name in messages, its folder, and where its
    relative paths start. An empty path is the current directory; folder is None for a stream."""

    name: str
    folder: bytes | None
    base: bytes = b""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One input that gets a row: where its bytes are and what to call it.

    `path` holds the exact bytes of the name, without credentials; location says where the bytes
    are, None meaning in the local file of that name. `error` is set where the source already knows
    that it cannot be read (an unreadable folder). A link is followed only where follow_symlinks
    says so, even one that took a file's place since the walk saw it. `carried` holds the values of
    the source's `columns` that go into the output, in their order. `listing` is the list or
    manifest that named the image, if any: it explains paths that are not there. `within` is the
    file that holds the image where it is none by itself: a member of an archive, a frame of a
    video; `path` then starts with the path of that file. `whole_input` says
    that the ref stands for an input, or a folder of one, rather than for an image: an error of it
    means that images have no rows.
    """

    path: bytes
    warnings: tuple[Warn, ...] = ()
    error: ImageError | None = None
    follow_symlinks: bool = True
    location: Location | None = None
    carried: tuple[Any, ...] = ()
    listing: Listing | None = field(default=None, repr=False, compare=False)
    whole_input: bool = False
    within: ImageRef | None = field(default=None, repr=False, compare=False)

    @property
    def display(self) -> bytes:
        """The path as rows name it: a URL, or always starting with `/` or `./`."""
        if self.path.startswith((b"/", b"./")):
            return self.path
        # A local file may be called http:, too; without a location it is one.
        named_by_uri = self.location is not None and _URI.match(self.path)
        return self.path if named_by_uri else b"./" + self.path

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return os.path.basename(self.path)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file in a directory that gets no row, with the reason."""

    path: bytes
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class ImageError:
    """Why one image has no scores: a code of the closed list and one line for people."""

    code: ErrorCode
    message: str


class PdqHash(NamedTuple):
    """A perceptual hash: 32 bytes, and the quality, 0 to 100, that its picture allows."""

    bits: bytes
    quality: int


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image's file. Fields are None where it was not read that far.

    width and height are in pixels, of the upright image; frames counts up to 1,000, and
    frames_scored says how many of them were scored. unseen is the share of the picture, 0.0 to 1.0,
    outside what the model sees; where several models feed a category, a place is seen if one of
    them sees it. embedded says what else the file holds that was not scored. duration is how many
    seconds of a video its frames stand for, from its start. pdq is that of the first frame, and
    there where a run asked for it. A number that no column can hold (negative, or of more than 63
    bits) is None: headers, servers and decoders may claim anything.
    """

    width: int | None = None
    height: int | None = None
    format: str | None = None
    frames: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    warnings: tuple[Warn, ...] = ()
    frames_scored: int | None = None
    unseen: float | None = None
    embedded: tuple[str, ...] = ()
    duration: float | None = None
    pdq: PdqHash | None = None

    def __post_init__(self) -> None:
        """Replace numbers that no column can hold by None, once for all stages."""
        for name in ("width", "height", "frames", "bytes", "frames_scored"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _LARGEST_NUMBER:
                object.__setattr__(self, name, None)


@dataclass(frozen=True, slots=True)
class Views:
    """Derived columns that hosted services give; None where nothing was scored.

    rating_probability is that of a level that is matched by description; results have it in the
    column of the level's label.
    """

    label: str | None = None
    nsfw_score: float | None = None
    safe_score: float | None = None
    confidence: float | None = None
    risk: str | None = None
    is_nsfw: bool | None = None
    rating: str | None = None
    rating_probability: float | None = None


@dataclass(frozen=True, slots=True)
class ExtraColumns:
    """The columns that a run's results have besides those of every run.

    carried: those of `ImageRef.carried`, in order. labels: the names of the own categories and of
    the labels, MODEL/LABEL.
    """

    carried: tuple[Column, ...] = ()
    labels: tuple[str, ...] = ()


NO_EXTRA_COLUMNS = ExtraColumns()


@dataclass(frozen=True, slots=True)
class Row:
    """One image's result: facts (scores) and what the policy made of them.

    duplicate_of is the `path` of the first row of the run whose file has the same bytes. labels
    holds the scores of the weights' own categories, and of the networks' own labels that the run
    keeps; none of an error. bands says what each of CATEGORIES, and then each own category that the
    policy knows, asks for by itself: approve, review, block or unscored; it is empty in a row that
    only says that there was an error. run_id is that of the run that wrote the row.
    scored_at is when the scores were computed (UTC), in an earlier run where they are reused; None
    without scores, and where an older version stored them. places says which frame or part of the
    file each score is of, segments what a video shows from when to when. uri is where other
    programs find the image; None for one in memory. extra is known where the row came from
    `moderate.scan` or a Moderator.
    """

    ref: ImageRef
    facts: ImageFacts
    scores: Scores
    decision: Decision
    reasons: tuple[str, ...]
    views: Views = field(default_factory=Views)
    error: ImageError | None = None
    duplicate_of: str | None = None
    origin: Origin = Origin.NEW
    labels: Labels = field(default_factory=dict)
    bands: tuple[str, ...] = ()
    run_id: str = ""
    scored_at: datetime | None = None
    extra: ExtraColumns = NO_EXTRA_COLUMNS
    places: Places = field(default_factory=dict)
    segments: str | None = None
    uri: str | None = None

    def __repr__(self) -> str:
        """One short line; `to_dict` has everything."""
        scores = ", ".join(
            f"{category.value} {score:.3f}"
            for category, score in self.scores.items()
            if score is not None
        )
        outcome = self.error.code.value if self.error else scores or "no scores"
        return f"<Row {self.path!r}: {self.decision.value}, {outcome}>"

    @property
    def path(self) -> str:
        """The input as results name it: a URL, `memory://N`, or a path that starts with / or ./.

        Text that `open` takes; bytes that are not UTF-8 are kept as `os.fsdecode` has them.
        """
        return os.fsdecode(self.ref.display)

    def to_dict(self) -> dict[str, Any]:
        """The row as results have it: plain Python values by the names of the columns, in order."""
        # By its public name: columns are described where rows are written, after this module.
        from moderate import row_to_dict

        columns: dict[str, Any] = row_to_dict(self)
        return columns

    @property
    def status(self) -> Status:
        """`error` for an image without scores, else `ok`."""
        return Status.ERROR if self.error else Status.OK


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost: bytes of the file, pixels, seconds, bytes of a decoder's memory."""

    max_file_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 100_000_000
    decode_timeout: float = 10.0
    max_decoder_bytes: int = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an input that is carried into the output: its name and its pyarrow.DataType."""

    name: str
    type: Any
