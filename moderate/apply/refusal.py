"""Why a file is left as it is."""

from __future__ import annotations

import errno

from moderate.errors import OutputError
from moderate.text import printable

_NO_MORE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_IN_THE_WAY = frozenset({errno.ELOOP, errno.ENOTDIR})


class RefusedError(Exception):
    """One file is not applied or brought back; the argument is why, the same for all such files."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        return str(self.args[0])


def refusal(error: OSError, root: str, target: str) -> RefusedError:
    """What an error of the system means for one file between two folders.

    Raises OutputError for what the next file would meet as well: a file system that takes no more.
    """
    if error.errno in _NO_MORE:
        where = f"{root} or {target}" if error.errno == errno.EROFS else target
        raise OutputError(
            f"cannot write in {printable(where)}: {error.strerror}; mend that, then run the same "
            "command again: it goes on from there"
        ) from error
    if error.errno in _IN_THE_WAY:
        return RefusedError("a link, or a file where a folder was expected, is in its way")
    if error.errno == errno.EXDEV:
        return RefusedError("on another file system than its folder: use --copy or --move")
    if isinstance(error, FileNotFoundError):
        return RefusedError("not there any more")
    return RefusedError(error.strerror or type(error).__name__)
