"""Inputs of a run that are looked up together, and those of them that are unchanged files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import overload

from moderate.decode.sniff import claimed_format
from moderate.sources.folder_files import FolderFiles
from moderate.types import ImageRef, Skipped, Warn

Part = ImageRef | Skipped | FolderFiles

_NOT_LOOKED_AT = ""  # no format has this name


class Group(Sequence["ImageRef | Skipped"]):
    """Inputs in order, by their places from 0.

    The refs of files of a folder are made when they are asked for, which most never are.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []  # the first place of each part
        self._parts: list[Part] = []
        self._claims: list[str | None] = []
        self._have_warnings = False
        self.paths: list[bytes] = []
        """The path of each input."""

    def add(self, part: Part) -> None:
        """Add an input, or files of a folder, at the end."""
        self._starts.append(len(self.paths))
        self._parts.append(part)
        if isinstance(part, FolderFiles):
            self.paths += part.paths
            self._claims += part.claims
        else:
            self.paths.append(part.path)
            self._claims.append(_NOT_LOOKED_AT)
        if not isinstance(part, Skipped) and part.warnings:
            self._have_warnings = True

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> ImageRef | Skipped: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[ImageRef | Skipped]: ...
    def __getitem__(self, place: int | slice) -> ImageRef | Skipped | Sequence[ImageRef | Skipped]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = bisect_right(self._starts, place) - 1
        part = self._parts[number]
        if isinstance(part, FolderFiles):
            return part.ref(place - self._starts[number])
        return part

    def parts(self) -> Iterator[tuple[int, Part]]:
        """What was added, each with its first place."""
        return zip(self._starts, self._parts, strict=True)

    def claims(self, places: Sequence[int]) -> list[str | None]:
        """What `claimed_format` says of the names of these."""
        # A path has a suffix where its last part has one, which takes longer to find.
        return [
            claimed_format(self.paths[place])
            if (claim := self._claims[place]) == _NOT_LOOKED_AT
            else claim
            for place in places
        ]

    def warnings(self, places: Sequence[int]) -> Iterator[tuple[Warn, ...]]:
        """The warnings of these refs."""
        if not self._have_warnings:
            return repeat((), len(places))
        refs = (self[place] for place in places)
        return (ref.warnings if isinstance(ref, ImageRef) else () for ref in refs)


class LocalRefs(Sequence[ImageRef]):
    """Local files of a group, by their places in it."""

    def __init__(self, group: Group, places: Sequence[int]) -> None:
        self._group = group
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> LocalRefs: ...
    def __getitem__(self, index: int | slice) -> ImageRef | LocalRefs:
        if isinstance(index, slice):
            return LocalRefs(self._group, self._places[index])
        ref = self._group[self._places[index]]
        assert isinstance(ref, ImageRef)
        return ref

    @property
    def paths(self) -> list[bytes]:
        """The path of each."""
        paths = self._group.paths
        return [paths[place] for place in self._places]

    @property
    def shown(self) -> list[bytes]:
        """The `display` of each."""
        return [path if path.startswith((b"/", b"./")) else b"./" + path for path in self.paths]

    @property
    def claims(self) -> list[str | None]:
        """What `claimed_format` says of the name of each."""
        return self._group.claims(self._places)

    @property
    def warnings(self) -> Iterator[tuple[Warn, ...]]:
        """The warnings of each."""
        return self._group.warnings(self._places)
