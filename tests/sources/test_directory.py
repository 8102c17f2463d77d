"""Walking: order, what counts, links, loops, and what cannot be opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moderate.decode.sniff import claimed_format
from moderate.fetch.local import FetchError, read_file
from moderate.sources.directory import DirectorySource, WalkOptions
from moderate.sources.folder_files import FolderFiles
from moderate.sources.interface import Source
from moderate.sources.resolve import InputOptions, resolve
from moderate.types import ErrorCode, ImageRef, Skipped, SkipReason, Warn
from tests.support.pictures import encode, scene

PNG = encode(scene((20, 20)), "PNG")


def fill(root: Path, names: list[str], data: bytes = PNG) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def walk(root: Path | str, **options: object) -> list[ImageRef | Skipped]:
    return list(DirectorySource(os.fsencode(root), WalkOptions(**options)))  # type: ignore[arg-type]


def names(found: list[ImageRef | Skipped], root: Path) -> list[str]:
    prefix = os.fsencode(root) + b"/"
    return [os.fsdecode(f.path.removeprefix(prefix)) for f in found if isinstance(f, ImageRef)]


def skipped(found: list[ImageRef | Skipped]) -> dict[bytes, SkipReason]:
    return {os.path.basename(f.path): f.reason for f in found if isinstance(f, Skipped)}


def test_sorted_depth_first_and_the_same_twice(tmp_path: Path) -> None:
    fill(tmp_path, ["b.jpg", "a/z.jpg", "a/b/c.jpg", "a.jpg", "B.jpg", "c/x.png", "a0.jpg"])
    expected = ["B.jpg", "a/b/c.jpg", "a/z.jpg", "a.jpg", "a0.jpg", "b.jpg", "c/x.png"]
    assert names(walk(tmp_path), tmp_path) == expected
    source = DirectorySource(os.fsencode(tmp_path))
    assert list(source) == list(source)


def test_what_counts_is_decided_by_bytes_or_by_a_claim(tmp_path: Path) -> None:
    fill(tmp_path, ["upload_1", "picture.txt", "broken.jpg", "old.tif", "clip.mp4"])
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    (tmp_path / "drawing").write_bytes(b"<svg xmlns='x'/>")
    (tmp_path / "style.css").write_bytes(b"body {}")
    (tmp_path / "notes.txt").write_bytes(b"hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "empty.png").write_bytes(b"")
    found = walk(tmp_path)
    assert set(names(found, tmp_path)) == {
        "upload_1", "picture.txt", "broken.jpg", "old.tif", "clip.mp4", "drawing", "empty.png",
    }  # fmt: skip
    assert set(skipped(found)) == {b"style.css", b"notes.txt", b"empty"}
    assert len(names(walk(tmp_path, all_files=True), tmp_path)) == 10


def test_hidden_files_are_counted_or_walked(tmp_path: Path) -> None:
    fill(tmp_path, [".hidden.jpg", ".git/x.jpg", "seen.jpg"])
    found = walk(tmp_path)
    assert names(found, tmp_path) == ["seen.jpg"]
    assert skipped(found) == {b".hidden.jpg": SkipReason.HIDDEN, b".git": SkipReason.HIDDEN}
    assert len(names(walk(tmp_path, hidden=True), tmp_path)) == 3


def test_include_and_exclude(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", "b.png", "thumbs/c.jpg", "deep/thumbs/d.jpg", "deep/e.jpg"])
    assert names(walk(tmp_path, include=("*.jpg",)), tmp_path) == [
        "a.jpg", "deep/e.jpg", "deep/thumbs/d.jpg", "thumbs/c.jpg",
    ]  # fmt: skip
    found = walk(tmp_path, include=("*.jpg",), exclude=("thumbs",))
    assert names(found, tmp_path) == ["a.jpg", "deep/e.jpg"]
    assert list(skipped(found).values()).count(SkipReason.EXCLUDED) == 2
    assert names(walk(tmp_path, exclude=("deep/*",)), tmp_path) == [
        "a.jpg", "b.png", "thumbs/c.jpg",
    ]  # fmt: skip


def test_patterns_with_slashes_match_like_globs(tmp_path: Path) -> None:
    fill(tmp_path, ["top.png", "a/b.png", "a/c.jpg", "sub/d.png"])
    assert names(walk(tmp_path, include=("**/*.png",)), tmp_path) == [
        "a/b.png", "sub/d.png", "top.png",
    ]  # fmt: skip
    assert names(walk(tmp_path, exclude=("sub/",)), tmp_path) == ["a/b.png", "a/c.jpg", "top.png"]
    assert names(walk(tmp_path, include=("a/*",)), tmp_path) == ["a/b.png", "a/c.jpg"]


def test_a_file_exchanged_for_a_link_since_the_walk_is_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, ["in/a.png", "out/secret.png"])
    (ref,) = walk(tmp_path / "in")
    assert isinstance(ref, ImageRef)
    (tmp_path / "in/a.png").unlink()
    (tmp_path / "in/a.png").symlink_to(tmp_path / "out/secret.png")
    with pytest.raises(FetchError) as caught:
        read_file(ref.path, 1 << 20, follow_symlinks=ref.follow_symlinks)
    assert caught.value.error.code is ErrorCode.NOT_A_REGULAR_FILE


def test_links_are_not_followed_unless_asked(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    fill(tmp_path, ["in/real.jpg", "out/other.jpg"])
    (inside / "link.jpg").symlink_to("real.jpg")
    (inside / "away").symlink_to(outside)
    (inside / "dangling.jpg").symlink_to("gone.jpg")
    found = walk(inside)
    assert names(found, inside) == ["real.jpg"]
    assert set(skipped(found).values()) == {SkipReason.SYMLINK}
    assert len(skipped(found)) == 3
    followed = walk(inside, follow_symlinks=True)
    assert names(followed, inside) == ["away/other.jpg", "dangling.jpg", "link.jpg", "real.jpg"]
    warned = {f.path: f.warnings for f in followed if isinstance(f, ImageRef)}
    assert warned[os.fsencode(inside / "away/other.jpg")] == (Warn.SYMLINK_OUTSIDE,)
    assert warned[os.fsencode(inside / "link.jpg")] == ()


def test_loops_of_links_end(tmp_path: Path) -> None:
    fill(tmp_path, ["a/x.jpg"])
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    found = walk(tmp_path, follow_symlinks=True)
    assert names(found, tmp_path).count("a/x.jpg") == 1
    assert SkipReason.LOOP in skipped(found).values()


@pytest.mark.timeout(20)
def test_fifos_sockets_and_folders_named_like_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
        fill(tmp_path, ["folder.jpg/inner.png"])
        found = walk(tmp_path)
    assert names(found, tmp_path) == ["folder.jpg/inner.png", "pipe.jpg", "socket.png"]
    assert skipped(found) == {b"pipe": SkipReason.NOT_REGULAR}


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    odd = [b"caf\xe9.jpg", b"new\nline.jpg", b"tab\t'\",.jpg", b"-rf.jpg", b"\xe2\x80\xaegpj.jpg"]
    for name in odd:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(PNG)
    assert sorted(os.path.basename(f.path) for f in walk(tmp_path)) == sorted(odd)


def test_folders_deeper_than_recursion_are_walked_or_reported(tmp_path: Path) -> None:
    deep = 1500
    start = os.open(tmp_path, os.O_RDONLY)
    here = start
    for _ in range(deep):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        if here != start:
            os.close(here)
        here = below
    file = os.open("x.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(file, PNG)
    for descriptor in (file, here, start):
        os.close(descriptor)
    found = walk(tmp_path)
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # pytest's own cannot
    assert len(names(found, tmp_path)) == 1


def test_paths_longer_than_the_system_opens_are_reported(tmp_path: Path) -> None:
    name = "n" * 200
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    file = os.open("x.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    for descriptor in (file, here):
        os.close(descriptor)
    found = walk(tmp_path)
    subprocess.run(["rm", "-rf", str(tmp_path / name)], check=True)
    assert len(found) == 1
    assert isinstance(found[0], ImageRef)
    assert found[0].error is not None
    assert found[0].error.code is ErrorCode.PATH_TOO_LONG


_AS_NOBODY = """
import os, sys
from moderate.decode.sniff import claimed_format
from moderate.fetch.local import FetchError, read_file
from moderate.sources.directory import DirectorySource
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for found in DirectorySource(os.fsencode(sys.argv[1])):
    print(os.fsdecode(found.path), found.error.code if found.error else "ok")
"""


def test_unreadable_files_and_folders_are_rows() -> None:
    # pytest's own tmp_path is closed to other users.
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        fill(root, ["closed/a.jpg", "secret", "open.jpg"])
        (root / "closed").chmod(0)
        (root / "secret").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, folder], capture_output=True, text=True, check=False
        )
        (root / "closed").chmod(0o755)
    assert done.stdout.splitlines() == [
        f"{root}/closed permission_denied",
        f"{root}/open.jpg ok",
        f"{root}/secret permission_denied",
    ], done.stderr


# Globs and single files --------------------------------------------------------------------------


def resolved(*inputs: str | Path, **options: object) -> list[ImageRef | Skipped]:
    sources: list[Source] = resolve(
        [str(i) for i in inputs],
        InputOptions(walk=WalkOptions(**options)),  # type: ignore[arg-type]
    )
    return [found for source in sources for found in source]


def test_a_glob_takes_what_a_shell_would_and_walks_folders(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", "b.txt", "sub/c.jpg", "sub/d.css", "other/e.png"])
    (tmp_path / "sub" / "d.css").write_bytes(b"body {}")
    assert names(resolved(tmp_path / "*.jpg"), tmp_path) == ["a.jpg"]
    assert names(resolved(tmp_path / "*"), tmp_path) == [
        "a.jpg",
        "b.txt",
        "other/e.png",
        "sub/c.jpg",
    ]
    assert names(resolved(tmp_path / "*/*.css"), tmp_path) == ["sub/d.css"], "named gets a row"
    every = ["a.jpg", "sub/c.jpg"]
    assert names(resolved(tmp_path / "**/*.jpg"), tmp_path) == every
    assert names(resolved(tmp_path / "[ab].*"), tmp_path) == ["a.jpg", "b.txt"]


def test_globs_name_links_hidden_files_and_what_is_missing(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", ".b.jpg"])
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    assert names(resolved(tmp_path / "*.jpg"), tmp_path) == ["a.jpg", "link.jpg"]
    assert names(resolved(tmp_path / ".*.jpg"), tmp_path) == [".b.jpg"]
    found = resolved(tmp_path / "a.jpg", tmp_path / "*.gone")
    assert names(found, tmp_path) == ["a.jpg", "*.gone"]
    assert isinstance(found[1], ImageRef)
    assert found[1].error is not None
    assert found[1].error.code is ErrorCode.NOT_FOUND


def test_a_file_with_glob_characters_in_its_name_is_that_file(tmp_path: Path) -> None:
    fill(tmp_path, ["photo[1].jpg", "photo1.jpg"])
    assert names(resolved(tmp_path / "photo[1].jpg"), tmp_path) == ["photo[1].jpg"]


def test_inputs_keep_their_order_and_missing_ones_their_row(tmp_path: Path) -> None:
    fill(tmp_path, ["b/1.jpg", "a/2.jpg"])
    found = resolved(tmp_path / "b", tmp_path / "gone.jpg", tmp_path / "a")
    assert names(found, tmp_path) == ["b/1.jpg", "gone.jpg", "a/2.jpg"]


def test_displayed_paths_never_start_a_formula() -> None:
    assert ImageRef(b"=1+1.jpg").display == b"./=1+1.jpg"
    assert ImageRef(b"./a.jpg").display == b"./a.jpg"
    assert ImageRef(b"/a.jpg").display == b"/a.jpg"
    assert ImageRef(b"../a.jpg").display == b"./../a.jpg"


def test_files_of_a_folder_come_together_as_they_come_alone(tmp_path: Path) -> None:
    """Between what is looked at by itself, and never of two folders at once."""
    fill(tmp_path, ["a.jpg", "b.png", "c", "d.jpg", "e/f.jpg", "e/g.txt", "h.jpg", ".i.jpg"])
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for options in (WalkOptions(), WalkOptions(all_files=True, hidden=True, follow_symlinks=True)):
        source = DirectorySource(os.fsencode(tmp_path), options)
        refs: list[ImageRef | Skipped] = []
        together = 0
        for part in source.parts():
            if isinstance(part, FolderFiles):
                assert [part.folder + b"/" + name for name in part.names] == list(part.paths)
                assert list(part.claims) == [claimed_format(name) for name in part.names]
                refs += map(part.ref, range(len(part)))
                together += len(part)
            else:
                refs.append(part)
        assert refs == list(source)
        assert refs == careful_walk(tmp_path, options)
        assert together >= 5


def careful_walk(root: Path, options: WalkOptions) -> list[ImageRef | Skipped]:
    """With a pattern that leaves nothing out, each entry is looked at by itself."""
    options = replace(options, exclude=("no such name",))
    assert not any(
        isinstance(p, FolderFiles) for p in DirectorySource(os.fsencode(root), options).parts()
    )
    return list(DirectorySource(os.fsencode(root), options))
