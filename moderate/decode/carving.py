"""Carving: finding whole files among other bytes by their signatures, without decoding a pixel.

Memory and time are bounded for any bytes: each signature is searched for once, each place that
looks like one costs a bounded number of steps, and what is left when the steps are used up is
reported as data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from moderate.decode.signatures import SIGNATURES, UNSIGNED, is_trailer
from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.decode.structures import LEAST_PICTURE_BYTES, BoundedBytes, OutOfStepsError

LEAST_UNKNOWN_BYTES = 64 * 1024
"""Data of an unknown kind behind a picture is reported from this size on, padding not counted.

Cameras and phones write trailers of their own: makers' notes, camera modes, editing history. No
viewer shows them, and those that are not a picture, video, archive or text with markup are smaller.
"""

_MOST_CANDIDATES = 2_000  # places in one stretch that look like the start of something
_PADDING = b"\x00\xff \r\n"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Something that a file holds besides its picture, from `start` to `end` in its bytes.

    is_copy says that it lies where cameras and editors keep a small copy of the picture, so that it
    matters only if it shows something else.
    """

    kind: str
    start: int
    end: int
    is_copy: bool = False

    @property
    def description(self) -> str:
        """How results name it: `jpeg of 34,567 bytes`."""
        return f"{self.kind} of {self.end - self.start:,} bytes"


@dataclass(slots=True)
class Search:
    """The state of one search: the file with the steps that are left, and what was found so far."""

    file: BoundedBytes
    items: list[Embedded] = field(default_factory=list)

    def note(self, kind: str, start: int, end: int, *, is_copy: bool = False) -> None:
        """Add something that was found."""
        self.items.append(Embedded(kind, start, end, is_copy))

    def note_rest(self) -> None:
        """Add everything that was not looked at, as data of an unknown kind."""
        if self.file.reached < len(self.file.data):
            self.note("data", self.file.reached, len(self.file.data))

    def beside(self, start: int, end: int) -> None:
        """Search a part of the structure that holds no picture of the file itself."""
        if end - start >= LEAST_PICTURE_BYTES:
            for kind, begin, after in self._files(start, end, pictures_only=True):
                self.note(kind, begin, after)

    def behind(
        self, start: int, listed: frozenset[int] = frozenset(), *, data: bool = True
    ) -> None:
        """Search everything that follows the picture.

        listed are the starts of further pictures that belong to the file itself; they are not
        reported. data says whether bytes of no known kind are.
        """
        end = len(self.file.data)
        self.file.reached = start
        position = start
        for kind, begin, after in self._files(start, end):
            self._unknown(position, begin, report=data)
            if not (kind == "jpeg" and begin in listed):
                self.note(kind, begin, after)
            position = after
        self._unknown(position, end, report=data)
        self.file.reached = end

    def _unknown(self, start: int, end: int, *, report: bool) -> None:
        """Report a stretch without signatures if it begins as another kind of file, or is large."""
        stretch = self.file.data[start:end]
        for begin in (start, end - len(stretch.lstrip(_PADDING))):
            kind = sniff(self.file.data[begin : min(begin + HEAD_BYTES, end)])
            if kind in UNSIGNED and end - begin >= LEAST_PICTURE_BYTES:
                self.note(kind, begin, end)
                return
        if report and not is_trailer(stretch):
            content = stretch.translate(None, _PADDING)
            if len(content) >= LEAST_UNKNOWN_BYTES:
                self.note("data", start, end)

    def _files(
        self, start: int, end: int, *, pictures_only: bool = False
    ) -> Iterator[tuple[str, int, int]]:
        """Kind, start and end of each file that begins, by its signature, between start and end.

        Files inside another one are left out.
        """
        signatures = [each for each in SIGNATURES if each.is_picture or not pictures_only]
        upcoming = [each.next(self.file.data, start, end) for each in signatures]
        position, left = start, _MOST_CANDIDATES
        while (begin := min(upcoming)) < end:
            index = upcoming.index(begin)
            if begin >= position:
                left -= 1
                if left < 0:
                    raise OutOfStepsError
                self.file.step()
                if match := signatures[index].check(self.file, begin, end):
                    position = self.file.reached = min(max(match[1], begin + 1), end)
                    yield match[0], begin, position
            upcoming[index] = signatures[index].next(self.file.data, max(position, begin + 1), end)
