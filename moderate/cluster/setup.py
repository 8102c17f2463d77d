"""What every process of a run on Ray is given, and how it gets ready for it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace

from moderate.classify.device import Placement
from moderate.cluster.files import FragmentFolder
from moderate.cluster.fragments import FragmentSource
from moderate.errors import RunError
from moderate.exports.interface import ExportOptions
from moderate.run.interface import Job
from moderate.text import printable
from moderate.version import __version__

_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class Setup:
    """A run as its workers know it. job has no inputs of its own: those come with each fragment.

    directory is where relative paths start, threads what the environment of the driver says of
    them: Ray sets it to the share of the cores that an actor asked for.
    """

    job: Job
    run_id: str
    folder: FragmentFolder
    directory: str
    threads: str | None
    version: str
    python: str

    def enter(self) -> None:
        """Get this process ready. Raises RunError where it cannot do the driver's work."""
        if (__version__, platform.python_version()) != (self.version, self.python):
            raise RunError(
                f"a machine of the cluster has moderate {__version__} on Python "
                f"{platform.python_version()}, and this one {self.version} on {self.python}; "
                "install the same on all of them"
            )
        try:
            os.chdir(self.directory)
        except OSError as error:
            raise RunError(
                f"a machine of the cluster has no folder {printable(self.directory)} "
                f"({error.strerror}); run where all machines have the same files"
            ) from None
        if self.threads is None:
            os.environ.pop(_THREADS, None)
        else:
            os.environ[_THREADS] = self.threads


def make_setup(job: Job, run_id: str, folder: FragmentFolder) -> Setup:
    """The setup of a run that this process drives. Paths of weights are made absolute."""
    largest = max([0, *(source.largest_image(job.options.limits) for source in job.sources)])
    options = replace(
        job.options,
        inputs=(),
        out=(),
        summary=(),
        exports=(),
        export=ExportOptions(),
        limit=None,
        state=None,
        config=None,
    )
    bare = replace(
        job, options=options, sources=(FragmentSource(carried=job.input_columns, largest=largest),)
    )
    return Setup(
        bare,
        run_id,
        folder,
        os.getcwd(),
        os.environ.get(_THREADS),
        __version__,
        platform.python_version(),
    )


def placed(job: Job, placement: Placement) -> Job:
    """The job for a further model of the cluster, which has to run as the first one does."""
    return replace(
        job,
        options=replace(
            job.options,
            device=placement.device.partition(":")[0],
            precision=placement.precision,
            backend=placement.backend,
        ),
    )


def facts_of(placement: Placement, facts: Mapping[str, str]) -> dict[str, str]:
    """Audit facts with those of a placement."""
    return {
        **facts,
        "device": placement.shown,
        "precision": placement.precision,
        "backend": placement.backend,
    }
