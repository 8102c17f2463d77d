"""The image data of a PNG, inflated by SIMD code and stored again as it is.

Inflating takes most of the time of decoding a PNG, and ISA-L is faster at it than Pillow
(benchmarks/fast_decoding.py). Pillow stays the decoder: it gets a PNG whose data stands in stored
blocks, which are copied and not inflated. Data that is not whole and sound by ISA-L's judgement is
left to Pillow.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

from moderate.libraries import installed

_MOST_BYTES = 64 << 20  # of inflated data; more would take memory that decoding it needs
_FEWEST_BYTES = 64 << 10  # less is inflated by Pillow in no time
_ZLIB_HEADER = b"\x78\x01"  # deflate with a window of 32 KiB, no dictionary; RFC 1950, 2.2
_BLOCK = 0xFFFF  # bytes, the longest stored block; RFC 1951, 3.2.4


@functools.cache
def isal_zlib() -> Any:
    """ISA-L as a module like `zlib`; None where it is not installed.

    To be called before the sandbox, in which it could not be loaded.
    """
    if not installed("isal"):
        return None
    from isal import isal_zlib as library

    return library


def stored_chunk(pieces: Sequence[memoryview], length: int) -> list[bytes | memoryview] | None:
    """One IDAT chunk, in pieces, that inflates to the same `length` bytes as the data in pieces.

    None where there is no library, where the data is not a sound zlib stream of exactly that
    length, or where it is too little or too much to be worth it.
    """
    library = isal_zlib()
    if library is None or not _FEWEST_BYTES <= length <= _MOST_BYTES:
        return None
    inflater = library.decompressobj()
    try:
        raw = inflater.decompress(b"".join(pieces), length + 1)
    except library.error:
        return None
    if len(raw) != length or not inflater.eof:
        return None
    view = memoryview(raw)
    chunk: list[bytes | memoryview] = [b"IDAT", _ZLIB_HEADER]
    for start in range(0, length, _BLOCK):
        block = view[start : start + _BLOCK]
        is_last = start + _BLOCK >= length
        chunk += [struct.pack("<BHH", is_last, len(block), len(block) ^ _BLOCK), block]
    chunk.append(struct.pack(">I", library.adler32(raw)))
    # Never joined here: of a large image, each copy takes longer than the checksums.
    crc = 0
    for piece in chunk:
        crc = library.crc32(piece, crc)
    size = sum(map(len, chunk)) - len(chunk[0])
    return [struct.pack(">I", size), *chunk, struct.pack(">I", crc)]
