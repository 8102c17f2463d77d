"""A scan on Ray, planned: everything is checked that can be checked before Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moderate.cluster.engine import RayExecutor
from moderate.cluster.options import cluster_options
from moderate.errors import UsageError
from moderate.run.interface import Job
from moderate.run.options import ScanOptions
from moderate.run.scan import plan
from moderate.text import printable


def plan_on_ray(
    options: ScanOptions,
    address: str | None = None,
    on_start: Callable[[str], None] = lambda line: None,
) -> tuple[Job, RayExecutor]:
    """The job, and what runs it; see `plan` and `cluster_options`.

    on_start is called with a line that says what the run runs on. Raises the errors under
    ModerateError.
    """
    cluster = cluster_options(options, address)
    files = [target for target in options.out if target != cluster.folder]
    job = plan(replace(options, out=files))
    if job.second:
        raise UsageError(
            f"--engine ray: the policy {printable(job.policy.policy.name)} asks for second "
            "opinions, which its workers do not give; scan by shares (--shard), or take a policy "
            "without [[second_opinion]]"
        )
    job = replace(job, options=replace(job.options, out=options.out))
    return job, RayExecutor(cluster, on_start)
