"""Applying a results file, and undoing what a log has."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from moderate import stopping
from moderate.apply.contents import holds
from moderate.apply.log import Entry, Log, Session, State
from moderate.apply.operations import Kind, Operation, Unsettled, finish, perform, take_back
from moderate.apply.plan import File, Plan, content_of, read_plan
from moderate.apply.refusal import RefusedError, refusal
from moderate.apply.roots import Root, below, find_root
from moderate.apply.trees import (
    folder_in,
    missing_folders,
    names_of,
    open_root,
    remove_folders,
    status_in,
)
from moderate.errors import OutputError, UsageError
from moderate.results.final import FINAL_COLUMNS, has_final
from moderate.results.read import Results
from moderate.results.remote import is_remote
from moderate.text import path_text, printable

_T = TypeVar("_T")

AHEAD = 64
"""Operations that are written down, and brought to the disk together, before the first is done."""

OUTSIDE = "not below the root"
IN_TARGET = "in a target folder already"
SAME_THERE = "a file with the same bytes has its name in the target folder: it is not moved"
TAKEN = "its name is taken in the target folder"
GONE = "not there any more"


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """What is asked for. targets are folders by decision; log is None for the usual one.

    recorded_inputs are those of the run, where they are known.
    """

    targets: Mapping[str, str]
    kind: Kind = "copy"
    root: str | None = None
    log: str | None = None
    act: bool = False
    recorded_inputs: tuple[str, ...] = ()


@dataclass(slots=True)
class Applied:
    """What was done, or in a dry run what would be; paths are text as results have it.

    counts are by decision: `done`, `there` with the same bytes already, and done `before` by the
    same log. examples are the first files that are applied, with their decision and size. refused
    has the paths that were not applied by reason, unasked the files without a folder by decision.
    """

    acted: bool
    kind: Kind
    root: Root | None
    targets: dict[str, bytes]
    log: str
    plan: Plan
    most_listed: int
    done: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    byte_count: int = 0
    other_names: int = 0
    finished: int = 0
    examples: list[tuple[str, str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def refused(self) -> dict[str, list[str]]:
        """Paths by the reason why they are not applied."""
        return self.plan.refused

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is applied."""
        return not self.refused

    def count(self, file: File, operation: Operation) -> None:
        """One file was applied, or would be."""
        self.done[file.decision] += 1
        self.byte_count += operation.content.size
        if len(self.examples) < self.most_listed:
            self.examples.append((path_text(file.path), file.decision, file.size))


@dataclass(slots=True)
class Undone:
    """What was brought back by a log; refused has the paths that were not, by reason."""

    log: str
    results: str
    most_listed: int
    done: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str, int]] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether everything is back."""
        return not self.refused


def apply(results: Results, options: ApplyOptions, most_listed: int) -> Applied:
    """Apply a results file, or look what that would do.

    Raises UsageError, InputError, and OutputError where nothing more can be written.
    """
    asked = tuple(options.targets)
    plan = read_plan(results, asked, os.getcwdb())
    root = find_root(options.root, options.recorded_inputs, plan.folder)
    targets = {
        name: os.path.realpath(os.fsencode(folder)) for name, folder in options.targets.items()
    }
    applied = Applied(
        options.act, options.kind, root, targets, log_path(results, options.log), plan, most_listed
    )
    if results.mismatch:
        applied.notes.append("the results file is not as it was written: its rows were changed")
    if has_final(results):
        applied.notes.append("where people decided (final_decision), that is what is applied")
    elif FINAL_COLUMNS[0] in results.carried:
        applied.notes.append(
            "the column final_decision is not of these results: the machine's decisions are applied"
        )
    if root is None:
        return applied
    check_targets(options.targets, root)
    with contextlib.ExitStack() as stack:
        log = None
        if options.act:
            log = Log(applied.log, create=True)
            stack.callback(log.close)
        elif os.path.lexists(applied.log):
            log = Log(applied.log, create=False)
            stack.callback(log.close)
        run = _Run(applied, root, stack, log)
        if log and not options.act and (count := len(log.read.unfinished)):
            applied.notes.append(
                f"{count:,} operations of a run that was stopped are unfinished: --yes finishes "
                "them first"
            )
        if not options.act:
            run.look_at_all()
            return applied
        assert log is not None
        try:
            session = Session(secrets.token_hex(8), root.path, targets)
            log.begin(session, os.path.abspath(results.path), results.sha256, options.kind)
            applied.finished = run.finish_all()
            run.act(session)
        except stopping.Stopped as stopped:
            stopped.add_note(_how_far(applied))
            raise
    return applied


def undo(path: str, most_listed: int) -> Undone:
    """Bring back everything that a log has, the last first.

    Raises InputError and OutputError.
    """
    undone = Undone(path, "", most_listed)
    with contextlib.ExitStack() as stack:
        log = Log(path, create=False)
        stack.callback(log.close)
        undone.results = log.read.results
        entries = [
            entry
            for entry in reversed(log.read.entries.values())
            if entry.state not in (State.DROPPED, State.UNDONE)
        ]
        log.begin_undoing()
        folders = _Folders(stack)
        try:
            for batch in _batches(entries):
                before = {entry.operation.number: entry.state for entry in batch}
                log.intend_undoing(batch)
                unsettled = Unsettled()
                back = []
                for entry in batch:
                    was_done = before[entry.operation.number] is State.DONE
                    if _undo_one(entry, folders, unsettled, undone, was_done=was_done):
                        back.append(entry)
                unsettled.settle()
                for entry in back:
                    log.note(entry.operation.number, State.UNDONE)
            log.settle()
        except stopping.Stopped as stopped:
            stopped.add_note(
                f"{sum(undone.done.values()):,} files are back: run the same command again to go on"
            )
            raise
    return undone


def log_path(results: Results, option: str | None) -> str:
    """The log of a results file: beside it, and named by its digest, so that other results under
    the same name have another. Raises UsageError for results of a store without `option`."""
    if option is not None:
        return option
    if is_remote(results.name):
        raise UsageError("results of a store have no folder for the log: name one by --log FILE")
    return f"{results.path}.apply-{results.sha256[:12]}.jsonl"


def check_targets(targets: Mapping[str, str], root: Root) -> None:
    """Raises UsageError for a target that is no folder, or the root itself."""
    for decision, folder in targets.items():
        shown = f"--{decision}-to {printable(folder)}"
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise UsageError(f"{shown}: not a folder")
        if os.path.realpath(os.fsencode(folder)) == os.path.realpath(root.path):
            raise UsageError(f"{shown}: that is the folder that the files are in")


class _Folders:
    """Roots and targets by their paths, open."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._open: dict[bytes, int] = {}

    def get(self, path: bytes) -> int:
        """Raises OSError."""
        if path not in self._open:
            self._open[path] = open_root(path)
            self._stack.callback(os.close, self._open[path])
        return self._open[path]

    def find(self, path: bytes) -> int | None:
        """None where there is no such folder."""
        try:
            return self.get(path)
        except FileNotFoundError:
            return None


class _Run:
    """One application of a results file."""

    def __init__(
        self, applied: Applied, root: Root, stack: contextlib.ExitStack, log: Log | None
    ) -> None:
        """Raises UsageError where the root cannot be opened."""
        self._applied = applied
        self._root_path = root.path
        self._real_root = os.path.realpath(root.path)
        self._log = log
        self._folders = _Folders(stack)
        self._number = log.next_number if log else 1
        self._token = ""
        try:
            self._root = self._folders.get(root.path)
        except OSError as error:
            raise UsageError(
                f"cannot open {printable(path_text(root.path))}: {error.strerror}; relative paths "
                "start from the folder that this command runs in"
            ) from None
        self._known = {
            (entry.session.root, entry.session.targets[entry.operation.decision],
             entry.operation.names): entry
            for entry in (log.read.entries.values() if log else ())
            if entry.state is State.DONE
        }  # fmt: skip

    def look_at_all(self) -> None:
        """See what would be done."""
        for file in self._applied.plan.files:
            operation = self._looked_at(file)
            if operation is not None:
                self._applied.count(file, operation)

    def act(self, session: Session) -> None:
        """Do it."""
        assert self._log is not None
        self._token = session.token
        for batch in _batches(self._applied.plan.files):
            looked = [(file, self._looked_at(file)) for file in batch]
            todo = [(file, operation) for file, operation in looked if operation is not None]
            if not todo:
                continue
            for decision in {file.decision for file, _ in todo}:
                self._make_target(session.targets[decision])
            self._log.intend([operation for _, operation in todo], session)
            unsettled = Unsettled()
            done = [operation for file, operation in todo if self._do(file, operation, unsettled)]
            unsettled.settle()
            for operation in done:
                self._log.note(operation.number, State.DONE)
        self._log.settle()

    def finish_all(self) -> int:
        """Finish what a process that was killed was at; how many operations that were."""
        log = self._log
        assert log is not None
        unfinished = log.read.unfinished
        unsettled, outcomes = Unsettled(), []
        for entry in unfinished:
            try:
                outcomes.append((entry, self._finished(entry, unsettled)))
            except (OSError, RefusedError) as error:
                stopping.check()
                session = entry.session
                target = session.targets[entry.operation.decision]
                reason = _reason(error, session.root, target)
                self._applied.notes.append(f"{_shown(entry)}: not finished: {reason}")
        unsettled.settle()
        for entry, state in outcomes:
            log.note(entry.operation.number, state)
            if state is State.DONE:
                self._known[
                    (entry.session.root, entry.session.targets[entry.operation.decision],
                     entry.operation.names)
                ] = entry  # fmt: skip
        log.settle()
        return len(outcomes)

    def _finished(self, entry: Entry, unsettled: Unsettled) -> State:
        operation = entry.operation
        root = self._folders.get(entry.session.root)
        target = self._folders.find(entry.session.targets[operation.decision])
        if target is None:
            return State.DROPPED  # it was not even made
        if entry.state is State.UNDOING:
            take_back(operation, root, target, unsettled)
            return State.UNDONE
        if finish(operation, root, target, unsettled):
            return State.DONE
        remove_folders(target, operation.folders, operation.made)
        return State.DROPPED

    def _do(self, file: File, operation: Operation, unsettled: Unsettled) -> bool:
        assert self._log is not None
        target = self._folders.get(self._applied.targets[file.decision])
        try:
            perform(operation, self._root, target, unsettled)
        except (OSError, RefusedError) as error:
            stopping.check()  # which an error may come from
            reason = _reason(error, self._root_path, self._applied.targets[file.decision])
            self._applied.plan.refuse(reason, file.path)
            remove_folders(target, operation.folders, operation.made)
            self._log.note(operation.number, State.DROPPED, reason)
            return False
        self._applied.count(file, operation)
        return True

    def _looked_at(self, file: File) -> Operation | None:
        """The operation for a file; None where there is none, which is counted then."""
        try:
            return self._operation(file)
        except (OSError, RefusedError) as error:
            stopping.check()
            reason = _reason(error, self._root_path, self._applied.targets[file.decision])
            self._applied.plan.refuse(reason, file.path)
            return None

    def _operation(self, file: File) -> Operation | None:
        applied = self._applied
        relative = below(file.path, self._root_path)
        if relative is None:
            raise RefusedError(OUTSIDE)
        names, content = names_of(relative), content_of(file)
        real = self._real_root.rstrip(b"/") + b"/" + relative
        if any(below(real, target) is not None for target in applied.targets.values()):
            raise RefusedError(IN_TARGET)
        target_path = applied.targets[file.decision]
        known = self._known.get((self._root_path, target_path, names))
        target = self._folders.find(target_path)
        try:
            with folder_in(self._root, names[:-1]) as here:
                status = status_in(here, names[-1])
        except FileNotFoundError:
            status = None
        made = missing_folders(target, names[:-1])
        if target is not None and not made:
            with folder_in(target, names[:-1]) as there:
                taken = status_in(there, names[-1])
                if taken is not None:
                    if known and _is_as_done(known, taken, status):
                        applied.before[file.decision] += 1
                        return None
                    if status is not None:
                        if not holds(there, names[-1], content):
                            raise RefusedError(TAKEN)
                        if applied.kind == "move":
                            raise RefusedError(SAME_THERE)
                        applied.there[file.decision] += 1
                        return None
        if status is None:
            raise RefusedError(GONE)
        if (status.st_size, True) != (content.size, _is_regular(status)):
            raise RefusedError(_OTHER_SIZE if _is_regular(status) else _NOT_REGULAR)
        is_elsewhere = target is not None and os.fstat(target).st_dev != status.st_dev
        if applied.kind == "link" and is_elsewhere:
            raise RefusedError(_OTHER_FILE_SYSTEM)
        applied.other_names += status.st_nlink > 1
        number, self._number = self._number, self._number + 1
        return Operation(number, self._token, applied.kind, file.decision, names, content, made)

    def _make_target(self, path: bytes) -> None:
        """Make a target folder where there is none. Raises OutputError."""
        try:
            if not os.path.isdir(path):
                mode = os.stat(self._root_path).st_mode & 0o777 | 0o700
                _make_folders(Path(os.fsdecode(path)), mode)
            self._folders.get(path)
        except OSError as error:
            shown = printable(path_text(path))
            raise OutputError(f"cannot make {shown}: {error.strerror}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write in {printable(path_text(path))}: Permission denied")


_OTHER_SIZE = "changed since it was scanned: it has another size"
_NOT_REGULAR = "a link, a folder or a device, not a regular file"
_OTHER_FILE_SYSTEM = "on another file system than its folder: use --copy or --move"


def _is_regular(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _is_as_done(known: Entry, taken: os.stat_result, status: os.stat_result | None) -> bool:
    """Whether what the log has done is still so, as far as sizes tell."""
    if taken.st_size != known.operation.content.size:
        return False
    return (status is None) == (known.operation.kind == "move")


def _make_folders(path: Path, mode: int) -> None:
    missing = [path, *path.parents]
    missing = missing[: next(n for n, each in enumerate(missing) if each.is_dir())]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode)
        parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _undo_one(
    entry: Entry,
    folders: _Folders,
    unsettled: Unsettled,
    undone: Undone,
    *,
    was_done: bool,
) -> bool:
    """Bring one file back; whether it is."""
    operation, session = entry.operation, entry.session
    path = session.root.rstrip(b"/") + b"/" + b"/".join(operation.names)
    target_path = session.targets[operation.decision]
    try:
        target = folders.find(target_path)
        if operation.kind == "move" and target is not None and not os.path.isdir(session.root):
            _make_folders(Path(os.fsdecode(session.root)), 0o700)
        root = folders.get(session.root)
        if target is not None:
            take_back(operation, root, target, unsettled)
        elif operation.kind == "move" and was_done:
            raise RefusedError("the target folder is gone")
    except (OSError, RefusedError) as error:
        stopping.check()
        reason = _reason(error, session.root, target_path)
        undone.refused.setdefault(reason, []).append(path_text(path))
        return False
    undone.done[operation.decision] += 1
    if len(undone.examples) < undone.most_listed:
        undone.examples.append((path_text(path), operation.decision, operation.content.size))
    return True


def _reason(error: OSError | RefusedError, root: bytes, target: bytes) -> str:
    """Raises OutputError where the next file would meet the same."""
    if isinstance(error, RefusedError):
        return error.reason
    return refusal(error, path_text(root), path_text(target)).reason


def _shown(entry: Entry) -> str:
    return printable(path_text(b"/".join(entry.operation.names)))


def _how_far(applied: Applied) -> str:
    count = sum(applied.done.values())
    return (
        f"{count:,} of {len(applied.plan.files):,} files are applied: run the same command again "
        f"to go on, or moderate apply --undo {applied.log} to bring them back"
    )


def _batches(items: Sequence[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, AHEAD)):
        yield batch
