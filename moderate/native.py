"""Native libraries, kept away from the working directory and from forked processes.

Libraries such as torch and OpenVINO look for files in the working directory, which is often the
folder of the uploads. One of the CUDA libraries that `import torch` loads has an empty entry in its
search path, so that a file `libcuda.so.1` among the uploads would be run as code. Such libraries
are therefore loaded by threads whose own working directory is the root folder.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import importlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from moderate.errors import DeviceError
from moderate.text import printable

Result = TypeVar("Result")

ROOT = "/"
"""The working directory of those threads, and of child processes: only root can write there."""

_CLONE_FS = 0x200  # linux/sched.h
_CUDA = "libcuda.so.1"
_loaded_by: int | None = None  # the process that loaded the first model


def apart(function: Callable[[], Result]) -> Result:
    """Call `function` in a thread of its own, whose working directory is the root folder.

    Threads that it starts have that working directory too. In a forked process a new thread also
    keeps clear of OpenMP's thread pool, which the fork did not copy.

    Where the system does not let a thread have its own working directory (Docker's usual seccomp
    profile), it has the process's, and DeviceError is raised if that cannot be used. Raises what
    `function` raises.
    """
    future: Future[Result] = Future()
    context = contextvars.copy_context()  # where converted models are kept, among others

    def call() -> None:
        try:
            if not _leave() and (problem := working_directory_problem()):
                raise DeviceError(f"{problem}: start moderate from another folder")
            future.set_result(context.run(function))
        except BaseException as error:  # noqa: BLE001 - raised on in the caller's thread
            future.set_exception(error)

    threading.Thread(target=call, name="native", daemon=True).start()
    return future.result()


def load(module: str) -> None:
    """Import a module whose native libraries must not be looked for among the uploads.

    Raises DeviceError where that cannot be prevented and there is a file that would be run.
    """

    def importing() -> None:
        if module == "torch":
            check_driver()
        importlib.import_module(module)

    apart(importing)


def claim() -> None:
    """Note that this process loads a model. Raises DeviceError as `check_not_forked` does."""
    global _loaded_by
    check_not_forked()
    _loaded_by = os.getpid()


def check_not_forked() -> None:
    """Raise DeviceError in a process that was forked from one that had loaded a model.

    The threads of torch and OpenVINO are not copied by a fork, so that a second use waits for them
    without end.
    """
    if _loaded_by not in (None, os.getpid()):
        raise DeviceError(
            "this process was forked from one that had already loaded a model, which does not "
            "work twice: start processes with multiprocessing's 'spawn' or 'forkserver' method, "
            "or load models in the forked processes alone"
        )


def child_environment() -> dict[str, str]:
    """Environment variables for a child process that starts in the root folder.

    PYTHONPATH keeps its meaning, except for empty entries: they stand for the working directory,
    which nobody named.
    """
    environment = dict(os.environ)
    entries = [entry for entry in environment.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    if entries:
        environment["PYTHONPATH"] = os.pathsep.join(map(_absolute, entries))
    return environment


def working_directory_problem() -> str | None:
    """Why relative names lead nowhere: the directory was removed or may not be entered."""
    try:
        os.getcwd()
        os.stat(".")
    except OSError as error:
        reason = "was removed" if isinstance(error, FileNotFoundError) else "may not be entered"
        return f"the working directory {reason}"
    return None


def _leave() -> bool:
    """Give this thread alone another working directory. False where the system refuses."""
    try:
        if ctypes.CDLL(None).unshare(_CLONE_FS) != 0:
            return False
    except AttributeError:  # a system other than Linux
        return False
    os.chdir(ROOT)
    return True


def check_driver() -> None:
    """Raise DeviceError where a file of the working directory would be run as CUDA's driver.

    For the thread that is about to load the driver, see `apart`.
    """
    if os.getcwd() == ROOT:
        return
    search_path = os.environ.get("LD_LIBRARY_PATH", "")
    if not search_path or all(entry.startswith("/") for entry in search_path.split(":")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(_CUDA)
            return  # the system's own: what is loaded already is not looked for again
    for name in _cuda_candidates():
        if os.path.lexists(name):
            raise DeviceError(
                f"the working directory holds {printable(name)}, which torch's libraries would "
                "run as code: start moderate from another folder"
            )


def _cuda_candidates() -> Iterator[str]:
    """Where glibc's loader looks for the library below an entry of its search path."""
    levels = (("", "tls"), ("", "haswell", "xeon_phi"), ("", "avx512_1"), ("", os.uname().machine))
    for parts in itertools.product(*levels, ("", os.uname().machine)):
        yield os.path.join(*parts, _CUDA)
    for version in (2, 3, 4):
        yield os.path.join("glibc-hwcaps", f"x86-64-v{version}", _CUDA)


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # no working directory
        return path
