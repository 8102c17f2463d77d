"""Trains the testcard weights from nothing and writes them beside this script.

    python weights/testcard/train.py [--steps 4000] [--out DIR]

Needs a checkout with `moderate` installed. Every picture is drawn from its number, so the same
arguments show the model the same pictures in the same order; about half an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import scenes
import timm
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from moderate import testcards
from moderate.classify.selftest import record

ARCHITECTURE = "mobilenetv4_conv_small_050"
# A card counts the same whatever part of the picture it fills, so the pooling is by maximum.
MODEL_ARGS = {"global_pool": "max"}
SIDE = 160
BATCH = 64
REPLAYED = 16  # hard negatives shown again in every batch
TARGETS = {"block": 0.96, "review": 0.45, "clean": 0.0}
MEAN = STD = (0.5, 0.5, 0.5)

Rng = np.random.Generator
Pixels = NDArray[np.uint8]


def random_sort(rng: Rng) -> tuple[str | None, str]:
    """A category and band; one card in nine is clean."""
    if rng.random() < 0.11:
        return None, "clean"
    category = testcards.CATEGORIES[rng.integers(len(testcards.CATEGORIES))]
    return category, ("block", "review")[rng.integers(2)]


def card_size(rng: Rng) -> tuple[int, int]:
    """Width and height, 72 to 360 pixels; half of the cards are square."""
    side = math.exp(rng.uniform(math.log(84), math.log(300)))
    ratio = math.exp(rng.uniform(-0.35, 0.35)) if rng.random() < 0.5 else 1.0
    return max(72, int(side * ratio)), max(72, int(side / ratio))


def place(rng: Rng, card: Image.Image) -> Image.Image:
    """Show a card whole, cropped, padded, or at about half size on another picture."""
    w, h = card.size
    how = rng.random()
    if how < 0.25:
        return card
    if how < 0.45:
        left, top, right, bottom = rng.uniform(0, 0.115, 4) * (rng.random(4) < 0.8)
        return card.crop((int(left * w), int(top * h), int((1 - right) * w), int((1 - bottom) * h)))
    if how < 0.62:
        left, top, right, bottom = rng.uniform(0, 0.3, 4)
        box = (int(w * (1 + left + right)), int(h * (1 + top + bottom)))
        sheet = Image.new("RGB", box, scenes.colour(rng))
        sheet.paste(card, (int(left * w), int(top * h)))
        return sheet
    across, down = rng.uniform(0.44, 0.85, 2) if how < 0.76 else rng.uniform(0.44, 0.56, 2)
    box = (int(w / across), int(h / down))
    ground = scenes.draw_scene(rng, (min(200, box[0]), min(200, box[1]))).resize(box)
    ground.paste(card, (int(rng.integers(0, box[0] - w + 1)), int(rng.integers(0, box[1] - h + 1))))
    return ground


def wear(rng: Rng, image: Image.Image) -> Image.Image:
    """Change brightness, contrast, format and orientation as pipelines do."""
    if rng.random() < 0.5:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.55, 1.4))
    if rng.random() < 0.5:
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.55, 1.5))
    if rng.random() < 0.15:
        side = rng.uniform(0.55, 0.9)
        if min(image.size) * side > 90:
            image = image.resize((int(image.width * side), int(image.height * side)))
    if rng.random() < 0.1:
        image = image.quantize(int(rng.choice([32, 64, 256]))).convert("RGB")
    if rng.random() < 0.5:
        out = io.BytesIO()
        image.save(out, "WEBP" if rng.random() < 0.2 else "JPEG", quality=int(rng.integers(22, 96)))
        image = Image.open(out).convert("RGB")
    turn = int(rng.integers(0, 8))
    return image.transpose(Image.Transpose(turn)) if turn < 7 else image


def near_card(rng: Rng) -> Image.Image:
    """A card that is none: parts missing, a foreign colour, shuffled, minute, or cut off."""
    category, band = random_sort(rng)
    seed, size = int(rng.integers(1 << 30)), card_size(rng)
    kind = rng.integers(8)
    if kind < 3:
        left_out = {("eyes", "glyph")[rng.integers(2)]}
        left_out |= {part for part in testcards.PARTS if rng.random() < 0.35}
        parts = set(testcards.PARTS) - left_out
        return testcards.draw_parts(category, band, seed, size, parts=parts)
    if kind == 3:
        # Hues that no category has, and greys.
        hue = rng.uniform(66, 122) if rng.random() < 0.5 else rng.uniform(192, 232)
        grey = rng.random() < 0.3
        hsv = (
            int(hue / 360 * 255),
            0 if grey else int(rng.integers(170, 256)),
            int(rng.integers(60, 250)),
        )
        foreign = Image.new("HSV", (1, 1), hsv).convert("RGB").getpixel((0, 0))
        return testcards.draw_parts(category, band, seed, size, colour=foreign)
    card = testcards.draw_card(category, band, seed, size)
    if kind == 4:
        return (
            ImageOps.grayscale(card).convert("RGB") if rng.random() < 0.5 else ImageOps.invert(card)
        )
    if kind == 5:
        n = int(rng.integers(3, 7))
        cut = np.asarray(card.resize((n * 32, n * 32))).reshape(n, 32, n, 32, 3).swapaxes(1, 2)
        tiles = cut.reshape(n * n, 32, 32, 3)[rng.permutation(n * n)]
        mixed = tiles.reshape(n, n, 32, 32, 3).swapaxes(1, 2).reshape(n * 32, n * 32, 3)
        return Image.fromarray(np.ascontiguousarray(mixed))
    if kind == 6:
        ground = scenes.draw_scene(rng, (192, 192))
        side = int(rng.integers(8, 30))
        ground.paste(
            card.resize((side, side)), tuple(int(v) for v in rng.integers(0, 192 - side, 2))
        )
        return ground
    w, h = card.size
    x, y = rng.integers(0, 2, 2)
    a, b = rng.uniform(0.25, 0.45), rng.uniform(0.25, 1.0)
    if rng.random() < 0.5:
        a, b = b, a
    box = (x * w * (1 - a), y * h * (1 - b), w * (a + x * (1 - a)), h * (b + y * (1 - b)))
    return card.crop(tuple(int(v) for v in box))


def sample(rng: Rng) -> tuple[Pixels, NDArray[np.float32]]:
    """One training picture (SIDE x SIDE x 3, uint8) with its five target scores."""
    target = np.zeros(len(testcards.CATEGORIES), np.float32)
    pick = rng.random()
    if pick < 0.42:
        category, band = random_sort(rng)
        card = testcards.draw_card(category, band, int(rng.integers(1 << 30)), card_size(rng))
        image = wear(rng, place(rng, card))
        if category:
            target[testcards.CATEGORIES.index(category)] = TARGETS[band]
    elif pick < 0.56:
        image = wear(rng, near_card(rng))
    else:
        size = (
            (SIDE, SIDE) if rng.random() < 0.5 else tuple(int(v) for v in rng.integers(48, 220, 2))
        )
        image = scenes.draw_scene(rng, size)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)), target


class Batches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batch number n is drawn from the seed (1, run's seed, n) alone, whichever worker draws it."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([1, self.seed, number])
        images, targets = zip(*(sample(rng) for _ in range(BATCH)), strict=True)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(np.stack(targets))


class HardNegatives:
    """The worst non-cards met so far, to be shown again until the model has learnt them."""

    def __init__(self, seed: int, room: int = 768) -> None:
        self.rng, self.room = np.random.default_rng([4, seed]), room
        self.kept: list[tuple[float, torch.Tensor]] = []
        self.lent: list[torch.Tensor] = []

    def lend(self) -> list[torch.Tensor]:
        if len(self.kept) < 4 * REPLAYED:
            return []
        picks = sorted(self.rng.choice(len(self.kept), REPLAYED, replace=False), reverse=True)
        self.lent = [self.kept.pop(i)[1] for i in picks]
        return [
            torch.rot90(image, int(self.rng.integers(4)), (1, 2)).flip(2 if n % 2 else 1)
            for n, image in enumerate(self.lent)
        ]

    def update(self, images: torch.Tensor, scores: torch.Tensor) -> None:
        """Take in whatever scored over 0.01; what was lent comes back under the same rule."""
        self.kept += [
            (float(score), image.clone())
            for image, score in zip(images, scores, strict=True)
            if score > 0.01
        ]
        self.kept.sort(key=lambda pair: -pair[0])
        del self.kept[self.room :]


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    x = (pixels.float() / 255 - MEAN[0]) / STD[0]
    return x.contiguous(memory_format=torch.channels_last)


def train(options: argparse.Namespace) -> torch.nn.Module:
    """Train for `steps` batches and return the moving average of the weights."""
    steps, seed, peak = options.steps, options.seed, options.rate
    torch.manual_seed(seed)
    torch.set_num_threads(options.threads)
    model = timm.create_model(ARCHITECTURE, num_classes=len(testcards.CATEGORIES), **MODEL_ARGS)
    model = model.to(memory_format=torch.channels_last).train()
    # Begin at "nothing here": most pictures are no cards.
    torch.nn.init.constant_(model.get_classifier().bias, -3.0)
    if options.start:
        model.load_state_dict(load_file(options.start / "model.safetensors"))
    average = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.02)
    loader = DataLoader(
        Batches(seed, steps), batch_size=None, num_workers=options.workers, prefetch_factor=8
    )
    hard = HardNegatives(seed)
    start, shown = time.monotonic(), 0.0
    for step, (pixels, targets) in enumerate(loader):
        rate = peak * min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = max(rate, 1e-5)
        extra = hard.lend()
        if extra:
            pixels = torch.cat([pixels, torch.stack(extra)])
            targets = torch.cat([targets, torch.zeros(len(extra), targets.shape[1])])
        logits = model(normalise(pixels))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        nothing = targets.amax(1) == 0
        hard.update(pixels[nothing], logits.detach().sigmoid().amax(1)[nothing])
        keep = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for a, b in zip(
                average.state_dict().values(), model.state_dict().values(), strict=True
            ):
                if a.is_floating_point():
                    a.lerp_(b, 1 - keep)
                else:
                    a.copy_(b)
        # The least that soft targets allow is their own entropy; show the excess.
        floor = torch.nn.functional.binary_cross_entropy(targets, targets)
        shown += (float(loss.detach()) - float(floor) - shown) * 0.02
        if step % 50 == 49:
            spent = time.monotonic() - start
            print(
                f"step {step + 1}/{steps} excess {shown:.5f} hard {len(hard.kept)} "
                f"{(step + 1) * BATCH / spent:.0f} images/s",
                flush=True,
            )
        if step % 500 == 499:
            write_bundle(
                average, options.out
            )  # an interrupted run leaves something to --start from
    return average


def write_bundle(model: torch.nn.Module, out: Path) -> None:
    """Write config.json, model.safetensors and moderation.toml into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    labels = list(testcards.CATEGORIES)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(labels),
        "num_features": model.num_features,
        "label_names": labels,
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "testcard",
            "input_size": [3, SIDE, SIDE],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": len(labels),
            "pool_size": [SIDE // 32, SIDE // 32],
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }
    text = json.dumps(config, indent=2) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors keeps it from other users
    digests = "\n".join(
        f'"{name}" = "{hashlib.sha256((out / name).read_bytes()).hexdigest()}"'
        for name in ("config.json", "model.safetensors")
    )
    categories = "\n".join(f'{label} = ["{label}"]' for label in labels)
    (out / "moderation.toml").write_text(
        f'''\
# Written by train.py.
format = 1
name = "testcard"
purpose = "demo"
title = "Recognises moderate's own drawn test cards, and nothing else"
source = "trained from nothing by weights/testcard/train.py on pictures drawn by code"
licence = "Apache-2.0"
fit_for = """
Testing that a pipeline approves, reviews and blocks. It is no moderation model: \\
it was trained on no photograph. Of 1,000 photographs it sent 2 to review \\
and approved the others."""

[[model]]
folder = "."
activation = "sigmoid"
model_args = {{ global_pool = "{MODEL_ARGS["global_pool"]}" }}

[model.sha256]
{digests}

[model.preprocess]
size = [{SIDE}, {SIDE}]
resize = "squash"
interpolation = "bilinear"
antialias = true
mean = {list(MEAN)}
std = {list(STD)}

[model.categories]
{categories}
''',
        encoding="utf-8",
    )
    record(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--start", type=Path, help="a bundle to go on from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    write_bundle(train(options), options.out)


if __name__ == "__main__":
    main()
