"""What a file system's type promises: times of change of its own, and shared memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from moderate import mounts
from moderate.state.filesystems import (
    ChangeTimes,
    by_magic,
    file_system,
    of_several_machines,
)
from tests.support import passthrough
from tests.support.scans import Disk
from tests.support.scans import can_mount as can_make_a_disk

# As `mount` calls them; what is stacked on another is left out.
_KNOWN = {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "nfs4", "vfat", "exfat", "9p", "squashfs"}


def test_the_type_is_the_one_that_the_system_mounted() -> None:
    """Of every file system that is mounted here, whatever it is."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        found[point] = after.split()[0]  # the last one mounted there is the one to be seen
    checked = 0
    for point, kind in found.items():
        if kind in _KNOWN and os.access(point, os.F_OK):
            assert file_system(point).name == kind.removesuffix("4" if kind == "nfs4" else "")
            checked += 1
    assert checked


@pytest.mark.parametrize(
    ("magic", "name", "own_ctime", "local"),
    [
        (0xEF53, "ext4", True, True),
        (0x01021994, "tmpfs", True, True),
        (0x4D44, "vfat", False, True),  # no time of change: the system shows mtime
        (0x2011BAB0, "exfat", False, True),
        (0x7366746E, "ntfs3", False, True),
        (0x65735546, "fuse", False, False),
        (0xFF534D42, "cifs", False, False),
        (0xFE534D42, "smb3", False, False),
        (0x01021997, "9p", False, False),
        (0x6969, "nfs", True, False),  # nobody can set ctime by its protocol
        (0x73717368, "squashfs", False, True),  # whoever made the image chose the times
    ],
)
def test_what_is_believed(magic: int, name: str, own_ctime: bool, local: bool) -> None:
    kind = by_magic(magic)
    assert (kind.name, kind.own_ctime, kind.local) == (name, own_ctime, local)
    assert by_magic(magic - (1 << 32)) == kind, "some systems give it with a sign"


def test_of_an_unknown_type_nothing_is_believed() -> None:
    kind = by_magic(0x12345678)
    assert (kind.own_ctime, kind.local) == (False, False)
    assert "0x12345678" in kind.name
    assert not file_system("/proc").own_ctime


def test_a_device_that_is_not_that_of_the_file_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("a")
    times = ChangeTimes()
    device = file.stat().st_dev
    assert not times.are_own(os.fsencode(file), device + 1)
    assert not times.are_own(os.fsencode(tmp_path / "gone"), device)
    assert times.are_own(os.fsencode(file), device) == file_system(file).own_ctime


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        *((each, True) for each in ("nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "lustre", "gpfs")),
        *((each, True) for each in ("ceph", "fuse.glusterfs", "beegfs", "fuse.s3fs")),
        *((each, False) for each in ("ext4", "overlay", "fuse", "fuse.portal", "virtiofs")),
    ],
)
def test_which_file_systems_several_machines_may_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shared: bool
) -> None:
    device = tmp_path.stat().st_dev
    table = tmp_path / "mountinfo"
    table.write_text(
        "23 1 0:9999 / /other rw - nfs4 server:/x rw\n"
        f"24 1 {os.major(device)}:{os.minor(device)} / / rw shared:1 - {kind} server:/x rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", str(table))
    assert of_several_machines(tmp_path / "not" / "there yet") == (kind if shared else None)


def test_without_a_list_of_mounts_the_system_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", str(tmp_path / "none"))
    assert of_several_machines(tmp_path) is None
    monkeypatch.setattr("moderate.state.filesystems.file_system", lambda path: by_magic(0x6969))
    assert of_several_machines(tmp_path) == "nfs"


class TestMounted:
    """File systems that are really there, where this user can mount them."""

    def test_a_link_counts_as_what_it_leads_to(self, tmp_path: Path) -> None:
        shown, point = tmp_path / "shown", tmp_path / "point"
        shown.mkdir()
        (shown / "a").write_text("a")
        (tmp_path / "link").symlink_to(point / "a")
        with passthrough.passthrough(shown, point):
            assert file_system(point / "a") == by_magic(0x65735546)
            times, device = ChangeTimes(), (point / "a").stat().st_dev
            assert not times.are_own(os.fsencode(tmp_path / "link"), device)
            assert not times.are_own(os.fsencode(point / "a"), device, follow_symlinks=False)

    def test_each_device_is_asked_for_itself(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path / "disk", 1 << 20)
        try:
            (tmp_path / "disk" / "a").write_text("a")
            times, file = ChangeTimes(), os.fsencode(tmp_path / "disk" / "a")
            assert times.are_own(file, os.stat(file).st_dev)
            assert file_system(file).name == "tmpfs"
        finally:
            disk.remove()


if not (can_make_a_disk() and passthrough.can_mount()):
    del TestMounted
