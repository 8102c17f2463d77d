"""`moderate bench`: what limits a run on this machine, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.cli.messages import say
from moderate.cli.output import Force, print_report
from moderate.cli.state import State, find_state_folder

if TYPE_CHECKING:
    from moderate.run.bench import Bench
    from moderate.run.interface import Job


def bench(
    folder: Annotated[
        str | None,
        typer.Argument(metavar="DIR", help="Your own images; without, test cards are drawn."),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="The weights to run; their speed counts alone.")
    ] = "testcard",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N|:all]")] = "auto",
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option()] = "auto",
    backend: Annotated[
        Literal["auto", "torch", "openvino", "onnxruntime"], typer.Option()
    ] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=4096)] = 32,
    workers: Annotated[
        str, typer.Option(metavar="N|auto", help="Decoder processes; auto: one per core.")
    ] = "auto",
    images: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a pass.")] = 500,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Passes; the median counts.")] = 3,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the numbers too.")
    ] = None,
    state: State = None,
    no_state: Annotated[
        bool, typer.Option("--no-state", help="Do not keep the speed for scan --dry-run.")
    ] = False,
    force: Force = False,
) -> None:
    """Measure what limits speed here: decoding, the model, or both."""
    from moderate.classify.allocator import tune_allocator
    from moderate.cli.scan_values import parse_workers
    from moderate.report.bench import report
    from moderate.report.files import render
    from moderate.results.targets import check_overwriting, check_place, write_text
    from moderate.run.bench import Bench, measure
    from moderate.run.options import ScanOptions
    from moderate.run.scan import plan
    from moderate.scratch import scratch_folder
    from moderate.testcards import write_cards

    if json_file:
        check_place(json_file)
        check_overwriting([], [json_file], (), force=force)
    tune_allocator()
    with scratch_folder("bench") as drawn:
        if folder is None:
            typer.echo("no folder named: drawing test cards", err=True)
            write_cards(drawn, count=4, seed=0, size=1024, kinds=("JPEG", "PNG", "WEBP"))
        options = ScanOptions(
            inputs=[folder or str(drawn)],
            weights=weights,
            device=device,
            precision=precision,
            backend=backend,
            compile=compile,
            batch_size=batch_size,
            workers=parse_workers(workers),
        )
        job = plan(options)
        for step in measure(job, images, repeat):
            if isinstance(step, Bench):
                if not no_state:
                    _keep(find_state_folder(state), job, step)
                measured = report(step)
                print_report(measured, as_json=False)
                if json_file:
                    write_text(json_file, render(measured, ".json"))
            else:
                typer.echo(step, err=True)


def _keep(folder: Path | None, job: Job, measured: Bench) -> None:
    """Keep the speed for `scan --dry-run`; where that is not possible, a warning says so."""
    from moderate.errors import StateError
    from moderate.run.speeds import save_bench
    from moderate.state.database import UnavailableError
    from moderate.state.ledger import Ledger

    if folder is None:
        return
    try:
        ledger = Ledger(folder)
        try:
            save_bench(ledger, job, measured)
        finally:
            ledger.close()
    except (UnavailableError, StateError) as error:
        say("warning", "state", f"the speed is not kept: {error}")
