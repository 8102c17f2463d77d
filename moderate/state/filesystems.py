"""What the type of a file system promises: trustworthy times of change, and shared memory."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from moderate.mounts import mount_type


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A type of file system, by the name that `mount` has for it.

    own_ctime: only the system sets the time of change (ctime), so that a file of the same size and
    times has the same content. local: it is used by the processes of one machine alone, so that
    they can share the memory of a mapped file.
    """

    name: str
    own_ctime: bool
    local: bool


# By the magic number that statfs(2) gives. Source: linux/magic.h and the file systems' own headers.
#
# ctime is believed only where it is known that nothing but a change sets it. That leaves out:
# - FAT, exFAT, HFS and NTFS: the first two have no such time and show mtime instead, which anybody
#   can set; the others keep one that other systems and their programs can set.
# - FUSE and 9p: the program behind them reports what it likes; many show mtime (sshfs, S3 mounts).
# - SMB: the server may be any of those, and the protocol lets clients set the time of change.
# - disk images such as squashfs and ISO 9660: their author chose the times.
# NFS is believed: its protocol has no way to set ctime (RFC 1813, RFC 8881).
_BY_MAGIC = {
    0xEF53: FileSystem("ext4", own_ctime=True, local=True),  # ext2 and ext3, too
    0x58465342: FileSystem("xfs", own_ctime=True, local=True),
    0x9123683E: FileSystem("btrfs", own_ctime=True, local=True),
    0x2FC12FC1: FileSystem("zfs", own_ctime=True, local=True),
    0xF2F52010: FileSystem("f2fs", own_ctime=True, local=True),
    0xCA451A4E: FileSystem("bcachefs", own_ctime=True, local=True),
    0x3153464A: FileSystem("jfs", own_ctime=True, local=True),
    0x3434: FileSystem("nilfs2", own_ctime=True, local=True),
    0x52654973: FileSystem("reiserfs", own_ctime=True, local=True),
    0x24051905: FileSystem("ubifs", own_ctime=True, local=True),
    0x794C7630: FileSystem("overlay", own_ctime=True, local=True),
    0x01021994: FileSystem("tmpfs", own_ctime=True, local=True),
    0x858458F6: FileSystem("ramfs", own_ctime=True, local=True),
    0x6969: FileSystem("nfs", own_ctime=True, local=False),
    0x4D44: FileSystem("vfat", own_ctime=False, local=True),  # msdos, too
    0x2011BAB0: FileSystem("exfat", own_ctime=False, local=True),
    0x5346544E: FileSystem("ntfs", own_ctime=False, local=True),
    0x7366746E: FileSystem("ntfs3", own_ctime=False, local=True),
    0x4244: FileSystem("hfs", own_ctime=False, local=True),
    0x482B: FileSystem("hfsplus", own_ctime=False, local=True),
    0x73717368: FileSystem("squashfs", own_ctime=False, local=True),
    0xE0F5E1E2: FileSystem("erofs", own_ctime=False, local=True),
    0x9660: FileSystem("iso9660", own_ctime=False, local=True),
    0x15013346: FileSystem("udf", own_ctime=False, local=True),
    0x65735546: FileSystem("fuse", own_ctime=False, local=False),  # virtiofs, too
    0x01021997: FileSystem("9p", own_ctime=False, local=False),
    0xFF534D42: FileSystem("cifs", own_ctime=False, local=False),
    0xFE534D42: FileSystem("smb3", own_ctime=False, local=False),
    0x00C36400: FileSystem("ceph", own_ctime=False, local=False),
    0x0BD00BD3: FileSystem("lustre", own_ctime=False, local=False),
    0x47504653: FileSystem("gpfs", own_ctime=False, local=False),
    0x5346414F: FileSystem("afs", own_ctime=False, local=False),
}
# Types, as `mount` calls them, of which several machines may have the same one mounted. Their locks
# and caches are not what SQLite needs: two writers on two machines can destroy a database.
_OF_SEVERAL_MACHINES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "coda"),
        *("lustre", "gpfs", "ceph", "beegfs", "glusterfs", "orangefs", "pvfs2", "wekafs"),
        *("ocfs2", "gfs2", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse"),
        *("fuse.lustre", "fuse.mfs", "fuse.moosefs", "fuse.beegfs", "fuse.juicefs", "fuse.cvmfs2"),
        *("fuse.s3fs", "fuse.mount-s3", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.afp"),
        *(
            "fuse.blobfuse",
            "fuse.blobfuse2",
            "fuse.davfs",
            "davfs",
            "fuse.smbnetfs",
            "fuse.seaweedfs",
        ),
    }
)
_STATFS_BYTES = 512  # more than any system's struct; the type is its first word


def by_magic(magic: int) -> FileSystem:
    """The type of this magic number; of one that is not known, nothing is believed."""
    number = magic & 0xFFFFFFFF
    unknown = FileSystem(f"a file system of type {number:#x}", own_ctime=False, local=False)
    return _BY_MAGIC.get(number, unknown)


def file_system(
    path: str | bytes | os.PathLike[str], *, follow_symlinks: bool = True
) -> FileSystem:
    """The type of the file system that holds `path`. Raises OSError where nothing is there."""
    descriptor = _look(path, follow_symlinks)
    try:
        return _of(descriptor)
    finally:
        os.close(descriptor)


def of_several_machines(path: str | os.PathLike[str]) -> str | None:
    """The type of the file system that is to hold `path`, if several machines may have it mounted.

    None where they may not, and where nobody can tell. The path need not exist yet.
    """
    try:
        place = os.path.realpath(path)
        while not os.path.lexists(place) and place != os.path.dirname(place):
            place = os.path.dirname(place)
        kind = mount_type(os.stat(place).st_dev) or file_system(place).name
    except (OSError, ValueError):
        return None
    return kind if kind in _OF_SEVERAL_MACHINES else None


class ChangeTimes:
    """Whether the times of change of files can be believed; each device is asked once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def are_own(self, path: bytes, device: int, *, follow_symlinks: bool = True) -> bool:
        """Whether only the system sets the ctime of the file `path`.

        device is the st_dev of the status that is to be believed; where the file is on another
        device by now, the answer is no.
        """
        known = self._known.get(device)
        if known is not None:
            return known
        try:
            descriptor = _look(path, follow_symlinks)
        except (OSError, ValueError):
            return False
        try:
            if os.fstat(descriptor).st_dev != device:
                return False
            return self._known.setdefault(device, _of(descriptor).own_ctime)
        finally:
            os.close(descriptor)


def _look(path: str | bytes | os.PathLike[str], follow_symlinks: bool) -> int:
    """A descriptor that is good for a look at the file only. Raises OSError."""
    flags = os.O_PATH | os.O_CLOEXEC
    return os.open(path, flags if follow_symlinks else flags | os.O_NOFOLLOW)


def _of(descriptor: int) -> FileSystem:
    """Of the file that is open; where the system does not say, of no known type."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc = ctypes.CDLL(None)
    if libc.fstatfs(descriptor, buffer):
        return by_magic(0)
    return by_magic(ctypes.c_ulong.from_buffer(buffer).value)
