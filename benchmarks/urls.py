"""URLs against the same files on the disk: what fetching costs where every answer takes its time.

python benchmarks/urls.py [--cache DIR] [--count 600] [--latency 0.05] [--repeat 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web
from corpora import make
from networks import random_bundle
from processes import check_scan, run, scan_command
from reporting import machine, print_table, write_json


def serve(folder: Path, latency: float, ready: Connection) -> None:
    """The files of a folder on loopback, each `latency` seconds late, until it is killed."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(latency)
        return web.Response(body=(folder / request.match_info["name"]).read_bytes())

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{name}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="keeps corpora and bundles between runs")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds added to each answer")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="mobilenetv4_conv_small", help="timm architecture")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        bundle = random_bundle(cache / options.model, options.model)
        folder = make(cache, "small", options.count)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(folder, options.latency, theirs), daemon=True
        )
        server.start()
        port = ours.recv()
        names = sorted(file.name for file in folder.iterdir())
        lists = {"disk": Path(temporary) / "paths.txt", "URLs": Path(temporary) / "urls.txt"}
        lists["disk"].write_text("".join(f"{folder.resolve()}/{name}\n" for name in names))
        lists["URLs"].write_text("".join(f"http://127.0.0.1:{port}/{name}\n" for name in names))
        rates: dict[str, list[float]] = {name: [] for name in lists}
        for _ in range(options.repeat):  # in turns, so that a busy minute hits both
            for name, file in lists.items():
                begun = time.perf_counter()
                done = run(scan_command(file, bundle, "--allow-host", "127.0.0.1"))
                rates[name].append(len(names) / (time.perf_counter() - begun))
                check_scan(done, len(names))
        server.kill()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result: dict[str, Any] = {
        "machine": machine(),
        "images": len(names),
        "latency_seconds": options.latency,
        "images_per_second": medians,
        "share": medians["URLs"] / medians["disk"],
    }
    rows = [[name, f"{value:.1f}"] for name, value in medians.items()]
    rows.append(["share", f"{result['share']:.0%} (target 90 %)"])
    print_table(f"{len(names)} images, {options.latency:g} s a request", ["from", "images/s"], rows)
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
