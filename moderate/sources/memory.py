"""Images that a Python program has in memory: bytes, open files, Pillow images and arrays.

Bytes, and files that Pillow has opened but not decoded, are decoded in the sandbox like those of
any other input. Pixels are encoded again without loss and take the same way, so that they score as
a file with these pixels does.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeAlias, Union

import numpy as np
from PIL import Image, ImageFile, ImageOps

from moderate.errors import UsageError
from moderate.fetch.local import FetchError, os_error, too_large
from moderate.fetch.naming import shown
from moderate.sources.entries import empty_file, entry_ref, no_image
from moderate.sources.interface import Source
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError, ImageRef, Inline, Limits, Skipped, Warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

MemoryImage: TypeAlias = Union[
    bytes, bytearray, memoryview, IO[bytes], Image.Image, "NDArray[np.uint8]"
]
"""An image in memory: the bytes of a file, a file open for reading in binary mode, a Pillow image,
or an array of uint8, H x W x 3 (RGB), H x W x 4 (RGBA), H x W or H x W x 1 (grey)."""

Input: TypeAlias = Union[str, "os.PathLike[str]", MemoryImage]
"""What Python callers may name or give as an input."""

ACCEPTED = "pass a path, a URL, bytes, a binary file, a Pillow image or a numpy array"
_SHAPES = "pass uint8 in 0..255 of shape H x W x 3, H x W x 4 or H x W"
_CONVERTED = frozenset({"CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La"})
_WRITTEN = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_ENCODING_ROOM = 1 << 16  # bytes of an encoding beside its pixels


@dataclass(frozen=True, slots=True)
class MemorySource(Source):
    """Images of a Python program, one row each, in order; what is none gets an error row.

    A row is called by the name of its file or URL, or `memory://N`, N being the image's place among
    the items, counted from `first`. With `named`, paths and URLs may stand among them, as in a
    list; a folder, archive or list is no image there. Files are read and pixels encoded when their
    turn comes.
    """

    kind: ClassVar[str] = "memory"

    items: Iterable[Any] = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    first: int = 0
    named: bool = False

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        for number, item in enumerate(self.items, self.first):
            yield self._ref(item, b"memory://%d" % number)

    @property
    def may_be_empty(self) -> bool:
        """No images, no rows."""
        return True

    def largest_image(self, limits: Limits) -> int:
        """See `Source`. Pixels of 4 bytes that do not compress, a byte for each row of 1 pixel."""
        return 5 * limits.max_pixels + limits.max_pixels // 100 + _ENCODING_ROOM

    def _ref(self, item: Any, name: bytes) -> ImageRef:
        try:
            if isinstance(item, (str, os.PathLike)) and self.named:
                return _named(item, name, self.limits.max_file_bytes)
            if isinstance(item, (bytes, bytearray, memoryview)):
                return ImageRef(name, location=Inline(self._checked(bytes(item))))
            if isinstance(item, Image.Image):
                location = self._of_pillow(item)
                alone = location.from_pixels and _has_more_frames(item)
                warnings = (Warn.PARTLY_SCORED,) if alone else ()
                return ImageRef(name, location=location, warnings=warnings)
            if isinstance(item, np.ndarray):
                return ImageRef(name, location=self._of_array(item))
            if hasattr(item, "read"):
                return ImageRef(_file_name(item) or name, location=Inline(self._read(item)))
            kind = type(item).__name__
            raise FetchError(no_image(one_line(f"{kind} is not an image; {ACCEPTED}")))
        except FetchError as error:
            return _bad(name, error.error)
        except Exception as error:  # noqa: BLE001 - an object that is like nothing else
            reason = one_line(f"{type(error).__name__}: {error}", 160)
            message = f"{type(item).__name__} cannot be read as an image ({reason})"
            return _bad(name, no_image(one_line(message)))

    def _checked(self, data: bytes) -> bytes:
        if not data:
            raise FetchError(empty_file(), 0)
        if len(data) > self.limits.max_file_bytes:
            raise FetchError(too_large(len(data), self.limits.max_file_bytes), len(data))
        return data

    def _read(self, file: IO[Any]) -> bytes:
        """The bytes of an open file, from its beginning where it can go back to it."""
        if isinstance(file, io.TextIOBase):
            raise FetchError(no_image("the file is open in text mode; open it with 'rb'"))
        try:
            if file.seekable():
                file.seek(0)
            data = file.read(self.limits.max_file_bytes + 1)
        except OSError as error:
            raise FetchError(os_error(error)) from None
        except Exception as error:  # noqa: BLE001 - a closed file, or an object of any kind
            reason = one_line(f"{type(error).__name__}: {error}", 160)
            raise FetchError(ImageError(ErrorCode.READ_ERROR, f"cannot read: {reason}")) from None
        if not isinstance(data, bytes):
            raise FetchError(no_image(f"{type(file).__name__}.read() gives no bytes"))
        return self._checked(data)

    def _of_pillow(self, image: Image.Image) -> Inline:
        if (file := _undecoded_file(image)) is not None:
            position = file.tell()
            try:
                return Inline(self._read(file))
            finally:
                file.seek(position)  # Pillow goes on from there, if the caller wants the pixels
        width, height = image.size
        if width * height > self.limits.max_pixels:
            raise FetchError(_too_many_pixels(width, height, self.limits.max_pixels))
        try:
            return Inline(_encoded(ImageOps.exif_transpose(image)), from_pixels=True)
        except FetchError:
            raise
        except Exception as error:  # noqa: BLE001 - Pillow may raise anything for an odd image
            reason = one_line(f"{type(error).__name__}: {error}", 160)
            raise FetchError(no_image(f"Pillow cannot give its pixels ({reason})")) from None

    def _of_array(self, array: NDArray[Any]) -> Inline:
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
        if not fits or array.dtype != np.uint8 or not array.size:
            shape = " x ".join(map(str, array.shape)) or "()"
            what = one_line(f"an array of {array.dtype} and shape {shape}", 80)
            raise FetchError(no_image(f"{what} is not an image; {_SHAPES}"))
        height, width = array.shape[:2]
        if width * height > self.limits.max_pixels:
            raise FetchError(_too_many_pixels(width, height, self.limits.max_pixels))
        return Inline(_encoded(Image.fromarray(array)), from_pixels=True)


def check_items(items: object) -> None:
    """Raise UsageError for one image where several are asked for."""
    if isinstance(items, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)):
        kind = type(items).__name__
        raise UsageError(
            f"moderate takes a list of images, not one {kind}: write moderate([image])"
        )
    if not isinstance(items, Iterable) or hasattr(items, "read"):
        raise UsageError(f"moderate takes a list of images, not {type(items).__name__}")


def is_memory_image(item: object) -> bool:
    """Whether it is an image itself rather than the name of something."""
    kinds = (bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(item, kinds) or hasattr(item, "read")


def _bad(name: bytes, error: ImageError) -> ImageRef:
    # With a location, as `memory:` would otherwise be the start of a relative path.
    return ImageRef(name, error=error, location=Inline(b""))


def _named(item: str | os.PathLike[str], name: bytes, max_file_bytes: int) -> ImageRef:
    """The image that a path or URL names."""
    try:
        value = os.fsencode(item)
    except UnicodeEncodeError:  # half a surrogate pair that stands for no byte
        raise FetchError(no_image("the name holds characters that no file name has")) from None
    try:
        return entry_ref(value, max_file_bytes=max_file_bytes)
    except FetchError as error:
        return ImageRef(shown(value), error=error.error) if value else _bad(name, error.error)


def _file_name(file: IO[Any]) -> bytes | None:
    """The name that a file was opened by; None where it has none, or only a number.

    Libraries that open URLs give the URL as the name, with its credentials.
    """
    name = getattr(file, "name", None)
    return shown(os.fsencode(name)) if isinstance(name, (str, bytes)) and name else None


def _undecoded_file(image: Image.Image) -> IO[bytes] | None:
    """The file of an image that Pillow has opened and not decoded, so that it need not do it."""
    if not isinstance(image, ImageFile.ImageFile) or image.tell() != 0:
        return None
    file: IO[bytes] | None = image.fp
    if file is None or not file.seekable():
        return None
    # Pillow closes the file of a single image, and forgets the tiles of any, when it decodes it.
    undecoded = image.tile or getattr(image, "n_frames", 1) == 1
    return file if undecoded else None


def _has_more_frames(image: Image.Image) -> bool:
    """Whether the pixels are those of one of several frames, which Pillow has decoded."""
    try:
        return bool(getattr(image, "n_frames", 1) > 1)
    except Exception:  # noqa: BLE001 - it may look for frames in a file that is closed or broken
        return True


def _encoded(image: Image.Image) -> bytes:
    """The pixels without loss: as BMP where it can hold them, as it costs least, else as PNG."""
    if image.mode in _CONVERTED:
        alpha = "A" if image.mode in ("RGBa", "La") else ""
        image = image.convert(("L" if image.mode == "La" else "RGB") + alpha)
    if image.mode not in _WRITTEN:
        raise FetchError(
            no_image(
                f"a Pillow image of mode {image.mode}; convert it to RGB, with values in 0..255"
            )
        )
    buffer = io.BytesIO()
    if image.mode == "RGB" and "transparency" not in image.info:
        image.save(buffer, "BMP")
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _too_many_pixels(width: int, height: int, max_pixels: int) -> ImageError:
    message = (
        f"{width} x {height} is {width * height / 1e6:.1f} megapixels, over the limit of "
        f"{max_pixels / 1e6:g}; raise it with --max-megapixels"
    )
    return ImageError(ErrorCode.TOO_MANY_PIXELS, message)
