"""Whether images are decoded as viewers show them: a headless Chromium is the judge.

    python benchmarks/as_viewers_show.py [PATH ...] [--frames N] [--all] [--json FILE]

Every file is laid out at its natural size on a white page, and the screenshot is compared with the
decoder's upright pixels. Without a path, a drawn set of odd variants is compared. A local server
on 127.0.0.1 hands the files to the browser.
"""

from __future__ import annotations

import argparse
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from reporting import machine, print_table, write_json
from variants import odd_variants

from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.parts import DecodeOptions
from moderate.decode.resize import PixelSpec
from moderate.decode.sniff import sniff
from moderate.types import Limits

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "google-chrome-stable")
SAME = 0.02  # mean absolute difference of full scale, up to which two pictures are the same
BLOCK = 16  # px; the side of the blocks whose mean differs the most
PAGE_WIDTH, PAGE_HEIGHT = 4096, 8192  # px; a screenshot has a limit of about 16,000
PATIENCE = 300  # seconds for one start of the browser
FIRST_FRAME = DecodeOptions(frames="first", views="1")
TYPES = {"jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp"}

SCRIPT = """
const post = (value) => fetch('/done', {method: 'POST', body: JSON.stringify(value)});
const natural = async (one) => {
  const image = new Image();
  image.src = '/file/' + one.number;
  try { await image.decode(); } catch { return null; }
  return [image.naturalWidth, image.naturalHeight];
};
const draw = async (one) => {
  let shown;
  if (one.type === null) {
    shown = new Image();
    shown.src = '/file/' + one.number;
    try { await shown.decode(); } catch { return; }
  } else {
    const body = await (await fetch('/file/' + one.number)).arrayBuffer();
    const decoder = new ImageDecoder({data: body, type: one.type});
    const {image} = await decoder.decode({frameIndex: one.frame});
    shown = document.createElement('canvas');
    [shown.width, shown.height] = [image.displayWidth, image.displayHeight];
    shown.getContext('2d').drawImage(image, 0, 0);
  }
  shown.style = `position:absolute;left:${one.left}px;top:${one.top}px`;
  document.body.append(shown);
};
const all = async (work, step) => {
  const results = [];
  for (const one of work) {
    try { results.push(await step(one)); } catch (error) { results.push(null); }
  }
  await post(results);
};
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """One frame of one file, and where on the page it is: left, top, width and height in px."""

    number: int
    frame: int | None
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Compared:
    """The verdict on one file, and how far it is from what the browser shows, 0 to 1."""

    name: str
    kind: str
    verdict: str
    mean: float | None = None
    worst_block: float | None = None
    detail: str = ""


def difference(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> tuple[float, float]:
    """The mean absolute difference of two H x W x 3 arrays, and that of the worst block."""
    apart = np.abs(ours.astype(np.int16) - theirs.astype(np.int16)).mean(axis=2) / 255
    rows, columns = range(0, apart.shape[0], BLOCK), range(0, apart.shape[1], BLOCK)
    sums = np.add.reduceat(np.add.reduceat(apart, rows, axis=0), columns, axis=1)
    heights = np.diff([*rows, apart.shape[0]])[:, None]
    widths = np.diff([*columns, apart.shape[1]])[None]
    return float(apart.mean()), float((sums / (heights * widths)).max())


def verdict(
    ours: NDArray[np.uint8] | str,
    theirs: NDArray[np.uint8] | None,
) -> tuple[str, float | None, float | None, str]:
    """Verdict, mean difference, that of the worst block, and a detail.

    ours is the pixels, or why there are none; theirs is None where the browser shows none.
    """
    if isinstance(ours, str):
        return ("only the browser shows it" if theirs is not None else "refused", None, None, ours)
    if theirs is None:
        return "only scored", None, None, ""
    if ours.shape != theirs.shape:
        sizes = f"{ours.shape[1]} x {ours.shape[0]} and {theirs.shape[1]} x {theirs.shape[0]}"
        return "another size", None, None, sizes
    mean, worst = difference(ours, theirs)
    return ("same" if mean <= SAME else "differs"), mean, worst, ""


@dataclass(frozen=True, slots=True)
class Ours:
    """What the decoder makes of a file: its first frame, or why there is none; frames by number."""

    first: NDArray[np.uint8] | str
    frames: dict[int, NDArray[np.uint8]]
    animated: bool = False


def pixels_of(data: bytes, options: DecodeOptions = FIRST_FRAME) -> Ours:
    """The upright pixels of a file's frames at natural size."""
    limits = Limits()
    small = decode(data, (PixelSpec(8, 8, "squash"),), limits, FIRST_FRAME)
    if isinstance(small, Undecoded):
        return Ours(f"{small.code}: {small.message}", {})
    width, height = small.facts.width or 0, small.facts.height or 0
    full = decode(data, (PixelSpec(height, width, "squash", exact=True),), limits, options)
    if not isinstance(full, Decoded):
        return Ours(f"{full.code}: {full.message}", {})
    every = (full.pixels, *full.more)
    frames = {
        part.frame: np.asarray(each[0], np.uint8)
        for part, each in zip(full.parts, every, strict=True)
    }
    return Ours(np.asarray(full.pixels[0], np.uint8), frames, (full.facts.frames or 1) > 1)


class Judge:
    """A headless browser that shows files."""

    def __init__(self, browser: str, files: Sequence[bytes], folder: Path) -> None:
        self._browser, self._files, self._folder = browser, files, folder

    def sizes(self) -> list[tuple[int, int] | None]:
        """The natural width and height of each file, or None where the browser shows none."""
        work = [{"number": number} for number in range(len(self._files))]
        answers, _ = self._open(f"all({json.dumps(work)}, natural)")
        return [tuple(answer) if answer else None for answer in answers]

    def shows(self, page: Sequence[Placed], kinds: Sequence[str]) -> Image.Image:
        """A screenshot of a page of files."""
        work = [
            {
                "number": one.number,
                "frame": one.frame,
                "type": None if one.frame is None else TYPES[kinds[one.number]],
                "left": one.box[0],
                "top": one.box[1],
            }
            for one in page
        ]
        return self._open(f"all({json.dumps(work)}, draw)")[1]

    def _open(self, script: str) -> tuple[list[Any], Image.Image]:
        """Open a page in the browser: what its script answers, and the screenshot."""
        answered = threading.Event()
        answers: list[Any] = []
        body = (
            "<!doctype html><meta charset=utf-8><body style='margin:0;background:white'>"
            # The page counts as loaded, and the screenshot is taken, when this has an answer.
            f"<img src=/wait hidden><script>{SCRIPT}{script}</script>"
        )
        files = self._files

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/wait":
                    answered.wait(PATIENCE)
                    self._answer(b"")
                elif self.path.startswith("/file/"):
                    self._answer(files[int(self.path[6:])])
                elif self.path == "/":
                    self._answer(body.encode(), "text/html")
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                answers.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"")
                answered.set()

            def _answer(self, data: bytes, kind: str | None = None) -> None:
                self.send_response(200)
                if kind:
                    self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        shot = self._folder / "page.png"
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            command = [
                *(self._browser, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--hide-scrollbars", "--force-device-scale-factor=1", "--no-first-run"),
                *("--force-color-profile=srgb", "--disable-extensions"),
                *("--disable-background-networking", "--disable-component-update"),
                f"--user-data-dir={self._folder / 'profile'}",
                *(f"--window-size={PAGE_WIDTH},{PAGE_HEIGHT}", f"--screenshot={shot}"),
                f"http://127.0.0.1:{server.server_address[1]}/",
            ]
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
            server.shutdown()
        if not answered.is_set() or not shot.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise SystemExit(f"the browser showed no page: {said[-1] if said else done.returncode}")
        return answers, Image.open(shot).convert("RGB")


def pages(sizes: Sequence[tuple[int, int, int | None, int]]) -> Iterator[list[Placed]]:
    """Lay out (width, height, frame, number) in rows on pages."""
    page: list[Placed] = []
    left = top = row_height = 0
    for width, height, frame, number in sizes:
        if left + width > PAGE_WIDTH:
            left, top, row_height = 0, top + row_height, 0
        if top + height > PAGE_HEIGHT:
            yield page
            page, left, top, row_height = [], 0, 0, 0
        page.append(Placed(number, frame, (left, top, width, height)))
        left, row_height = left + width, max(row_height, height)
    if page:
        yield page


def compare(browser: str, files: dict[str, bytes], frames: int) -> Iterator[Compared]:
    """The verdict on each file, and on each of the frames that are scored where frames > 1."""
    names, contents = list(files), list(files.values())
    kinds = [sniff(data) or "other" for data in contents]
    options = DecodeOptions(frames=frames, views="1") if frames > 1 else FIRST_FRAME
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(browser, contents, Path(folder))
        natural = judge.sizes()
        ours = [pixels_of(data, options) for data in contents]
        wanted: list[tuple[int, int, int | None, int]] = []
        for number, size in enumerate(natural):
            mine = ours[number]
            if size is None:
                yield Compared(names[number], kinds[number], *verdict(mine.first, None))
            elif size[0] > PAGE_WIDTH or size[1] > PAGE_HEIGHT:
                yield Compared(names[number], kinds[number], "too large for a page")
            else:
                # An animation would be at any of its frames by the time of the screenshot, so that
                # the browser is asked for each by its number.
                by_number = mine.animated and kinds[number] in TYPES
                wanted += [
                    (*size, frame, number) for frame in (mine.frames if by_number else [None])
                ]
        for page in pages(sorted(wanted, key=lambda one: (one[1], one[3]))):
            shot = judge.shows(page, kinds)
            for one in page:
                left, top, width, height = one.box
                theirs = np.asarray(shot.crop((left, top, left + width, top + height)))
                mine = ours[one.number]
                pixels = mine.first if one.frame is None else mine.frames[one.frame]
                name = names[one.number] + ("" if one.frame is None else f" frame {one.frame}")
                yield Compared(name, kinds[one.number], *verdict(pixels, theirs))


def read_files(paths: Sequence[Path]) -> dict[str, bytes]:
    """The files of folders, and files, by path."""
    found = [
        inner
        for path in paths
        for inner in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if inner.is_file()
    ]
    return {str(path): path.read_bytes() for path in found}


def main() -> None:
    """Compare, and print a line per file that differs and a table per format."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--browser", help="Chromium's command or path")
    parser.add_argument("--frames", type=int, default=1, help="frames of animations to compare")
    parser.add_argument("--only", default="", help="compare files with this in their name")
    parser.add_argument("--all", action="store_true", help="print files that are the same too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    wanted = (options.browser,) if options.browser else BROWSERS
    browser = next((path for name in wanted if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"no browser is found: install {wanted[0]}, or name it with --browser")
    files = read_files(options.paths) if options.paths else odd_variants()
    files = {name: data for name, data in files.items() if options.only in name}
    if not files:
        raise SystemExit("there is no file to compare")
    prepare()
    compared = sorted(compare(browser, files, options.frames), key=lambda one: one.name)
    for one in compared:
        if options.all or one.verdict not in ("same", "refused"):
            numbers = "" if one.mean is None else f"{one.mean:.4f} {one.worst_block:.3f}"
            print(f"{one.verdict:26}{numbers:14}{one.kind:6}{one.name}  {one.detail}".rstrip())
    counts = Counter((one.kind, one.verdict) for one in compared)
    print_table(
        "Formats", ("format", "verdict", "files"), [(*key, counts[key]) for key in sorted(counts)]
    )
    if options.json:
        rows = [
            {name: getattr(one, name) for name in Compared.__dataclass_fields__} for one in compared
        ]
        write_json(options.json, {"machine": machine(), "files": rows})


if __name__ == "__main__":
    main()
