"""Faults of our own about one image: they cost that image its scores, never the run."""

from __future__ import annotations

import logging

from moderate.text import one_line, path_text, printable
from moderate.types import ErrorCode, ImageError, ImageRef

log = logging.getLogger(__name__)


def internal_error(ref: ImageRef, doing: str, error: Exception) -> ImageError:
    """The error of an image on which a stage raised what it must not raise.

    doing is what was being done to it, as in `reading`. It is logged, at debug level with the
    traceback. Errors under ModerateError are about the run and are not for this function.
    """
    cause = one_line(f"{type(error).__name__}: {error}", 160)
    name = printable(path_text(ref.display))
    log.warning(
        "%s: a fault in moderate itself while %s it (%s); the image is not scored. Please report "
        "this; --debug shows more",
        name,
        doing,
        cause,
    )
    log.debug("%s: the fault while %s it", name, doing, exc_info=error)
    return ImageError(
        ErrorCode.INTERNAL_ERROR, f"a fault in moderate itself while {doing} the image ({cause})"
    )
