"""No home folder, nowhere to write, narrow limits: work, or one line that says why."""

from __future__ import annotations

import errno
import os
import pwd
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from moderate import folders
from moderate.cli.main import run
from moderate.folders import cache_outside_home, user_cache, user_data, user_state
from moderate.results.read import read_results
from moderate.system_limits import system_limit, with_limit
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith(("MODERATE_", "XDG_")):
            monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "images" / "a.png"
    file.parent.mkdir()
    file.write_bytes(encode(scene((80, 60)), "PNG"))
    return file


def start(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which `code` is run before."""
    run_it = "from moderate.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    return python(f"import sys\n{code}\n{run_it}", *arguments)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


# Folders -----------------------------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> str:
    """A user whom the system does not know, as in many containers; what is said of it."""

    def unknown(user: object) -> object:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    return f"HOME is not set, and user {os.getuid()} has no home folder on this system"


def test_without_a_home_nothing_is_kept(
    image: Path, bundle: Path, homeless: str, capsys: Captured
) -> None:
    assert (user_state(), user_data(), user_cache()) == (None, None, None)
    command = ["scan", str(image), "--weights", str(bundle), "--backend", "torch", "-q"]
    assert run(command) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "home folder" in err
    assert "--state DIR or --no-state" in err
    for more in (["--no-state"], ["--state", "state"]):
        assert run([*command, *more]) == 0
        assert capsys.readouterr().err == ""
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["runs", "list"], "--state DIR"),
        (["state", "info"], "--state DIR"),
        (["weights", "remove", "x"], "set XDG_DATA_HOME"),
    ],
)
def test_commands_that_need_a_home_say_so(
    homeless: str, capsys: Captured, command: list[str], told: str
) -> None:
    assert run(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "home folder" in err
    assert told in err


def test_commands_that_need_none(
    image: Path, bundle: Path, homeless: str, capsys: Captured
) -> None:
    assert run(["weights", "list"]) == 0
    rows = str(image.parent / "rows.csv")
    arguments = ["--weights", str(bundle), "--no-state", "--out", rows, "-q"]
    assert run(["scan", str(image), "--backend", "torch", *arguments]) == 0
    capsys.readouterr()
    assert run(["explain", rows, "row:1"]) == 0
    assert homeless in " ".join(capsys.readouterr().out.split())
    assert run(["doctor", "--weights", str(bundle)]) == 2
    assert "state in    PROBLEM no home folder" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["--no-state", "--state"])
def test_the_home_is_left_alone(
    image: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    named = [way] if way == "--no-state" else [way, "state"]
    done = start("", "scan", image, "--weights", bundle, "-q", *named)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(home.rglob("*"))
    kept = list(Path("state").glob("openvino/*"))
    assert bool(kept) == (way == "--state")


def test_a_cache_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_outside_home() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    assert cache_outside_home() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_outside_home() == tmp_path / "cache" / "moderate"


def test_with_nowhere_to_write_it_works(image: Path, bundle: Path, tmp_path: Path) -> None:
    """As on a read-only root without /tmp; nothing is put into the working directory instead."""
    code = (
        "import os, tempfile\n"
        "for name in ('TMPDIR', 'TEMP', 'TMP'): os.environ.pop(name, None)\n"
        "from moderate import folders\n"
        "folders._TEMPORARY, folders._IN_MEMORY = ('/nowhere', '/nor/here'), '/not/here'\n"
        "tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
    )
    before = set(tmp_path.rglob("*"))
    done = start(code, "scan", image, "--weights", bundle, "-q", "--no-state", "--out", "-")
    assert done.returncode == 0, done.stderr
    assert ",ok," in done.stdout
    assert "a fault" not in done.stderr
    assert set(tmp_path.rglob("*")) == before


def test_memory_takes_the_place_of_temporary_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(folders, "_IN_MEMORY", str(tmp_path))
    folders.settle_temporary()
    assert "TMPDIR" not in os.environ
    monkeypatch.setattr(folders, "_TEMPORARY", ("/nowhere",))
    monkeypatch.setenv("TMP", "/nor/here")
    monkeypatch.setenv("TMPDIR", "/nor/here")
    folders.settle_temporary()
    assert os.environ["TMPDIR"] == str(tmp_path)


# Limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "limit", "told"),
    [
        ("NOFILE", 12, "too few file descriptors (ulimit -n 12); "),
        ("FSIZE", 4096, "files, and memory shared with decoders, may not be larger than 4,096"),
    ],
)
def test_a_limit_is_named(image: Path, bundle: Path, kind: str, limit: int, told: str) -> None:
    code = (
        # What is loaded on the way is not what is looked at.
        "import torch, moderate.cli.main, moderate.run.scan\n"
        f"import resource; resource.setrlimit(resource.RLIMIT_{kind}, ({limit}, {limit}))"
    )
    arguments = ["--weights", bundle, "--backend", "torch", "--no-state", "--out", "rows.csv"]
    done = start(code, "scan", image, *arguments, "-q")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"moderate: error: {told}")
    assert not Path("rows.csv").exists()


def test_a_state_that_a_limit_forbids(image: Path, bundle: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    done = start(code, "scan", image, "--weights", bundle, "--state", "state")
    assert done.returncode == 2
    assert "(ulimit -f 4); " in done.stderr


def test_a_limit_on_processes() -> None:
    code = (
        "import os, resource\n"
        "from moderate.system_limits import no_thread_limit\n"
        "assert no_thread_limit(4) is None\n"
        "if not os.getuid(): os.setuid(54321)\n"  # the limit is not for root
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
        "print(no_thread_limit(2))\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    expected = "too few processes and threads (ulimit -u 1, or a limit of the container)\n"
    assert done.stdout == expected


def test_the_limit_behind_an_error_is_found() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    told = f"too few file descriptors (ulimit -n {soft})"
    error = ValueError("it does not work")
    error.__cause__ = OSError(errno.EMFILE, "x")
    assert system_limit(error) == told
    assert with_limit(error) == f"{told}; it does not work"
    assert system_limit(ImportError("libx.so: Too many open files")) == told
    assert system_limit(BlockingIOError(errno.EAGAIN, "fork"))
    assert system_limit(MemoryError()) == "not enough memory (of the machine or the container)"
    assert system_limit(OSError(errno.ENFILE, "x"))
    for other in (OSError(errno.ENOENT, "x"), ValueError("x"), RuntimeError("x")):
        assert system_limit(other) is None
        assert with_limit(other) == str(other)


def test_images_are_scored_with_few_descriptors(image: Path, bundle: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    arguments = ["--weights", bundle, "--no-state", "--out", "rows.csv", "--workers", "1"]
    done = start(code, "scan", image, *arguments, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_results("rows.csv").table(["status"])["status"].to_pylist() == ["ok"]


# Where nothing more can be written ----------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["policy", "list"], ["policy", "show", "strict"], ["--help"]], ids=str
)
def test_a_full_disk_under_standard_output_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "moderate", *arguments],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert ended.returncode == 2
    assert ended.stderr == (
        "moderate: error: cannot write: No space left on device; make room, or write elsewhere\n"
    )


# Libraries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "expected"), [(None, "4"), ("20", "20")])
def test_threads_of_numpy_do_not_wait_busily(
    monkeypatch: pytest.MonkeyPatch, own: str | None, expected: str
) -> None:
    """Said before NumPy is imported, which reads it once; what the user says counts."""
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    if own:
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", own)
    code = (
        "import os, sys, types\n"
        "from moderate.cli.entry import main\n"
        "command = types.ModuleType('moderate.cli.main')\n"
        "said = lambda: os.environ['OPENBLAS_THREAD_TIMEOUT']\n"
        "command.main = lambda: print('numpy' in sys.modules, said())\n"
        "sys.modules['moderate.cli.main'] = command\n"
        "main()\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", expected]
