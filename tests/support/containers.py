"""Builds and runs the Containerfile where there is no container engine, on the host's own programs.

The file is parsed by BuildKit's parser, and its instructions are carried out in fresh namespaces of
the kernel, as an engine would. What differs: the base image is the host's /usr and its Python, and
what pip would download is there already. On a host that allows no namespaces, as in most
containers, the tests are skipped, and the reason says what to allow.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, distribution
from pathlib import Path

import dockerfile
import pytest
from packaging.requirements import Requirement

from tests.support.patience import PATIENCE

PACKAGES = "/packages"  # where the packages of the base image are mounted
ENVIRONMENT = "/environment"
"""Where the virtual environment of the tests is mounted: its own place may lie in a hidden /tmp."""

PYTHON = Path(sys.base_prefix)
HOST = tuple(path for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64") if os.path.exists(path))
FOLLOWS_VARIANT = frozenset({"installed", ""})
"""Stages that have the packages of the chosen variant; "" is the finished image."""


@dataclass
class Image:
    """A folder that is the root of a container, and what the instructions say of it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    working: str = "/"
    user: tuple[int, int] = (0, 0)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    light: bool = False


@dataclass(frozen=True)
class Stage:
    """The instructions from one FROM to the next."""

    name: str
    base: str
    instructions: tuple[dockerfile.Command, ...]


def read_stages(containerfile: Path) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first FROM with their defaults, and the stages in order."""
    arguments: dict[str, str] = {}
    stages: list[tuple[str, str, list[dockerfile.Command]]] = []
    for instruction in dockerfile.parse_file(str(containerfile)):
        if instruction.cmd.upper() == "FROM":
            name = instruction.value[2] if len(instruction.value) == 3 else ""
            stages.append((name, instruction.value[0], []))
        elif not stages:
            key, _, value = instruction.value[0].partition("=")
            arguments[key] = value
        else:
            stages[-1][2].append(instruction)
    return arguments, [Stage(name, base, tuple(commands)) for name, base, commands in stages]


class Builder:
    """Builds the stages that the finished image needs, each once."""

    def __init__(self, context: Path, folder: Path, arguments: Mapping[str, str] = {}) -> None:
        self.context, self.folder = context, folder
        defaults, stages = read_stages(context / "Containerfile")
        self.arguments = {**defaults, **arguments}
        self.stages = {stage.name: stage for stage in stages}
        self.built: dict[str, Image] = {}
        self.light, self.full = _package_views(folder / "packages", context)

    def build(self, name: str = "") -> Image:
        """The image of a stage; the last one has no name."""
        if name not in self.built:
            stage = self.stages[name]
            base = expand(stage.base, self.arguments)
            image = self._copy_of(self.build(base)) if base in self.stages else self._base()
            variant = self.arguments["VARIANT"] if name in FOLLOWS_VARIANT else name
            image.light = variant == "cpu"  # which sees only what requirements/light.txt asks for
            self._carry_out(stage, image)
            self.built[name] = image
        return self.built[name]

    def variant(self, name: str) -> Builder:
        """A builder of another variant that builds none of the stages again that both have."""
        other = copy.copy(self)
        other.arguments = {**self.arguments, "VARIANT": name}
        other.built = {
            key: image for key, image in self.built.items() if key not in FOLLOWS_VARIANT
        }
        return other

    def _base(self) -> Image:
        root = self._new_root()
        for folder in ("etc", "proc", "sys", "dev/shm", "tmp", "opt", "packages"):
            (root / folder).mkdir(parents=True)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        for path in HOST:
            if os.path.islink(path):
                (root / path[1:]).symlink_to(os.readlink(path))
        path = f"{PYTHON}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return Image(root, {"PATH": path})

    def _copy_of(self, image: Image) -> Image:
        root = self._new_root()
        subprocess.run(["cp", "-a", f"{image.root}/.", str(root)], check=True)
        return Image(root, dict(image.env), image.working, image.user)

    def _new_root(self) -> Path:
        # Of its own mode: what is below a folder of one user alone is out of the container's reach.
        root = Path(tempfile.mkdtemp(prefix="root-", dir=self.folder))
        root.chmod(0o755)
        return root

    def _carry_out(self, stage: Stage, image: Image) -> None:
        arguments: dict[str, str] = {}
        for instruction in stage.instructions:
            known = {**arguments, **image.env}
            value = [expand(unquote(word), known) for word in instruction.value]
            pairs = dict(zip(value[::2], value[1::2], strict=False))
            match instruction.cmd.upper():
                case "ARG":
                    key, _, default = unquote(instruction.value[0]).partition("=")
                    arguments[key] = self.arguments.get(key, unquote(default))
                case "ENV":
                    image.env |= pairs
                case "LABEL":
                    image.labels |= pairs
                case "WORKDIR":
                    image.working = value[0]
                    (image.root / value[0][1:]).mkdir(parents=True, exist_ok=True)
                case "USER":
                    user, _, group = value[0].partition(":")
                    image.user = (int(user), int(group))
                case "COPY":
                    self._copy(instruction, value, image)
                case "RUN":
                    # The shell puts variables in, not the builder.
                    self._run(instruction.value[0], image, arguments)
                case "ENTRYPOINT":
                    image.entrypoint = tuple(value)
                case "CMD":
                    image.command = tuple(value)
                case "HEALTHCHECK":
                    assert value[0] == "CMD"
                    image.healthcheck = tuple(value[1:])
                case "VOLUME":
                    image.volumes = tuple(value)
                case other:
                    raise AssertionError(f"line {instruction.start_line}: {other} is not known")

    def _copy(self, instruction: dockerfile.Command, value: Sequence[str], image: Image) -> None:
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in instruction.flags)
        assert set(flags) <= {"from"}, f"line {instruction.start_line}: a flag that is not known"
        *sources, target = value
        into = image.root / os.path.join(image.working, target)[1:]
        where = self.build(flags["from"]).root if "from" in flags else self._context()
        for source in sources:
            path = where / source.strip("/")
            assert path.exists(), f"line {instruction.start_line}: {source} is not there"
            if path.is_dir():
                shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
            else:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, into)

    def _context(self) -> Path:
        """The part of the context that .containerignore lets through."""
        sent = self.folder / "context"
        if not sent.exists():
            ignored = (self.context / ".containerignore").read_text().splitlines()
            tracked = subprocess.run(
                ["git", "ls-files", "-z"], cwd=self.context, capture_output=True, check=False
            )
            # What git does not track may be anything, and much of it. Without git, all counts.
            names = tracked.stdout.decode().split("\0") if tracked.returncode == 0 else []
            found = (str(p.relative_to(self.context)) for p in self.context.rglob("*"))
            for name in filter(None, names or found):
                file = self.context / name
                if file.is_file() and is_sent(name, ignored):
                    (sent / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, sent / name)
        return sent

    def _run(self, command: str, image: Image, arguments: Mapping[str, str]) -> None:
        pip = {
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip wants to be told not to isolate
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": PACKAGES,  # where the build backend is, which pip would download
        }
        done = self.start(
            image,
            ("/bin/sh", "-c", command),
            environment={**arguments, **pip},
            user=(0, 0),
            read_only=False,
            network=True,
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        # The base image's packages are seen through the virtual environment from here on.
        for site in image.root.glob("opt/moderate/lib/python*/site-packages"):
            (site / "_base_image.pth").write_text(f"{PACKAGES}\n")

    def start(
        self,
        image: Image,
        command: Sequence[str],
        *,
        volumes: Mapping[str, tuple[Path, bool]] = {},
        environment: Mapping[str, str] = {},
        user: tuple[int, int] | None = None,
        read_only: bool = True,
        network: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of the image, with no capabilities but for root at build.

        volumes are folders of the host and whether they can be written, by place in the container.
        Like `--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges`.
        """
        binds = {
            **{path: (Path(path), False) for path in HOST if not os.path.islink(path)},
            str(PYTHON): (PYTHON, False),
            ENVIRONMENT: (Path(sys.prefix), False),
            PACKAGES: (self.light if image.light else self.full, False),
            "/sys": (Path("/sys"), False),
            **{f"/dev/{name}": (Path("/dev", name), True) for name in ("null", "zero", "urandom")},
            **volumes,
        }
        script = _namespace_script(
            image.root, binds, image.working, user or image.user, read_only=read_only
        )
        namespaces = _usable_namespaces()
        nets = () if network else ("--net",)
        return subprocess.run(
            ["unshare", *namespaces, *nets, "--", "/bin/sh", "-euc", script, "sh", *command],
            env={**image.env, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )


def _namespace_script(
    root: Path,
    binds: Mapping[str, tuple[Path, bool]],
    working: str,
    user: tuple[int, int],
    *,
    read_only: bool,
) -> str:
    """Shell commands that enter the root and run "$@" there, as the only process of its tree."""
    lines = [
        "image_path=$PATH; PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        f"mount --bind '{root}' '{root}'",
    ]
    for place, (source, writable) in binds.items():
        inside = root / place[1:]
        if source.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        lines.append(f"mount --rbind '{source}' '{inside}'")
        if not writable:
            lines.append(f"mount -o remount,bind,ro '{inside}'")
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs '{root}/{name}'" for name in ("tmp", "dev/shm")]
    lines.append(f"mount -t proc proc '{root}/proc'")
    if read_only:
        lines.append(f"mount -o remount,bind,ro '{root}'")
    lines += [f"cd '{root}'", "pivot_root . .", "umount -l .", f"cd '{working}'"]
    dropped = "--no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all"
    if user == (0, 0):
        become = ""
    elif "--user" in _usable_namespaces():
        # Only one user can be mapped without help from root: this one, under the image's number.
        mapped = f"--map-user={user[0]} --map-group={user[1]}"
        become = f"unshare --user {mapped} --keep-caps -- setpriv {dropped}"
    else:
        become = f"setpriv --reuid {user[0]} --regid {user[1]} --clear-groups {dropped}"
    return "\n".join([*lines, f'exec {become} env PATH="$image_path" "$@"'])


@cache
def _usable_namespaces() -> tuple[str, ...]:
    """The options of `unshare` that this host allows. Skips the test where it allows none."""
    inner = ("--mount", "--pid", "--fork")
    kinds = (
        ((), ("--user", "--map-root-user"))
        if os.geteuid() == 0
        else (("--user", "--map-root-user"),)
    )
    reasons = []
    for kind in kinds:
        trial = subprocess.run(
            ["unshare", *kind, *inner, "--net", "--", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            capture_output=True,
            text=True,
            check=False,
        )
        if trial.returncode == 0:
            return (*kind, *inner)
        reasons.append(trial.stderr.strip())
    pytest.skip(
        "the Containerfile cannot be tried out: this host allows neither mount namespaces nor user "
        f"namespaces ({'; '.join(reasons)}). Where an AppArmor profile forbids them, allow them "
        "with sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    )


def _package_views(folder: Path, context: Path) -> tuple[Path, Path]:
    """Folders of links to the packages installed here: what light.txt needs, and all of them."""
    light, full = folder / "light", folder / "full"
    for view in (light, full):
        view.mkdir(parents=True)
    site = Path(str(distribution("numpy").locate_file("")))
    inside = Path(ENVIRONMENT) / site.relative_to(sys.prefix)
    for entry in site.iterdir():
        if not entry.name.startswith(("moderate", "_", "__")) and entry.suffix != ".pth":
            (full / entry.name).symlink_to(inside / entry.name)
    text = (context / "requirements/light.txt").read_text()
    wanted = [line.strip() for line in text.splitlines() if line and not line.startswith("#")]
    for installed in _closure(wanted):
        for name in {file.parts[0] for file in installed.files or ()}:
            if name not in ("..", "__pycache__") and not (light / name).is_symlink():
                (light / name).symlink_to(inside / name)
    return light, full


def _closure(requirements: Sequence[str]) -> list[Distribution]:
    """The installed distributions that these requirements bring, those of others included."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        extras = {"", *requirement.extras}
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": e}) for e in extras
        ):
            continue
        installed = distribution(requirement.name)
        key = f"{requirement.name.lower()}[{','.join(sorted(requirement.extras))}]"
        if key not in found:
            found[key] = installed
            for text in installed.requires or ():
                needed = Requirement(text)
                if needed.marker is None or any(
                    needed.marker.evaluate({"extra": extra}) for extra in extras
                ):
                    needed.marker = None
                    waiting.append(needed)
    return list(found.values())


def is_sent(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file of the context is sent to the builder: the last pattern that matches rules."""
    sent = True
    parts = name.split("/")
    paths = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    for pattern in patterns:
        if pattern and not pattern.startswith("#"):
            regex = re.escape(pattern.removeprefix("!"))
            regex = regex.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(regex, path) for path in paths):
                sent = pattern.startswith("!")
    return sent


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in place of $NAME and ${NAME}; unknown ones are empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: variables.get(m[1] or m[2], ""), text)


def unquote(word: str) -> str:
    """A word of an instruction without the quotes around it, or around its value."""
    key, sign, value = word.partition("=")
    if sign and value[:1] == value[-1:] == '"':
        return f"{key}={value[1:-1]}"
    return word[1:-1] if word[:1] == word[-1:] == '"' and len(word) > 1 else word
