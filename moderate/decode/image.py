"""One image's bytes to pixels: a pure function of bytes and limits, run in a decoder process."""

from __future__ import annotations

import importlib
import io
import logging
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from moderate.decode import hevc, pixels
from moderate.decode.animation import as_first_shown, other_frames
from moderate.decode.avif import LARGEST_AREA, LARGEST_SIDE, read_avif
from moderate.decode.bmp import open_bmp, read_bmp
from moderate.decode.containers import (
    MAX_FRAMES_COUNTED,
    Container,
    DecodeError,
    png_is_complete,
    read_gif,
    read_jpeg,
    read_png,
    read_webp,
)
from moderate.decode.heif import read_heif
from moderate.decode.ico import IconFile, read_ico
from moderate.decode.inflate import isal_zlib
from moderate.decode.parts import DEFAULT_OPTIONS, MOST_PARTS, WHOLE, DecodeOptions, Part
from moderate.decode.pdq import REDUCED, pdq_hash
from moderate.decode.resample import prepare_resampling
from moderate.decode.resize import Pixels, PixelSpec, draft_size
from moderate.decode.sniff import SUPPORTED, sniff
from moderate.decode.tiff import read_tiff, unsupported
from moderate.decode.undecoded import Undecoded as Undecoded
from moderate.decode.unscored import unscored_content
from moderate.decode.views import look
from moderate.decode.webp import libwebp, open_webp
from moderate.text import one_line
from moderate.types import PARTLY_SEEN_FROM, ErrorCode, ImageFacts, Limits, PdqHash, Warn

SMALL_SIDE = 256
"""An image whose longest side is under this many pixels gets the warning `small_image`."""

_READERS: dict[str, Callable[[bytes], Container]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
    "gif": read_gif,
    "bmp": read_bmp,
    "heif": read_heif,
    "avif": read_avif,
    "tiff": read_tiff,
    "ico": read_ico,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels for each spec, in order, and what is known of the file.

    pixels are those of the first part, more those of the other parts, in order.
    """

    pixels: tuple[Pixels, ...]
    facts: ImageFacts
    parts: tuple[Part, ...] = WHOLE
    more: tuple[tuple[Pixels, ...], ...] = ()


def prepare(*, ffmpeg: bool = True) -> None:
    """Load the codecs and silence their warnings. Once per process, before the first `decode`.

    ffmpeg=False leaves out the faster decoder of HEIC, whose pixels are the same.
    """
    import pillow_heif

    # One thread per image, because the decoders fill the cores already. No thumbnail in place of
    # the image, because the two may show different things.
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
    Image.MAX_IMAGE_PIXELS = None  # the limit of the job applies, before a pixel is allocated
    # The decoders fill the cores already.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # The first five register themselves; Pillow must not look for further plugins, because some
    # start programs. Pillow would import the other modules on first use, which is too late: in the
    # sandbox, no file can be opened.
    plugins = [f"{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "WebP")]
    for module in (
        *plugins,
        "ImageCms",
        "ImageOps",
        "MpoImagePlugin",
        "PpmImagePlugin",
        "TiffImagePlugin",
    ):
        importlib.import_module(f"PIL.{module}")
    Image.preinit()
    prepare_resampling()
    isal_zlib()
    libwebp()
    if ffmpeg:
        hevc.load_ffmpeg()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(
    data: bytes,
    specs: tuple[PixelSpec, ...],
    limits: Limits,
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> Decoded | Undecoded:
    """Decode one image of an accepted format: upright, on white, at the size of each spec.

    `data` is the whole file. Never raises, whatever the bytes are.
    """
    kind = sniff(data) or ""
    facts = ImageFacts(format=kind or None)
    if kind not in SUPPORTED and kind not in options.formats:
        return Undecoded(ErrorCode.NOT_AN_IMAGE, "not one of the supported formats", facts)
    try:
        container = _READERS[kind](data)
        facts = _with_size(replace(facts, frames=container.frames), container.size)
        _check_pixels(facts, limits)
        with _open(kind, container) as image:
            facts = _with_size(facts, image.size)
            _check_pixels(facts, limits)
            return _decode_opened(image, data, container, facts, specs, limits, options)
    except DecodeError as error:
        return Undecoded(error.code, error.message, facts)
    except MemoryError:
        return out_of_memory(limits, facts)
    except Exception as error:  # noqa: BLE001 - on hostile files, Pillow raises almost any class
        return _undecoded(error, facts, limits)


def out_of_memory(limits: Limits, facts: ImageFacts) -> Undecoded:
    """The outcome of an image that needs more memory than a decoder may use."""
    limit = limits.max_decoder_bytes >> 20
    message = f"decoding takes over {limit} MB of memory; raise the limit with --max-decoder-memory"
    return Undecoded(ErrorCode.OUT_OF_MEMORY, message, facts)


def _open(kind: str, container: Container) -> Image.Image:
    if kind == "bmp":
        return open_bmp(container.data)
    file = io.BytesIO(container.data)
    # Image.open would hide the errors of libavif, libheif and libtiff.
    if kind == "avif":
        if not AvifImagePlugin.SUPPORTED:
            message = "this Pillow was built without AVIF; install the one of pip"
            raise DecodeError(ErrorCode.UNSUPPORTED_FORMAT, message)
        width, height = container.size or (0, 0)
        if width * height > LARGEST_AREA or max(width, height) > LARGEST_SIDE:
            message = f"{width} x {height} is over a limit of libavif that no option lifts"
            raise DecodeError(ErrorCode.TOO_MANY_PIXELS, message)
        return AvifImagePlugin.AvifImageFile(file)
    if kind == "tiff":
        return TiffImagePlugin.TiffImageFile(file)
    if kind == "ico":
        return IconFile(file)
    if kind == "webp":
        return open_webp(container.data)
    if kind != "heif":
        return Image.open(file, formats=[kind.upper()])
    import pillow_heif

    opener: Callable[[io.BytesIO], Image.Image] = pillow_heif.HeifImageFile
    image = opener(file)
    if not image.info.get("primary"):  # pillow-heif leaves out an image that libheif cannot open
        image.close()
        raise DecodeError(ErrorCode.CORRUPT_IMAGE, "the primary image of the HEIC is not readable")
    return image


def _decode_opened(
    image: Image.Image,
    data: bytes,
    container: Container,
    facts: ImageFacts,
    specs: tuple[PixelSpec, ...],
    limits: Limits,
    options: DecodeOptions,
) -> Decoded:
    size = image.size
    image_warnings: list[Warn] = []
    turn, metadata_readable = 1, True
    if facts.format in {"jpeg", "png", "webp", "avif"}:  # libheif has turned a HEIC already
        turn, metadata_readable = pixels.orientation(image)
    if facts.format == "jpeg" and (small := draft_size(specs, _turned(size, turn))):
        image.draft(image.mode, _turned(small, turn))
    if facts.format in {"heif", "avif"}:
        frames = max(container.frames, getattr(image, "n_frames", 1))
        facts = replace(facts, frames=min(frames, MAX_FRAMES_COUNTED))
    if facts.format == "avif":
        _check_memory(size, channels=len(image.mode))
    exif = container.exif or image.info.get("exif")
    image = _loaded(image, facts, container)
    if container.crop and container.crop != size:
        image, size = image.crop((0, 0, *container.crop)), container.crop
    if (
        facts.format == "png"
        and (container.interlaced or pixels.last_row_is_zero(image))
        and not png_is_complete(container)
    ):
        raise DecodeError(ErrorCode.TRUNCATED, "the PNG holds fewer rows than it promises")
    # Pillow reads the profile of a WebP or HEIC.
    profile = container.profile or image.info.get("icc_profile")
    image = as_first_shown(facts.format or "", data, container, image)
    if profile:
        image.info[pixels.PROFILE] = profile
    if container.adds_alpha:
        image.info[pixels.ADDS_ALPHA] = True
    rgb, ambiguous = pixels.to_rgb(image, container.bit_depth)
    if rgb is not image:
        image.close()  # its memory may be needed to turn the other image
    # Upright before anything is made of it: what a model sees of an image is rounded, and turned
    # afterwards it would be another part, by a pixel of the model's input.
    rgb = pixels.upright(rgb, turn)
    full = width, height = _turned(size, turn)
    if max(size) < SMALL_SIDE:
        image_warnings.append(Warn.SMALL_IMAGE)
    if facts.frames and facts.frames > 1 and not container.multi_picture:
        image_warnings.append(Warn.ANIMATED)
    if container.multi_picture:
        image_warnings.append(Warn.MULTI_PICTURE)
    if not metadata_readable:
        image_warnings.append(Warn.BAD_METADATA)
    facts = replace(facts, width=width, height=height)
    if options.pdq:
        facts = replace(facts, pdq=_pdq_of(rgb, full, turn, container))
    left_out = container.unreached
    looks = _Looks(specs, options, facts.frames or 1)
    if wanted := looks.add(rgb, full):
        rgb = pixels.upright(_decode_at(wanted, container), turn)
        looks = _Looks(specs, options, facts.frames or 1)
        looks.add(rgb, full)
    embedded = unscored_content(
        data,
        facts.format or "",
        rgb,
        turn=turn,
        exif=exif if isinstance(exif, bytes) else None,
        scored_kinds=options.embedded_scored,
    )
    if embedded:
        image_warnings.append(Warn.EMBEDDED_CONTENT)
        facts = replace(facts, embedded=embedded)
    if facts.frames and facts.frames > 1:
        others = other_frames(
            facts.format or "",
            data,
            container,
            rgb,
            turn,
            facts.frames,
            lambda: _open(facts.format or "", container),
            options,
            limits,
            profile,
        )
        del rgb, image  # their memory may be needed for the other frames
        looks.first_milliseconds = others.first_milliseconds
        for frame in others.frames():
            looks.add(frame.image, frame.image.size, frame.index, frame.milliseconds)
            ambiguous |= frame.alpha_ambiguous
        facts = replace(facts, frames_scored=looks.frames)
        left_out |= others.left_out
    if left_out or looks.full:
        image_warnings.append(Warn.PARTLY_SCORED)
    if ambiguous:
        image_warnings.append(Warn.ALPHA_AMBIGUOUS)
    if looks.unseen >= PARTLY_SEEN_FROM:
        image_warnings.append(Warn.PARTLY_SEEN)
    unseen = float(np.float32(round(looks.unseen, 4)))  # as the state and results keep it
    facts = replace(facts, unseen=unseen, warnings=tuple(image_warnings))
    return Decoded(looks.pixels[0], facts, tuple(looks.parts), tuple(looks.pixels[1:]))


def _loaded(image: Image.Image, facts: ImageFacts, container: Container) -> Image.Image:
    """The image with its pixels, from the decoder that takes least time."""
    if facts.format == "heif" and facts.frames == 1:
        decoded = hevc.decode(container.data, image)
        if decoded is not None:
            decoded.info.update(image.info)
            return decoded
    image.load()
    return image


def _decode_at(scale: float, container: Container) -> Image.Image:
    """Decode a JPEG again in more detail, because a small part of it has to be looked at.

    scale is relative to its full size.
    """
    with _open("jpeg", container) as image:
        width, height = image.size
        image.draft(image.mode, (math.ceil(width * scale), math.ceil(height * scale)))
        image.load()
        if container.profile:
            image.info[pixels.PROFILE] = container.profile
        return pixels.to_rgb(image, container.bit_depth)[0].copy()


def _pdq_of(rgb: Image.Image, full: tuple[int, int], turn: int, container: Container) -> PdqHash:
    """The perceptual hash of an upright image that was decoded at any scale of its full size.

    A JPEG is decoded once more where that scale is too small for the hash.
    """
    scale = max(REDUCED / side for side in full)
    if rgb.size != full and scale > max(rgb.width / full[0], rgb.height / full[1]):
        rgb = pixels.upright(_decode_at(scale, container), turn)
    return pdq_hash(rgb)


class _Looks:
    """Gathers the parts of one file, frame by frame."""

    def __init__(self, specs: tuple[PixelSpec, ...], options: DecodeOptions, frames: int) -> None:
        """frames is how many frames the file has."""
        self._specs = specs
        self._options = options
        # Each frame gets a share of the parts, so that one long frame does not take all of them.
        self._most = MOST_PARTS // min(frames, options.most_frames)
        self.parts: list[Part] = []
        self.pixels: list[tuple[Pixels, ...]] = []
        self.unseen = 0.0
        self.frames = 0
        self.full = False

    def add(
        self,
        image: Image.Image,
        full: tuple[int, int],
        frame: int = 0,
        milliseconds: int | None = None,
    ) -> float:
        """Add the parts of an upright frame, which may be decoded at a reduced scale.

        full is its full (width, height). Returns the scale, relative to that, at which its parts
        would have enough pixels; 0.0 where they already have.
        """
        looked = look(image, self._specs, self._options, full, self._most)
        room = MOST_PARTS - len(self.parts)
        self.full |= len(looked.boxes) > room
        self.parts += [Part(frame, milliseconds, box) for box in looked.boxes[:room]]
        self.pixels += looked.pixels[:room]
        self.frames += room > 0
        self.unseen = max(self.unseen, looked.unseen)
        return looked.wanted_scale

    @property
    def first_milliseconds(self) -> int | None:
        """When the first frame is shown."""
        return self.parts[0].milliseconds

    @first_milliseconds.setter
    def first_milliseconds(self, milliseconds: int | None) -> None:
        self.parts = [replace(part, milliseconds=milliseconds) for part in self.parts]


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


def _turned(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """The (width, height) of an image after its EXIF orientation turned it; or before."""
    return size if turn < 5 else size[::-1]


# Words in messages of Pillow and libheif that say that the file ends too early.
_CUT_SHORT = ("truncated", "unexpected end of file", "outside of file bounds")

# Words in messages of libheif that say that the file is over one of its own limits. libheif calls
# that a memory error, too.
_LIBRARY_LIMIT = re.compile(
    r"security limit exceeded|exceed\w* (the |a )?(security limit|maximum)|maximum number of"
    r"|allocation size overflow|image size too large",
    re.IGNORECASE,
)
_LIBRARY_LIMIT_OF_PIXELS = (
    *("maximum image size", "image of size", "allocating", "memory usage"),
    *("allocation size overflow", "image size too large"),
)

# Words in messages of libheif that say that no memory is left, and words in messages of Pillow that
# may mean that or another failure of a library.
_NO_MEMORY = ("memory allocation error", "out of memory")
_PERHAPS_NO_MEMORY = (
    "could not create decoder",
    "failed to read next frame",
    "broken data stream",
    "planes failed",  # libavif: "Decoding of color planes failed"
)


def _undecoded(error: Exception, facts: ImageFacts, limits: Limits) -> Undecoded:
    if isinstance(error, UnidentifiedImageError):  # its message holds a memory address
        return Undecoded(ErrorCode.CORRUPT_IMAGE, "the header makes no sense", facts)
    message = one_line(f"{type(error).__name__}: {error}", 160)
    if facts.format == "heif" and _LIBRARY_LIMIT.search(str(error)):
        return _over_library_limit(str(error), facts)
    if facts.format == "tiff" and "unknown" in message:  # pixel mode, or data organization
        refused = unsupported(message)
        return Undecoded(refused.code, refused.message, facts)
    text = str(error).lower()
    if any(words in text for words in _NO_MEMORY) or (
        any(words in text for words in _PERHAPS_NO_MEMORY) and _memory_is_short(facts)
    ):
        return out_of_memory(limits, facts)
    cut_short = isinstance(error, EOFError) or any(words in text for words in _CUT_SHORT)
    code = ErrorCode.TRUNCATED if cut_short else ErrorCode.CORRUPT_IMAGE
    return Undecoded(code, f"cannot be decoded ({message})", facts)


def _over_library_limit(message: str, facts: ImageFacts) -> Undecoded:
    """The outcome of an image that libheif refuses to decode, whatever the job's limits."""
    too_large = any(words in message.lower() for words in _LIBRARY_LIMIT_OF_PIXELS)
    code = ErrorCode.TOO_MANY_PIXELS if too_large else ErrorCode.CORRUPT_IMAGE
    reason = one_line(message.removeprefix("Memory allocation error: "), 160)
    return Undecoded(code, f"over a limit of libheif that no option lifts ({reason})", facts)


def _check_memory(size: tuple[int, int], channels: int) -> None:
    """Raise MemoryError where there is no room for what Pillow and libavif hold at the same time.

    That is the planes, of at least 1.5 bytes per pixel, and the pixels twice. Pillow crashes if
    memory runs out after the planes were allocated.
    """
    bytearray(size[0] * size[1] * (3 + 4 * channels) // 2)


def _memory_is_short(facts: ImageFacts) -> bool:
    """Whether there is no room for two RGBA copies of the image, as libwebp's reader keeps them."""
    try:
        bytearray(8 * (facts.width or 0) * (facts.height or 0))
    except MemoryError:
        return True
    return False
