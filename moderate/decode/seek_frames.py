"""The frames of files that Pillow's plugins draw: WebP, AVIF, HEIC; and pictures of a JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from PIL import Image, JpegImagePlugin

from moderate.decode import pixels
from moderate.decode.canvas import Budget, Shown, shown_for
from moderate.decode.containers import Container, read_jpeg

_START_OF_IMAGE = b"\xff\xd8"


class SeekFrames:
    """The frames after the first that a Pillow image can seek.

    Animations have their times from the durations that the plugin gives.
    """

    def __init__(
        self,
        reopen: Callable[[], Image.Image],
        counted: int,
        turn: int,
        *,
        timed: bool,
        crop: tuple[int, int] | None = None,
    ) -> None:
        """reopen opens the file anew. counted is the number of frames by the container.

        With timed=False the first frame is the one that an opened file is at, such as the primary
        image of a HEIC; it is not loaded again. crop is the (width, height) that viewers show of
        each frame, from the upper left corner on.
        """
        self._reopen = reopen
        self._counted = counted
        self._turn = turn
        self._crop = crop
        self.timed = timed

    def walk(self, budget: Budget) -> Iterator[Shown | None]:
        """See `Source`."""
        with self._reopen() as image:
            first, count = image.tell(), getattr(image, "n_frames", 1)
            order = [first, *(place for place in range(count) if place != first)]
            time = 0
            for index, place in enumerate(order):
                if not index and not self.timed:
                    continue
                try:
                    image.seek(place)
                    if not budget.allows(image.width * image.height):
                        yield None
                        return
                    image.load()
                except Exception:  # noqa: BLE001 - Pillow raises almost any class
                    yield None
                    if self.timed:  # later frames are drawn over this one
                        return
                    continue
                if index:
                    shown = image.crop((0, 0, *self._crop)) if self._crop else image
                    yield Shown(index, time if self.timed else None, shown, self._turn)
                time += shown_for(image.info.get("duration") or 0)
        if count < self._counted:  # a sequence that the plugin does not decode
            yield None


class ListedPictures:
    """The pictures after the first of a JPEG that lists them."""

    timed = False

    def __init__(self, data: bytes, container: Container) -> None:
        """data is the whole file, container what `read_jpeg` says of it."""
        self._data = data
        self._spans = container.pictures

    def walk(self, budget: Budget) -> Iterator[Shown | None]:
        """See `Source`."""
        for index, (start, end) in enumerate(self._spans, 1):
            if self._data[start : start + 2] != _START_OF_IMAGE:
                yield None
                continue
            try:
                picture = read_jpeg(self._data[start:end])
                with JpegImagePlugin.JpegImageFile(io.BytesIO(picture.data)) as image:
                    if not budget.allows(image.width * image.height):
                        yield None
                        return
                    turn, _ = pixels.orientation(image)
                    image.load()
                    if picture.profile:
                        image.info[pixels.PROFILE] = picture.profile
                    yield Shown(index, None, image, turn)
            except Exception:  # noqa: BLE001 - Pillow raises almost any class
                yield None
