"""Draws random pictures that are not test cards: what training must leave alone.

They stand in for photographs, logos, charts, screenshots, test patterns and tiny images. Each
is made from its seed alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

Rng = np.random.Generator
Pixels = NDArray[np.uint8]
Drawer = Callable[[Rng, int, int], Image.Image]

# Near the colours of the cards, so that a colour alone never decides.
CARD_COLOURS = (
    (225, 0, 125),
    (105, 45, 205),
    (250, 145, 0),
    (205, 15, 25),
    (0, 140, 105),
    (16, 16, 18),
    (252, 252, 250),
    (88, 100, 114),
)
_TEXT = (
    "the of and a to in is you that it he was for on are with as his they at be this from have or "
    "by one had not but what all were when we there can an your which their said if do will each "
    "SALE OPEN STOP EXIT TAXI NEWS MENU LOGIN Paris 2024 100% $9.99 www Test CARD Block Review"
)
WORDS = _TEXT.split()
FONTS = tuple(ImageFont.load_default(size) for size in (6, 8, 9, 10, 12, 14, 18, 24, 32, 48, 72))


def colour(rng: Rng) -> tuple[int, int, int]:
    """A random colour: any, saturated, pale, dark, grey, or near one of the cards' own."""
    pick = rng.random()
    if pick < 0.3:
        rgb = rng.integers(0, 256, 3)
    elif pick < 0.5:
        rgb = np.array(CARD_COLOURS[rng.integers(len(CARD_COLOURS))]) + rng.integers(-18, 19, 3)
    elif pick < 0.65:
        rgb = np.array([0, 255, rng.integers(0, 256)])[rng.permutation(3)]
    elif pick < 0.78:
        rgb = 255 - rng.integers(0, 50, 3)
    elif pick < 0.9:
        rgb = rng.integers(0, 70, 3)
    else:
        rgb = np.full(3, rng.integers(0, 256))
    rgb = np.clip(rgb, 0, 255)
    return int(rgb[0]), int(rgb[1]), int(rgb[2])


def _palette(rng: Rng) -> list[tuple[int, int, int]]:
    return [colour(rng) for _ in range(rng.integers(2, 9))]


def _any(rng: Rng, colours: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    return colours[rng.integers(len(colours))]


def _image(values: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8), "RGB")


def _grid(rng: Rng, w: int, h: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of a randomly turned, shifted and scaled plane, about -1 to 1."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.choice([0, math.pi / 2, math.pi / 4, rng.uniform(0, 2 * math.pi)])
    zoom = math.exp(rng.uniform(-0.7, 0.7))
    x, y = x * zoom + rng.uniform(-0.5, 0.5), y * zoom + rng.uniform(-0.5, 0.5)
    c, s = math.cos(angle), math.sin(angle)
    return (c * x - s * y).astype(np.float32), (s * x + c * y).astype(np.float32)


def _ramp(rng: Rng, t: NDArray[np.floating]) -> Image.Image:
    """Colour a scalar field by a random palette: smooth, stepped, or one channel at a time."""
    stops = np.array(_palette(rng), dtype=np.float32)
    low, high = float(t.min()), float(t.max())
    t = (t - low) / (high - low + 1e-9) * (len(stops) - 1)
    if rng.random() < 0.35:
        t = np.round(t)
    knots = np.arange(len(stops))
    rgb = np.stack([np.interp(t, knots, stops[:, c]) for c in range(3)], -1)
    return _image(rgb / 255)


def _field(rng: Rng, w: int, h: int, power: float | None = None) -> NDArray[np.float32]:
    """One plane of noise with spectrum 1/f^power, zero mean and unit deviation."""
    power = rng.uniform(0.4, 2.6) if power is None else power
    fy = np.fft.fftfreq(h)[:, None] * math.exp(rng.normal(0, 0.4))
    fx = np.fft.rfftfreq(w)[None] * math.exp(rng.normal(0, 0.4))
    f = np.sqrt(fx * fx + fy * fy)
    f[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((h, w))) * f**-power
    spectrum[0, 0] = 0
    plane = np.fft.irfft2(spectrum, (h, w))
    return (plane / (plane.std() + 1e-9)).astype(np.float32)


def spectrum(rng: Rng, w: int, h: int) -> Image.Image:
    """Coloured noise with the power spectrum of photographs, of fog, or of gravel."""
    power = rng.uniform(0.4, 2.6)
    planes = np.stack([_field(rng, w, h, power) for _ in range(3)], -1)
    mix = np.ones((3, 3)) * rng.uniform(0.3, 1.2) + rng.normal(0, 0.35, (3, 3))
    planes = planes @ mix * rng.uniform(0.05, 0.4) + rng.uniform(0.1, 0.9, 3)
    return _image(planes)


def noise_ramp(rng: Rng, w: int, h: int) -> Image.Image:
    """Marble, maps and camouflage: a noise field through a palette."""
    t = _field(rng, w, h, rng.uniform(1.2, 3.2))
    if rng.random() < 0.4:
        t = np.sin(t * rng.uniform(1, 8))
    return _ramp(rng, t)


def gradient(rng: Rng, w: int, h: int) -> Image.Image:
    """Linear, radial, conic, square or saddle gradients, smooth or in steps."""
    x, y = _grid(rng, w, h)
    pick = rng.integers(6)
    t = (x, np.hypot(x, y), np.arctan2(y, x), np.maximum(abs(x), abs(y)), x * y, abs(x) + abs(y))[
        pick
    ]
    if rng.random() < 0.35:
        t = np.mod(t * rng.uniform(1, 6), 1)
    return _ramp(rng, t)


def channel_ramps(rng: Rng, w: int, h: int) -> Image.Image:
    """Hue wheels and RGB ramps of the sort that fill image libraries' test folders."""
    x, y = _grid(rng, w, h)
    if rng.random() < 0.5:
        hsv = np.stack([np.mod(x, 1), np.clip(abs(y), 0, 1), np.ones_like(x)], -1)[
            ..., rng.permutation(3)
        ]
        hsv[..., rng.integers(3)] = rng.uniform(0.5, 1)
        return Image.fromarray((hsv * 255).clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    planes = [x, y, x + y, x * 0 + rng.random(), x * y, -x, -y]
    return _image(
        np.stack([np.mod(planes[rng.integers(7)] / 2 + 0.5, 1.001) for _ in range(3)], -1)
    )


def waves(rng: Rng, w: int, h: int) -> Image.Image:
    """Gratings, stripes, rings, spirals, zone plates and plaids."""
    x, y = _grid(rng, w, h)
    k = math.exp(rng.uniform(1.0, 4.3))
    r = np.hypot(x, y)
    pick = rng.integers(7)
    t = (
        np.sin(k * x),
        np.sin(k * r),
        np.sin(k * r * r),
        np.sin(k * r + np.arctan2(y, x) * rng.integers(1, 9)),
        np.sin(k * x) + np.sin(k * y),
        np.sin(np.arctan2(y, x) * rng.integers(2, 40)),
        np.sin(k * np.maximum(abs(x), abs(y))),
    )[pick]
    if rng.random() < 0.55:
        t = (t > rng.uniform(-0.5, 0.5)).astype(np.float32)
    return _ramp(rng, t)


def checker(rng: Rng, w: int, h: int) -> Image.Image:
    """Checkerboards, tiles, bricks and transparency patterns."""
    x, y = _grid(rng, w, h)
    k = math.exp(rng.uniform(0.7, 3.7))
    row = np.floor(y * k)
    shift = rng.choice([0.0, 0.5]) * np.mod(row, 2)
    cell = np.floor(x * k * rng.choice([1, 0.5, 2]) + shift)
    pick = rng.integers(3)
    if pick == 0:
        return _ramp(rng, np.mod(row + cell, 2))
    if pick == 1:
        return _ramp(rng, np.mod(np.sin(row * 12.99 + cell * 78.23) * 43758.5, 1))
    edge = (np.mod(y * k, 1) < 0.12) | (np.mod(x * k + shift, 1) < 0.1)
    return _ramp(rng, np.where(edge, -0.5, np.mod(np.sin(row * 3 + cell * 7) * 437.5, 1)))


def fractal(rng: Rng, w: int, h: int) -> Image.Image:
    """Julia sets near the boundary of the Mandelbrot set."""
    x, y = _grid(rng, w // 2, h // 2)
    z = (x + 1j * y) * 1.4
    angle = rng.uniform(0, 2 * math.pi)
    c = np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4 + complex(*rng.normal(0, 0.06, 2))
    steps = np.zeros(z.shape, dtype=np.float32)
    with np.errstate(all="ignore"):
        for _ in range(24):
            z = z * z + c
            steps += np.abs(z) < 4
            z = np.where(np.abs(z) < 1e3, z, 1e3)
    return _ramp(rng, steps).resize((w, h), Image.Resampling.BILINEAR)


def flat(rng: Rng, w: int, h: int) -> Image.Image:
    """One colour, or a few colours in plain bands, with or without a border."""
    image = Image.new("RGB", (w, h), colour(rng))
    if rng.random() < 0.6:
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(1, 5)):
            margin = rng.uniform(0, 0.45)
            draw.rectangle(
                (margin * w, margin * h, (1 - margin) * w, (1 - margin) * h), colour(rng)
            )
    return image


def tiny(rng: Rng, w: int, h: int) -> Image.Image:
    """From 1 x 1 to 40 x 40 random pixels, enlarged: icons and thumbnails, more or less."""
    small = rng.integers(1, 41, 2) if rng.random() < 0.5 else np.full(2, rng.integers(1, 41))
    if rng.random() < 0.5:
        colours = np.array(_palette(rng), dtype=np.uint8)
        pixels = colours[rng.integers(0, len(colours), (small[1], small[0]))]
        if rng.random() < 0.5:
            pixels = np.concatenate([pixels, pixels[:, ::-1]], 1)
        image = Image.fromarray(pixels, "RGB")
    else:
        image = any_scene(rng, 48, 48).resize((int(small[0]), int(small[1])))
    how = Image.Resampling.NEAREST if rng.random() < 0.4 else Image.Resampling.BILINEAR
    return image.resize((w, h), how)


def white_noise(rng: Rng, w: int, h: int) -> Image.Image:
    """Independent pixels: uniform, binary, sparse or grey."""
    values = rng.random((h, w, 3 if rng.random() < 0.6 else 1))
    pick = rng.random()
    if pick < 0.3:
        values = (values > rng.uniform(0.05, 0.95)).astype(np.float64)
    elif pick < 0.6:
        values = rng.random() + (values - 0.5) * rng.uniform(0.05, 0.6)
    return _image(np.broadcast_to(values, (h, w, 3)))


def _shape(
    rng: Rng, draw: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: object
) -> None:
    """One random flat shape about a centre: disc, box, star, polygon, arc, blob or letter."""
    pick = rng.integers(9)
    stretch = math.exp(rng.normal(0, 0.3))
    box = (cx - r * stretch, cy - r / stretch, cx + r * stretch, cy + r / stretch)
    line = None if rng.random() < 0.6 else colour(rng)
    thick = max(1, int(r * rng.uniform(0.02, 0.35)))
    if pick == 0:
        draw.ellipse(box, fill=fill, outline=line, width=thick)
    elif pick == 1:
        draw.rectangle(box, fill=fill, outline=line, width=thick)
    elif pick == 2:
        draw.rounded_rectangle(box, r * 0.3, fill=fill, outline=line, width=thick)
    elif pick == 3:
        draw.ellipse(box, outline=fill, width=thick)
    elif pick == 4:
        start = rng.uniform(0, 360)
        draw.pieslice(box, start, start + rng.uniform(20, 340), fill=fill, outline=line)
    elif pick == 5:
        font = FONTS[np.clip(np.searchsorted([6, 8, 9, 10, 12, 14, 18, 24, 32, 48], r), 0, 10)]
        word = WORDS[rng.integers(len(WORDS))][: rng.integers(1, 6)]
        draw.text((cx, cy), word, fill=fill, font=font, anchor="mm")
    else:
        count = int(rng.integers(3, 12))
        inner = 1.0 if pick == 6 else rng.uniform(0.3, 0.9)
        turn = rng.choice([-math.pi / 2, rng.uniform(0, 7)])
        jag = rng.normal(0, 0.3, 2 * count) if pick == 8 else np.zeros(2 * count)
        points = []
        for i in range(2 * count):
            radius = r * (1 if i % 2 == 0 else inner) * (1 + jag[i])
            if i % 2 and inner == 1.0:
                continue
            angle = turn + i * math.pi / count
            points.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle)))
        draw.polygon(points, fill=fill, outline=line)


def dead_leaves(rng: Rng, w: int, h: int) -> Image.Image:
    """Many overlapping shapes of all sizes, the simplest picture with a photograph's statistics."""
    image = Image.new("RGB", (w, h), colour(rng))
    draw = ImageDraw.Draw(image)
    colours = _palette(rng) + _palette(rng)
    for _ in range(rng.integers(8, 120)):
        r = 0.03 * min(w, h) * rng.random() ** -0.6
        shade = np.clip(np.array(_any(rng, colours)) + rng.normal(0, 14, 3), 0, 255).astype(int)
        fill = (int(shade[0]), int(shade[1]), int(shade[2]))
        _shape(rng, draw, rng.uniform(0, w), rng.uniform(0, h), min(r, w * 0.5), fill)
    return image


def icons(rng: Rng, w: int, h: int) -> Image.Image:
    """A logo, an icon, or a grid of them, on a plain ground."""
    ground = colour(rng) if rng.random() < 0.5 else (255, 255, 255)
    image = Image.new("RGB", (w, h), ground)
    draw = ImageDraw.Draw(image)
    n = int(rng.choice([1, 1, 1, 2, 3, 5]))
    for i in range(n):
        for j in range(n):
            cx, cy = (i + 0.5) * w / n, (j + 0.5) * h / n
            r = min(w, h) / n * rng.uniform(0.2, 0.48)
            for _ in range(rng.integers(1, 6)):
                _shape(rng, draw, cx, cy, r, colour(rng))
                r *= rng.uniform(0.4, 0.9)
                cx += rng.normal(0, 0.1) * r
    return image


def pictogram(rng: Rng, w: int, h: int) -> Image.Image:
    """A symbol of thick strokes in ink, paper and one accent, as in status icons and warnings."""
    ink, paper = ((0, 0, 0), (255, 255, 255)) if rng.random() < 0.7 else (colour(rng), colour(rng))
    if rng.random() < 0.3:
        ink, paper = paper, ink
    accent = colour(rng)
    image = Image.new("RGB", (w, h), paper)
    draw = ImageDraw.Draw(image)
    side = min(w, h)
    for _ in range(rng.integers(2, 10)):
        cx, cy = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
        if rng.random() < 0.35:
            cx, cy = w / 2, h / 2
        a, b = rng.uniform(0.05, 0.45, 2) * side
        box = (cx - a, cy - b, cx + a, cy + b)
        thick = max(1, int(rng.uniform(0.03, 0.14) * side))
        edge = (ink, ink, accent)[rng.integers(3)]
        fill = (None, None, paper, ink, accent)[rng.integers(5)]
        pick = rng.integers(5)
        if pick == 0:
            draw.rounded_rectangle(box, min(a, b) * rng.random(), fill, edge, thick)
        elif pick == 1:
            draw.ellipse(box, fill, edge, thick)
        elif pick == 2:
            draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 360), edge, thick)
        elif pick == 3:
            points = rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * (a, b) + (cx, cy)
            draw.polygon([(float(x), float(y)) for x, y in points], fill=edge)
        else:
            draw.line((cx - a, cy, cx + a, cy + b * rng.integers(-1, 2)), edge, thick)
    return image


def overlaid(rng: Rng, w: int, h: int) -> Image.Image:
    """Outlined words, stickers and cut-outs on another scene."""
    image = any_scene(rng, w, h)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 6)):
        x, y = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
        if rng.random() < 0.5:
            r = rng.uniform(0.05, 0.4) * min(w, h)
            _shape(rng, draw, x, y, r * 1.12, colour(rng))
            _shape(rng, draw, x, y, r, colour(rng))
        else:
            word = WORDS[rng.integers(len(WORDS))].upper()
            font, thick = FONTS[rng.integers(5, 11)], int(rng.integers(0, 6))
            draw.text((x, y), word, colour(rng), font, "mm", stroke_width=thick,
                      stroke_fill=colour(rng))  # fmt: skip
    return image


def sign(rng: Rng, w: int, h: int) -> Image.Image:
    """Road signs, posters, stamps, playing cards and labels: frame, field, shape and words."""
    image = any_scene(rng, w, h) if rng.random() < 0.3 else Image.new("RGB", (w, h), colour(rng))
    draw = ImageDraw.Draw(image)
    edge = rng.uniform(0, 0.25)
    kind = rng.integers(4)
    for _ in range(rng.integers(1, 5)):
        box = (edge * w, edge * h, (1 - edge) * w - 1, (1 - edge) * h - 1)
        if kind == 0:
            draw.ellipse(box, fill=colour(rng))
        elif kind == 1:
            draw.rounded_rectangle(box, 0.1 * w, fill=colour(rng))
        elif kind == 2:
            draw.regular_polygon(
                (w / 2, h / 2, (0.5 - edge) * min(w, h)), int(rng.integers(3, 9)), 0, colour(rng)
            )
        else:
            draw.rectangle(box, fill=colour(rng))
        edge += rng.uniform(0.02, 0.15)
        if edge > 0.42:
            break
    if rng.random() < 0.7:
        r = max(0.05, 0.5 - edge) * min(w, h) * rng.uniform(0.5, 1)
        _shape(rng, draw, w / 2, h / 2, r, colour(rng))
    if rng.random() < 0.6:
        for y in (0.2, 0.8, 0.5)[: rng.integers(1, 4)]:
            words = " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(1, 3)))
            font = FONTS[rng.integers(2, 9)]
            draw.text((w / 2, y * h), words.upper(), fill=colour(rng), font=font, anchor="mm")
    return image


def striped_frame(rng: Rng, w: int, h: int) -> Image.Image:
    """A picture behind a frame: solid, striped, checked or ringed; tape, borders and tapestries."""
    inside = any_scene(rng, w, h)
    outside = (waves, checker, flat, spectrum)[rng.integers(4)](rng, w, h)
    a, b = rng.uniform(0.02, 0.3, 2)
    if rng.random() < 0.6:
        b = a
    outside.paste(
        inside.resize((max(1, int(w * (1 - 2 * a))), max(1, int(h * (1 - 2 * b))))),
        (int(a * w), int(b * h)),
    )
    return outside


def finder_marks(rng: Rng, w: int, h: int) -> Image.Image:
    """QR-like codes, data matrices, bar codes and lone finder squares in any colours."""
    dark, light = (colour(rng), colour(rng)) if rng.random() < 0.5 else ((0, 0, 0), (255,) * 3)
    n = int(rng.integers(9, 45))
    cells = rng.random((n, n)) < rng.uniform(0.3, 0.6)
    pick = rng.random()
    if pick < 0.25:
        cells[:] = cells[0]
    elif pick < 0.8:
        eye = np.zeros((9, 9), bool)
        eye[1:8, 1:8], eye[2:7, 2:7], eye[3:6, 3:6] = True, False, True
        if rng.random() < 0.3:
            cells[:] = False
        for y, x in ((0, 0), (0, n - 9), (n - 9, 0), (n - 9, n - 9))[: rng.integers(1, 5)]:
            cells[y : y + 9, x : x + 9] = eye
    code = np.where(cells[..., None], np.array(dark), np.array(light)).astype(np.uint8)
    ground = any_scene(rng, w, h) if rng.random() < 0.4 else Image.new("RGB", (w, h), light)
    side = rng.uniform(0.4, 1.0)
    size = (max(9, int(w * side)), max(9, int(h * side)))
    where = (int(rng.uniform(0, w - size[0] + 1)), int(rng.uniform(0, h - size[1] + 1)))
    ground.paste(Image.fromarray(code, "RGB").resize(size, Image.Resampling.NEAREST), where)
    if rng.random() < 0.3:
        _shape(rng, ImageDraw.Draw(ground), w / 2, h / 2, 0.2 * min(w, h), colour(rng))
    return ground


def test_pattern(rng: Rng, w: int, h: int) -> Image.Image:
    """Colour bars, grey steps, television patterns and colour charts."""
    image = Image.new("RGB", (w, h), colour(rng))
    draw = ImageDraw.Draw(image)
    rows = int(rng.integers(1, 7))
    y = 0.0
    for _ in range(rows):
        tall = h / rows * rng.uniform(0.6, 1.6)
        n = int(rng.integers(1, 17))
        gap = rng.choice([0, 0, 0.1]) * w / n
        grey = rng.random() < 0.3
        for i in range(n):
            fill = (int(255 * i / max(1, n - 1)),) * 3 if grey else colour(rng)
            if rng.random() < 0.2:
                fill = (255 * (i & 1), 255 * (i >> 1 & 1), 255 * (i >> 2 & 1))
            draw.rectangle((i * w / n + gap, y, (i + 1) * w / n, y + tall), fill=fill)
        y += tall
    if rng.random() < 0.4:
        step = min(w, h) / rng.integers(4, 16)
        ink = colour(rng)
        for i in range(int(max(w, h) / step) + 1):
            draw.line((i * step, 0, i * step, h), fill=ink)
            draw.line((0, i * step, w, i * step), fill=ink)
    if rng.random() < 0.5:
        r = min(w, h) * rng.uniform(0.2, 0.49)
        for _ in range(rng.integers(1, 5)):
            box = (w / 2 - r, h / 2 - r, w / 2 + r, h / 2 + r)
            fill = colour(rng) if rng.random() < 0.5 else None
            draw.ellipse(box, fill=fill, outline=colour(rng), width=2)
            r *= rng.uniform(0.4, 0.9)
    return image


def text_page(rng: Rng, w: int, h: int) -> Image.Image:
    """A page of type in one to three columns, sometimes with a heading or a picture."""
    ground, ink = (
        ((255, 255, 255), (20, 20, 20)) if rng.random() < 0.6 else (colour(rng), colour(rng))
    )
    image = Image.new("RGB", (w, h), ground)
    draw = ImageDraw.Draw(image)
    columns = int(rng.integers(1, 4))
    number = int(rng.integers(0, 8))
    font, step = FONTS[number], (6, 8, 9, 10, 12, 14, 18, 24)[number] * rng.uniform(1.1, 1.7)
    margin = rng.uniform(0.02, 0.14) * w
    y = margin
    if rng.random() < 0.5:
        draw.text(
            (margin, y), WORDS[rng.integers(len(WORDS))].title(), fill=colour(rng), font=FONTS[8]
        )
        y += 40
    wide = (w - margin) / columns
    while y < h - margin:
        words = rng.integers(0, len(WORDS), 40)
        for c in range(columns):
            line = " ".join(WORDS[i] for i in words[c * 12 : c * 12 + 12])
            fits = max(1, int((wide - margin) / step * 2.2))
            draw.text((margin + c * wide, y), line[:fits], fill=ink, font=font)
        y += step * (2 if rng.random() < 0.08 else 1)
    if rng.random() < 0.3:
        part = any_scene(rng, max(8, w // 3), max(8, h // 3))
        image.paste(part, (int(rng.uniform(0, w * 0.66)), int(rng.uniform(0, h * 0.66))))
    return image


def chart(rng: Rng, w: int, h: int) -> Image.Image:
    """Plots: lines, bars, points, pies, heat maps and tables with axes and labels."""
    image = Image.new("RGB", (w, h), (255, 255, 255) if rng.random() < 0.75 else colour(rng))
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = 0.12 * w, 0.1 * h, 0.92 * w, 0.88 * h
    if rng.random() < 0.5:
        draw.rectangle(
            (x0, y0, x1, y1), fill=colour(rng) if rng.random() < 0.3 else None, outline=(0, 0, 0)
        )
    for _ in range(rng.integers(1, 4)):
        ink = colour(rng)
        pick = rng.integers(6)
        n = int(rng.integers(3, 30))
        values = y1 - (y1 - y0) * rng.random(n) if rng.random() < 0.5 else np.linspace(y1, y0, n)
        xs = np.linspace(x0, x1, n + 1)
        if pick == 0:
            draw.line(
                [(float(x), float(y)) for x, y in zip(xs, values, strict=False)],
                ink,
                int(rng.integers(1, 5)),
            )
        elif pick == 1:
            for i in range(n):
                draw.rectangle((xs[i] + 1, values[i], max(xs[i] + 1, xs[i + 1] - 1), y1), fill=ink)
        elif pick == 2:
            for x, y in zip(rng.uniform(x0, x1, 60), rng.uniform(y0, y1, 60), strict=True):
                r = 1 + 3 * rng.random()
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        elif pick == 3:
            angle = 0.0
            while angle < 360:
                step = rng.uniform(10, 120)
                draw.pieslice((x0, y0, x1, y1), angle, min(360, angle + step), fill=colour(rng))
                angle += step
        elif pick == 4:
            small = _ramp(rng, rng.random((int(rng.integers(2, 14)), n)))
            image.paste(
                small.resize((int(x1 - x0), int(y1 - y0)), Image.Resampling.NEAREST),
                (int(x0), int(y0)),
            )
        else:
            for i in range(n):
                draw.line((x0, y0 + i * (y1 - y0) / n, x1, y0 + i * (y1 - y0) / n), fill=ink)
                draw.text(
                    (x0 + 3, y0 + i * (y1 - y0) / n),
                    WORDS[rng.integers(len(WORDS))],
                    fill=(0, 0, 0),
                    font=FONTS[1],
                )
    for i in range(5):
        draw.text(
            (x0 + i * (x1 - x0) / 5, y1 + 2),
            str(rng.integers(0, 100)),
            fill=(0, 0, 0),
            font=FONTS[1],
        )
        draw.text(
            (1, y0 + i * (y1 - y0) / 5), str(rng.integers(0, 100)), fill=(0, 0, 0), font=FONTS[1]
        )
    return image


def screenshot(rng: Rng, w: int, h: int) -> Image.Image:
    """Windows, bars, buttons, lists and pictures on a desktop."""
    image = any_scene(rng, w, h) if rng.random() < 0.3 else Image.new("RGB", (w, h), colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(-0.1, 0.5) * w, rng.uniform(-0.1, 0.5) * h
        ww, hh = rng.uniform(0.3, 1) * w, rng.uniform(0.3, 1) * h
        draw.rectangle((x, y, x + ww, y + hh), fill=colour(rng), outline=(90, 90, 90))
        draw.rectangle((x, y, x + ww, y + max(4, 0.06 * h)), fill=colour(rng))
        for i in range(rng.integers(2, 14)):
            ly = y + 0.1 * h + i * 0.07 * h
            if rng.random() < 0.6:
                line = " ".join(WORDS[k] for k in rng.integers(0, len(WORDS), 5))
                draw.text((x + 6, ly), line, fill=colour(rng), font=FONTS[rng.integers(0, 5)])
            else:
                bx = x + rng.uniform(0, 0.8) * ww
                draw.rounded_rectangle((bx, ly, bx + 0.2 * ww, ly + 0.05 * h), 3, fill=colour(rng))
    return image


def face(rng: Rng, w: int, h: int) -> Image.Image:
    """Ellipses in the places of a head, hair, eyes, mouth and shoulders, softly shaded."""
    image = any_scene(rng, w, h) if rng.random() < 0.5 else Image.new("RGB", (w, h), colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        tone = rng.uniform(0.25, 1)
        skin = (int(240 * tone), int((200 + rng.normal(0, 12)) * tone**1.1), int(170 * tone**1.3))
        cx, cy, r = (
            rng.uniform(0.2, 0.8) * w,
            rng.uniform(0.25, 0.6) * h,
            rng.uniform(0.1, 0.35) * w,
        )
        draw.ellipse((cx - 2 * r, cy + r, cx + 2 * r, cy + 4 * r), fill=colour(rng))
        draw.ellipse((cx - 1.1 * r, cy - 1.5 * r, cx + 1.1 * r, cy + r), fill=colour(rng))
        draw.ellipse((cx - 0.85 * r, cy - 1.15 * r, cx + 0.85 * r, cy + 1.2 * r), fill=skin)
        for side in (-0.35, 0.35):
            ex, ey, er = cx + side * r, cy - 0.15 * r, 0.13 * r
            draw.ellipse((ex - er, ey - er * 0.6, ex + er, ey + er * 0.6), fill=(245, 245, 245))
            draw.ellipse((ex - er / 2, ey - er / 2, ex + er / 2, ey + er / 2), fill=(40, 25, 20))
        draw.ellipse((cx - 0.3 * r, cy + 0.45 * r, cx + 0.3 * r, cy + 0.62 * r), fill=(170, 60, 70))
    return _lit(rng, image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3))))


def landscape(rng: Rng, w: int, h: int) -> Image.Image:
    """Sky, ridges, fields or sea, sun and trees."""
    sky = np.linspace(0, 1, h)[:, None, None]
    top, low = np.array(colour(rng)) / 255, np.array(colour(rng)) / 255
    if rng.random() < 0.6:
        top, low = np.array([0.25, 0.5, 0.85]), np.array([0.8, 0.88, 0.95])
    pixels = np.broadcast_to(top * (1 - sky) + low * sky, (h, w, 3)).copy()
    cloud = np.clip(_field(rng, w, h, 1.7) * 0.3, 0, 1)[..., None]
    pixels = pixels * (1 - cloud) + cloud
    rows = np.arange(h)[:, None]
    for i in range(rng.integers(1, 5)):
        ridge = np.cumsum(rng.normal(0, 1, w))
        ridge = (ridge - ridge.mean()) / (ridge.std() + 1) * rng.uniform(0.01, 0.12) * h
        mask = rows > (0.4 + 0.15 * i) * h + ridge[None]
        ground = np.array(colour(rng)) / 255
        if rng.random() < 0.6:
            ground = np.array([0.2, 0.4, 0.15]) * rng.uniform(0.5, 1.8)
        rough = 1 + 0.25 * _field(rng, w, h, rng.uniform(0.5, 1.5))[..., None]
        pixels = np.where(mask[..., None], ground * rough, pixels)
    image = _image(pixels)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 6)):
        _shape(rng, draw, rng.uniform(0, w), rng.uniform(0.3, 0.9) * h, 0.08 * h, colour(rng))
    return image


def room(rng: Rng, w: int, h: int) -> Image.Image:
    """Boxes in perspective with textured faces: rooms, streets, tables, buildings."""
    image = any_scene(rng, w, h)
    for _ in range(rng.integers(2, 7)):
        quad = rng.uniform(-0.2, 1.2, (2, 2))
        corners = [(quad[0, 0], quad[0, 1]), (quad[1, 0], quad[0, 1] + rng.normal(0, 0.1))]
        corners += [(quad[1, 0], quad[1, 1]), (quad[0, 0], quad[1, 1] + rng.normal(0, 0.1))]
        mask = Image.new("L", (w, h), 0)
        ImageDraw.Draw(mask).polygon([(x * w, y * h) for x, y in corners], fill=255)
        drawer = (checker, spectrum, flat, waves, gradient, noise_ramp)[rng.integers(6)]
        image.paste(drawer(rng, w, h), (0, 0), mask)
    return _lit(rng, image)


def _lit(rng: Rng, image: Image.Image) -> Image.Image:
    """Uneven light and fine texture, which flat drawings lack and photographs have."""
    w, h = image.size
    light = 1 + 0.2 * rng.random() * _field(rng, w, h, 2.2)
    grain = 0.04 * rng.random() * _field(rng, w, h, 0.6)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return _image(pixels * light[..., None] + grain[..., None])


def cells(rng: Rng, w: int, h: int) -> Image.Image:
    """Voronoi cells: stones, leaves, stained glass, giraffes."""
    n = int(rng.integers(4, 60))
    seeds = rng.random((n, 2)).astype(np.float32)
    y, x = np.mgrid[0 : 1 : (h // 2) * 1j, 0 : 1 : (w // 2) * 1j].astype(np.float32)
    d = (x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2
    if rng.random() < 0.4:
        return _ramp(rng, np.sqrt(d.min(-1))).resize((w, h))
    colours = np.array([_any(rng, _palette(rng)) for _ in range(n)], dtype=np.uint8)
    return Image.fromarray(colours[d.argmin(-1)], "RGB").resize((w, h))


def collage(rng: Rng, w: int, h: int) -> Image.Image:
    """Contact sheets, comics and split screens: other scenes side by side."""
    columns, rows = rng.integers(1, 4, 2)
    gap = int(rng.choice([0, 2, 6]))
    image = Image.new("RGB", (w, h), colour(rng))
    for i in range(columns):
        for j in range(rows):
            size = (max(8, w // columns - gap), max(8, h // rows - gap))
            image.paste(any_scene(rng, *size), (i * w // columns, j * h // rows))
    return image


def blend(rng: Rng, w: int, h: int) -> Image.Image:
    """Two scenes laid over each other, evenly or through a cloud-shaped mask."""
    a, b = any_scene(rng, w, h), any_scene(rng, w, h)
    if rng.random() < 0.4:
        return Image.blend(a, b, rng.uniform(0.2, 0.8))
    mask = np.clip(_field(rng, w, h, 1.8) * rng.choice([0.6, 50]) + 0.5, 0, 1)
    return Image.composite(a, b, Image.fromarray((mask * 255).astype(np.uint8), "L"))


SIMPLE: tuple[Drawer, ...] = (
    spectrum,
    noise_ramp,
    gradient,
    channel_ramps,
    waves,
    checker,
    fractal,
    flat,
    white_noise,
    dead_leaves,
    dead_leaves,
    icons,
    test_pattern,
    text_page,
    chart,
    landscape,
    cells,
)
COMPOSED: tuple[Drawer, ...] = (
    pictogram,
    pictogram,
    overlaid,
    sign,
    sign,
    striped_frame,
    finder_marks,
    screenshot,
    face,
    room,
    room,
    collage,
    blend,
    tiny,
)
KINDS: tuple[Drawer, ...] = tuple(dict.fromkeys(SIMPLE + COMPOSED))


def any_scene(rng: Rng, w: int, h: int) -> Image.Image:
    """One uncomposed scene of any kind, `w` by `h` pixels."""
    return SIMPLE[rng.integers(len(SIMPLE))](rng, max(8, w), max(8, h)).resize((w, h))


def spoil(rng: Rng, image: Image.Image) -> Image.Image:
    """What happens to pictures on their way: turns, colour shifts, blur, low resolution, grain."""
    w, h = image.size
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose(int(rng.integers(0, 7)))).resize((w, h))
    if rng.random() < 0.2:
        hsv = np.array(image.convert("HSV"))
        hsv[..., 0] += np.uint8(rng.integers(0, 256))
        image = Image.fromarray(hsv, "HSV").convert("RGB")
    if rng.random() < 0.1:
        image = ImageOps.grayscale(image).convert("RGB")
    if rng.random() < 0.06:
        image = ImageOps.invert(image)
    if rng.random() < 0.3:
        gain, lift, gamma = (
            rng.uniform(0.4, 1.5),
            rng.uniform(-50, 50),
            math.exp(rng.normal(0, 0.4)),
        )
        image = image.point(
            [int(np.clip(255 * (v / 255) ** gamma * gain + lift, 0, 255)) for v in range(256)] * 3
        )
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(math.exp(rng.uniform(-1, 2))))
    if rng.random() < 0.25:
        small = (max(1, int(w * rng.uniform(0.08, 0.7))), max(1, int(h * rng.uniform(0.08, 0.7))))
        how = Image.Resampling.NEAREST if rng.random() < 0.3 else Image.Resampling.BILINEAR
        image = image.resize(small, Image.Resampling.BILINEAR).resize((w, h), how)
    if rng.random() < 0.15:
        pixels = np.asarray(image, dtype=np.float32)
        grain = rng.normal(0, rng.uniform(2, 40), (h, w, 3 if rng.random() < 0.5 else 1))
        image = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8), "RGB")
    if rng.random() < 0.3:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=int(rng.integers(10, 96)))
        image = Image.open(out).convert("RGB")
    return image


def draw_scene(seed: int | Rng, size: tuple[int, int]) -> Image.Image:
    """One random non-card as an RGB image of `size` (width, height) pixels."""
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng([2, seed])
    while True:
        kinds = COMPOSED if rng.random() < 0.5 else SIMPLE
        try:
            return spoil(rng, kinds[rng.integers(len(kinds))](rng, *size))
        except ValueError:
            # Pillow refuses a few degenerate shapes, about one in 100,000: draw another.
            continue
