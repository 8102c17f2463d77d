"""A scan on Ray: the driver walks the inputs and settles the rows, workers do what takes time.

The driver holds a bounded window of fragments, whatever the size of the input. A fragment whose
worker dies is run anew, alone on a worker; if that dies, too, it is halved until the inputs are
known that no process survives.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Self

from moderate.classify.device import Placement
from moderate.cluster.files import FragmentFile, FragmentFolder, Manifest
from moderate.cluster.fragments import Fragment, fragments, settings_digest
from moderate.cluster.models import ModelDiedError, ModelServer
from moderate.cluster.options import ClusterOptions
from moderate.cluster.session import Share, described, ray_session, shares
from moderate.cluster.setup import Setup, make_setup, placed
from moderate.cluster.tables import Correction, undecided_rows
from moderate.cluster.worker import FragmentWorker, Receipt, correct
from moderate.errors import ModerateError, RunError
from moderate.policy.rows import decide_rows
from moderate.results.interface import ResultWriter
from moderate.results.read_fragments import SUCCESS
from moderate.results.remote import is_remote, shown_target
from moderate.run.interface import Engine, Executor, Job
from moderate.sources.hints import InputHints
from moderate.state.contents import Contents
from moderate.state.scores import ScoreStore
from moderate.text import one_line, path_text
from moderate.types import Column, ErrorCode, ImageError, Origin, Row, Skipped

log = logging.getLogger(__name__)

_WINDOW = 4  # fragments per worker between the oldest one that is not settled and the newest
_QUEUED = 2  # fragments that a worker has: the one that it works on, and the next
_MOST_DEATHS = 40  # of workers, one after the other: then it is not an image
_MOST_ATTEMPTS = 3  # to find the inputs that end workers, before the run gives up
_MODEL_RETRIES = 1  # of a batch whose model died
_POLL = 0.5  # seconds; a signal is noticed after so long


@dataclass(slots=True)
class _Running:
    """A fragment on its way. stored is the fragment with its bytes in Ray's object store.

    suspected: its worker has died once, so that it has a worker to itself from now on; or its model
    has (by_model), so that nothing else runs beside it. pieces are parts of it that
    are still to be attempted, poisonous the inputs that no process survived. attempts counts how
    often these were searched for.
    """

    fragment: Fragment
    stored: Any
    suspected: bool = False
    by_model: bool = False
    pieces: list[Sequence[int]] = field(default_factory=list)
    poisonous: set[int] = field(default_factory=set)
    attempts: int = 0
    receipt: Receipt | None = None
    table: Any = None


@dataclass(slots=True)
class _Worker:
    """A worker and what it has been given, by the reference to its answer."""

    share: Share
    actor: Any
    tasks: dict[Any, _Running] = field(default_factory=dict)


class RayEngine(Engine):
    """See `Engine`. Rows come in the order of the input, and are in the folder by then."""

    def __init__(
        self,
        job: Job,
        options: ClusterOptions,
        run_id: str,
        on_start: Callable[[str], None] = lambda line: None,
    ) -> None:
        """on_start is called with a line that says what the run runs on."""
        self._job = job
        self._options = options
        self._on_start = on_start
        self._folder = FragmentFolder(options.folder)
        self._run_id = run_id
        self._stack = ExitStack()
        self._writer: FolderWriter
        self._setup: Setup
        self._placement: Placement
        self._planned: Placement
        self._models: list[tuple[Share, Any]] = []
        self._workers: list[_Worker] = []
        self._facts: Any = None
        self._window: deque[_Running] = deque()
        self._to_do: deque[_Running] = deque()
        self._settled: deque[tuple[FragmentFile, Any]] = deque()  # with the digest that is to come
        self._deaths = 0  # since a worker last came to the end of something
        self._sandbox: tuple[str, ...] | None = None
        self._limited = False
        self._batch_limit: int | None = None
        self._startup_seconds = 0.0
        self._contents: Contents
        self._hints = InputHints(job.options.reading.walk)

    def __enter__(self) -> Self:
        """See `Engine`. The folder is locked, and no longer complete."""
        begun = time.monotonic()
        options = self._job.options
        with self._stack:
            self._folder.check()
            self._stack.enter_context(self._folder.locked())
            nodes = self._stack.enter_context(ray_session(self._options.address, options.device))
            self._stack.callback(self._let_go)
            divided = shares(nodes, options.workers)
            self._on_start(described(divided, self._options.address))
            self._setup = make_setup(self._job, self._run_id, self._folder)
            self._start_models(divided)
            self._start_workers(divided)
            self._contents = Contents()
            self._stack.callback(self._contents.close)
            self._writer = FolderWriter(self._folder)
            self._stack.callback(self._writer.discard)
            self._stack = self._stack.pop_all()
        self._startup_seconds = time.monotonic() - begun
        return self

    def __exit__(self, *_: object) -> None:
        """See `Engine`. What workers have finished is kept, however the run ends."""
        self._stack.close()

    def _start_models(self, divided: Sequence[Share]) -> None:
        """The first model says where it runs, and all others have to run so, too."""
        setup = self._setup
        for share in divided:
            for _ in range(share.models):
                self._models.append((share, _actor(ModelServer, share, share.model_cpus, setup)))
                if len(self._models) == 1:
                    self._planned = self._placement = _answer(self._models[0][1].planned.remote())
                    setup = replace(setup, job=placed(setup.job, self._planned))
        for _, model in self._models[1:]:
            _answer(model.planned.remote())

    def _start_workers(self, divided: Sequence[Share]) -> None:
        self._workers = [
            _Worker(share, self._new_worker(share))
            for share in divided
            for _ in range(share.workers)
        ]

    def _new_worker(self, share: Share) -> Any:
        own = [model for place, model in self._models if place.node == share.node]
        models = own or [model for _, model in self._models]
        job = self._setup.job
        options = replace(job.options, workers=share.decoders)
        setup = replace(self._setup, job=replace(job, options=options))
        return _actor(FragmentWorker, share, share.worker_cpus, setup, models, self._planned)

    def _let_go(self) -> None:
        """End all actors. Those of a cluster would otherwise end somewhat later."""
        import ray

        for actor in [worker.actor for worker in self._workers] + [
            each for _, each in self._models
        ]:
            ray.kill(actor)
        self._workers, self._models = [], []

    @property
    def placement(self) -> Placement:
        """See `Engine`."""
        return self._placement

    @property
    def sandbox(self) -> tuple[str, ...] | None:
        """See `Engine`."""
        return self._sandbox

    @property
    def startup_seconds(self) -> float:
        """See `Engine`. Models are loaded with the first batch, beside other work."""
        return self._startup_seconds

    @property
    def limited(self) -> bool:
        """See `Engine`."""
        return self._limited

    @property
    def batch_limit(self) -> int | None:
        """See `Engine`."""
        return self._batch_limit

    @property
    def input_notes(self) -> list[str]:
        """See `Engine`."""
        return self._hints.notes()

    @property
    def writers(self) -> Sequence[ResultWriter]:
        """See `Engine`."""
        return (self._writer,)

    def rows(self) -> Iterator[Row | Skipped]:
        """See `Engine`."""
        import ray

        self._folder.remove([SUCCESS])
        self._facts = ray.put(self._writer.audit)
        settings = settings_digest(self._job, self._planned)
        left = fragments(self._job, self._options, settings, self._cut)
        upcoming = next(left, None)
        while upcoming or self._window:
            while upcoming and len(self._window) < _WINDOW * len(self._workers):
                self._begin(upcoming)
                upcoming = next(left, None)
            self._pass_on()
            while (oldest := self._window[0]).receipt is None:
                self._wait()
            self._window.popleft()
            yield from self._settle(oldest)
        self._take_settled(0)

    def _cut(self) -> None:
        self._limited = True

    def _begin(self, fragment: Fragment) -> None:
        import ray

        if not fragment.name:
            self._window.append(_Running(fragment, None, receipt=Receipt(reused=True)))
            return
        running = _Running(fragment.without_bytes(), ray.put(fragment))
        self._window.append(running)
        self._to_do.append(running)

    def _pass_on(self) -> None:
        """Give workers what there is to do. A fragment under suspicion has a worker to itself."""
        while self._to_do:
            running = self._to_do[0]
            free = [worker for worker in self._workers if self._may_take(worker, running)]
            if not free or self._must_wait(running):
                return
            self._to_do.popleft()
            self._assign(min(free, key=lambda worker: len(worker.tasks)), running)

    def _must_wait(self, running: _Running) -> bool:
        """Whether a model under suspicion keeps this fragment from being started, or others it."""
        others = [other for worker in self._workers for other in worker.tasks.values()]
        return bool(others) and (running.by_model or any(other.by_model for other in others))

    def _may_take(self, worker: _Worker, running: _Running) -> bool:
        if running.suspected:
            return not worker.tasks
        suspected = any(other.suspected for other in worker.tasks.values())
        return not suspected and len(worker.tasks) < _QUEUED

    def _assign(self, worker: _Worker, running: _Running) -> None:
        if running.pieces:
            task = worker.actor.attempt.remote(running.stored, running.pieces[-1])
            worker.tasks[task] = running
            return
        process = worker.actor.process.options(num_returns=2)
        task, running.table = process.remote(running.stored, self._facts, running.poisonous)
        worker.tasks[task] = running

    def _wait(self) -> None:
        """Wait for an answer of a worker and deal with it."""
        import ray
        from ray.exceptions import RayActorError

        self._pass_on()
        tasks = [task for worker in self._workers for task in worker.tasks]
        done, _ = ray.wait(tasks, num_returns=1, timeout=_POLL)
        for task in done:
            worker = next(each for each in self._workers if task in each.tasks)
            running = worker.tasks.pop(task)
            try:
                receipt = _answer(task)
            except RayActorError as error:
                self._replace(worker, error)
                self._suspect(running)
            except ModelDiedError as error:
                log.warning("a model died twice on the same images; they are done again")
                self._count_death(error)
                running.by_model = True
                self._suspect(running)
            else:
                self._deaths = 0
                self._take(running, receipt)

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Start another worker in place of one that died; what waited for it is not to blame."""
        log.warning("a decoding worker died; what it worked on is done again")
        self._count_death(error)
        for running in worker.tasks.values():
            self._to_do.appendleft(running)
        worker.tasks = {}
        worker.actor = self._new_worker(worker.share)

    def _count_death(self, error: Exception) -> None:
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            reason = str(error).strip().splitlines()
            raise RunError(f"the workers end, whatever they work on: {' '.join(reason)[:300]}")

    def _suspect(self, running: _Running) -> None:
        """The worker of a fragment died."""
        if running.pieces:
            piece = running.pieces.pop()
            if len(piece) == 1:
                running.poisonous.add(piece[0])
            else:
                running.pieces += _halves(piece)
        elif running.suspected:
            running.attempts += 1
            if running.attempts > _MOST_ATTEMPTS:
                raise RunError(
                    f"fragment {running.fragment.number} ends every worker, though none of its "
                    "images does by itself: is there memory enough for a worker?"
                )
            count = len(running.fragment.refs)
            running.pieces = _halves([i for i in range(count) if i not in running.poisonous])
        running.suspected = True
        self._to_do.appendleft(running)

    def _take(self, running: _Running, receipt: Receipt | None) -> None:
        """A worker came to its end."""
        if receipt is None:
            running.pieces.pop()
            self._to_do.appendleft(running)
            return
        running.receipt, running.stored = receipt, None
        if receipt.placement:
            self._placement = receipt.placement
        self._sandbox = receipt.sandbox if self._sandbox is None else self._sandbox
        if receipt.batch_limit is not None:
            known = self._batch_limit
            self._batch_limit = min(receipt.batch_limit, known or receipt.batch_limit)

    def _settle(self, running: _Running) -> Iterator[Row | Skipped]:
        """The rows of a fragment, all before it being settled."""
        import ray

        fragment, receipt = running.fragment, running.receipt
        assert receipt is not None
        rows: Iterator[Row] = iter(())
        if fragment.name:
            table = ray.get(running.table)
            rows = iter(self._decided(running, table, receipt.sha256))
        for entry in fragment.entries:
            if isinstance(entry, Skipped):
                self._hints.note_skipped(entry)
                yield entry
            else:
                yield next(rows)

    def _decided(self, running: _Running, table: Any, sha256: str) -> list[Row]:
        """The rows of a table, with what only the whole run knows; so that the file has it, too.

        As in a scan on one machine, the first row of each content is new, later ones are duplicates
        of it, and the first thousand missing paths are explained.
        """
        import ray

        fragment = running.fragment
        undecided, corrections = [], {}
        written = table.column("origin").to_pylist(), table.column("duplicate_of").to_pylist()
        for index, row in enumerate(undecided_rows(table, fragment.refs)):
            error, first, origin = row.error, None, Origin.NEW
            if row.facts.sha256:
                digest, position = bytes.fromhex(row.facts.sha256), fragment.first_row + index
                first = self._contents.claim(digest, position, row.ref.display).first
                origin = Origin.NEW if first is None else Origin.DUPLICATE
            if error and error.code is ErrorCode.NOT_FOUND and row.ref.error is None:
                error = self._hints.with_hint(row.ref, _without_hint(error))
            known = Correction(origin, first, error.message if error else None)
            if _differs(known, written[0][index], written[1][index], row.error):
                corrections[index] = known
            undecided.append(row._replace(error=error, duplicate_of=first, origin=origin))
        entry = FragmentFile(
            fragment.name,
            fragment.first_row,
            len(undecided),
            len(fragment.entries),
            sha256,
        )
        correcting = None
        if corrections:
            # Ray runs a task anew whose process dies.
            correcting = (
                ray.remote(correct)
                .options(num_cpus=0, max_retries=3)
                .remote(self._folder, fragment.name, running.table, corrections)
            )
        self._settled.append((entry, correcting))
        self._take_settled(_WINDOW * len(self._workers))
        return decide_rows(self._job.judge, undecided, _run_id_of(table) or self._run_id)

    def _take_settled(self, most: int) -> None:
        """Put fragments into the manifest, all but so many whose rows may be being corrected."""
        while len(self._settled) > most:
            entry, digest = self._settled.popleft()
            if digest is not None:
                entry = replace(entry, sha256=_answer(digest))
            self._writer.manifest.add(entry)


class FolderWriter(ResultWriter):
    """The end of a folder that workers write: the manifest, and the marker that it is complete."""

    def __init__(self, folder: FragmentFolder) -> None:
        self.audit: dict[str, str] = {}
        self.manifest = Manifest(folder)
        self._folder = folder

    def start(
        self, audit: dict[str, str], carried: Sequence[Column] = (), labels: Sequence[str] = ()
    ) -> None:
        """See `ResultWriter`. The facts are those that workers put into each file."""
        self.audit = audit

    def prepare(self, row: Row) -> None:
        """Nothing: the row has been written."""

    def put(self, prepared: None) -> None:
        """Nothing: the row has been written."""

    def write_columns(self, own: Sequence[Any], carried: Sequence[Any]) -> None:
        """Nothing: rows are written by workers."""

    def seal(self, facts: dict[str, str]) -> None:
        """See `ResultWriter`."""
        self.manifest.seal()

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`. The digest is that of the manifest, which has those of all files."""
        digest = self.manifest.commit({**self.audit, **facts})
        target = self._folder.target
        return {shown_target(target) if is_remote(target) else os.path.abspath(target): digest}

    def discard(self) -> None:
        """See `ResultWriter`. Finished fragments stay, for the next run."""
        self.manifest.discard()


class RayExecutor(Executor):
    """Runs jobs on Ray. on_start is called with a line that says what a run runs on."""

    def __init__(
        self, options: ClusterOptions, on_start: Callable[[str], None] = lambda line: None
    ) -> None:
        self._options = options
        self._on_start = on_start

    @property
    def owned(self) -> Sequence[str]:
        """See `Executor`."""
        return (self._options.folder,)

    def open_engine(
        self, job: Job, store: ScoreStore | None, run_id: str, unfinished_since: int | None
    ) -> RayEngine:
        """See `Executor`. The state keeps the record of the run, and no scores."""
        return RayEngine(job, self._options, run_id, self._on_start)


def _actor(kind: type, share: Share, cpus: float, *arguments: Any) -> Any:
    """A new actor on a machine, or elsewhere where that is gone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    is_model = kind is ModelServer
    return (
        ray.remote(kind)
        .options(
            num_cpus=cpus,
            num_gpus=1 if is_model and share.is_gpu else 0,
            # A worker that dies is replaced by the driver, which has to know what it worked on.
            max_restarts=-1 if is_model else 0,
            max_task_retries=_MODEL_RETRIES if is_model else 0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(share.node.id, soft=True),
        )
        .remote(*arguments)
    )


def _answer(task: Any) -> Any:
    """What an actor or a task answers, or raises, as it raised it. Raises RayActorError, too."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (ModerateError, ModelDiedError)):
            raise cause from None
        what = f"{type(cause).__name__}: {cause}"
        raise RunError(f"a worker failed: {one_line(what, 300)}") from error


def _halves(piece: Sequence[int]) -> list[Sequence[int]]:
    """The two halves of a piece, the first one last; one of a piece of one."""
    middle = len(piece) // 2
    return [half for half in (piece[middle:], piece[:middle]) if half]


def _without_hint(error: ImageError) -> ImageError:
    """The error of a missing path as it was before an earlier run explained it."""
    return replace(error, message=error.message.partition("; ")[0])


def _differs(known: Correction, origin: str, first: str | None, error: ImageError | None) -> bool:
    """Whether a row was written otherwise."""
    known_first = None if known.duplicate_of is None else path_text(known.duplicate_of)
    written = (origin, first, error.message if error else None)
    return (str(known.origin), known_first, known.error_message) != written


def _run_id_of(table: Any) -> str | None:
    """The run that wrote the rows."""
    first: str | None = table.column("run_id")[0].as_py()
    return first
