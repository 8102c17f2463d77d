"""A run's place in the state folder: the scores it may use, and its record in the ledger."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from moderate.classify.bundle import Bundle
from moderate.errors import StateError, UsageError
from moderate.fetch.local import keep_out_of
from moderate.folders import no_home
from moderate.policy.load import LoadedPolicy
from moderate.results.remote import is_remote, shown_target
from moderate.results.targets import to_stdout
from moderate.run.options import StateOptions
from moderate.run.speeds import SPEED, speed_of_run
from moderate.run.summary import Summary, audit_facts, counts
from moderate.state.database import MisplacedError, SharedError, UnavailableError
from moderate.state.ledger import FILE as RUNS_FILE
from moderate.state.ledger import ActiveRun, Ledger, RunRecord, RunStatus
from moderate.state.merging import merge_state
from moderate.state.scores import FILE as SCORES_FILE
from moderate.state.scores import ScoreStore
from moderate.system_limits import with_limit
from moderate.text import one_line, printable
from moderate.version import __version__

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between the counts of a run in progress


@dataclass(frozen=True, slots=True)
class State:
    """What is open of a state folder."""

    scores: ScoreStore
    ledger: Ledger


@contextmanager
def look_at_state(
    options: StateOptions | None,
) -> Iterator[tuple[ScoreStore | None, Ledger | None]]:
    """What there is of the state, to read; nothing of it is written.

    Raises StateError where a newer version of this program wrote it.
    """
    folder = options.folder if options else None
    scores: ScoreStore | None = None
    ledger: Ledger | None = None
    with ExitStack() as stack:
        try:
            if folder is not None and (folder / SCORES_FILE).exists():
                scores = ScoreStore.open(folder, read_only=True)
                stack.callback(scores.close)
                keep_out_of(folder)
            if folder is not None and (folder / RUNS_FILE).exists():
                ledger = Ledger(folder, read_only=True)
                stack.callback(ledger.close)
                keep_out_of(folder)
        except (UnavailableError, OSError) as error:
            log.warning("the state cannot be read (%s), so that not all counts as known", error)
        yield scores, ledger


@contextmanager
def open_state(options: StateOptions | None) -> Iterator[State | None]:
    """The state of a folder; None where none is wanted, or the folder cannot be used.

    A disk that is full or cannot be written is worth a warning, not the run: its rows are right
    without a state. Raises StateError where the folder was named and can be none, and where a newer
    version of this program wrote it.
    """
    state = None
    if options is not None and options.folder is None:
        log.warning("nothing is kept between runs (%s): use --state DIR or --no-state", no_home())
    elif options is not None and options.folder is not None:
        try:
            state = _opened(options.folder)
            for folder in options.imports:
                _import(folder, options.folder)
        except UnavailableError as error:
            if options.required and isinstance(error, SharedError):
                raise StateError(
                    f"--state: {one_line(str(error))}; use --state DIR with a folder on a local "
                    "disk, or --no-state"
                ) from error
            if options.required and isinstance(error, MisplacedError):
                raise StateError(f"--state: {one_line(str(error))}") from error
            log.warning(
                "the state cannot be used (%s); going on without, so that this run cannot be "
                "resumed; use --state DIR or --no-state",
                with_limit(error),
            )
    try:
        yield state
    finally:
        if state:
            state.scores.close()
            state.ledger.close()


def _opened(folder: Path) -> State:
    """Raises UnavailableError and StateError."""
    scores = ScoreStore.open(folder)
    try:
        ledger = Ledger(folder)
        try:
            keep_out_of(folder)
        except OSError as error:
            ledger.close()
            raise UnavailableError(f"{printable(str(folder))}: {error.strerror}") from error
        return State(scores, ledger)
    except BaseException:
        scores.close()
        raise


def _import(folder: Path, into: Path) -> None:
    """Add what another state has. Raises StateError and UnavailableError."""
    merged = merge_state(folder, into)
    log.info("--state-import %s: %s", printable(str(folder)), merged.text)


class Recorder:
    """Keeps the ledger's record of the run that this process is; without a ledger, it does nothing.

    summary is what is counted, once there is one; outputs the SHA-256 of each file written;
    settings are those that the speed of the run depends on.
    """

    def __init__(self, active: ActiveRun | None, state: State | None = None) -> None:
        self._active = active
        self._state = state
        self._due = 0.0
        self.summary: Summary | None = None
        self.outputs: dict[str, str] = {}
        self.settings: dict[str, str] = {}

    def save_policy(self, policy: LoadedPolicy) -> None:
        """Keep the policy's text, for whoever asks why when its file is gone."""
        if self._active:
            self._active.save_policy(policy.sha256, policy.policy.name, policy.text)

    def running(self) -> None:
        """No longer waiting for anybody."""
        if self._active:
            self._active.update(status=RunStatus.RUNNING)

    def counting(self, summary: Summary) -> None:
        """From here on there are counts, and it is known what the run uses."""
        self.summary = summary
        if self._active:
            self._active.update(facts=audit_facts(summary.audit))

    def tick(self) -> None:
        """Write the counts down now and then."""
        if self._active and self.summary and time.monotonic() >= self._due:
            self._active.update(counts=counts(self.summary))
            self._due = time.monotonic() + _EVERY

    def end(self, error: BaseException | None) -> None:
        """Write down how the run ended: by itself, by a fault, or by a signal."""
        if self._active is None:
            return
        status, message = RunStatus.COMPLETED, None
        if isinstance(error, Exception):
            status, message = RunStatus.FAILED, one_line(str(error) or type(error).__name__)
        elif error is not None:
            unfinished = isinstance(error, GeneratorExit)
            message = "its caller took no more rows" if unfinished else "stopped by a signal"
            status = RunStatus.INTERRUPTED
        if self.summary:
            self._active.update(facts=audit_facts(self.summary.audit))
        self._active.end(
            status,
            message,
            counts={**counts(self.summary), **self._speed()} if self.summary else None,
            outputs=self.outputs,
        )

    def _speed(self) -> dict[str, Any]:
        """How fast the run was; nothing of one that did not come to its end."""
        if self.summary is None or not self.summary.seconds:
            return {}
        return {SPEED: speed_of_run(self.summary, self.settings)}

    def unfinished_since(self) -> int | None:
        """When the first run began that this one finishes, in seconds since 1970; None for none.

        Those are runs of the same inputs that broke off, as far as none has completed since.
        """
        if self._active is None or self._state is None:
            return None
        try:
            began = self._state.ledger.unfinished_since(self._active.id)
        except (UnavailableError, StateError) as error:
            log.debug("no look at earlier runs: %s", error)
            return None
        return None if began is None else int(datetime.fromisoformat(began).timestamp())

    def how_to_go_on(self, *, rescore: bool) -> str | None:
        """What there is to say after a run that broke off; None where nothing was kept."""
        if self._state is None or self._state.scores.given_up:
            return None
        if self.summary is None:
            return None
        # Scores are kept a moment before their rows are counted; the rows include those of scores
        # that were kept by an earlier run.
        kept = max(self.summary.scored, self._state.scores.scores_kept)
        if not (kept or self.summary.rows):
            return None
        command = "the same command without --rescore" if rescore else "the same command again"
        written = ", ".join(map(printable, self.outputs))
        return (f"written already: {written}; " if written else "") + (
            f"{kept:,} images are scored and kept: run {command} to go on from there"
        )


def target_key(target: str) -> str:
    """A target as the ledger knows it: an absolute path, or a URI without credentials."""
    return shown_target(target) if is_remote(target) else _absolute(target)


def _absolute(name: str) -> str:
    try:
        return os.path.abspath(name)
    except OSError:  # the working directory is gone
        return name


def begin(
    state: State | None,
    run_id: str,
    started: datetime,
    command: Sequence[str],
    inputs: Sequence[str],
    targets: Sequence[str],
    *,
    queued: bool,
) -> Recorder:
    """Begin the ledger's record of a run."""
    if state is None:
        return Recorder(None)
    return Recorder(
        state.ledger.begin(
            run_id=run_id,
            command=command,
            started=started,
            version=__version__,
            inputs=[_absolute(name) if os.path.lexists(name) else name for name in inputs],
            targets=[target_key(target) for target in targets if not to_stdout(target)],
            status=RunStatus.QUEUED if queued else RunStatus.RUNNING,
        ),
        state,
    )


def check_resumable(
    state: State | None, run_id: str, bundle: Bundle, targets: Sequence[str]
) -> None:
    """Refuse to finish with other weights what a run began that broke off. Raises UsageError."""
    if state is None:
        return
    for target in targets:
        if to_stdout(target):
            continue
        try:
            last = state.ledger.last_of(target_key(target), exclude=run_id)
        except UnavailableError as error:
            log.debug("no look at earlier runs: %s", error)
            return
        used = last.facts.get("weights_sha256") if last else None
        if last and used and used != bundle.sha256 and _broke_off(last):
            theirs = f"{last.facts.get('weights')} ({used[:12]})"
            raise UsageError(
                f"{shown_target(target)}: run {last.id[:12]}, which broke off at {last.ended}, "
                f"used the weights {theirs}, these are {bundle.name} ({bundle.sha256[:12]}); "
                "finish it with those, or add --rescore to begin again"
            )


def _broke_off(run: RunRecord) -> bool:
    if run.status is RunStatus.INTERRUPTED or run.died:
        return True
    return run.status is RunStatus.FAILED and bool(run.counts.get("rows"))
