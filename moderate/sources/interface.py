"""What every kind of input promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from moderate.types import Column, ImageRef, Skipped


class Source(ABC):
    """One input of a run."""

    @abstractmethod
    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """Name every image once, in an order that is the same on every pass.

        What gets no row is named as `Skipped`, with the reason. Never raises for what is found on
        the way: an unreadable file or folder is an `ImageRef` that carries its error. Raises
        InputError where the input itself (a list, a manifest, an archive) cannot be read on, since
        rows would be missing.
        """

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that `ImageRef.carried` has values for, in order. Known before iterating."""
        return ()

    @property
    def files(self) -> tuple[bytes, ...]:
        """The local files that it reads itself: lists, manifests, archives, files named."""
        return ()

    @property
    def countable(self) -> bool:
        """Whether a second pass, to show how much is left, may be made and costs little."""
        return False

    @property
    def may_be_empty(self) -> bool:
        """Whether nothing in it is an answer too (an empty manifest), not a user's mistake."""
        return False
