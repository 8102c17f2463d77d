"""A checkpoint's files from a model hub or from plain HTTPS, each checked against its digest."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.version import __version__

_TIMEOUT = 30.0  # seconds without a byte
_MAX_BYTES = 1 << 30  # of one file over plain HTTPS
OPEN_CLIP = {"open_clip_config.json", "open_clip_model.safetensors"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What is read of a tokenizer; the last two say which token fills up short texts."""
CONFIGS = ("config.json", "preprocessor_config.json", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Files in a folder, the revision they are of, and whether their digests were known before."""

    folder: Path
    revision: str
    published: bool


def from_hub(
    repo: str,
    revision: str,
    root: Path,
    digests: Mapping[str, str] | None = None,
    *,
    words: bool = False,
) -> Downloaded:
    """Configuration and safetensors files of a hub repository; whole ones are not fetched again.

    With `words` they are those of a checkpoint with two towers, and of its tokenizer.

    The revision is resolved once, to a commit, and every file is of that commit; the folder below
    `root` is of that commit alone. HF_ENDPOINT,
    HF_TOKEN and HF_HUB_OFFLINE are honoured by the client. Raises WeightsError.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Read now, not when the client was imported: a program may set it in between.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True)
        if not info.sha:
            raise WeightsError(f"the hub does not say which commit {revision} of {repo} is")
        commit = info.sha
        folder = source_folder(root, f"{repo}@{commit}")
        siblings = {file.rfilename: file for file in info.siblings or ()}
        wanted = _wanted_for_words(repo, siblings) if words else _wanted(repo, siblings)
        for name in wanted:
            hf_hub_download(repo, name, revision=commit, local_dir=folder, endpoint=endpoint)
    except GatedRepoError as error:
        raise WeightsError(
            f"{repo} is gated: accept its terms on its page, then set HF_TOKEN to a token of yours"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repo} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{repo} is not on the hub, or private: check the name, or set HF_TOKEN"
        ) from error
    except OfflineModeIsEnabled as error:
        raise UnreachableError(f"cannot pull {repo}: HF_HUB_OFFLINE is set") from error
    except WeightsError:
        raise
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _broken_off(repo, error) from error
    except Exception as error:
        # The client's own HTTP library raises classes of its own, which changed between versions.
        if "http" not in type(error).__module__:
            raise
        raise _broken_off(repo, error) from error
    for name in wanted:
        stated = siblings[name]
        if stated.lfs is not None:
            _verify(folder / name, stated.lfs.sha256)
        elif stated.blob_id:
            _verify_blob(folder / name, stated.blob_id)
    for name, promised in (digests or {}).items():
        _verify(folder / name, promised)
    return Downloaded(folder, commit, published=bool(digests))


def from_url(url: str, files: Iterable[str], digests: Mapping[str, str], root: Path) -> Downloaded:
    """Named files below a URL, each with a digest known in advance. Raises WeightsError.

    A file that is there already and right is not fetched again.
    """
    folder = source_folder(root, url)
    for name in files:
        target = folder / name
        if target.is_file() and digest_of(target) == digests[name]:
            continue
        _fetch(f"{url}/{name}", target)
        _verify(target, digests[name])
    return Downloaded(folder, url.rstrip("/"), published=True)


def digest_of(file: Path) -> str:
    """sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _wanted(repo: str, names: Iterable[str]) -> list[str]:
    available = set(names)
    weights = {"model.safetensors"} & available
    if "model.safetensors.index.json" in available and not weights:
        weights = {n for n in available if n.endswith(".safetensors") and "/" not in n}
    if not weights:
        pickles = sorted(n for n in available if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
        reason = (
            f"only {pickles[0]}, a pickle, which can run code when it is loaded"
            if pickles
            else "no model.safetensors"
        )
        raise WeightsError(f"{repo} has {reason}; nothing but safetensors is read")
    if "config.json" not in available:
        raise WeightsError(f"{repo} has no config.json")
    return [name for name in CONFIGS if name in available] + sorted(weights)


def _wanted_for_words(repo: str, names: Iterable[str]) -> list[str]:
    available = set(names)
    tokenizer = [name for name in TOKENIZER_FILES if name in available]
    if TOKENIZER_FILES[0] not in available:
        raise WeightsError(f"{repo} has no {TOKENIZER_FILES[0]}, which prompts need")
    # Beside open_clip's files there may be those of a timm classifier, which has one tower.
    transformers = {"config.json", "preprocessor_config.json"} <= available and (
        {"model.safetensors", "model.safetensors.index.json"} & available
    )
    if OPEN_CLIP.issubset(available) and not transformers:
        return [*sorted(OPEN_CLIP), *tokenizer]
    return [*_wanted(repo, available), *tokenizer]


def source_folder(root: Path, source: str) -> Path:
    """Where the files of one source at one revision wait, never mixed with those of another."""
    folder = root / hashlib.sha256(source.encode()).hexdigest()[:20]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot write to {root}: {error.strerror}") from error
    return folder


def _verify(file: Path, promised: str) -> None:
    _compare(file, digest_of(file), promised)


def _verify_blob(file: Path, promised: str) -> None:
    """A small file against git's name for its content, which is what the hub has of it."""
    data = file.read_bytes()
    header = f"blob {len(data)}\0".encode()
    _compare(file, hashlib.sha1(header + data, usedforsecurity=False).hexdigest(), promised)


def _compare(file: Path, found: str, promised: str) -> None:
    if found != promised:
        file.unlink()  # the next pull must not take it for whole
        raise WeightsError(
            f"{file.name} is not what was promised (digest {found[:12]}..., promised "
            f"{promised[:12]}...); it was removed, pull again"
        )


def _fetch(url: str, target: Path) -> None:
    # The URL is the catalogue's, or a mirror's that the user named.
    request = urllib.request.Request(url, headers={"User-Agent": f"moderate/{__version__}"})
    partial = target.with_name(target.name + ".part")
    try:
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT) as response,
            partial.open("wb") as file,
        ):
            while chunk := response.read(1 << 20):
                file.write(chunk)
                if file.tell() > _MAX_BYTES:
                    raise WeightsError(f"{url} is larger than {_MAX_BYTES} bytes")
        os.replace(partial, target)
    except urllib.error.HTTPError as error:
        raise WeightsError(f"cannot pull {url}: HTTP {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _broken_off(url, error) from error


class UnreachableError(WeightsError):
    """A server that cannot be reached, or broke off. `weights.pull` says how to do without it."""


def _broken_off(what: str, error: Exception) -> UnreachableError:
    reason = one_line(str(error) or type(error).__name__, 160)
    return UnreachableError(
        f"cannot pull {what}: {reason}. Pull again: files that arrived whole are kept"
    )
