"""On a CUDA machine: decode limit, forward limit and end to end in bf16; decoding on the GPU too.

On one GPU, and where there are several on two, four and so on up to all of them.

python benchmarks/gpu.py [--gpus 1 2 4] [--cache DIR] [--count 512] [--photos 256] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from corpora import make
from limits import bundle_specs, decode_limit, files_of, forward_limit
from memory import many
from networks import random_bundle
from processes import check_scan, run, scan_command
from reporting import machine, print_table, write_json

MODELS = ("vit_tiny_patch16_384", "eva02_base_patch14_448")
TARGET = 0.90
ORIGINALS = 64
STEADY_BATCHES = 20


def gpu_decoders(files: list[Path], side: int) -> dict[str, Any]:
    """Images/s of decoding JPEGs on the GPU and resizing them there, by what is installed."""
    data = [file.read_bytes() for file in files if file.suffix == ".jpg"]
    found: dict[str, Any] = {}
    for name, module, make_decoder in (
        ("torchvision on CUDA", "torchvision", _torchvision),
        ("nvImageCodec", "nvidia.nvimgcodec", _nvimgcodec),
    ):
        try:
            if importlib.util.find_spec(module) is None:
                found[name] = "not installed"
                continue
            decode = make_decoder()
            decode(data[:16], side)
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for start in range(0, len(data), 16):
                decode(data[start : start + 16], side)
            torch.cuda.synchronize()
            found[name] = len(data) / (time.perf_counter() - begun)
        except Exception as error:  # noqa: BLE001 - whatever a driver says, the others still count
            found[name] = f"{type(error).__name__}: {str(error)[:120]}"
    return found


def _resized(pictures: list[torch.Tensor], side: int) -> torch.Tensor:
    """C x H x W uint8 pictures as one N x 3 x side x side float batch, antialiased."""
    return torch.cat(
        [
            torch.nn.functional.interpolate(
                picture[None].float(), (side, side), mode="bilinear", antialias=True
            )
            for picture in pictures
        ]
    )


def _torchvision() -> Any:
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(data: list[bytes], side: int) -> torch.Tensor:
        loaded = [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in data]
        return _resized(decode_jpeg(loaded, mode=ImageReadMode.RGB, device="cuda"), side)

    return decode


def _nvimgcodec() -> Any:
    from nvidia import nvimgcodec

    decoder = nvimgcodec.Decoder()

    def decode(data: list[bytes], side: int) -> torch.Tensor:
        pictures = [torch.as_tensor(one, device="cuda") for one in decoder.decode(data)]
        return _resized([picture.permute(2, 0, 1) for picture in pictures], side)

    return decode


@dataclass
class Rates:
    """What was measured with some devices, in images per second, once in each pass."""

    forward: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    rows: int = 0


def measure(
    folder: Path, bundle: Path, counts: Sequence[int], kind: str, precision: str, options: Any
) -> list[dict[str, Any]]:
    """Medians of the two limits and the whole line, in images per second, by number of devices.

    Each pass measures every number of devices, so that what else the machine does meets all alike.
    """
    files, batch = files_of(folder), options.batch
    decode: list[float] = []
    rates = {count: Rates() for count in counts}
    for _ in range(options.repeat):
        decode.append(decode_limit(files, bundle_specs(bundle)).rate)
        for count, one in rates.items():
            device = devices(kind, count)
            how = {"device": device, "precision": precision}
            one.forward.append(forward_limit(bundle, len(files), batch=batch, **how).rate)
            flags = ("--device", device, "--precision", precision)
            done = run(scan_command(folder, bundle, *flags, batch=batch))
            check_scan(done, len(files))
            # Rows come in bursts where batches take long: few say nothing of a steady rate.
            steady = done.steady_rate(batch) if len(files) >= STEADY_BATCHES * batch else None
            one.whole.append(steady or done.rate())
            one.started.append(done.rate())
            one.rows = len(done.rows)
    return [
        {
            "devices": count,
            "rows": one.rows,
            "decode": statistics.median(decode),
            "forward": statistics.median(one.forward),
            "end_to_end": statistics.median(one.whole),
            "end_to_end_with_start": statistics.median(one.started),
            "share": statistics.median(one.whole)
            / min(statistics.median(decode), statistics.median(one.forward)),
            "bound_by": "decoding"
            if statistics.median(decode) < statistics.median(one.forward)
            else "the model",
        }
        for count, one in rates.items()
    ]


def devices(kind: str, count: int) -> str:
    """The value of --device for the first `count` devices of a kind."""
    return ",".join(f"cuda:{index}" if kind == "cuda" else kind for index in range(count))


def doubled(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`."""
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="keeps corpora and bundles between runs")
    parser.add_argument("--count", type=int, default=4096, help="images of the corpus small")
    parser.add_argument("--photos", type=int, default=512, help="images of the corpus phone")
    parser.add_argument(
        "--originals", type=int, default=ORIGINALS, help="different images of a corpus"
    )
    parser.add_argument(
        "--gpus", nargs="*", type=int, help="numbers of GPUs to measure; default: 1, 2, 4 to all"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="timm architectures")
    parser.add_argument("--json", type=Path)
    # Runs the script where there is no GPU, so that it can be tested; says nothing of speed.
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU, and torch finds none here")
    precision = "bf16" if on_gpu else "fp32"
    counts = options.gpus or (doubled(torch.cuda.device_count()) if on_gpu else [1])
    if on_gpu and max(counts) > torch.cuda.device_count():
        raise SystemExit(f"there are {torch.cuda.device_count()} GPUs, not {max(counts)}")
    gpu = torch.cuda.get_device_name() if on_gpu else None
    result: dict[str, Any] = {
        "machine": machine(),
        "gpu": gpu,
        "precision": precision,
        "results": [],
        "gpu_decoding": {},
    }
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.cache) as temporary:
        cache = options.cache or Path(temporary)
        for corpus, count in (("small", options.count), ("phone", options.photos)):
            if not count:
                continue
            originals = make(cache, corpus, min(options.originals, count))
            folder = many(Path(temporary), originals, count)
            for model in options.models:
                bundle = random_bundle(cache / model, model)
                for one in measure(folder, bundle, counts, options.device, precision, options):
                    result["results"].append({"model": model, "corpus": corpus, **one})
                keep(options.json, result)
            if on_gpu:
                result["gpu_decoding"][corpus] = gpu_decoders(files_of(folder)[:512], 384)
                keep(options.json, result)
    print_table(
        f"Images/s on {gpu or 'the CPU'} in {precision}",
        [
            "model",
            "corpus",
            "GPUs",
            "decode",
            "forward",
            "end to end",
            "of the smaller",
            "bound by",
        ],
        [
            [
                one["model"],
                one["corpus"],
                str(one["devices"]),
                *(f"{one[key]:.1f}" for key in ("decode", "forward", "end_to_end")),
                f"{one['share']:.0%}",
                one["bound_by"],
            ]
            for one in result["results"]
        ],
    )
    for one in result["results"]:
        of = f"{one['model']}, {one['corpus']}, {one['devices']} GPU(s)"
        print(f"{of}: target {TARGET:.0%}: {one['share']:.0%}")
    for corpus, found in result["gpu_decoding"].items():
        for name, rate in found.items():
            shown = f"{rate:.0f} images/s" if isinstance(rate, float) else rate
            print(f"{corpus}, JPEGs decoded by {name}: {shown}")


def keep(path: Path | None, result: dict[str, Any]) -> None:
    """Write what has been measured so far: a lent machine may go before the end."""
    if path:
        write_json(path, result)


if __name__ == "__main__":
    main()
