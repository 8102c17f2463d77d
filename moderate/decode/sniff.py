"""What kind of file something is, by its first bytes, and why a file is not a supported image."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

VIDEO_OPTION = "--video-every SECONDS"
"""The option by which frames of videos are scored; see `moderate.decode.video`."""

HEAD_BYTES = 1024
"""How many bytes from the start `sniff` needs: a long comment may come before an SVG's element."""

SUPPORTED = frozenset({"jpeg", "png", "webp", "gif", "bmp", "heif", "avif"})
"""The formats that are always read."""

OPTIONAL = frozenset({"tiff", "ico"})
"""Formats that are read where the user asks for them; see `moderate.decode.formats`."""

VIDEO_FORMATS = {
    **{"mp4": "mp4", "m4v": "mp4", "mov": "quicktime", "quicktime": "quicktime"},
    **dict.fromkeys(("webm", "mkv", "matroska"), "matroska"),
    **dict.fromkeys(("3gp", "3g2"), "3gp"),
    "avi": "avi",
    **dict.fromkeys(("mpg", "mpeg", "mpe", "vob"), "mpeg"),
    "mpeg-video": "mpeg-video",
}
"""The kind of video that each kind or suffix stands for, of videos whose frames can be scored."""

# ISO base media brands (ftyp box). Sources: ISO/IEC 23008-12 for HEIF, the AVIF specification.
_AVIF_BRANDS = frozenset({b"avif", b"avis", b"avio"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2"}
    | {b"msf1", b"miaf"}
)

# Images, page images and videos that are recognised only to be refused by name.
_OTHER_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"8BPS", "psd"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "postscript"),
    (b"\xc5\xd0\xd3\xc6", "postscript"),
    (b"icns", "icns"),
    (b"\xff\x0a", "jpeg-xl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jpeg-xl"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg-2000"),
    (b"\xff\x4f\xff\x51", "jpeg-2000"),
    (b"II\xbc", "jpeg-xr"),
    (b"qoif", "qoi"),
    (b"DDS ", "dds"),
    (b"BLP1", "blp"),
    (b"BLP2", "blp"),
    (b"AT&TFORM", "djvu"),
    (b"gimp xcf", "xcf"),
    (b"#?RADIANCE", "radiance-hdr"),
    (b"#?RGBE", "radiance-hdr"),
    (b"v/1\x01", "openexr"),
    (b"SIMPLE  =", "fits"),
    (b"\x8aMNG\r\n\x1a\n", "mng"),
    (b"\x8bJNG\r\n\x1a\n", "jng"),
    (b"BPG\xfb", "bpg"),
    (b"FLIF", "flif"),
    (b"SDPX", "dpx"),
    (b"XPDS", "dpx"),
    (b"\x01\xda", "sgi"),
    (b"\x59\xa6\x6a\x95", "sun-raster"),
    (b"/* XPM */", "xpm"),
    (b"FTEX", "ftex"),
    (b"VTF\x00", "vtf"),
    (b"\xd7\xcd\xc6\x9a", "wmf"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"OggS", "ogg"),
    (b"FLV\x01", "flv"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpeg-video"),  # a stream of pictures without a container
    (b"0&\xb2u\x8ef\xcf\x11", "asf"),
)

_SUFFIX_FORMATS: dict[str, str] = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "mpo"), "jpeg"),
    **dict.fromkeys(("png", "apng"), "png"),
    "webp": "webp",
    "gif": "gif",
    **dict.fromkeys(("bmp", "dib"), "bmp"),
    **dict.fromkeys(("heic", "heif", "hif", "heics", "heifs"), "heif"),
    **dict.fromkeys(("avif", "avifs"), "avif"),
    **dict.fromkeys(("tif", "tiff"), "tiff"),
    "ico": "ico",
}

# Suffixes of images and videos that are not supported.
_OTHER_SUFFIXES = frozenset(
    (  # noqa: SIM905 - a list of 90 quoted words is no easier to read
        "svg svgz pdf psd psb eps ps ai cur icns jxl jp2 j2k jpf jpx "
        "jpm jpc jxr hdp wdp qoi dds blp iff ilbm lbm djvu djv xcf hdr exr fits fit mng jng bpg "
        "flif dpx cin sgi rgb rgba bw ras sun xpm xbm ftex ftc ftu vtf wmf emf tga icb vda vst "
        "pcx dcx ppm pgm pbm pnm pam pfm msp im fli flc gbr wal pxr pcd cr2 cr3 nef arw dng orf "
        "rw2 raf pef srw raw mp4 m4v mov webm mkv avi wmv flv mpg mpeg mpe mts m2ts 3gp 3g2 ogv "
        "asf vob "
    ).split()
)

_CLAIMS = {suffix.encode(): suffix for suffix in _OTHER_SUFFIXES} | {
    suffix.encode(): kind for suffix, kind in _SUFFIX_FORMATS.items()
}

_NETPBM = re.compile(rb"P([1-6]\s+(#|\d)|7\s+(#|WIDTH)|[fF]\s+\d)")
_IFF_IMAGES = frozenset({b"ILBM", b"PBM ", b"ACBM", b"DEEP", b"RGB8", b"RGBN", b"ANIM"})
_ICONS = {b"\x00\x00\x01\x00": "ico", b"\x00\x00\x02\x00": "cur"}
_QUICKTIME_BOXES = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
# The first element is svg, and only declarations, comments and a doctype of svg come before it.
_SVG = re.compile(
    rb"\s*(?:(?:<\?xml[^>]*\?>|<!--(?:(?!-->).)*-->|<!doctype\s+svg[^>\[]*(?:\[[^\]]*\]\s*)?>)\s*)*"
    rb"<(?:svg:)?svg[\s>/]",
    re.DOTALL | re.IGNORECASE,
)
_DIB_HEADERS = frozenset({16, 40, 52, 56, 64, 108, 124})
_BMP_HEADERS = _DIB_HEADERS | {12, 42, 46, *range(20, 64, 4)}  # OS/2 2.x has many lengths
_TEXT_BYTES = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0C, 0x0D}


def sniff(head: bytes) -> str | None:
    """The kind of a file, in lower case; None where it is not a known image or video.

    `head` is the file's first HEAD_BYTES bytes, or all of it where it is shorter.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"RIFF"):
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _sniff_ftyp(head)
    if _is_bmp(head):
        return "bmp"
    for magic, kind in _OTHER_MAGIC:
        if head.startswith(magic):
            return kind
    if _NETPBM.match(head):
        return "netpbm"
    # An icon holds at least one image. TGA starts with the same bytes, followed by zeros.
    if head[:4] in _ICONS and head[4:6] > b"\x00\x00":
        return _ICONS[head[:4]]
    if head.startswith(b"FORM") and head[8:12] in _IFF_IMAGES:
        return "iff"
    if head[40:44] == b" EMF":
        return "emf"
    # A box length is not four letters of text.
    if head[4:8] in _QUICKTIME_BOXES and min(head[:4]) < 0x20:
        return "quicktime"
    return "svg" if _is_svg(head) else None


def claimed_format(name: bytes) -> str | None:
    """The format that a name's suffix stands for; None where it is not an image or video format.

    A format that is never read is named by the suffix itself.
    """
    stem, _, suffix = name.rpartition(b".")
    claimed = _CLAIMS.get(suffix.lower())
    # A name's leading dots do not start a suffix. Walking a folder calls this too often to split
    # every name properly.
    if claimed and stem[-1:] in {b"", b".", b"/"} and not os.path.splitext(name)[1]:
        return None
    return claimed


def refusal(
    kind: str | None, head: bytes, name: bytes, formats: Collection[str] = ()
) -> tuple[str, str] | None:
    """Why a file is not a supported image: (`unsupported_format` or `not_an_image`, message).

    kind is what `sniff` says of `head`, formats are read beside those that always are. None where
    the file is of one of them. Some old formats (TGA, PCX) have no magic number. For those the name
    is believed, unless the bytes are plainly something else.
    """
    if kind in SUPPORTED or kind in formats:
        return None
    if kind in OPTIONAL:
        message = f"{kind} is not among the formats; add it with --formats +{kind}"
        return "unsupported_format", message
    if kind:
        return "unsupported_format", _unsupported(kind)
    claimed = claimed_format(name)
    claims_other = claimed is not None and claimed not in SUPPORTED and claimed not in formats
    other = _other_content(head)
    # XBM and similar formats are text, SVGZ is gzip data: with such a name, these may be an image.
    if other and not (claims_other and other in {"text", "XML", "gzip data"}):
        return "not_an_image", f"the bytes are {other}, not an image"
    if claims_other:
        return "unsupported_format", _unsupported(str(claimed))
    return "not_an_image", "the bytes are not those of any known image format"


def _unsupported(kind: str) -> str:
    if kind in VIDEO_FORMATS:
        return f"{kind} is a video; give {VIDEO_OPTION} to have its frames scored"
    return f"{kind} is not supported; convert it to JPEG or PNG"


def _sniff_ftyp(head: bytes) -> str:
    size = int.from_bytes(head[:4], "big")
    box = head[8 : min(max(size, 12), len(head))]
    brands = {box[i : i + 4] for i in range(0, len(box) - 3, 4) if i != 4}
    major = box[:4]
    if major in _AVIF_BRANDS:
        return "avif"
    if major in _HEIF_BRANDS:
        # mif1 and msf1 only mean "an image file"; the codec is among the compatible brands.
        coded = major not in {b"mif1", b"mif2", b"msf1", b"miaf"}
        return "avif" if not coded and brands & _AVIF_BRANDS else "heif"
    if major == b"qt  ":
        return "quicktime"
    if major in {b"crx ", b"jpm ", b"jp2 "}:
        return "raw-or-jpeg-2000"
    # 3GPP TS 26.244, 3GPP2 C.S0050: 3gp4, 3gp6, 3gr6, 3ge6, ... and 3g2a, ...
    return "3gp" if major[:2] == b"3g" else "mp4"


def _is_bmp(head: bytes) -> bool:
    """BM and an information header of a known length, or that header alone (a DIB)."""
    if len(head) < 18:
        return False
    if head.startswith(b"BM"):
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    planes, bits = int.from_bytes(head[12:14], "little"), int.from_bytes(head[14:16], "little")
    known = int.from_bytes(head[:4], "little") in _DIB_HEADERS
    return known and planes == 1 and bits in {1, 2, 4, 8, 16, 24, 32}


def _is_svg(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf")
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = text[2:].replace(b"\x00", b"")
    return _SVG.match(text) is not None


def _other_content(head: bytes) -> str | None:
    """What bytes that are not an image look like, for the message; None where that is not clear."""
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.startswith(b"<?xml"):
        return "XML"
    if head.startswith(b"\x1f\x8b"):
        return "gzip data"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive"
    if head.startswith(b"\x7fELF") or head.startswith(b"MZ"):
        return "a program"
    if not head.strip(b"\x00"):
        return "zeros"
    if all(byte in _TEXT_BYTES for byte in head):
        return "JSON" if start[:1] in (b"{", b"[") else "text"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A multi-byte character may be cut off by the end of the head.
        if error.start < len(head) - 3:
            return None
    return "text" if 0 not in head else None
