"""What this machine has and what is wrong with it, before a night's run finds out."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moderate.classify.bundle import installed_bundles, user_weights
from moderate.classify.device import place
from moderate.decode.probe import Probed, probe
from moderate.decode.sandbox import Protection, landlock_abi, missing
from moderate.errors import MissingLibraryError, ModerateError
from moderate.folders import user_data
from moderate.libraries import has_torch, installed_version
from moderate.native import load
from moderate.state.database import default_folder
from moderate.version import __version__
from moderate.weights.verify import verify_bundle

# libheif before 1.20 has an endless loop on some files.
MIN_LIBHEIF = (1, 20)
MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination; problem says that something has to be done about it."""

    label: str
    value: str
    problem: bool = False


def examine(
    weights: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    state: Path | None = None,
) -> Iterator[Finding]:
    """Versions, codecs, device, disk, and the self-test of `weights`, or of all installed ones.

    state is the folder of scores and runs, where it is not the default one.
    """
    yield Finding("moderate", f"{__version__}, Python {platform.python_version()} {sys.platform}")
    yield Finding("packages", ", ".join(_packages()))
    yield from _codecs()
    yield _sandbox()
    try:
        placement = place(device, precision)
        yield Finding("device", f"{placement.shown}, {placement.precision}")
        yield Finding("CUDA", _cuda())
    except ModerateError as error:
        yield Finding("device", str(error), problem=True)
        return
    yield Finding("cores", str(len(os.sched_getaffinity(0))))
    yield from _disk(state or default_folder())
    names = [weights] if weights else sorted(set(installed_bundles()))
    for name in names:
        try:
            verified = verify_bundle(name, device, precision)
            yield Finding("weights", f"{verified.bundle.name}: {verified.selftest_line()}")
        except MissingLibraryError as error:
            # What a light installation leaves out on purpose is no problem.
            yield Finding("weights", f"{name}: {error}", problem=weights is not None)
        except Exception as error:  # noqa: BLE001 - one broken bundle must not hide the others
            yield Finding("weights", f"{name}: {error}", problem=True)


def _packages() -> Iterator[str]:
    for name in ("torch", "timm", "numpy", "pillow", "pillow-heif", "safetensors", "pyarrow"):
        yield f"{name} {installed_version(name) or 'not installed'}"
    # The names that people know them by.
    for package, name in (("openvino", "OpenVINO"), ("av", "PyAV")):
        yield f"{name} {installed_version(package) or 'not installed'}"
    for name in ("onnxruntime", "onnxruntime-gpu"):
        if version := installed_version(name):
            yield f"{name} {version}"


def _cuda() -> str:
    if not has_torch():
        return "not looked for: torch is not installed"
    load("torch")
    import torch

    built = torch.version.cuda or "none: this torch has no CUDA"
    return f"torch is built for {built}; {torch.cuda.device_count()} devices"


def _codecs() -> Iterator[Finding]:
    import pillow_heif
    from PIL import features

    codecs = (("JPEG", "jpg"), ("PNG", "zlib"), ("WebP", "webp"), ("AVIF", "avif"))
    for name, codec in (*codecs, ("TIFF", "libtiff")):
        present = features.check(codec)
        detail = features.version(codec) or ""
        yield Finding(name, f"{codec} {detail}" if present else "missing", problem=not present)
    libheif = pillow_heif.libheif_version()
    numbers = tuple(int(part) for part in libheif.split(".")[:2])
    if numbers < MIN_LIBHEIF:
        yield Finding(
            "HEIC",
            f"libheif {libheif}: update pillow-heif, this one can loop for ever",
            problem=True,
        )
    else:
        yield Finding("HEIC", f"libheif {libheif}")


def _sandbox() -> Finding:
    try:
        return sandbox_finding(probe())
    except OSError as error:
        return Finding("sandbox", f"cannot be tried out: {error}", problem=True)


def sandbox_finding(probed: Probed) -> Finding:
    """What holds a decoder that a hostile image has taken over, on this machine, and what not."""
    names = [
        f"{name} (ABI {landlock_abi()})" if name is Protection.LANDLOCK else name.value
        for name in probed.sandbox
    ]
    faults = [f"without {name} it can {name.meaning}" for name in missing(probed.sandbox)]
    if probed.breaches:
        faults.append(f"in a trial it could {', '.join(probed.breaches)}")
    value = ", ".join(names) or "none"
    if faults:
        value += f"; a decoder taken over by an image is not fully held: {'; '.join(faults)}"
    return Finding("sandbox", value, problem=bool(faults))


def _disk(state: Path | None) -> Iterator[Finding]:
    if user_data():
        yield _weights_folder(user_weights())
    else:
        yield Finding("weights in", "no home folder: set XDG_DATA_HOME", problem=True)
    if state is None:
        yield Finding("state in", "no home folder: use --state DIR", problem=True)
    else:
        yield _folder("state in", state)


def _weights_folder(folder: Path) -> Finding:
    """What is installed already can be used from a folder that nobody can write to.

    An image of a container, or a machine's administrator, keeps weights like that.
    """
    if os.access(folder, os.R_OK | os.X_OK) and not os.access(folder, os.W_OK):
        return Finding("weights in", f"{folder} (not writable: for use, not for installing)")
    return _folder("weights in", folder)


def _folder(label: str, folder: Path) -> Finding:
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    writable = there.is_dir() and os.access(there, os.W_OK)
    value = f"{folder} ({free / 1e9:.1f} GB free" + ("" if writable else ", not writable") + ")"
    return Finding(label, value, problem=free < MIN_FREE_BYTES or not writable)
