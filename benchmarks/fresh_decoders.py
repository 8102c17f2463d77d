"""What it costs that a decoder process sees only so many images: CPU time per image.

    python benchmarks/fresh_decoders.py [--count 600] [--repeats 3]

Drawn photographs in three sizes go through the decoder processes with different limits of images
per process, in turns. Printed are medians of CPU milliseconds per image, all processes included,
and the ratio to processes that live for the whole run.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
from collections import defaultdict

import numpy as np
from PIL import Image

from moderate.decode.limits import IMAGES_PER_DECODER
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.types import ImageFacts, Limits

SIZES = {"small, 640 x 480": (640, 480), "web, 1600 x 1200": (1600, 1200)}
PER_DECODER = (1, 16, 32, 64, 128)
WHOLE_RUN = 1 << 30


def photograph(size: tuple[int, int]) -> bytes:
    """A JPEG as large as a photograph's: smooth areas with noise on them."""
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + rng.integers(-12, 12, smooth.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def decode(data: bytes, count: int, images_per_decoder: int, workers: int) -> float:
    """CPU seconds of decoding `data` so many times."""
    before = cpu_seconds()
    # A large ring, so that the limit asked for is not lowered to what it holds.
    pool = DecoderPool[int](
        (PixelSpec(224, 224),), Limits(), workers, 128, images_per_decoder=images_per_decoder
    )
    good = 0
    with pool:
        for batch in pool.run((number, data) for number in range(count)):
            good += sum(isinstance(entry.outcome, ImageFacts) for entry in batch.entries)
            pool.release(batch)
    assert good == count
    return cpu_seconds() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=600, help="images per run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"default: {IMAGES_PER_DECODER} images per process")
    for name, size in SIZES.items():
        data = photograph(size)
        times: dict[int, list[float]] = defaultdict(list)
        for _ in range(arguments.repeats):
            for limit in (*PER_DECODER, WHOLE_RUN):
                times[limit].append(decode(data, arguments.count, limit, arguments.workers))
        whole = statistics.median(times[WHOLE_RUN])
        print(f"\n{name}, {len(data) / 1000:.0f} kB a file")
        for limit, measured in times.items():
            cpu = statistics.median(measured)
            label = "whole run" if limit == WHOLE_RUN else str(limit)
            per_image = 1000 * cpu / arguments.count
            print(f"{label:>10} {per_image:7.2f} ms CPU per image {cpu / whole:6.3f}")


if __name__ == "__main__":
    main()
