"""Compares the frames of animations with those that Chromium decodes, and their times.

    python benchmarks/animations_in_chromium.py FILE_OR_FOLDER... [--browser chromium]

Needs the program `chromium`, or another one that --browser names. A page on 127.0.0.1 decodes each
GIF, and each animated WebP, PNG and AVIF, with the browser's own ImageDecoder, frame by frame.
"""

from __future__ import annotations

import argparse
import http.server
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from moderate.decode import pixels
from moderate.decode.animation import as_first_shown
from moderate.decode.canvas import Budget, Source, shown_for
from moderate.decode.gif_frames import GifFrames
from moderate.decode.image import _READERS, _open, prepare
from moderate.decode.png_frames import PngFrames
from moderate.decode.seek_frames import SeekFrames
from moderate.decode.sniff import sniff

TYPES = {"gif": "image/gif", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
MARKS = {"gif": b"GIF", "png": b"acTL", "webp": b"ANMF", "avif": b"avis"}  # of an animation
MOST_FRAMES = 60
TOLERANCE = 2  # in 8-bit steps; translucent colours are rounded differently
PAGE = """<script>
(async () => {
  for (const [file, type] of await (await fetch('/list')).json()) {
    const answer = (head, body) => fetch('/answer/' + file,
      {method: 'POST', headers: {'X-Head': JSON.stringify(head)}, body});
    try {
      const data = await (await fetch('/file/' + file)).arrayBuffer();
      const decoder = new ImageDecoder({data, type});
      await decoder.completed;
      await decoder.tracks.ready;
      const total = decoder.tracks.selectedTrack.frameCount;
      for (let frameIndex = 0; frameIndex < Math.min(total, MOST_FRAMES); frameIndex++) {
        const {image} = await decoder.decode({frameIndex, completeFramesOnly: true});
        const width = image.displayWidth, height = image.displayHeight;
        const context = new OffscreenCanvas(width, height).getContext('2d');
        context.drawImage(image, 0, 0);
        await answer({width, height, total, duration: image.duration},
          context.getImageData(0, 0, width, height).data);
        image.close();
      }
    } catch (error) { await answer({error: String(error)}, ''); }
  }
  await fetch('/done', {method: 'POST', body: ''});
})();
</script>""".replace("MOST_FRAMES", str(MOST_FRAMES))


def frames_in_browser(files: list[tuple[str, bytes]], browser: str) -> list[list[dict[str, Any]]]:
    """For each (kind, data) its frames, of which the last may be an error instead."""
    found: list[list[dict[str, Any]]] = [[] for _ in files]
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/list":
                listed = [[place, TYPES[kind]] for place, (kind, _) in enumerate(files)]
                self._answer(json.dumps(listed).encode())
            elif self.path.startswith("/file/"):
                self._answer(files[int(self.path.rpartition("/")[2])][1])
            else:
                self._answer(PAGE.encode() if self.path == "/" else b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/done":
                done.set()
            else:
                head = json.loads(self.headers["X-Head"])
                if "error" not in head:
                    shape = (head["height"], head["width"], 4)
                    head["pixels"] = np.frombuffer(body, np.uint8).reshape(shape)
                found[int(self.path.rpartition("/")[2])].append(head)
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        arguments += [f"--user-data-dir={profile}", "--force-color-profile=srgb"]
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([browser, *arguments, address], **quiet)
        if not done.wait(10 + 5 * len(files)):
            print("the browser did not finish", file=sys.stderr)
        process.terminate()
        process.wait()
        server.shutdown()
    return found


def frames_here(kind: str, data: bytes) -> list[tuple[int, np.ndarray]]:
    """The frames as they are drawn here: when each is shown, and its pixels on white."""
    container = _READERS[kind](data)
    with _open(kind, container) as image:
        turn, _ = pixels.orientation(image)
        image.load()
        first = as_first_shown(kind, data, container, image)
        frames = [(0, np.asarray(pixels.to_rgb(first, container.bit_depth)[0]))]
    source: Source
    if kind == "gif":
        source = GifFrames(data, first.size)
    elif kind == "png":
        source = PngFrames(data, container, turn)
    else:
        source = SeekFrames(lambda: _open(kind, container), container.frames, turn, timed=True)
    for shown in source.walk(Budget(MOST_FRAMES, 1 << 40, 1 << 40)):
        if shown is None:
            break
        if shown.milliseconds is not None:
            frames.append((shown.milliseconds, np.asarray(pixels.to_rgb(shown.image)[0])))
    return frames


def differences(kind: str, data: bytes, wanted: list[dict[str, Any]]) -> list[str]:
    """What differs, in words."""
    try:
        found = frames_here(kind, data)
    except Exception as error:  # noqa: BLE001 - a line of the comparison, not its end
        return [f"cannot be decoded here: {error}", *(str(one.get("error")) for one in wanted[:1])]
    words, time = [], 0
    for place, head in enumerate(wanted):
        if "error" in head:
            return [*words, f"the browser ends at frame {place + 1}: {head['error']}"]
        if place >= len(found):
            return [*words, f"{len(found)} frames here, {head['total']} in the browser"]
        alpha = head["pixels"][..., 3:] / 255
        expected = head["pixels"][..., :3] * alpha + 255 * (1 - alpha)
        milliseconds, picture = found[place]
        if picture.shape != expected.shape:
            words.append(f"frame {place + 1}: {picture.shape[1::-1]} here")
        elif (worst := np.abs(picture - expected).max()) > TOLERANCE:
            words.append(f"frame {place + 1}: pixels differ by up to {worst:.0f}")
        if milliseconds != time:
            words.append(f"frame {place + 1}: at {milliseconds} ms here, {time} ms in the browser")
        time += shown_for((head["duration"] or 0) / 1000)
    return words


def main() -> None:
    """Compare all animations among the files and below the folders that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--browser", default="chromium")
    options = parser.parse_args()
    prepare()
    named, files = [], []
    for path in options.paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            data = file.read_bytes() if file.is_file() else b""
            kind = sniff(data) or ""
            if kind in MARKS and MARKS[kind] in data:
                named.append(file)
                files.append((kind, data))
    equal = 0
    results = frames_in_browser(files, options.browser)
    for file, (kind, data), wanted in zip(named, files, results, strict=True):
        words = differences(kind, data, wanted)
        equal += not words
        if words:
            print(f"{file.name}: {'; '.join(words[:3])}")
    print(f"{equal} of {len(files)} files have the browser's frames at the browser's times")


if __name__ == "__main__":
    main()
