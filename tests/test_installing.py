"""What messages say about optional parts is a command for the installation that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moderate import installing
from moderate.installing import how_to_install

REQUIRES = [
    "numpy>=2",
    'starlette>=0.46; extra == "review"',
    'uvicorn>=0.34 ; python_version > "3" and extra == "review"',
    'av>=14; extra == "video"',
]


class Installed:
    """A distribution with this note of where it came from; None: it came from an index."""

    def __init__(self, origin: Any, requires: list[str] | None = None) -> None:
        self.origin, self.requires = origin, requires

    def read_text(self, name: str) -> str | None:
        """As `importlib.metadata` has it."""
        assert name == "direct_url.json"
        return self.origin if self.origin is None else json.dumps(self.origin)


def advice(monkeypatch: pytest.MonkeyPatch, nowhere: Path, installed: Installed) -> str:
    monkeypatch.setattr(installing, "distribution", lambda name: installed)
    return how_to_install("review", str(nowhere))


def test_a_checkout_that_runs_is_named() -> None:
    root = Path(__file__).parents[1]
    assert (root / "pyproject.toml").exists()
    assert how_to_install("review", str(root)) == f"pip install -e '{root}[review]'"


def test_what_was_installed_directly_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "my source"
    source.mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    repository, commit = "https://example.com/o/moderate", "ab" * 20
    vcs = {"vcs": "git", "commit_id": commit}
    for origin, wanted in (
        ({"dir_info": {}}, f"pip install '{source}[review]'"),
        ({"dir_info": {"editable": True}}, f"pip install -e '{source}[review]'"),
        (
            {"url": repository, "vcs_info": vcs},
            f"pip install 'moderate[review] @ git+{repository}@{commit}'",
        ),
        (
            {"url": repository, "vcs_info": {**vcs, "requested_revision": "v1"}},
            f"pip install 'moderate[review] @ git+{repository}@v1'",
        ),
        (
            {"url": f"{repository}.whl", "archive_info": {}},
            f"pip install 'moderate[review] @ {repository}.whl'",
        ),
    ):
        origin = {"url": source.as_uri(), **origin}
        assert advice(monkeypatch, tmp_path, Installed(origin, REQUIRES)) == wanted


@pytest.mark.parametrize(
    "origin",
    [
        None,
        [],
        {"url": "file:///gone/moderate", "dir_info": {}},
        {"url": "https://token@example.com/moderate.whl", "archive_info": {}},
    ],
)
def test_else_its_libraries_are(
    origin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never its bare name, which is another project's on the public index."""
    wanted = "pip install 'starlette>=0.46' 'uvicorn>=0.34'"
    assert advice(monkeypatch, tmp_path, Installed(origin, REQUIRES)) == wanted
    told = advice(monkeypatch, tmp_path, Installed(origin))
    assert told == "install the extra review from where moderate itself was installed"


def test_no_message_and_no_page_installs_it_by_its_bare_name() -> None:
    root = Path(__file__).parents[1]
    for file in (*root.glob("moderate/**/*.py"), *root.glob("docs/**/*.md"), root / "README.md"):
        assert "pip install 'moderate" not in file.read_text(), file
        assert "pip install moderate" not in file.read_text(), file
