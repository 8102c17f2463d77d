"""One image's bytes to pixels: a pure function of bytes and limits, run in a decoder process."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image, UnidentifiedImageError

from moderate.decode import pixels
from moderate.decode.containers import (
    MAX_FRAMES_COUNTED,
    Container,
    DecodeError,
    png_is_complete,
    read_bmp,
    read_gif,
    read_jpeg,
    read_png,
    read_webp,
)
from moderate.decode.heif import read_heif
from moderate.decode.resize import Pixels, PixelSpec, draft_size, resize
from moderate.decode.sniff import sniff
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts, Limits, Warn

PIXELS_VERSION = 2
"""Counts up when a change here gives the same file other pixels or facts: what was kept is old."""

SMALL_SIDE = 256
"""A picture whose longest side is under this many pixels gets the warning `small_image`."""

_READERS: dict[str, Callable[[bytes], Container]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
    "gif": read_gif,
    "bmp": read_bmp,
    "heif": read_heif,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels for each spec asked for, in order, and what was learnt of the file."""

    pixels: tuple[Pixels, ...]
    facts: ImageFacts


@dataclass(frozen=True, slots=True)
class Undecoded:
    """An image without pixels: why, and what was learnt before that."""

    code: ErrorCode
    message: str
    facts: ImageFacts


def prepare() -> None:
    """Load the codecs and silence their chatter. Once per process, before the first `decode`."""
    import pillow_heif

    # One thread an image: the decoders already fill the cores. Never a thumbnail for the picture:
    # the two may show different things.
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
    Image.MAX_IMAGE_PIXELS = None  # our own limit rules, before a pixel is allocated
    # These five register themselves; Pillow is not to look for more, of which some start programs.
    # The others are what these and EXIF import on first use, when nothing can be opened any more.
    plugins = [f"{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "WebP")]
    for module in (*plugins, "ImageOps", "MpoImagePlugin", "PpmImagePlugin", "TiffImagePlugin"):
        importlib.import_module(f"PIL.{module}")
    Image.preinit()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(data: bytes, specs: tuple[PixelSpec, ...], limits: Limits) -> Decoded | Undecoded:
    """Decode one image of the six formats, upright, on white, at the size of each spec.

    `data` is the whole file. Never raises for what the bytes may hold.
    """
    kind = sniff(data) or ""
    facts = ImageFacts(format=kind or None)
    if kind not in _READERS:
        return Undecoded(ErrorCode.NOT_AN_IMAGE, "not one of the supported formats", facts)
    try:
        container = _READERS[kind](data)
        facts = _with_size(replace(facts, frames=container.frames), container.size)
        _check_pixels(facts, limits)
        with _open(kind, container) as image:
            facts = _with_size(facts, image.size)
            _check_pixels(facts, limits)
            if len(data) < container.least_bytes:
                raise DecodeError(ErrorCode.TRUNCATED, "the file ends early: rows are missing")
            return _decode_opened(image, container, facts, specs)
    except DecodeError as error:
        return Undecoded(error.code, error.message, facts)
    except MemoryError:
        return out_of_memory(limits, facts)
    except Exception as error:  # noqa: BLE001 - Pillow raises about every class on hostile files
        return _undecoded(error, facts, limits)


def out_of_memory(limits: Limits, facts: ImageFacts) -> Undecoded:
    """The outcome of a picture that a decoder's memory was too small for."""
    limit = limits.max_decoder_bytes >> 20
    message = f"decoding takes over {limit} MB of memory; raise the limit with --max-decoder-memory"
    return Undecoded(ErrorCode.OUT_OF_MEMORY, message, facts)


def _open(kind: str, container: Container) -> Image.Image:
    file = io.BytesIO(container.data)
    if kind != "heif":
        return Image.open(file, formats=[_pillow_format(kind, container.data)])
    import pillow_heif

    # Not by Image.open, which keeps to itself what libheif says.
    opener: Callable[[io.BytesIO], Image.Image] = pillow_heif.HeifImageFile
    image = opener(file)
    if not image.info.get("primary"):  # pillow-heif leaves out what libheif cannot open
        image.close()
        raise DecodeError(ErrorCode.CORRUPT_IMAGE, "the primary image of the HEIC is not readable")
    return image


def _decode_opened(
    image: Image.Image, container: Container, facts: ImageFacts, specs: tuple[PixelSpec, ...]
) -> Decoded:
    size, warned = image.size, []
    turn, metadata_readable = 1, True
    if facts.format in {"jpeg", "png", "webp"}:  # libheif has turned HEIC already
        turn, metadata_readable = pixels.orientation(image)
    if facts.format == "jpeg" and (small := draft_size(_as_stored(specs, turn), size)):
        image.draft(image.mode, small)
    if facts.format == "heif":
        frames = max(container.frames, getattr(image, "n_frames", 1))
        facts = replace(facts, frames=min(frames, MAX_FRAMES_COUNTED))
    image.load()
    if (
        facts.format == "png"
        and (container.interlaced or _may_be_unfinished(image))
        and not png_is_complete(container)
    ):
        raise DecodeError(ErrorCode.TRUNCATED, "the PNG holds fewer rows than it promises")
    rgb, ambiguous = pixels.to_rgb(image, container.bit_depth)
    if rgb is not image:
        image.close()  # its memory may be needed to turn the other
    width, height = size if turn < 5 else size[::-1]
    # Turned when it is small, where it is decoded inexactly anyway: to turn it first makes the two
    # passes of the resizing round alike in all orientations.
    turn_last = rgb.size != size
    if not turn_last:
        rgb = pixels.upright(rgb, turn)
    if max(size) < SMALL_SIDE:
        warned.append(Warn.SMALL_IMAGE)
    if facts.frames and facts.frames > 1:
        warned.append(Warn.ANIMATED)
    if container.multi_picture:
        warned.append(Warn.MULTI_PICTURE)
    if ambiguous:
        warned.append(Warn.ALPHA_AMBIGUOUS)
    if not metadata_readable:
        warned.append(Warn.BAD_METADATA)
    facts = replace(facts, width=width, height=height, warnings=tuple(warned))
    if turn_last:
        turned = (resize(rgb, spec, size) for spec in _as_stored(specs, turn))
        return Decoded(tuple(pixels.upright_array(array, turn) for array in turned), facts)
    return Decoded(tuple(resize(rgb, spec) for spec in specs), facts)


def _pillow_format(kind: str, data: bytes) -> str:
    return "DIB" if kind == "bmp" and not data.startswith(b"BM") else kind.upper()


def _with_size(facts: ImageFacts, size: tuple[int, int] | None) -> ImageFacts:
    return replace(facts, width=size[0], height=size[1]) if size else facts


def _check_pixels(facts: ImageFacts, limits: Limits) -> None:
    width, height = facts.width or 0, facts.height or 0
    if width * height > limits.max_pixels:
        raise DecodeError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{width} x {height} is {width * height / 1e6:.1f} megapixels, over the limit of "
            f"{limits.max_pixels / 1e6:g}; raise it with --max-megapixels",
        )


def _as_stored(specs: tuple[PixelSpec, ...], turn: int) -> tuple[PixelSpec, ...]:
    """The specs as seen from the stored picture, which EXIF may say lies on its side."""
    if turn < 5:
        return specs
    return tuple(replace(spec, height=spec.width, width=spec.height) for spec in specs)


def _may_be_unfinished(image: Image.Image) -> bool:
    """Whether the last row is all zeros, as Pillow leaves rows that no data arrived for."""
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return last_row.getbbox(alpha_only=False) is None


# How Pillow and libheif say that a file ended too early.
_CUT_SHORT = ("truncated", "unexpected end of file", "outside of file bounds")


# How libheif says that a file is over one of its own limits: it calls that a memory error as well.
_LIBRARY_LIMIT = "security limit exceeded"
_LIBRARY_LIMIT_OF_PIXELS = ("maximum image size", "image of size")


# How libheif says that memory ran out, and what Pillow says of other libraries then, among others.
_NO_MEMORY = ("memory allocation error", "out of memory")
_PERHAPS_NO_MEMORY = ("could not create decoder", "failed to read next frame", "broken data stream")


def _undecoded(error: Exception, facts: ImageFacts, limits: Limits) -> Undecoded:
    if isinstance(error, UnidentifiedImageError):  # its message holds a memory address
        return Undecoded(ErrorCode.CORRUPT_IMAGE, "the header makes no sense", facts)
    message = one_line(f"{type(error).__name__}: {error}", 160)
    if _LIBRARY_LIMIT in str(error).lower():
        return _over_library_limit(str(error), facts)
    if "Unsupported BMP" in message:
        return Undecoded(ErrorCode.UNSUPPORTED_FORMAT, f"a rare kind of BMP ({message})", facts)
    said = str(error).lower()
    if any(words in said for words in _NO_MEMORY) or (
        any(words in said for words in _PERHAPS_NO_MEMORY) and _memory_is_short(facts)
    ):
        return out_of_memory(limits, facts)
    cut_short = isinstance(error, EOFError) or any(words in said for words in _CUT_SHORT)
    code = ErrorCode.TRUNCATED if cut_short else ErrorCode.CORRUPT_IMAGE
    return Undecoded(code, f"cannot be decoded ({message})", facts)


def _over_library_limit(message: str, facts: ImageFacts) -> Undecoded:
    """The outcome of an image that libheif refuses to decode, whatever our own limits are."""
    too_large = any(words in message.lower() for words in _LIBRARY_LIMIT_OF_PIXELS)
    code = ErrorCode.TOO_MANY_PIXELS if too_large else ErrorCode.CORRUPT_IMAGE
    reason = one_line(message[message.lower().index(_LIBRARY_LIMIT) :], 160)
    return Undecoded(code, f"over a limit of libheif that no option lifts ({reason})", facts)


def _memory_is_short(facts: ImageFacts) -> bool:
    """Whether two RGBA copies of the picture, as libwebp's reader keeps them, would not fit."""
    try:
        bytearray(8 * (facts.width or 0) * (facts.height or 0))
    except MemoryError:
        return True
    return False
