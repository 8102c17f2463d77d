"""A folder with something of everything that gets a row."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.pictures import encode, scene
from tests.support.videos import make_video


def mixed_folder(folder: Path, pictures: int, frames: int) -> Path:
    """Pictures, two or more of them in a folder below, a copy, one that is broken, and a video."""
    (folder / "deep").mkdir()
    for number in range(pictures):
        data = encode(scene((300, 280), seed=number), "PNG")
        (folder / ("deep" if number % 3 == 0 else ".") / f"{number}.png").write_bytes(data)
    shutil.copy(folder / "1.png", folder / "copy.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    make_video(folder / "clip.mp4", (scene((64, 48), seed=n // 10) for n in range(frames)))
    return folder
