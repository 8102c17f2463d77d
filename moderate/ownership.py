"""Determines who could have written a file: only this user and root, or others too."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from typing import NamedTuple

from moderate.regular import Identity, file_identity
from moderate.text import printable

_MOST_LINKS = 40  # as the kernel has it
_ACCESS_LIST = "system.posix_acl_access"


class Step(NamedTuple):
    """One name that is looked up on the way to a file: where, and what it is (links unfollowed)."""

    folder: str
    path: str
    status: os.stat_result


def steps(path: str) -> Iterator[Step]:
    """Every look-up on the way to `path`, an absolute path. Symbolic links are followed.

    Raises OSError where the way leads nowhere.
    """
    folder, links = "/", 0
    waiting = path.split("/")[::-1]
    while waiting:
        name = waiting.pop()
        if name in ("", "."):
            continue
        if name == "..":
            folder = os.path.dirname(folder)
            continue
        entry = os.path.join(folder, name)
        status = os.lstat(entry)
        yield Step(folder, entry, status)
        if not stat.S_ISLNK(status.st_mode):
            folder = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(entry)
        if target.startswith("/"):
            folder = "/"
        waiting += target.split("/")[::-1]


def folders_on_the_way(path: str) -> set[Identity]:
    """The folders that `path` lies below, those that symbolic links lead through included.

    Raises OSError.
    """
    return {identity for step in steps(path) if (identity := file_identity(step.folder))}


def why_others_could_write(path: str) -> str | None:
    """Why the file at `path`, an absolute path, could come from somebody else; None if it cannot.

    The file and every folder above it have to belong to this user or to root, and nobody else may
    write to them. A folder whose entries only their owners may replace, as `/tmp` is, may be above
    a folder of this user's, but not be the one that the file is in. Raises OSError where there is
    no such file.
    """
    for folder, entry, status in steps(path):
        above = os.lstat(folder)
        if not _is_ours(above):
            return f"{printable(folder)} belongs to {_owner(above)}"
        if _others_write(folder, above):
            kept = above.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode)
            if not kept:
                return f"others can write to {printable(folder)}"
        if not _is_ours(status):
            return f"{printable(entry)} belongs to {_owner(status)}"
        if stat.S_ISREG(status.st_mode) and _others_write(entry, status):
            return f"others can write to {printable(entry)}"
    return None


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _others_write(path: str, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False  # that holds for access lists too: the group's bits are their upper bound
    return not _is_private(status.st_gid) or _has_access_list(path)


def _is_private(group: int) -> bool:
    """Whether a group is that of one user alone, who is this user or root.

    Many systems give each user a group of the same name, and let it write what the user writes.
    """
    try:
        found = grp.getgrgid(group)
    except KeyError:
        return False
    for user in {0, os.geteuid()}:
        try:
            known = pwd.getpwuid(user)
        except KeyError:
            continue
        if known.pw_gid == group and known.pw_name == found.gr_name:
            others = [other for other in pwd.getpwall() if other.pw_gid == group]
            return set(found.gr_mem) <= {known.pw_name} and {o.pw_uid for o in others} <= {user}
    return False


def _has_access_list(path: str) -> bool:
    try:
        return bool(os.getxattr(path, _ACCESS_LIST, follow_symlinks=False))
    except OSError:
        return False  # none, or a file system without


def _owner(status: os.stat_result) -> str:
    try:
        return printable(pwd.getpwuid(status.st_uid).pw_name)
    except KeyError:
        return f"user {status.st_uid}"
