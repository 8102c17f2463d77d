"""Prompts to tokens, by the tokenizer file that comes with a checkpoint."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal

from moderate.classify.files import read_json, shown
from moderate.classify.words import WordsKind
from moderate.errors import MissingLibraryError, WeightsError
from moderate.installing import how_to_install
from moderate.libraries import installed
from moderate.regular import read_regular
from moderate.text import one_line
from moderate.weights.download import TOKENIZER_FILES

TOKENIZER = TOKENIZER_FILES[0]

Cleaning = Literal["canonicalize", "lower", "whitespace"]
"""What is done to a text before it is read, in open_clip's words: blanks are made one, always;
lower also takes capitals away, and canonicalize punctuation, too.
"""

_BY_KIND: dict[WordsKind, Cleaning] = {"clip": "whitespace", "siglip": "canonicalize"}

_MAX_BYTES = 128 << 20  # the largest, of 256,000 tokens, have 35 MB
_NO_PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation), "_": " "})


class Tokenizer:
    """The tokenizer in a folder. Its file is data, and no code is loaded. Raises WeightsError.

    end is the token that ends every text, padding the one that fills up short texts. Texts are
    cleaned as those were that the checkpoint was trained on: where it does not say how, SigLIP's
    have lower case and no punctuation.
    """

    def __init__(self, folder: Path, kind: WordsKind, cleaning: Cleaning | None = None) -> None:
        path = folder / TOKENIZER
        self._where = shown(path)
        self._cleaning = cleaning or _BY_KIND[kind]
        if not path.exists():
            raise WeightsError(
                f"{self._where}: no such file; prompts need the tokenizer of the checkpoint in "
                "this form"
            )
        self._tokenizer, filled_with = self._guarded(lambda: _open(path))
        first, second = (self.ids(text) for text in ("a picture", "dogs and cats"))
        if not first or not second or first[-1] != second[-1]:
            raise WeightsError(f"{self._where}: texts do not end with a mark of their end")
        self.end = first[-1]
        self.padding = self.end if kind == "clip" else self._padding(folder, filled_with)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text. Raises WeightsError where the tokenizer fails."""
        if self._cleaning == "canonicalize":
            text = text.translate(_NO_PUNCTUATION)
        if self._cleaning != "whitespace":
            text = text.lower()
        text = " ".join(text.split())
        ids: list[int] = self._guarded(lambda: list(self._tokenizer.encode(text).ids))
        return ids

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except OSError as error:
            raise WeightsError(f"{self._where}: {error.strerror}") from error
        except BaseException as error:
            # The library raises plain exceptions, and a panic of its own for the unexpected.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise WeightsError(
                    f"{self._where}: no tokenizer: {one_line(str(error), 160)}"
                ) from error
            raise

    def _padding(self, folder: Path, filled_with: int | None) -> int:
        for name in TOKENIZER_FILES[1:]:
            if not (folder / name).is_file():
                continue
            token = read_json(folder / name).get("pad_token")
            if isinstance(token, dict):
                token = token.get("content")
            number = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
            if number is not None:
                return int(number)
        if filled_with is not None:
            return filled_with
        raise WeightsError(
            f"{self._where}: neither it nor {' and '.join(TOKENIZER_FILES[1:])} names the token "
            "that fills up short texts (pad_token)"
        )


def _open(path: Path) -> tuple[Any, int | None]:
    """The library's tokenizer, which neither cuts nor fills up, and the token it filled up with."""
    from tokenizers import Tokenizer as Library

    tokenizer = Library.from_buffer(read_regular(path, _MAX_BYTES))
    padding = tokenizer.padding
    tokenizer.no_padding()
    tokenizer.no_truncation()  # a prompt that is too long is an error, not another prompt
    return tokenizer, int(padding["pad_id"]) if padding else None


def require_transformers(purpose: str) -> None:
    """Raises MissingLibraryError, with how to install it, unless transformers is there."""
    if not installed("transformers"):
        raise MissingLibraryError(f"{purpose} needs transformers: {how_to_install('words')}")
