"""Lists: a path or URL on each line of a file or stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from moderate.fetch.local import FetchError
from moderate.fetch.naming import is_uri
from moderate.sources.entries import bad_line, entry_ref, longest_line, no_image
from moderate.sources.interface import Source
from moderate.tables.lines import LineFile, read_lines
from moderate.types import ErrorCode, ImageError, ImageRef, Limits, Listing, Skipped


@dataclass(frozen=True, slots=True)
class ListSource(Source):
    """One local path, URL, object URI or `data:` URL per line, each with a row of its own.

    Relative paths start from `base`, usually the current directory, like those that `find` and `ls`
    print and `xargs`, `tar -T` and `rsync --files-from` read. Left out are a byte order mark, the
    CR of CRLF, lines of white space only, and lines that start with `#` (a file of such a name is
    listed as `./#name`). With `nul`, entries end with NUL and are taken to the byte: no comments,
    nothing stripped.

    A line that does not name an image is an error row with the path `name:NUMBER`. Memory does not
    grow with the list, nor with a line.

    file: a path, or a binary stream, which can be iterated once and yields refs as lines arrive.
    name: how rows and messages show the list. max_file_bytes: limit for what `data:` URLs hold.
    """

    kind: ClassVar[str] = "list"

    file: LineFile = field(repr=False)
    nul: bool = field(kw_only=True)
    name: str = field(kw_only=True)
    max_file_bytes: int = field(default=Limits().max_file_bytes, kw_only=True)
    base: bytes = field(default=b"", kw_only=True)

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return (self.file,) if isinstance(self.file, bytes) else ()

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        separator = b"\0" if self.nul else b"\n"
        folder = os.path.dirname(self.file) if isinstance(self.file, bytes) else None
        listing = Listing(self.name, folder, self.base)
        for line in read_lines(self.file, self.name, self._limit, separator):
            entry = line.data
            if not self.nul:
                entry = entry.removesuffix(b"\r")
                if not entry.strip() or entry.startswith(b"#"):
                    continue
            elif not entry:
                continue
            yield self._ref(entry, line.number, line.whole, listing)

    def _ref(self, entry: bytes, number: int, whole: bool, listing: Listing) -> ImageRef:
        if not whole:
            hint = "" if self.nul else "; is each name on a line of its own?"
            message = f"longer than {self._limit(entry)} bytes{hint}"
            code = ErrorCode.BAD_INPUT if is_uri(entry) else ErrorCode.PATH_TOO_LONG
            return bad_line(self.name, number, ImageError(code, message), text=entry)
        if b"\0" in entry:
            hint = "holds NUL bytes; a list separated by them is read with -0"
            return bad_line(self.name, number, no_image(hint), text=entry)
        try:
            return entry_ref(
                entry, listing=listing, max_file_bytes=self.max_file_bytes, exact=self.nul
            )
        except FetchError as error:
            return bad_line(self.name, number, error.error, text=entry)

    def _limit(self, start: bytes) -> int:
        return longest_line(start, self.max_file_bytes)
