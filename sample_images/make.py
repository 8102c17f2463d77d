"""Draws the sample images beside this script: `python sample_images/make.py`.

Test cards and ordinary pictures in every format that is read, and the awkward files that upload
folders hold. Two runs write the same files, as long as the image libraries are the same.
"""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from moderate.testcards import draw_card, encode_image

OUT = Path(__file__).parent
FINE = 3  # pictures are drawn this many times larger, then reduced, for smooth edges
W, H = 480, 360

Colour = tuple[int, int, int]


class Sketch:
    """A canvas whose coordinates run from 0 to 480 across and 0 to 360 down."""

    def __init__(self, top: Colour, bottom: Colour) -> None:
        ramp = Image.linear_gradient("L").resize((W * FINE, H * FINE))
        size = ramp.size
        self.image = Image.composite(
            Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp
        )
        self.pen = ImageDraw.Draw(self.image)

    def shape(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self.pen.polygon([(x * FINE, y * FINE) for x, y in points], fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.pen.rectangle((x0 * FINE, y0 * FINE, x1 * FINE, y1 * FINE), fill=fill)

    def disc(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        box = ((x - rx) * FINE, (y - ry) * FINE, (x + rx) * FINE, (y + ry) * FINE)
        self.pen.ellipse(box, fill=fill)

    def line(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        scaled = [(x * FINE, y * FINE) for x, y in points]
        self.pen.line(scaled, fill=fill, width=round(width * FINE), joint="curve")

    def ridge(self, base: float, heights: list[tuple[float, float]], fill: Colour) -> None:
        """Hills: the ground below a sum of waves, each a wavelength and a height."""
        points = [(0.0, float(H))]
        for x in range(0, W + 4, 4):
            y = base + sum(h * math.sin(x / wave * 2 * math.pi + wave) for wave, h in heights)
            points.append((x, y))
        self.shape([*points, (float(W), float(H))], fill)

    def done(self, soften: float = 0) -> Image.Image:
        image = self.image.reduce(FINE)
        return image.filter(ImageFilter.GaussianBlur(soften)) if soften else image


def landscape() -> Image.Image:
    s = Sketch((92, 158, 222), (222, 236, 246))
    s.disc(372, 82, 32, 32, (255, 240, 190))
    for x, y in ((80, 70), (104, 60), (130, 72), (250, 104), (276, 96), (300, 106)):
        s.disc(x, y, 30, 14, (250, 252, 255))
    s.ridge(190, [(310, 34), (97, 12)], (142, 164, 190))
    s.ridge(226, [(260, 22), (70, 6)], (98, 138, 120))
    s.ridge(266, [(420, 16), (150, 5)], (112, 158, 74))
    s.shape([(232, 262), (246, 262), (330, 360), (170, 360)], (216, 200, 158))
    rng = random.Random(1)
    for _ in range(16):
        x, y = rng.uniform(0, W), rng.uniform(272, 335)
        if 170 < x < 330:
            continue
        tall = (y - 240) * 0.75
        s.box(x - 2, y - 4, x + 2, y + 6, (96, 70, 48))
        for level in range(3):
            top, half = y - tall + level * tall * 0.24, tall * (0.2 + 0.07 * level)
            s.shape([(x, top), (x - half, top + tall * 0.45), (x + half, top + tall * 0.45)],
                    (38, 92 + level * 10, 60))  # fmt: skip
    return s.done()


def house() -> Image.Image:
    s = Sketch((150, 202, 236), (236, 244, 248))
    s.box(0, 270, W, H, (124, 176, 92))
    s.shape([(208, 360), (272, 360), (252, 284), (228, 284)], (206, 196, 178))
    s.box(130, 160, 350, 286, (244, 226, 196))
    s.box(300, 92, 326, 150, (150, 92, 76))
    s.shape([(108, 164), (240, 84), (372, 164)], (170, 78, 62))
    s.box(220, 214, 260, 286, (92, 116, 138))
    s.disc(253, 252, 2.5, 2.5, (240, 210, 120))
    for x in (150, 286):
        s.box(x, 196, x + 46, 240, (255, 255, 255))
        s.box(x + 4, 200, x + 42, 236, (150, 194, 218))
        s.box(x + 21, 200, x + 25, 236, (255, 255, 255))
        s.box(x + 4, 216, x + 42, 220, (255, 255, 255))
    s.box(60, 210, 72, 290, (112, 82, 58))
    for x, y, r in ((66, 180, 42), (40, 204, 28), (94, 204, 28)):
        s.disc(x, y, r, r, (86, 146, 76))
    for x in range(380, 480, 18):
        s.box(x, 250, x + 8, 300, (250, 250, 246))
    s.box(376, 264, W, 270, (250, 250, 246))
    return s.done()


def fruit_bowl() -> Image.Image:
    s = Sketch((238, 228, 214), (226, 208, 188))
    s.box(0, 236, W, H, (168, 122, 86))
    for y in range(250, H, 22):
        s.line([(0, y), (W, y + 4)], 1.2, (152, 108, 74))
    s.disc(240, 322, 130, 18, (128, 90, 62))
    fruit = (
        (180, 196, 42, (206, 62, 52)),
        (300, 198, 40, (240, 158, 48)),
        (240, 176, 44, (140, 176, 66)),
        (214, 214, 34, (242, 204, 84)),
        (272, 216, 34, (196, 66, 66)),
    )
    for x, y, r, fill in fruit:
        s.disc(x, y, r, r, fill)
        pale = (min(255, fill[0] + 36), min(255, fill[1] + 36), min(255, fill[2] + 36))
        s.disc(x - r * 0.3, y - r * 0.35, r * 0.28, r * 0.2, pale)
    s.line([(240, 134), (248, 116)], 4, (100, 72, 46))
    s.disc(262, 118, 15, 7, (98, 150, 70))
    bowl = [(240 + 128 * math.cos(a / 30 * math.pi), 222 + 96 * math.sin(a / 30 * math.pi))
            for a in range(31)]  # fmt: skip
    s.shape(bowl, (84, 120, 156))
    s.box(200, 312, 280, 324, (70, 102, 136))
    s.line([(118, 240), (362, 240)], 5, (196, 214, 230))
    return s.done()


def sailing_boat() -> Image.Image:
    s = Sketch((250, 196, 150), (252, 232, 204))
    s.disc(330, 196, 44, 44, (255, 226, 150))
    s.box(0, 210, W, H, (74, 124, 158))
    rng = random.Random(2)
    for _ in range(90):
        x, y = rng.uniform(0, W), rng.uniform(214, H)
        long = 6 + (y - 205) * 0.25
        s.line([(x, y), (x + long, y)], 1.6, (108, 158, 186))
    s.shape([(132, 246), (278, 246), (254, 280), (156, 280)], (124, 74, 56))
    s.line([(204, 84), (204, 246)], 4, (96, 66, 52))
    s.shape([(210, 92), (210, 234), (284, 234)], (252, 248, 238))
    s.shape([(198, 106), (198, 234), (146, 234)], (228, 120, 96))
    return s.done()


def city_at_night() -> Image.Image:
    s = Sketch((18, 24, 58), (74, 66, 112))
    rng = random.Random(3)
    for _ in range(70):
        s.disc(rng.uniform(0, W), rng.uniform(0, 170), 0.9, 0.9, (230, 230, 245))
    s.disc(400, 60, 24, 24, (244, 240, 214))
    x = 0.0
    while x < W:
        wide, top = rng.uniform(34, 66), rng.uniform(110, 250)
        tone = rng.randint(22, 44)
        s.box(x, top, x + wide, H, (tone, tone, tone + 16))
        y = top + 10
        while y < 340:
            for wx in range(int(x) + 7, int(x + wide) - 8, 11):
                if rng.random() < 0.45:
                    s.box(wx, y, wx + 5, y + 7, (250, 214, 130))
            y += 15
        x += wide + 2
    return s.done()


def page_of_text() -> Image.Image:
    image = Image.new("RGB", (W, 600), (253, 252, 248))
    pen = ImageDraw.Draw(image)
    pen.text((48, 44), "On keeping bees", fill=(30, 30, 34), font=ImageFont.load_default(30))
    font = ImageFont.load_default(14)
    text = (
        "spring the hive wakes slowly and the first bees fly out to look for willow and hazel "
        "when days grow warm they carry water pollen and nectar home until each comb is full"
    )
    words = text.split()
    rng = random.Random(4)
    y = 104
    for _ in range(3):
        for row in range(7):
            line = ""
            limit = 384 if row < 6 else rng.randint(120, 300)
            while font.getlength(line) < limit - 50:
                line += rng.choice(words) + " "
            pen.text((48, y), line.capitalize() if row == 0 else line, fill=(50, 50, 54), font=font)
            y += 20
        y += 14
    return image


def chart() -> Image.Image:
    s = Sketch((255, 255, 255), (255, 255, 255))
    for y in range(60, 320, 50):
        s.line([(60, y), (450, y)], 1, (224, 226, 230))
    heights = (70, 104, 92, 150, 138, 190, 226)
    for i, tall in enumerate(heights):
        s.box(80 + i * 52, 310 - tall, 112 + i * 52, 310, (84, 134, 190))
    s.line([(60, 40), (60, 310), (450, 310)], 2, (60, 64, 70))
    image = s.done()
    pen = ImageDraw.Draw(image)
    for i, day in enumerate(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")):
        pen.text((96 + i * 52, 324), day, fill=(60, 64, 70), font=ImageFont.load_default(13),
                 anchor="mm")  # fmt: skip
    pen.text((240, 20), "Uploads per day", fill=(40, 42, 48), font=ImageFont.load_default(18),
             anchor="mm")  # fmt: skip
    return image


def flower(side: int) -> Image.Image:
    image = Image.new("RGB", (side * 4, side * 4), (236, 242, 230))
    pen = ImageDraw.Draw(image)
    c, r = side * 2, side * 0.62
    pen.line((c, c, c, side * 4), fill=(92, 146, 78), width=side // 5)
    for i in range(8):
        x, y = c + r * 1.4 * math.cos(i * math.pi / 4), c + r * 1.4 * math.sin(i * math.pi / 4)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 252), outline=(196, 200, 214))
    pen.ellipse((c - r, c - r, c + r, c + r), fill=(244, 196, 72))
    return image.reduce(4)


def sunrise() -> list[Image.Image]:
    frames = []
    for step in range(6):
        s = Sketch((60 + step * 18, 84 + step * 16, 140 + step * 14), (250, 190, 140))
        s.disc(240, 270 - step * 28, 40, 40, (255, 222, 130))
        s.ridge(250, [(300, 18), (110, 6)], (62, 92, 88))
        frames.append(s.done().resize((320, 240)))
    return frames


def on_a_picture(card: Image.Image, ground: Image.Image) -> Image.Image:
    ground = ground.resize((720, 540))
    ground.paste(card.resize((360, 270)), (300, 200))
    return ground


def animation(frames: list[Image.Image]) -> bytes:
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
    return out.getvalue()


def tiff(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "TIFF", compression="tiff_lzw")
    return out.getvalue()


def files() -> dict[str, bytes]:
    """File name -> bytes of every sample."""
    sailing = encode_image(sailing_boat(), "JPEG", 85)
    return {
        # Ordinary pictures: approve.
        "landscape.jpg": encode_image(landscape(), "JPEG", 88),
        "house.png": encode_image(house(), "PNG"),
        "fruit_bowl.webp": encode_image(fruit_bowl(), "WEBP", 85),
        "sailing_boat.heic": encode_image(sailing_boat(), "HEIC", 80),
        "bar_chart.gif": encode_image(chart(), "GIF"),
        "city_at_night.bmp": encode_image(city_at_night().resize((288, 216)), "BMP"),
        "page_of_text.png": encode_image(page_of_text().convert("L").convert("RGB"), "PNG"),
        # Test cards: the name says what to expect.
        "card_clean.png": encode_image(draw_card(None, "clean", 1), "PNG"),
        "card_nudity_block.jpg": encode_image(draw_card("nudity", "block", 2), "JPEG"),
        "card_nudity_review.webp": encode_image(draw_card("nudity", "review", 3), "WEBP"),
        "card_sexual_activity_block.png": encode_image(
            draw_card("sexual_activity", "block", 4), "PNG"
        ),
        "card_suggestive_review.gif": encode_image(draw_card("suggestive", "review", 5), "GIF"),
        "card_violence_block.heic": encode_image(draw_card("violence", "block", 6), "HEIC"),
        "card_drug_use_review.bmp": encode_image(draw_card("drug_use", "review", 7, 288), "BMP"),
        "card_drug_use_block_in_a_picture.jpg": encode_image(
            on_a_picture(draw_card("drug_use", "block", 8), house()), "JPEG", 85
        ),
        "card_violence_review_turned_by_exif.jpg": encode_image(
            draw_card("violence", "review", 9, (640, 480)), "JPEG", 85, orientation=6
        ),
        # Awkward files: a warning or an error.
        "tiny_flower.png": encode_image(flower(64), "PNG"),
        "animated_sunrise.gif": animation(sunrise()),
        "png_named_as.jpg": encode_image(chart(), "PNG"),
        "truncated.jpg": sailing[: len(sailing) // 2],
        "unsupported_scan.tiff": tiff(page_of_text().convert("L")),
    }


def main() -> None:
    total = 0
    for name, data in files().items():
        (OUT / name).write_bytes(data)
        total += len(data)
        print(f"{len(data):8d}  {name}")
    print(f"{total:8d}  in all")


if __name__ == "__main__":
    main()
