"""The interface of every kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from moderate.sources.folder_files import FolderFiles
from moderate.types import Column, ImageRef, Limits, Skipped


class Source(ABC):
    """One input of a run."""

    kind: ClassVar[str] = "input"
    """What a person calls such an input."""

    @property
    def label(self) -> bytes:
        """The input's name, without credentials; empty for one that has none, such as a stream."""
        return self.files[0] if self.files else b""

    @abstractmethod
    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """Name every image once, in an order that is the same on every pass.

        What gets no row comes as `Skipped`, with the reason. Never raises for a single item: an
        unreadable file or folder is an `ImageRef` that carries its error. Raises InputError where
        the rest of the input itself (a list, a manifest, an archive) cannot be read, since rows
        would be missing.
        """

    def parts(self) -> Iterator[ImageRef | Skipped | FolderFiles]:
        """The same, where files of a folder may come together; not of a source with columns."""
        return iter(self)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the values in `ImageRef.carried`, in order. Known before iterating."""
        return ()

    @property
    def files(self) -> tuple[bytes, ...]:
        """The local files that the source itself reads: lists, manifests, archives, files."""
        return ()

    @property
    def countable(self) -> bool:
        """Whether a second pass, to show how much is left, is possible and cheap."""
        return False

    def image_count(self) -> int | None:
        """How many images there are, where that is known without reading any; None elsewhere."""
        return None

    def largest_image(self, limits: Limits) -> int:
        """The most bytes of an image to which limits.max_file_bytes does not apply; 0: it does."""
        return 0

    @property
    def may_be_empty(self) -> bool:
        """Whether having no images is a valid result (a share of an input), not a mistake."""
        return False
