"""What a scan on Ray is asked to do, and which options of a scan it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moderate.cluster.session import AUTO
from moderate.errors import MissingLibraryError, UsageError
from moderate.installing import how_to_install
from moderate.libraries import installed
from moderate.results.folders import is_folder_target
from moderate.results.remote import shown_target
from moderate.results.targets import to_stdout
from moderate.run.options import ScanOptions

IMAGES_PER_FRAGMENT = 512
"""Tens of seconds of work on a CPU, and what a worker that dies costs at the most."""

BYTES_PER_FRAGMENT = 64 << 20
"""Most bytes of images that come with their references, as those in archives do."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where a scan on Ray runs, and where its workers write.

    folder is the target of rows, with a slash at its end. address is that of a cluster, as
    `ray.init` takes it; None to start Ray on this machine for the time of the run.
    """

    folder: str
    address: str | None = None
    images_per_fragment: int = IMAGES_PER_FRAGMENT
    bytes_per_fragment: int = BYTES_PER_FRAGMENT


def cluster_options(options: ScanOptions, address: str | None = None) -> ClusterOptions:
    """The part of a scan's options that is Ray's.

    Raises UsageError for an option that a scan on Ray cannot honour, and MissingLibraryError
    without Ray.
    """
    for is_asked_for, refusal in _REFUSALS:
        if is_asked_for(options):
            raise UsageError(f"--engine ray: {refusal}")
    if address is not None and not _is_address(address):
        raise UsageError(
            "--ray-address: write HOST:PORT of the cluster's head, or auto on one of its machines; "
            "ray:// is not supported"
        )
    folders = [target for target in options.out if is_folder_target(target)]
    if len(folders) != 1:
        raise UsageError(
            "--engine ray: its workers write the rows into one folder: add --out DIR/ "
            "(or s3://BUCKET/DIR/), with a slash at its end"
        )
    if not installed("ray"):
        raise MissingLibraryError(
            f"--engine ray needs Ray, which is not installed: {how_to_install('ray')}"
        )
    return ClusterOptions(folders[0], address)


_REFUSALS: tuple[tuple[Callable[[ScanOptions], object], str], ...] = (
    (
        lambda options: options.partition_by,
        "--partition-by does not go with it: its folder is divided by the order of the input",
    ),
    (
        lambda options: any(map(to_stdout, options.targets)),
        "nothing can go to standard output; name files",
    ),
    (
        lambda options: options.only,
        "--only does not go with it: it knows no rows of earlier runs",
    ),
    (
        lambda options: options.state is not None and options.state.required,
        "--state does not go with it: finished fragments in the folder of --out are what is kept",
    ),
    (
        lambda options: options.near_duplicates,
        "--near-duplicates does not go with it: it compares all rows on one machine",
    ),
    (
        lambda options: options.verify,
        "--verify does not go with it: use --rescore to have every file read again",
    ),
    (
        lambda options: options.video,
        "--video-every does not go with it: videos are scored by the local engine alone",
    ),
    (
        lambda options: options.embedded != "warn",
        "--embedded score does not go with it: it gives one row per input",
    ),
    (
        lambda options: options.device not in ("auto", "cpu", "cuda"),
        "--device with numbers or several names does not go with it: Ray decides which GPUs; use "
        "auto, cpu or cuda",
    ),
    (
        lambda options: options.reading.shard,
        "--shard does not go with it: Ray deals the work out itself",
    ),
    (
        lambda options: options.state is not None and options.state.imports,
        "--state-import does not go with it: scores are not kept in a state",
    ),
)


def _is_address(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return address == AUTO or bool(host and "/" not in host and port.isdecimal())


def shown_folder(options: ClusterOptions) -> str:
    """The folder as messages name it."""
    return shown_target(options.folder)
