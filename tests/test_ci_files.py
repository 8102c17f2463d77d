"""What CI systems take from this repository: the action, the hook, and what docs/ci.md shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer
from identify.identify import tags_from_filename
from jsonschema import Draft7Validator
from pre_commit.clientlib import load_manifest
from ruamel.yaml import YAML

from moderate.cli.commands import all_commands
from moderate.testcards import draw_card
from moderate.types import Category
from tests.support.findings import workflow_commands
from tests.support.patience import PATIENCE

_OF_TESTS = ("OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT", "XDG_CACHE_HOME", "XDG_STATE_HOME")
"""Variables that keep a real scan to the tests' own files, and their converted models to one."""

ROOT = Path(__file__).parent.parent
ACTION = YAML(typ="safe").load(ROOT / "action.yml")
PAGE = (ROOT / "docs" / "ci.md").read_text()
HOSTILE = "a b;$(touch pwned)`touch pwned`'\"*.png"


def problems(schema: str, document: Any) -> list[str]:
    """What one of the schemas of check-jsonschema finds wrong."""
    known = files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{schema}.json"
    validator = Draft7Validator(json.loads(known.read_text()))
    return [error.message for error in validator.iter_errors(document)]


def test_the_action_is_one() -> None:
    assert problems("github-actions", ACTION) == []
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"\$\{\{ inputs\.([a-z-]+) \}\}", text)) == set(ACTION["inputs"])
    steps = {step.get("id"): step for step in ACTION["runs"]["steps"]}
    assert set(re.findall(r'(?:echo ")([a-z-]+)=', steps["scan"]["run"])) == set(ACTION["outputs"])
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "an input within a script could be code"


@dataclass
class Runner:
    """A runner of GitHub Actions whose python makes no environment, and which has a moderate."""

    folder: Path
    moderate: str

    def __post_init__(self) -> None:
        self.log = self.folder / "calls"
        self.stubs, self.temporary = self.folder / "stubs", self.folder / "temp"
        for each in (self.stubs, self.temporary):
            each.mkdir()
        self.outputs, self.summary = self.folder / "outputs", self.folder / "summary.md"
        log = f"printf '%s\\n' \"$0 $*\" >> {shlex.quote(str(self.log))}"
        program = "\n".join(
            [
                "#!/bin/bash",
                log,
                'if [ "$2" = venv ]; then',
                '  mkdir -p "$3/bin"',
                '  printf \'PATH=%q:$PATH\\n\' "$3/bin" > "$3/bin/activate"',
                f"  printf '%s' {shlex.quote(self.moderate)} > \"$3/bin/moderate\"",
                '  chmod +x "$3/bin/moderate"',
                "fi",
                'if [ "$1" = -c ]; then exec python3 "$@"; fi',
            ]
        )
        (self.stubs / "python").write_text(program)
        (self.stubs / "python").chmod(0o755)

    def run(self, cwd: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Run the steps of the action one after the other, until one fails."""
        given = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        known = {"github.action_path": "/the action"}
        known |= {f"inputs.{name}": value for name, value in given.items()}
        environment = {
            key: os.environ[key]
            for key in ("HOME", "LANG", "PYTHONPATH", "TMPDIR", *_OF_TESTS)
            if key in os.environ
        }
        environment |= {
            "PATH": f"{self.stubs}:/usr/bin:/bin",
            "RUNNER_TEMP": str(self.temporary),
            "GITHUB_OUTPUT": str(self.outputs),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "LOG": str(self.log),
        }
        for step in ACTION["runs"]["steps"]:
            if "run" not in step:
                continue
            values = {
                name: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: known[found[1]], text)
                for name, text in step["env"].items()
            }
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=cwd, env=environment | values, text=True, timeout=PATIENCE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            if done.returncode:
                break
        return done


def test_the_action_passes_on_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    stub = """#!/bin/bash
printf '<%s>' "$@" >> "$LOG"; echo >> "$LOG"
[ "$1" != scan ] || exit 2
"""
    runner = Runner(tmp_path, stub)
    done = runner.run(
        tmp_path,
        paths=f"assets\n\n  \n{HOSTILE}\n-x.png",
        weights="starter",
        policy=HOSTILE,
        args=f"--exclude={HOSTILE}\n--limit=3\n",
        baseline="old file.sarif",
    )
    assert done.returncode == 2, done.stdout
    calls = runner.log.read_text().splitlines()
    assert [call.partition(" ")[2] for call in calls[:2]] == [
        f"-m venv {tmp_path}/temp/moderate",
        "-m pip install --quiet /the action[cpu]",
    ]
    assert calls[2:4] == ["<--version>", "<weights><pull><starter>"]
    scan = calls[-1]
    assert scan.startswith(f"<scan><--weights=starter><--policy={HOSTILE}><--fail-on=block>")
    ending = "".join(
        f"<{each}>"
        for each in (
            *(f"--exclude={HOSTILE}", "--limit=3", "--baseline=old file.sarif"),
            *("--", "assets", HOSTILE, "-x.png"),
        )
    )
    assert scan.endswith(ending)
    assert not (tmp_path / "pwned").exists()
    assert runner.outputs.read_text() == "exit-code=2\n"


def test_the_action_takes_another_version_and_a_folder_of_weights(tmp_path: Path) -> None:
    runner = Runner(tmp_path, '#!/bin/bash\nprintf \'<%s>\' "$@" >> "$LOG"; echo >> "$LOG"\n')
    (tmp_path / "my weights").mkdir()
    done = runner.run(tmp_path, paths="a", weights="my weights", version="moderate @ git+https://x")
    assert done.returncode == 0, done.stdout
    log = runner.log.read_text()
    assert "-m pip install --quiet moderate @ git+https://x\n" in log
    assert "<pull>" not in log
    assert "<scan><--weights=my weights>" in log


def test_the_action_reports_what_a_real_scan_finds(tmp_path: Path) -> None:
    real = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -P -m moderate "$@"\n'
    runner = Runner(tmp_path, real)
    cards = tmp_path / "repository" / "art"
    cards.mkdir(parents=True)
    draw_card(Category.NUDITY, "block", seed=1).save(cards / "red, 100%.png")
    draw_card(None, "clean", seed=1).save(cards / "fine.png")
    (cards / "##[set-output name=exit-code]0.png").write_bytes(b"no image")
    done = runner.run(tmp_path / "repository", paths="art", weights="testcard", fail_on="review")
    assert done.returncode == 1, done.stdout
    log = done.stdout
    _, token, rest = re.split(r"^::stop-commands::([0-9a-f]{32})\n", log, flags=re.M)
    silent, heard = rest.split(f"\n::{token}::\n")
    assert "##[" in silent
    block, review = workflow_commands(heard)
    assert (block[""], block["file"]) == ("error", "art/red, 100%.png")
    assert (review[""], review["title"]) == ("warning", "Not scored: not an image")
    outputs = dict(line.split("=", 1) for line in runner.outputs.read_text().splitlines())
    assert outputs["exit-code"] == "1"
    results = json.loads(Path(outputs["sarif"]).read_text())["runs"][0]["results"]
    paths = [result["properties"]["path"] for result in results]
    assert paths == ["art/##[set-output name=exit-code]0.png", "art/red, 100%.png"]
    assert Path(outputs["results"]).read_text().count("\n") == 4
    assert "## Decisions" in runner.summary.read_text()


def test_the_hook_is_one_and_takes_raster_images() -> None:
    (hook,) = load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))
    assert hook["id"] == "moderate"
    for name in ("a.png", "a.jpg", "a.webp", "a.gif"):
        assert set(hook["types"]) <= tags_from_filename(name)
        assert not tags_from_filename(name) & set(hook["exclude_types"])
    assert tags_from_filename("a.svg") & set(hook["exclude_types"])
    program, command, *arguments = shlex.split(hook["entry"])
    assert (program, command) == ("moderate", "scan")
    known: Any = typer.main.get_command(all_commands())
    of_user = ["--weights", "starter", "--fail-on", "review"]
    given = known.commands["scan"].make_context("scan", [*arguments, *of_user, "a.png", "b c.png"])
    assert given.params["fail_on"] == "review"
    assert given.params["inputs"] == ["a.png", "b c.png"]


def test_the_page_shows_workflows_that_are_some() -> None:
    shown = [YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    github, gitlab, hooks = shown
    assert problems("github-workflows", github) == []
    assert problems("gitlab-ci", gitlab) == []
    (step,) = (each for each in github["jobs"]["moderate"]["steps"] if each.get("id"))
    assert set(step["with"]) <= set(ACTION["inputs"])
    (hook,) = hooks["repos"][0]["hooks"]
    (known,) = load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))
    assert hook["id"] == known["id"]
