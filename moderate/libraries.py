"""Libraries that a light installation lacks: whether they are here, and what to say when not.

The light installation (requirements/light.txt) has OpenVINO and neither torch nor timm.
"""

from __future__ import annotations

import importlib.util

from moderate.errors import MissingLibraryError


def installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def installed_version(package: str) -> str:
    """The version of an installed package; empty where it is not installed."""
    # Importing it takes as long as starting Python, and decoders ask for no version.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def has_torch() -> bool:
    """Whether timm networks can be built: torch and timm are both here."""
    return installed("torch") and installed("timm")


def torch_versions() -> str:
    """The versions of torch and timm in words; empty where one of them is not installed."""
    if not has_torch():
        return ""
    return f"torch {installed_version('torch')}, timm {installed_version('timm')}"


def require_torch(purpose: str) -> None:
    """Raises MissingLibraryError, which says that `purpose` needs torch and timm, unless both are.

    `purpose` is the subject of the sentence.
    """
    if not has_torch():
        raise MissingLibraryError(
            f"{purpose} needs torch and timm, which this light installation lacks: "
            "pip install torch timm"
        )
