"""What every kind of input promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from moderate.types import ImageRef, Skipped


class Source(ABC):
    """One input of a run."""

    @abstractmethod
    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """Name every image once, in an order that is the same on every pass.

        What gets no row is named as `Skipped`, with the reason. Never raises for what is found on
        the way: an unreadable file or folder is an `ImageRef` that carries its error.
        """
