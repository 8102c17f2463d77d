"""A hardened decoder: what it can no longer do, and that it still decodes.

Each act is tried in a real child process that restricted itself, and, to show that the act is one,
in a child that did not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.probe import probe
from moderate.decode.resize import PixelSpec
from moderate.decode.sandbox import MIN_MEMORY_BYTES, Protection, harden, landlock_abi, missing
from moderate.decode.seccomp import decoder_filter
from moderate.types import ErrorCode, Limits
from tests.support.patience import PATIENCE
from tests.support.pictures import FORMATS, encode, exif_block, palette_scene, scene

MIB = 1 << 20
REFUSALS = {"EPERM", "EACCES", "EMFILE", "ENOMEM", "EFBIG", "MemoryError"}

# What a child runs first: imports of all that acts need, then hardening, then one act.
PREAMBLE = """
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, struct, subprocess, sys
import threading, time
from moderate.decode import sandbox
from moderate.decode.sandbox import harden
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
given = json.loads(sys.argv[1])

def call(x86_64, aarch64, *arguments):
    number = {"x86_64": x86_64, "aarch64": aarch64}[os.uname().machine]
    result = libc.syscall(*(ctypes.c_long(value) for value in (number, *arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

b4 = ctypes.create_string_buffer(b"1234")

def address(buffer):
    return ctypes.addressof(buffer)

def sendto(descriptor, port):
    there = struct.pack("=H", 2) + struct.pack("!H", port) + bytes([127, 0, 0, 1])
    where = ctypes.create_string_buffer(there, 16)
    call(44, 206, descriptor, address(b4), 4, 0, address(where), 16)

def report(said):
    os.write(1, (json.dumps(said) + "\\n").encode())
"""

ACT = """
active = {harden}
try:
{act}
    said = "done"
except MemoryError:
    said = "MemoryError"
except OSError as error:
    said = errno.errorcode.get(error.errno, str(error))
report([active, said])
"""

# name: (code, whether an unhardened process of any user can do it here)
ACTS: dict[str, tuple[str, bool]] = {
    "read_file": ("open(given['file']).read()", True),
    "read_own_program": ("open(sys.executable, 'rb').read(1)", True),
    "list_folder": ("os.listdir(given['folder'])", True),
    "stat": ("os.stat(given['file'])", True),
    "readlink": ("os.readlink('/proc/self/exe')", True),
    "create_file": ("open(given['folder'] + '/new', 'w')", True),
    "append_to_file": ("open(given['file'], 'a')", True),
    "truncate": ("os.truncate(given['file'], 0)", True),
    "unlink": ("os.unlink(given['file'])", True),
    "rename": ("os.rename(given['file'], given['folder'] + '/other')", True),
    "mkdir": ("os.mkdir(given['folder'] + '/new')", True),
    "symlink": ("os.symlink('/', given['folder'] + '/new')", True),
    "chmod": ("os.chmod(given['file'], 0o666)", True),
    "chdir": ("os.chdir(given['folder'])", True),
    "execute": ("os.execv(sys.executable, [sys.executable, '-c', given['say_done']])", True),
    "fork": ("os.fork() or os._exit(0)", True),
    "subprocess": ("subprocess.run(['/bin/true'])", True),
    "vfork": ("call(58, 220, 0x4111, 0, 0, 0, 0)", False),
    "clone_sharing_memory": ("call(56, 220, 0x111, 0, 0, 0, 0)", False),
    "thread_in_a_new_namespace": ("call(56, 220, 0x103D0F00, 0, 0, 0, 0)", False),
    "posix_spawn": ("os.posix_spawn('/bin/true', ['true'], {})", True),
    "clone_a_process": ("call(56, 220, signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0)", True),
    "unshare": ("call(272, 97, 0x400)", True),  # CLONE_FILES
    "tcp": ("socket.socket(2, 1).connect(('127.0.0.1', given['tcp']))", True),
    "tcp_listen": ("socket.create_server(('127.0.0.1', 0))", True),
    "udp": ("socket.socket(2, 2).sendto(b'x', ('127.0.0.1', given['udp']))", True),
    "sendto_on_an_open_socket": ("sendto(given['udp_socket'], given['udp'])", True),
    "unix_socket": ("socket.socket(1, 1).connect(given['unix'])", True),
    "unix_abstract": ("socket.socket(1, 1).connect('\\0' + given['abstract'])", True),
    "socketpair": ("socket.socketpair()", True),
    "netlink": ("socket.socket(16, 3, 0)", True),
    "kill_another": ("os.kill(given['other'], signal.SIGTERM)", True),
    "signal_0": ("os.kill(os.getppid(), 0)", True),
    "tgkill_another": ("call(234, 131, given['other'], given['other'], 15)", True),
    "pidfd_open": ("os.pidfd_open(os.getppid())", True),
    "set_owner_for_sigio": ("fcntl.fcntl(0, fcntl.F_SETOWN, given['other'])", True),
    "renice_another": ("os.setpriority(os.PRIO_PROCESS, given['other'], 10)", True),
    "ptrace": ("call(101, 117, 0x4206, given['other'], 0, 0)", False),  # PTRACE_SEIZE
    "process_vm_readv": ("call(310, 270, given['other'], 0, 0, 0, 0, 0)", True),
    "memfd_create": ("os.memfd_create('new')", True),
    "pipe": ("os.pipe()", True),
    "dup": ("os.dup(0)", True),
    "eventfd": ("os.eventfd(0)", True),
    "map_executable": ("mmap.mmap(-1, 4096, 2, mmap.PROT_READ | mmap.PROT_EXEC)", True),
    "make_executable": ("call(10, 226, call(9, 222, 0, 4096, 3, 0x22, -1, 0), 4096, 5)", True),
    "map_shared": ("mmap.mmap(-1, 4096)", True),
    "shmget": ("call(29, 194, 0, 4096, 0o600)", False),  # left behind where it succeeds
    "io_uring_setup": ("call(425, 425, 1, address(ctypes.create_string_buffer(120)))", False),
    "userfaultfd": ("call(323, 282, 1)", False),
    "bpf": ("call(321, 280, 0, 0, 0)", False),
    "perf_event_open": ("call(298, 241, 0, 0, -1, -1, 0)", False),
    "keyctl": ("call(250, 219, 0, -1, 1)", False),
    "mount": ("call(165, 40, 0, 0, 0, 0, 0)", False),
    "setns": ("call(308, 268, 0, 0)", False),
    "prctl": ("call(157, 167, 1, 0, 0, 0, 0) and 0", True),  # PR_SET_PDEATHSIG
    "raise_limits": ("call(302, 261, 0, 7, 0, address(ctypes.create_string_buffer(16)))", True),
    "ioctl": ("fcntl.ioctl(given['socket'], 0x541B, b'1234')", True),  # FIONREAD
    "setsockopt": ("call(54, 208, given['socket'], 1, 7, address(b4), 4)", True),
    "write_to_an_open_file": ("os.write(given['descriptor'], b'x')", True),
    "resize_an_open_file": ("os.ftruncate(given['descriptor'], 0)", True),
    "memory_over_the_limit": ("bytearray(given['memory'])", True),
    "memory_that_is_only_read": ("mmap.mmap(-1, 2 * given['memory'], 0x22, 1)", True),
    "memory_that_is_only_reserved": ("call(9, 222, 0, 2 * given['memory'], 0, 0x22, -1, 0)", True),
    "memory_by_growing_stack": ("call(9, 222, 0, 4096, 3, 0x122, -1, 0)", True),
}


@dataclass(frozen=True)
class Said:
    """What a child reported, and how it ended."""

    active: list[str]
    outcome: Any
    returncode: int


@dataclass(frozen=True)
class World:
    """Things for a child to reach for."""

    given: dict[str, Any]
    descriptors: tuple[int, ...]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    file = tmp_path / "file"
    file.write_text("secret")
    other = subprocess.Popen(["sleep", "60"])
    path, abstract = str(tmp_path / "unix"), f"moderate-test-{os.getpid()}-{tmp_path.name}"
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    client = socket.socket(type=socket.SOCK_DGRAM)
    named, hidden = (socket.socket(socket.AF_UNIX) for _ in range(2))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tcp, udp, client, named, hidden, ours, theirs, file.open("r+b") as opened:
        for server, name in ((named, path), (hidden, "\0" + abstract)):
            server.bind(name)
            server.listen()
        given = {
            "file": str(file),
            "folder": str(tmp_path),
            "other": other.pid,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "udp_socket": client.fileno(),
            "unix": path,
            "abstract": abstract,
            "socket": theirs.fileno(),
            "descriptor": opened.fileno(),
            "memory": MIN_MEMORY_BYTES,
            "say_done": "print('[[], \"done\"]')",
        }
        yield World(given, (theirs.fileno(), opened.fileno(), client.fileno()))
    other.kill()
    other.wait()


def run(code: str, given: dict[str, Any] | None = None, descriptors: tuple[int, ...] = ()) -> Said:
    """Run code after the preamble in a child; its last `report` is what it said."""
    process = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, json.dumps(given or {})],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    lines = process.stdout.splitlines()
    if not lines:
        return Said([], None, process.returncode)
    active, outcome = json.loads(lines[-1])
    assert process.returncode == 0, process.stderr
    return Said(active, outcome, process.returncode)


def attempt(act: str, world: World, hardened: bool) -> Said:
    restriction = "harden(given['memory'])" if hardened else "[]"
    return run(ACT.format(harden=restriction, act=f"    {act}"), world.given, world.descriptors)


@pytest.mark.parametrize("name", ACTS)
def test_a_hardened_process_is_refused(name: str, world: World) -> None:
    said = attempt(ACTS[name][0], world, hardened=True)
    assert not missing(said.active), "this kernel lacks protections, so nothing is shown here"
    assert said.outcome in REFUSALS


@pytest.mark.parametrize("name", [name for name, (_, possible) in ACTS.items() if possible])
def test_an_unhardened_process_is_not(name: str, world: World) -> None:
    assert attempt(ACTS[name][0], world, hardened=False).outcome == "done"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has a second set of calls")
def test_calls_by_the_numbers_of_another_architecture_kill() -> None:
    said = run("harden(1 << 30); libc.syscall(ctypes.c_long(0x40000000 + 39)); report([[], 0])")
    assert said.returncode == -signal.SIGSYS


# Each layer without the others --------------------------------------------------------------------


LANDLOCK_STOPS = (
    *("read_file", "list_folder", "create_file", "unlink", "truncate", "execute"),
    *("tcp", "tcp_listen"),  # since ABI 4
    *("unix_abstract", "kill_another"),  # since ABI 6
)


@pytest.mark.parametrize("name", LANDLOCK_STOPS)
def test_landlock_alone(name: str, world: World) -> None:
    only = "[sandbox._prctl(38, 1), sandbox._landlock()]"
    said = run(ACT.format(harden=only, act=f"    {ACTS[name][0]}"), world.given, world.descriptors)
    assert said.active == [True, True], "this kernel has no Landlock"
    if name in {"unix_abstract", "kill_another"}:
        assert landlock_abi() >= 6, "this kernel's Landlock knows neither sockets nor signals"
    if name.startswith("tcp"):
        assert landlock_abi() >= 4, "this kernel's Landlock knows no TCP"
    assert said.outcome in {"EACCES", "EPERM"}


def test_landlock_is_not_claimed_where_other_threads_stay_free() -> None:
    said = run(
        "threading.Thread(target=time.sleep, args=(1,)).start()\n"
        "active = harden(1 << 30)\nreport([active, None])"
    )
    assert missing(said.active) == (Protection.LANDLOCK,)


def test_seccomp_holds_for_threads_that_run_already() -> None:
    said = run(
        """
gate, outcome = threading.Event(), []
def later():
    gate.wait()
    try:
        os.fork() or os._exit(0)
        outcome.append("done")
    except OSError as error:
        outcome.append(errno.errorcode[error.errno])
thread = threading.Thread(target=later)
thread.start()
active = harden(1 << 30)
gate.set()
thread.join()
report([active, outcome])
"""
    )
    assert said.outcome == ["EPERM"]


def test_without_seccomp_there_is_no_descriptor_for_a_new_file(world: World) -> None:
    only = "sandbox._limit(resource.RLIMIT_NOFILE, sandbox._DESCRIPTORS)"
    said = run(ACT.format(harden=f"[{only}]", act="    socket.socket(2, 2)"), world.given)
    assert said.outcome == "EMFILE"


def test_an_unknown_machine_has_no_filter() -> None:
    assert decoder_filter("riscv64", 1) is None
    assert decoder_filter("aarch64", 1) not in (None, decoder_filter("x86_64", 1))


# Still at work ------------------------------------------------------------------------------------


def test_threads_and_the_open_socket_work(world: World) -> None:
    said = run(
        """
channel = socket.socket(fileno=given['socket'])
active = harden(1 << 30)
outcome = []
threads = [threading.Thread(target=outcome.append, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
outcome.append(channel.send(b"ready"))
time.sleep(0.001)
report([active, outcome])
""",
        world.given,
        world.descriptors,
    )
    assert sorted(said.outcome) == [0, 1, 2, 3, 5]


def variety() -> dict[str, bytes]:
    picture = scene((640, 480))
    files = {kind: encode(palette_scene((640, 480)), kind) for kind in FORMATS}
    files["progressive"] = encode(picture, "JPEG", progressive=True)
    files["cmyk"] = encode(picture.convert("CMYK"), "JPEG")
    files["turned"] = encode(picture, "JPEG", exif=exif_block(6))
    files["palette"] = encode(picture.quantize(16), "PNG", transparency=3)
    files["interlaced"] = encode(picture.convert("I;16"), "PNG")
    alpha = picture.copy()
    alpha.putalpha(128)
    files["webp_alpha"] = encode(alpha, "WEBP")
    files["webp_lossy"] = encode(picture, "WEBP", lossless=False)
    files["heic_alpha"] = encode(alpha, "HEIF")
    files["cut_short"] = files["JPEG"][:2000]
    files["webp_cut_short"] = files["WEBP"][:-50]
    files["heic_damaged"] = files["HEIF"][:1000] + bytes(100) + files["HEIF"][1100:]
    files["text"] = b"hello"
    return files


DECODING = """
import hashlib
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import Limits

def result(data):
    outcome = decode(data, (PixelSpec(96, 96), PixelSpec(64, 80, antialias=False)), Limits())
    if isinstance(outcome, Decoded):
        return [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in outcome.pixels]
    return [outcome.code.value, outcome.message]
"""


def test_decoding_gives_the_same_and_imports_nothing(tmp_path: Path) -> None:
    files = variety()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    code = (
        DECODING
        + """
files = {name: open(given['folder'] + '/' + name, 'rb').read() for name in given['names']}
prepare(ffmpeg=given['ffmpeg'])
before = set(sys.modules)
active = harden(1 << 30) if given['hardened'] else []
results = {name: result(data) for name, data in files.items()}
report([active, [results, sorted(set(sys.modules) - before)]])
"""
    )
    given = {"folder": str(tmp_path), "names": list(files), "ffmpeg": True}
    free = run(code, {**given, "hardened": False})
    held = run(code, {**given, "hardened": True})
    without = run(code, {**given, "hardened": True, "ffmpeg": False})
    assert not missing(held.active)
    assert held.outcome == free.outcome
    assert without.outcome[1] == []
    # libheif shows what is there of a damaged HEIC in another way than FFmpeg.
    assert {name for name in files if without.outcome[0][name] != held.outcome[0][name]} <= {
        "heic_damaged"
    }
    assert held.outcome[1] == []
    good = [name for name, result in held.outcome[0].items() if len(result[0]) == 64]
    assert set(FORMATS) <= set(good)
    prepare()
    here = decode(files["JPEG"], (PixelSpec(96, 96),), Limits())
    assert isinstance(here, Decoded)
    assert hashlib.sha256(here.pixels[0].tobytes()).hexdigest() == held.outcome[0]["JPEG"][0]


# Memory -------------------------------------------------------------------------------------------


def test_resident_memory_stays_within_the_limit() -> None:
    said = run(
        """
# Not getrusage: what it tells begins with the memory of whoever started this process.
status = open('/proc/self/status')
active = harden(300 << 20)
held = []
try:
    while True:
        held.append(b"x" * (4 << 20))
except MemoryError:
    held.clear()
(peak,) = [line.split()[1] for line in status if line.startswith('VmHWM')]
report([active, int(peak) * 1024])
"""
    )
    assert Protection.MEMORY_LIMIT in said.active
    assert 150 * MIB < said.outcome <= 300 * MIB


def test_shared_mappings_do_not_count() -> None:
    said = run(
        """
shared = mmap.mmap(-1, 600 << 20)
active = harden(300 << 20)
for at in range(0, len(shared), 4096):
    shared[at] = 1
report([active, len(bytearray(100 << 20))])
"""
    )
    assert said.outcome == 100 * MIB


PAGE_TABLES = """
status = open('/proc/self/status')

def kib(name):
    status.seek(0)
    (value,) = [line.split()[1] for line in status if line.startswith(name)]
    return int(value)

shared = mmap.mmap(-1, 600 << 20)
before = kib('VmPTE')
active = {harden}
mapped, chunk, refused = [], 64 << 20, None
try:
    while len(mapped) < 256:  # 16 GiB
        mapped.append(mmap.mmap(-1, chunk, 0x22, mmap.PROT_READ))
        for at in range(0, chunk, 2 << 20):  # the span of one page of tables
            mapped[-1][at]
except OSError as error:
    refused = errno.errorcode[error.errno]
report([active, [kib('VmPTE') - before, refused]])
"""


def test_page_tables_of_memory_that_is_never_written_are_bounded() -> None:
    free = run(PAGE_TABLES.format(harden="[]"))
    assert free.outcome[1] is None
    assert free.outcome[0] > 30 * 1024, "reading a page in every 2 MiB costs no page tables here"
    held = run(PAGE_TABLES.format(harden="harden(300 << 20)"))
    assert Protection.MEMORY_LIMIT in held.active
    assert held.outcome[1] == "ENOMEM"
    assert held.outcome[0] < 2 * 1024


def test_all_of_the_memory_limit_can_be_used_beside_shared_mappings() -> None:
    said = run(
        """
shared = mmap.mmap(-1, 600 << 20)
active = harden(1 << 30)
report([active, sum(len(part) for part in [bytearray(128 << 20) for _ in range(7)])])
"""
    )
    assert Protection.MEMORY_LIMIT in said.active
    assert said.outcome == 7 * 128 * MIB


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG"])
def test_a_picture_over_the_memory_limit_is_an_error_and_the_next_is_not(
    kind: str, tmp_path: Path
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(encode(scene((8000, 6000)).convert("L"), kind))
    small.write_bytes(encode(scene(), kind))
    code = (
        DECODING
        + """
files = [open(given[name], 'rb').read() for name in ('large', 'small')]
prepare()
active = harden(given['memory'])
report([active, [result(data)[0] for data in files]])
"""
    )
    given = {"large": str(large), "small": str(small), "memory": MIN_MEMORY_BYTES}
    said = run(code, given)
    assert Protection.MEMORY_LIMIT in said.active
    assert said.outcome[0] == ErrorCode.OUT_OF_MEMORY
    assert len(said.outcome[1]) == 64


def test_too_little_memory_is_refused_before_anything_happens() -> None:
    with pytest.raises(ValueError, match="256 MiB"):
        harden(MIN_MEMORY_BYTES - 1)


# The parent ---------------------------------------------------------------------------------------


def test_it_dies_with_its_parent() -> None:
    child = PREAMBLE + "report([harden(1 << 30), None]); time.sleep(600)"
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], '{}'])\ntime.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        active, _ = json.loads(process.stdout.readline())
        assert Protection.ENDS_WITH_PARENT in active
        process.kill()
        assert process.stdout.read() == ""  # the end of the pipe, once both are gone


def test_its_parent_can_measure_and_kill_it() -> None:
    code = PREAMBLE + "report([harden(1 << 30), None]); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code, "{}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert "VmRSS" in Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
        assert process.wait(timeout=PATIENCE) == -signal.SIGKILL


def test_an_abort_is_seen_as_one_and_leaves_no_core(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", PREAMBLE + "harden(1 << 30); os.abort()", "{}"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert process.returncode == -signal.SIGABRT
    assert not list(tmp_path.iterdir())


# What is told -------------------------------------------------------------------------------------


def test_the_list_is_closed_and_each_name_explained() -> None:
    said = run("report([harden(1 << 30), None])")
    assert said.active == [name.value for name in Protection if name in said.active]
    assert all(name.meaning for name in Protection)
    assert missing([]) == tuple(Protection)
    assert missing(Protection) == ()


def test_probe_tries_it_out() -> None:
    probed = probe()
    assert missing(probed.sandbox) == (), "this kernel lacks protections"
    assert probed.breaches == ()


def test_probe_sees_what_is_not_held() -> None:
    """The same attempts in a process without any protection succeed, so they can tell."""
    from moderate.decode.probe import _ATTEMPTS

    code = "import moderate.decode.probe as p\np.harden = lambda _: ()\np.main()"  # in that process
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    # It does not come to say that the execution of a program was refused.
    assert said.stdout.splitlines() == ["", *_ATTEMPTS, "end"]
