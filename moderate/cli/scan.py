"""`moderate scan`: images to scores, decisions and a summary."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.cli import exit_codes, panels
from moderate.cli.configuration import say_used, weaker_of
from moderate.cli.findings import list_findings, report_errors
from moderate.cli.messages import say, speak_json, speaks_json
from moderate.cli.output import (
    BASELINE_HELP,
    CSV_BOM_HELP,
    CSV_RAW_HELP,
    FORCE_HELP,
    PARTITION_BY_HELP,
    REPORT_HELP,
    SHAPE_DOCUMENT_HELP,
    SHAPE_HELP,
    THUMBNAILS_HELP,
)
from moderate.cli.panels import option
from moderate.cli.scan_outcome import look_ahead, say_waiting, tell
from moderate.cli.scan_values import (
    parse_bytes,
    parse_frames,
    parse_header,
    parse_only,
    parse_workers,
)
from moderate.decode.limits import IMAGES_PER_DECODER, MOST_IMAGES_PER_DECODER
from moderate.decode.parts import MOST_FRAMES, MOST_FRAMES_AUTO
from moderate.errors import UsageError
from moderate.fetch.options import HttpOptions
from moderate.types import MOST_LISTED, ErrorCode, Limits

if TYPE_CHECKING:
    from moderate.exports.baseline import Baseline
    from moderate.run.interface import Executor, Job
    from moderate.run.options import ScanOptions

_DEFAULT = Limits()
_HTTP = HttpOptions()


def scan(
    ctx: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Folders (walked), files, quoted globs, archives (.zip, .tar, .tar.gz), lists "
            "(.txt, - for stdin), manifests (.csv, .jsonl, .parquet), URLs, s3:// and gs://.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        option(panels.WEIGHTS, metavar="NAME|DIR", help="The weights to score with."),
    ] = None,
    policy: Annotated[
        str,
        option(
            panels.WEIGHTS,
            metavar="NAME|FILE",
            help="balanced, strict, permissive, children, or a TOML file.",
        ),
    ] = "balanced",
    out: Annotated[
        list[str] | None,
        option(
            panels.OUTPUT,
            "--out",
            "-o",
            metavar="FILE",
            help="Rows to .csv, .parquet or .jsonl; - for CSV on stdout. May be repeated.",
        ),
    ] = None,
    partition_by: Annotated[
        str | None,
        option(panels.OUTPUT, "--partition-by", metavar="COLUMN,...", help=PARTITION_BY_HELP),
    ] = None,
    summary: Annotated[
        list[str] | None,
        option(
            panels.OUTPUT, metavar="FILE", help="Summary to .json, .md or .html. May be repeated."
        ),
    ] = None,
    report: Annotated[
        list[str] | None,
        option(panels.OUTPUT, "--report", metavar="FORMAT:FILE", help=REPORT_HELP),
    ] = None,
    shape: Annotated[
        str | None, option(panels.OUTPUT, "--shape", metavar="NAME", help=SHAPE_HELP)
    ] = None,
    shape_document: Annotated[
        bool, option(panels.OUTPUT, "--shape-document", help=SHAPE_DOCUMENT_HELP)
    ] = False,
    thumbnails: Annotated[
        bool, option(panels.OUTPUT, "--thumbnails", help=THUMBNAILS_HELP)
    ] = False,
    fail_on: Annotated[
        Literal["never", "review", "block"],
        option(
            panels.OUTPUT,
            help="Exit with 1 when a decision is at or above this, and list the images on stderr.",
        ),
    ] = "never",
    baseline: Annotated[
        str | None, option(panels.OUTPUT, metavar="FILE", help=BASELINE_HELP)
    ] = None,
    max_error_rate: Annotated[
        float,
        option(
            panels.OUTPUT,
            min=0.0,
            max=1.0,
            help="Exit with 2 when a larger share of rows are errors.",
        ),
    ] = 1.0,
    files_from: Annotated[
        list[str] | None,
        option(
            panels.INPUTS,
            metavar="FILE|-",
            help="A list of paths and URLs, one per line. May be repeated.",
        ),
    ] = None,
    null: Annotated[
        bool,
        option(
            panels.INPUTS, "--null", "-0", help="NUL, not line ends, separates what lists name."
        ),
    ] = False,
    image_column: Annotated[
        str | None,
        option(panels.INPUTS, metavar="COLUMN", help="Of manifests: paths, URLs or image bytes."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        option(
            panels.INPUTS,
            metavar="[NAME=]COLUMN",
            help="Carry a manifest's column into the output.",
        ),
    ] = None,
    keep_labels: Annotated[
        bool,
        option(
            panels.OUTPUT,
            "--keep-labels",
            help="Write the scores of the networks' own labels, too.",
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        option(
            panels.OUTPUT,
            metavar="ORIGIN,...",
            help="Write, count and judge (--fail-on) only rows that are new, changed, reused or "
            "duplicate: new,changed for what no earlier run had.",
        ),
    ] = None,
    max_listed: Annotated[
        int,
        option(
            panels.OUTPUT,
            min=0,
            metavar="N",
            help="Images that --fail-on lists, the worst decisions first.",
        ),
    ] = MOST_LISTED,
    shard: Annotated[
        str | None,
        option(panels.INPUTS, metavar="I/N", help="Only share I of N, the same on every machine."),
    ] = None,
    all_files: Annotated[
        bool, option(panels.INPUTS, "--all-files", help="Every file gets a row.")
    ] = False,
    include: Annotated[
        list[str] | None,
        option(panels.INPUTS, metavar="GLOB", help="Walk only files that match."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        option(panels.INPUTS, metavar="GLOB", help="Leave out what matches."),
    ] = None,
    hidden: Annotated[
        bool, option(panels.INPUTS, "--hidden", help="Walk hidden files too.")
    ] = False,
    follow_symlinks: Annotated[
        bool,
        option(panels.INPUTS, "--follow-symlinks", help="Follow links on the walk."),
    ] = False,
    limit: Annotated[
        int | None,
        option(panels.INPUTS, min=1, metavar="N", help="Stop after N images."),
    ] = None,
    columns: Annotated[
        str | None,
        option(
            panels.INPUTS,
            metavar="NAME,...",
            help="Names of the columns of CSV that has no header, as path,id.",
        ),
    ] = None,
    relative_to: Annotated[
        str | None,
        option(
            panels.INPUTS,
            metavar="DIR",
            help="Where relative paths in lists and manifests start.",
        ),
    ] = None,
    device: Annotated[
        str,
        option(
            panels.SPEED,
            metavar="auto|cpu|cuda[:N|:all]",
            help="Where to run. cuda:all and cuda:0,cuda:1 put a model on each of these GPUs.",
        ),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        option(panels.SPEED, help="auto: bf16 on GPUs that have it, else fp32."),
    ] = "auto",
    backend: Annotated[
        Literal["auto", "torch", "openvino", "onnxruntime"],
        option(
            panels.SPEED,
            help="auto: torch on CUDA, else OpenVINO where it is installed, else torch; "
            "ONNX graphs by onnxruntime on CUDA.",
        ),
    ] = "auto",
    compile: Annotated[
        bool,
        option(
            panels.SPEED, "--compile", help="Compile the model: slow to start, faster on long runs."
        ),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        option(panels.SPEED, help="ray: on the machines of a Ray cluster; needs the extra 'ray'."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        option(
            panels.SPEED,
            metavar="HOST:PORT|auto",
            help="The Ray cluster to run on; without, Ray is started on this machine.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        option(panels.SPEED, min=1, max=4096, help="Images per forward pass."),
    ] = 32,
    workers: Annotated[
        str,
        option(panels.SPEED, metavar="N|auto", help="Decoder processes; auto: one per core."),
    ] = "auto",
    images_per_decoder: Annotated[
        int,
        option(
            panels.SPEED,
            min=1,
            max=MOST_IMAGES_PER_DECODER,
            metavar="N",
            help="Images that a decoder process sees before a fresh one takes its place.",
        ),
    ] = IMAGES_PER_DECODER,
    max_file_size: Annotated[
        str,
        option(panels.LIMITS, metavar="SIZE", help="Largest file to read."),
    ] = "10MB",
    max_megapixels: Annotated[
        float,
        option(panels.LIMITS, min=0.0, max=10_000.0, metavar="MP", help="Largest image to decode."),
    ] = _DEFAULT.max_pixels / 1e6,
    decode_timeout: Annotated[
        float,
        option(
            panels.LIMITS, min=0.01, max=86_400.0, metavar="SECONDS", help="CPU time per image."
        ),
    ] = _DEFAULT.decode_timeout,
    exact_decode: Annotated[
        bool,
        option(
            panels.LIMITS,
            "--exact-decode",
            help="Decode large JPEGs in full: slower, harder to deceive.",
        ),
    ] = False,
    pdq: Annotated[
        bool,
        option(
            panels.OUTPUT,
            "--pdq",
            help="Write the perceptual hash of each picture in the columns pdq and pdq_quality; "
            "a policy with such hashes on its lists does by itself.",
        ),
    ] = False,
    near_duplicates: Annotated[
        bool,
        option(
            panels.OUTPUT,
            "--near-duplicates",
            help="The same, and in near_duplicate_of the first earlier row that looks alike.",
        ),
    ] = False,
    formats: Annotated[
        list[str] | None,
        option(
            panels.INPUTS,
            metavar="+NAME,...",
            help="Formats to read beside those that always are: +tiff, +ico.",
        ),
    ] = None,
    views: Annotated[
        Literal["auto", "1", "3", "tiles"],
        option(
            panels.INPUTS,
            help="How much of each image is scored: 1, what the model crops; 3, also the whole "
            "image and its two ends; tiles, a grid; auto: further parts where the crop leaves out "
            "much, of long images, panels and blank borders. Each part costs one more input of "
            "the model.",
        ),
    ] = "auto",
    url_timeout: Annotated[
        float,
        option(
            panels.URLS,
            min=0.1,
            max=3600.0,
            metavar="SECONDS",
            help="Per URL (redirects and retries in) or object.",
        ),
    ] = _HTTP.total_timeout,
    url_concurrency: Annotated[
        int, option(panels.URLS, min=1, max=1024, metavar="N", help="URLs fetched at once.")
    ] = _HTTP.concurrency,
    url_per_host: Annotated[
        int, option(panels.URLS, min=1, max=1024, metavar="N", help="The same, from one host.")
    ] = _HTTP.concurrency_per_host,
    url_header: Annotated[
        list[str] | None,
        option(
            panels.URLS,
            metavar="'NAME: VALUE'",
            help="Sent to every host of the input; never shown.",
        ),
    ] = None,
    allow_private_network: Annotated[
        bool,
        option(panels.URLS, "--allow-private-network", help="URLs may lead to private addresses."),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        option(
            panels.URLS,
            metavar="HOST|NETWORK",
            help="The same for one host or network. May be repeated.",
        ),
    ] = None,
    frames: Annotated[
        str,
        option(
            panels.INPUTS,
            metavar="first|auto|all|N",
            help="Frames to score of an animation, and pictures of a file that holds several; "
            f"auto: up to {MOST_FRAMES_AUTO} that differ, all: up to {MOST_FRAMES}.",
        ),
    ] = "auto",
    video_every: Annotated[
        float | None,
        option(
            panels.INPUTS,
            min=0.1,
            max=86_400.0,
            metavar="SECONDS",
            help="Score frames of local videos this far apart; needs the extra 'video'.",
        ),
    ] = None,
    min_frames: Annotated[
        int | None,
        option(
            panels.INPUTS,
            min=1,
            max=1000,
            metavar="N",
            help="Score at least so many frames of each video, closer together in short ones.",
        ),
    ] = None,
    video_stop_on: Annotated[
        Literal["never", "review", "block"],
        option(
            panels.INPUTS,
            help="Leave the rest of a video once the decision on a frame is at or above this.",
        ),
    ] = "never",
    embedded: Annotated[
        Literal["warn", "score"],
        option(
            panels.INPUTS,
            help="What else an image's file holds (a picture behind it, a motion photo): warn of "
            "it, or score pictures, and with --video-every videos, in rows of their own.",
        ),
    ] = "warn",
    max_video_size: Annotated[
        str, option(panels.LIMITS, metavar="SIZE", help="Largest video to read.")
    ] = "2GB",
    max_decoder_memory: Annotated[
        str,
        option(panels.LIMITS, metavar="SIZE", help="Most memory for a decoder process."),
    ] = "1GB",
    require_sandbox: Annotated[
        bool,
        option(
            panels.LIMITS,
            "--require-sandbox",
            help="Refuse to run where decoders cannot be sandboxed.",
        ),
    ] = False,
    state: Annotated[
        str | None,
        option(panels.STATE, metavar="DIR", help="Where scores and the ledger of runs are kept."),
    ] = None,
    no_state: Annotated[
        bool, option(panels.STATE, "--no-state", help="Remember nothing, use nothing remembered.")
    ] = False,
    state_import: Annotated[
        list[str] | None,
        option(
            panels.STATE,
            "--state-import",
            metavar="DIR",
            help="Add the scores and runs of another state first, as of another machine. May be "
            "repeated.",
        ),
    ] = None,
    rescore: Annotated[
        bool,
        option(panels.STATE, "--rescore", help="Score everything anew, whatever is remembered."),
    ] = False,
    retry_errors: Annotated[
        bool, option(panels.STATE, "--retry-errors", help="Try what was an error again.")
    ] = False,
    verify: Annotated[
        bool,
        option(
            panels.STATE, "--verify", help="Read every file again, whatever its size and times say."
        ),
    ] = False,
    lock: Annotated[
        str | None,
        option(panels.STATE, metavar="FILE", help="One run at a time for whoever names this file."),
    ] = None,
    lock_wait: Annotated[
        float | None,
        option(
            panels.STATE,
            min=0.0,
            metavar="SECONDS",
            help="Wait so long for --lock; else not at all.",
        ),
    ] = None,
    hourly_cost: Annotated[
        float | None,
        option(
            panels.OUTPUT,
            min=0.0,
            metavar="PRICE",
            help="Of this machine; adds a cost line to the summary.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option(
            panels.OUTPUT,
            "--dry-run",
            help="List and sniff only: what there is, what is known, time and cost. Nothing is "
            "scored or written.",
        ),
    ] = False,
    force: Annotated[bool, option(panels.OUTPUT, "--force", help=FORCE_HELP)] = False,
    csv_raw: Annotated[bool, option(panels.OUTPUT, "--csv-raw", help=CSV_RAW_HELP)] = False,
    csv_bom: Annotated[bool, option(panels.OUTPUT, "--csv-bom", help=CSV_BOM_HELP)] = False,
    progress: Annotated[
        Literal["auto", "bar", "plain", "none"],
        option(panels.MESSAGES, help="On stderr; auto: a bar on a terminal."),
    ] = "auto",
    quiet: Annotated[
        bool, option(panels.MESSAGES, "--quiet", "-q", help="Print errors and warnings only.")
    ] = False,
    log_json: Annotated[
        bool,
        option(
            panels.MESSAGES,
            "--log-json",
            help="Messages as one JSON object per line; no bar, no table.",
        ),
    ] = False,
    debug: Annotated[
        bool, option(panels.MESSAGES, "--debug", help="Tracebacks and details.")
    ] = False,
    config: Annotated[
        str | None,
        option(
            panels.CONFIGURATION,
            metavar="FILE",
            help="Defaults for these options; else the nearest moderate.toml or "
            "[tool.moderate] in pyproject.toml that does not lie among the inputs and that only "
            "you can write.",
        ),
    ] = None,
    no_config: Annotated[
        bool,
        option(
            panels.CONFIGURATION,
            "--no-config",
            help="Use no configuration file that happens to be near.",
        ),
    ] = False,
) -> int:
    """Score images, decide, and write one row per image and a summary.

    Every option can also be set by an environment variable (MODERATE_WEIGHTS, MODERATE_BATCH_SIZE)
    or in a configuration file; the command line wins over both.
    """
    from moderate.classify.allocator import tune_allocator
    from moderate.decode.formats import parse_formats
    from moderate.decode.video import VideoOptions
    from moderate.exports.forms import parse_report, split_shaped
    from moderate.exports.interface import ExportOptions
    from moderate.report.progress import progress_on
    from moderate.report.summary import as_text
    from moderate.results.folders import parse_partition_by
    from moderate.results.interface import CsvForm
    from moderate.run.options import ScanOptions, StateOptions
    from moderate.run.scan import run
    from moderate.run.summary import baseline_note
    from moderate.sources.columns import parse_columns
    from moderate.sources.directory import WalkOptions
    from moderate.sources.resolve import InputOptions
    from moderate.sources.subset import parse_shard
    from moderate.state.database import default_folder

    # Imported modules are no garbage: nothing need look at them again. See `moderate.cli.entry`.
    gc.freeze()
    gc.enable()
    if log_json:
        speak_json()
    say_used(ctx.obj, ctx, quiet=quiet)
    state = state or None  # an empty variable is no folder
    if state is not None and no_state:
        weaker = weaker_of(ctx, "state", "no_state")
        state = None if weaker == "state" else state
        no_state = no_state and weaker != "no_state"
    if state is not None and no_state:
        raise UsageError("--state and --no-state contradict each other; give one of them")
    if state_import and no_state:
        raise UsageError("--state-import adds to the state, which --no-state does without")
    if video_every is None and min_frames is not None:
        raise UsageError("--min-frames goes with --video-every SECONDS")
    if video_every is None and video_stop_on != "never":
        raise UsageError("--video-stop-on goes with --video-every SECONDS")
    if lock_wait is not None and lock is None:
        raise UsageError("--lock-wait goes with --lock FILE")
    rows, shaped = split_shaped(out or (), shape, document=shape_document)
    exports = [*shaped, *map(parse_report, report or ())]
    job, executor = _plan(
        engine,
        ray_address,
        ScanOptions(
            inputs=inputs or (),
            weights=weights,
            policy=policy,
            out=rows,
            summary=summary or (),
            exports=exports,
            export=ExportOptions(
                document=shape_document,
                baseline=_read_baseline(baseline) if baseline else None,
            ),
            thumbnails=thumbnails,
            reading=InputOptions(
                walk=WalkOptions(
                    all_files=all_files,
                    hidden=hidden,
                    follow_symlinks=follow_symlinks,
                    include=tuple(include or ()),
                    exclude=tuple(exclude or ()),
                ),
                image_column=image_column,
                keep=tuple(keep or ()),
                columns=parse_columns(columns) if columns else (),
                relative_to=relative_to or None,
                files_from=tuple(files_from or ()),
                nul=null,
                shard=parse_shard(shard) if shard else None,
            ),
            http=HttpOptions(
                total_timeout=url_timeout,
                concurrency=url_concurrency,
                concurrency_per_host=min(url_per_host, url_concurrency),
                headers=tuple(parse_header(line) for line in url_header or ()),
                allow_private=allow_private_network,
                allowed_hosts=tuple(allow_host or ()),
            ),
            limits=Limits(
                max_file_bytes=parse_bytes("--max-file-size", max_file_size),
                max_pixels=int(max_megapixels * 1e6),
                decode_timeout=decode_timeout,
                max_decoder_bytes=parse_bytes("--max-decoder-memory", max_decoder_memory),
            ),
            device=device,
            precision=precision,
            backend=backend,
            compile=compile,
            require_sandbox=require_sandbox,
            exact_decode=exact_decode,
            formats=parse_formats(formats or ()),
            frames=parse_frames(frames),
            embedded=embedded,
            views=views,
            batch_size=batch_size,
            workers=parse_workers(workers),
            images_per_decoder=images_per_decoder,
            limit=limit,
            hourly_cost=hourly_cost,
            video=VideoOptions(
                every=video_every,
                max_bytes=parse_bytes("--max-video-size", max_video_size),
                min_frames=min_frames or 1,
                stop_on=video_stop_on,
            )
            if video_every is not None
            else None,
            state=None
            if no_state
            else StateOptions(
                folder=Path(state) if state is not None else default_folder(),
                required=state is not None,
                command=("moderate", *sys.argv[1:]),
                imports=tuple(map(Path, state_import or ())),
            ),
            rescore=rescore,
            retry_errors=retry_errors,
            verify=verify,
            lock=lock,
            lock_wait=lock_wait,
            config=ctx.obj.record,
            keep_labels=keep_labels,
            pdq=pdq,
            near_duplicates=near_duplicates,
            only=parse_only(only or ()),
            max_listed=max_listed,
            force=force,
            csv=CsvForm(csv_raw, csv_bom),
            partition_by=parse_partition_by(partition_by),
        ),
        quiet=quiet,
    )
    if dry_run and executor:
        raise UsageError("--engine ray: --dry-run does not go with it: it is about this machine")
    if dry_run:
        return look_ahead(job, max_error_rate, quiet=quiet)
    card = job.bundle.card
    if card.purpose == "demo":
        name = card.name
        say("info", "demonstration", f"{name} is a demonstration, not a moderation model")
    if speaks_json() and not quiet:
        say("info", "run_started", "the run begins", weights=card.name, policy=policy)
    tune_allocator()
    mode = "none" if quiet else "json" if speaks_json() else progress
    countable = None if job.options.video else job.sources
    with progress_on(sys.stderr, mode, countable, limit) as on_item:
        waiting = say_waiting if not quiet else lambda line: None
        result = run(job, on_item, as_text, waiting, executor)
    if not quiet:
        tell(result, [*rows, *(each.target for each in exports)])
    elif 2 * result.error_codes[ErrorCode.NOT_FOUND] > result.rows:
        for note in result.input_notes:
            say("warning", "inputs", note)
    for note in result.export_notes:
        say("warning", "report_cut", note)
    if result.baseline and (quiet or speaks_json()):
        say("info", "baseline", baseline_note(result.baseline, result.decisions, result.unchanged))
    list_findings(result, fail_on)
    report_errors(result, max_error_rate)
    return exit_codes.of_scan(result, fail_on, max_error_rate)


def _plan(
    engine: str, ray_address: str | None, options: ScanOptions, *, quiet: bool
) -> tuple[Job, Executor | None]:
    """The job, and what runs it; None for this machine. Raises the errors under ModerateError."""
    from moderate.run.scan import plan

    if engine == "local":
        if ray_address is not None:
            raise UsageError("--ray-address goes with --engine ray")
        return plan(options), None
    from moderate.cluster.plan import plan_on_ray

    def say_where(line: str) -> None:
        if not quiet:
            say("info", "engine", line)

    return plan_on_ray(options, ray_address, say_where)


def _read_baseline(path: str) -> Baseline:
    # With it comes pyarrow, which a scan without a baseline or Parquet has no use for.
    from moderate.exports.baseline import read_baseline

    return read_baseline(path)
