"""The Containerfile is linted, built and run, in namespaces of the kernel instead of an engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support import forbidden_calls
from tests.support.containers import Builder, Image, expand, is_sent, read_stages

ROOT = Path(__file__).parents[1]
CONTAINERFILE = ROOT / "Containerfile"
PAGE = ROOT / "docs" / "container.md"
SAMPLES = ROOT / "sample_images"
SAFE = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --network none"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    builder = Builder(ROOT, tmp_path_factory.mktemp("image"))
    builder.build()
    return builder


@pytest.fixture
def image(builder: Builder) -> Image:
    return builder.build()


@pytest.fixture
def volumes(tmp_path: Path, image: Image) -> Mapping[str, tuple[Path, bool]]:
    """The state, the results and the images, as docs/container.md mounts them."""
    mounted: dict[str, tuple[Path, bool]] = {"/images": (SAMPLES, False)}
    for name in ("state", "results"):
        (tmp_path / name).mkdir()
        if os.geteuid() == 0:
            os.chown(tmp_path / name, *image.user)
        mounted[f"/{name}"] = (tmp_path / name, True)
    return mounted


def test_hadolint_has_no_objection() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(linter), str(CONTAINERFILE)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_image_from_elsewhere_is_the_one_base_with_a_version() -> None:
    arguments, stages = read_stages(CONTAINERFILE)
    names = {stage.name for stage in stages}
    bases = {expand(stage.base, arguments) for stage in stages} - names
    assert bases == {arguments["BASE"]}
    assert re.fullmatch(r"\S+/python:3\.\d+-slim-\w+", arguments["BASE"])
    assert {"cpu", "cuda"} <= names  # what VARIANT may be


def test_only_what_the_build_copies_is_sent_to_it() -> None:
    ignored = (ROOT / ".containerignore").read_text()
    assert (ROOT / "Containerfile.dockerignore").read_text() == ignored
    patterns = ignored.splitlines()
    for name in ("moderate/api.py", "weights/testcard/model.safetensors", "requirements/light.txt"):
        assert is_sent(name, patterns)
    for name in (
        "results.csv",
        ".git/config",
        "uploads/a.jpg",
        "weights/mine/model.safetensors",
        "moderate/__pycache__/api.pyc",
    ):
        assert not is_sent(name, patterns)


def test_it_scans_with_nothing_but_what_it_needs(
    builder: Builder, image: Image, volumes: Mapping[str, tuple[Path, bool]]
) -> None:
    command = (
        "scan /images --weights testcard --require-sandbox --out rows.parquet --summary s.json"
    )
    done = builder.start(image, (*image.entrypoint, *command.split()), volumes=volumes)
    assert done.returncode == 0, done.stderr
    results = volumes["/results"][0]
    for row in pq.read_table(results / "rows.parquet").to_pylist():
        for decision in ("block", "review"):
            if re.search(rf"card_\w+_{decision}", row["path"]):
                assert row["decision"] == decision
    assert "seccomp" in json.loads((results / "s.json").read_text())["audit"]["sandbox"]
    assert list(volumes["/state"][0].iterdir())  # the next run in this container knows the images
    assert (results / "rows.parquet").stat().st_uid in (image.user[0], os.geteuid())


def test_the_health_check_finds_all_well(
    builder: Builder, image: Image, volumes: Mapping[str, tuple[Path, bool]]
) -> None:
    done = builder.start(image, image.healthcheck, volumes=volumes)
    assert (done.returncode, done.stdout[-9:]) == (0, "all well\n"), done.stdout
    assert "testcard: self-test" in done.stdout


def test_the_user_can_write_to_nothing_else_and_has_no_rights_and_no_network(
    builder: Builder, image: Image, volumes: Mapping[str, tuple[Path, bool]]
) -> None:
    look = """
        id -u; id -g
        for folder in / /opt/moderate /opt/weights/data /opt/weights/cache /etc /usr /images; do
            touch $folder/x 2>/dev/null && echo wrote to $folder
        done
        touch /tmp/x /state/x /results/x
        grep -E '^Cap(Prm|Eff|Bnd|Amb).*[1-9a-f]' /proc/self/status
        grep NoNewPrivs /proc/self/status
        sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev
        python -c 'import torch' 2>&1 | tail -1
    """
    done = builder.start(image, ("sh", "-c", look), volumes=volumes)
    assert done.stdout.split("\n") == [
        *("65532", "65532", "NoNewPrivs:\t1", "lo"),
        *("ModuleNotFoundError: No module named 'torch'", ""),
    ]
    assert done.stderr == ""


@pytest.mark.slow
def test_a_root_that_can_be_written_belongs_to_root_all_the_same(
    builder: Builder, image: Image, volumes: Mapping[str, tuple[Path, bool]]
) -> None:
    if os.geteuid() != 0:
        return  # all files belong to the one user who is mapped
    look = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/tmp*' | sort"
    done = builder.start(image, ("sh", "-c", look), volumes=volumes, read_only=False)
    devices = {f"/dev/{name}" for name in ("null", "zero", "urandom", "shm")}
    assert set(done.stdout.split()) - devices == {"/state", "/results"}


def test_where_the_engine_forbids_the_sandbox_that_is_said_and_can_be_an_error(
    builder: Builder, image: Image, volumes: Mapping[str, tuple[Path, bool]]
) -> None:
    forbid = ("python", "/forbidden_calls.py")
    mounted = {**volumes, "/forbidden_calls.py": (Path(forbidden_calls.__file__), False)}
    done = builder.start(image, (*forbid, *image.healthcheck), volumes=mounted)
    assert done.returncode == 2
    line = next(line for line in done.stdout.splitlines() if line.startswith("sandbox"))
    assert "PROBLEM" in line
    assert "without landlock it can" in line
    assert "without seccomp it can" in line
    scan = (*forbid, "moderate", "scan", "/images/card_clean.png", "--weights", "testcard")
    refused = builder.start(image, (*scan, "--require-sandbox"), volumes=mounted)
    assert refused.returncode == 2
    assert "landlock" in refused.stderr
    assert "seccomp" in refused.stderr


def test_the_cuda_variant_has_torch(builder: Builder) -> None:
    image = builder.variant("cuda").build()
    ask = "import importlib.metadata as m; print(*(m.version(n) for n in ('torch', 'moderate')))"
    done = builder.start(image, ("python", "-c", ask))
    assert done.returncode == 0, done.stderr
    assert image.labels["moderate.variant"] == "cuda"


def test_the_commands_of_the_page_are_the_safe_ones_and_mount_what_must_be_writable(
    builder: Builder, image: Image
) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    runs = [
        shlex.split(line, comments=True) for line in lines if re.match(r"(podman|docker) run", line)
    ]
    assert {words[0] for words in runs} == {"podman", "docker"}
    for words in runs:
        assert SAFE in " ".join(words)
        mounted = [words[at + 1] for at, word in enumerate(words) if word == "--volume"]
        places = {place.split(":")[1] for place in mounted}
        assert set(image.volumes) <= places
        if "--out" in words:
            assert image.working in places
    builds = [line for line in lines if re.match(r"(podman|docker) build", line)]
    arguments, stages = read_stages(CONTAINERFILE)
    known = {
        *arguments,
        *(
            i.value[0].partition("=")[0]
            for s in stages
            for i in s.instructions
            if i.cmd.upper() == "ARG"
        ),
    }
    for line in builds:
        assert set(re.findall(r"--build-arg (\w+)=", line)) <= known
