"""The worker of a cluster: an actor that reads, decodes and writes whole fragments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from moderate.classify.device import Placement
from moderate.cluster.files import FragmentFolder
from moderate.cluster.fragments import Fragment, FragmentSource
from moderate.cluster.models import RemoteResources
from moderate.cluster.setup import Setup, facts_of
from moderate.cluster.tables import Correction, corrected, table_of
from moderate.run.pipeline import LocalEngine
from moderate.run.summary import sandbox_text
from moderate.types import ErrorCode, ImageError, ImageRef, Row

POISONOUS = ImageError(
    ErrorCode.INTERNAL_ERROR, "the process that worked on this image died, each time"
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker says of a fragment beside its rows; reused where it was finished before."""

    reused: bool
    sha256: str = ""
    sandbox: tuple[str, ...] | None = None
    placement: Placement | None = None
    batch_limit: int | None = None


class FragmentWorker:
    """An actor that runs fragments through the engine of a scan on one machine.

    Its decoders last from fragment to fragment; the models are other actors. Methods run one at a
    time.
    """

    def __init__(self, setup: Setup, servers: Sequence[Any], placement: Placement) -> None:
        setup.enter()
        self._setup = setup
        self._servers = servers
        self._placement = placement
        self._stack = ExitStack()
        self._resources: RemoteResources | None = None

    def process(
        self, fragment: Fragment, facts: Mapping[str, str], poisonous: Collection[int] = ()
    ) -> tuple[Receipt, Any]:
        """The rows of a fragment as an Arrow table, which stand under its name in the folder.

        They may stand there already. facts are the audit facts of the run; poisonous are the
        indices of inputs that are not to be touched: each gets an error row. Raises the errors
        under ModerateError, and ModelDiedError.
        """
        setup, options = self._setup, self._setup.job.options
        refs = fragment.refs
        if not (options.rescore or poisonous):
            finished = setup.folder.read(fragment.name)
            if finished and self._is_of_use(finished[0], len(refs)):
                table, sha256 = finished
                return Receipt(reused=True, sha256=sha256, sandbox=_sandbox_of(table)), table
        entries = [
            replace(ref, error=POISONOUS) if index in poisonous else ref
            for index, ref in enumerate(refs)
        ]
        rows, engine = self._run(entries)
        facts = facts_of(engine.placement, facts) | {"sandbox": sandbox_text(engine.sandbox)}
        job = setup.job
        table = table_of(rows, job.policy.policy, job.columns, job.written_labels, facts)
        sha256 = setup.folder.write(fragment.name, table)
        receipt = Receipt(
            reused=False,
            sha256=sha256,
            sandbox=engine.sandbox,
            placement=engine.placement,
            batch_limit=engine.batch_limit,
        )
        return receipt, table

    def attempt(self, fragment: Fragment, indices: Sequence[int]) -> None:
        """Work on some inputs of a fragment, only to see whether this process survives it."""
        refs = fragment.refs
        self._run([refs[index] for index in indices])

    def _run(self, entries: Sequence[ImageRef]) -> tuple[list[Row], LocalEngine]:
        setup = self._setup
        source = replace(setup.job.sources[0], entries=entries)  # type: ignore[type-var]
        assert isinstance(source, FragmentSource)
        job = replace(setup.job, sources=(source,))
        engine = LocalEngine(
            job,
            resources=self._ready_resources(),
            run_id=setup.run_id,
            most_explained=0,  # the driver looks into missing paths, for all fragments
        )
        try:
            with engine:
                rows = [row for row in engine.rows() if isinstance(row, Row)]
        except BaseException:
            self._stack.close()  # decoders serve no run after one that was broken off
            self._resources = None
            raise
        return rows, engine

    def _ready_resources(self) -> RemoteResources:
        """The decoders; new ones after a fragment that was broken off."""
        if self._resources is None:
            self._resources = self._stack.enter_context(
                RemoteResources(self._setup, self._servers, self._placement)
            )
        return self._resources

    def _is_of_use(self, table: Any, count: int) -> bool:
        if table.num_rows != count:
            return False
        errors = table.column("status").to_pylist().count("error")
        return not (errors and self._setup.job.options.retry_errors)


def _sandbox_of(table: Any) -> tuple[str, ...] | None:
    """What the decoders ran under by which these rows were made, by their audit facts."""
    text = (table.schema.metadata or {}).get(b"sandbox", b"").decode()
    if text in ("", sandbox_text(None)):
        return None
    return () if text == sandbox_text(()) else tuple(text.split(", "))


def correct(
    folder: FragmentFolder, name: str, table: Any, corrections: Mapping[int, Correction]
) -> str:
    """A task: write the rows of a fragment again, corrected. Their SHA-256 (hex)."""
    return folder.write(name, corrected(table, corrections))
