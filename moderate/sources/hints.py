"""What a run's inputs show of mistakes in how they were named, gathered while they are read."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from moderate.decode.sniff import claimed_format
from moderate.globs import matches_any
from moderate.sources.directory import WalkOptions
from moderate.sources.entries import joined_urls
from moderate.sources.not_found import Finding, Mistake, explain
from moderate.text import one_line, path_text
from moderate.types import (
    ErrorCode,
    ImageError,
    ImageRef,
    Listing,
    Skipped,
    SkipReason,
    StoredObject,
    Url,
)

MOST_EXPLAINED = 1000
"""Missing paths of a run that are looked into, so that a list full of them stays cheap."""

_MOST_SUFFIXES = 20  # named in a note; names of files are untrusted


@dataclass(slots=True)
class _Missing:
    """The missing paths of a list: how many were looked into, and why they are missing.

    findings has one finding with each mistake.
    """

    looked_into: int = 0
    counts: Counter[Mistake] = field(default_factory=Counter)
    findings: dict[Mistake, Finding] = field(default_factory=dict)


class InputHints:
    """Explains errors of inputs, and counts what the summary says of them.

    Used by the reading thread, but for `notes` after it has ended, and `with_hint` for images that
    are not local, which touches nothing that is shared.
    """

    def __init__(self, walk: WalkOptions, most_explained: int | None = None) -> None:
        self._walk = walk
        self._left = MOST_EXPLAINED if most_explained is None else most_explained
        self._missing: defaultdict[Listing | None, _Missing] = defaultdict(_Missing)
        self._links = 0
        self._left_out: Counter[str] = Counter()

    def with_hint(self, ref: ImageRef, error: ImageError) -> ImageError:
        """The error with what explains it at the end of its message; unchanged where nothing does.

        A missing local file costs a few calls of lstat, for the first most_explained ones.
        """
        if isinstance(ref.location, Url | StoredObject):
            text = ref.location.url if isinstance(ref.location, Url) else ref.location.uri
            return _with(error, joined_urls(text))
        if error.code is not ErrorCode.NOT_FOUND or ref.location is not None or not self._left:
            return error
        self._left -= 1
        missing = self._missing[ref.listing]
        missing.looked_into += 1
        finding = explain(ref.path, ref.listing)
        if finding is None:
            return error
        for mistake in finding.mistakes:
            missing.counts[mistake] += 1
            missing.findings[mistake] = finding
        return _with(error, finding.hint)

    def note_skipped(self, skipped: Skipped) -> None:
        """Count a file that got no row, if its reason is often a mistake."""
        if skipped.reason is SkipReason.SYMLINK:
            self._links += b"!/" not in skipped.path  # the links of archives are never followed
        elif skipped.reason is SkipReason.EXCLUDED and self._walk.include:
            name = os.path.basename(skipped.path)
            if _nearly_included(name, self._walk):
                suffix = one_line(path_text(os.path.splitext(name)[1]), 20)
                if suffix in self._left_out or len(self._left_out) < _MOST_SUFFIXES:
                    self._left_out[suffix] += 1

    def notes(self) -> list[str]:
        """Sentences for the summary, or for the error where a run has met no image."""
        notes = [
            note
            for listing, missing in self._missing.items()
            if listing
            for note in _of_missing(listing, missing, all_of_them=self._left > 0)
        ]
        if self._links and not self._walk.follow_symlinks:
            one = self._links == 1
            links = "1 symbolic link was" if one else f"{self._links:,} symbolic links were"
            pronoun = "it" if one else "them"
            notes.append(f"{links} not followed; --follow-symlinks follows {pronoun}.")
        if self._left_out:
            counts = ", ".join(f"{count:,} {name}" for name, count in self._left_out.most_common())
            more = " ".join(f"--include '*{name}'" for name in self._left_out)
            notes.append(
                f"--include left out images whose suffix is only spelt differently ({counts}); "
                f"add {more} to scan them."
            )
        return notes


def _of_missing(listing: Listing, missing: _Missing, *, all_of_them: bool) -> Iterator[str]:
    """A sentence for each mistake that most missing paths of a list have in common."""
    one = missing.looked_into == 1
    paths = f"{missing.looked_into:,} missing paths"
    first = "" if all_of_them else "the first "
    for mistake, count in missing.counts.most_common():
        if 2 * count > missing.looked_into:
            is_there = missing.findings[mistake].path
            if one:
                verb = "is there " if is_there else "cannot be found: "
                which = "the missing path" if all_of_them else "the first missing path"
            else:
                verb = "are there " if is_there else "have this in common: "
                which = f"{count:,} of {first}{paths}"
            yield f"{which} of {listing.name} {verb}{mistake.what}; {mistake.remedy}."


def _with(error: ImageError, hint: str) -> ImageError:
    return replace(error, message=f"{error.message}; {hint}") if hint else error


def _nearly_included(name: bytes, walk: WalkOptions) -> bool:
    """Whether a name would match --include if its suffix were spelt as there (.JPG, .jpeg)."""
    kind = claimed_format(name)
    if kind is None or matches_any([name], walk.exclude):
        return False
    stem = os.path.splitext(name)[0].lower()
    for pattern in walk.include:
        last = os.fsencode(pattern).rpartition(b"/")[2]
        suffix = os.path.splitext(last)[1]
        if claimed_format(b"x" + suffix) == kind and fnmatchcase(
            stem + suffix.lower(), last.lower()
        ):
            return True
    return False
