"""What a configuration file that was found may do to a run, and what is said and kept of it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from moderate.cli.commands import all_commands
from moderate.cli.main import run
from moderate.results.read import read_results
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith("MODERATE_"):
            monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    folder = tmp_path / "dump"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(scene((80, 60)), "PNG"))
    return folder


def scan(*arguments: object) -> int:
    return run(["scan", *map(str, arguments), "--no-state", "--backend", "torch"])


def test_an_upload_rules_nothing(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would leave the image out, and write over a file elsewhere."""
    kept = dump.parent / "kept.csv"
    kept.write_text("mine")
    upload = dump / "moderate.toml"
    upload.write_text(f'out = "{kept}"\nexclude = ["*"]\nquiet = true\nlog_json = true\n')
    monkeypatch.chdir(dump)
    assert scan(".", "--weights", bundle, "--summary", "../summary.json", "-q") == 0
    out, err = capsys.readouterr()
    assert (out, kept.read_text()) == ("", "mine")
    assert err == (
        f"moderate: not used as configuration: {upload} (it lies in the input .); "
        "use --config FILE to name a file, or --no-config to look for none\n"
    )
    summary = json.loads(Path("../summary.json").read_text())
    assert summary["scored"] == 1
    assert not {"config", "config_sha256"} & summary["audit"].keys()
    assert scan(".", "--weights", bundle, "-q", "--no-config") == 0
    monkeypatch.setenv("MODERATE_NO_CONFIG", "1")
    assert scan(".", "--weights", bundle, "-q") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("way", ["stdin", "option", "environment"])
def test_lists_are_inputs_too(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (dump / "moderate.toml").write_text('exclude = ["*"]\n')
    (dump / "list").write_text("a.png\n")
    monkeypatch.chdir(dump)
    named: list[object] = []
    if way == "stdin":
        with Path("list").open() as stream:
            monkeypatch.setattr("sys.stdin", stream)
            assert scan("-", "--weights", bundle, "--out", "../rows.csv") == 0
    else:
        if way == "option":
            named = ["--files-from", "list"]
        else:
            monkeypatch.setenv("MODERATE_FILES_FROM", "list")
        assert scan(*named, "--weights", bundle, "--out", "../rows.csv") == 0
    assert "not used as configuration" in capsys.readouterr().err
    assert read_results("../rows.csv").table(["path"])["path"].to_pylist() == ["./a.png"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_the_file_that_is_used_is_said_and_recorded(
    dump: Path, bundle: Path, capsys: Captured, suffix: str
) -> None:
    file, rows = dump.parent / "moderate.toml", dump.parent / f"rows{suffix}"
    file.write_text(f'weights = "{bundle}"\n')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    summaries = ["--summary", "summary.md", "--summary", "summary.json"]
    assert scan(dump, "--out", rows, *summaries) == 0
    assert f"moderate: options from {file}\n" in capsys.readouterr().err
    audit = json.loads(Path("summary.json").read_text())["audit"]
    for facts in (audit, read_results(str(rows)).facts):
        assert (facts["config"], facts["config_sha256"]) == (str(file), digest)
    assert f"- config: {file} ({digest[:12]})" in Path("summary.md").read_text().replace("\\", "")
    # Decisions that are taken anew keep what the scores were made with.
    assert run(["decide", str(rows), "--policy", "strict", "--summary", "decided.json"]) == 0
    decided = json.loads(Path("decided.json").read_text())["audit"]
    assert (decided["config"], decided["config_sha256"]) == (str(file), digest)
    capsys.readouterr()
    assert run(["explain", str(rows), "row:1"]) == 0
    assert str(file) in "".join(capsys.readouterr().out.split())


def test_a_file_that_was_found_cannot_ask_for_silence(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dump.parent / "moderate.toml"
    file.write_text(f'weights = "{bundle}"\nquiet = true\n')
    assert scan(dump) == 0
    assert capsys.readouterr() == ("", f"moderate: options from {file}\n")
    assert scan(dump, "--quiet") == 0
    assert scan(dump, "--config", file) == 0
    monkeypatch.setenv("MODERATE_QUIET", "1")
    assert scan(dump) == 0
    assert capsys.readouterr() == ("", "")


def test_messages_about_it_are_json_where_it_says_so(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dump.parent / "moderate.toml"
    file.write_text(f'weights = "{bundle}"\nlog_json = true\n')
    (dump / "moderate.toml").write_text("limit = 1\n")
    monkeypatch.chdir(dump)
    assert scan("a.png") == 0
    events = {e["event"]: e for e in map(json.loads, capsys.readouterr().err.splitlines())}
    assert events["config"]["path"] == str(file)
    assert events["config_ignored"]["ignored"] == [
        f"{dump / 'moderate.toml'} (it lies in the input .)"
    ]


def test_named_or_none_command_line_before_environment(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = dump / "named.toml"
    named.write_text(f'weights = "{bundle}"\n')
    assert scan(dump, "--config", named, "-q") == 0
    monkeypatch.setenv("MODERATE_NO_CONFIG", "yes")
    assert scan(dump, "--config", named, "-q") == 0
    monkeypatch.delenv("MODERATE_NO_CONFIG")
    monkeypatch.setenv("MODERATE_CONFIG", str(named))
    assert scan(dump, "-q") == 0
    assert scan(dump, "-q", "--no-config", "--weights", "gone") == 2
    assert "no weights 'gone'" in capsys.readouterr().err
    assert scan(dump, "-q", "--no-config", "--config", named) == 2
    assert "--config and --no-config contradict" in capsys.readouterr().err
    monkeypatch.setenv("MODERATE_NO_CONFIG", "yes")
    assert scan(dump, "-q") == 2
    assert "MODERATE_CONFIG and MODERATE_NO_CONFIG contradict" in capsys.readouterr().err


def test_a_missing_file_is_named_with_its_variable(
    dump: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODERATE_CONFIG", "gone.toml")
    assert scan(dump) == 2
    assert "error: MODERATE_CONFIG: config gone.toml: No such file" in capsys.readouterr().err
    assert scan(dump, "--config", "lost.toml") == 2
    assert "error: config lost.toml: No such file" in capsys.readouterr().err


def test_state_and_no_state_of_a_higher_level_win(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scanned(*arguments: str) -> int:
        options = ("--weights", str(bundle), "--backend", "torch", "-q", *arguments)
        return run(["scan", str(dump), *options])

    Path("moderate.toml").write_text('state = "kept"\n')
    assert scanned("--no-state") == 0
    monkeypatch.setenv("MODERATE_NO_STATE", "1")
    assert scanned() == 0
    assert not Path("kept").exists()
    assert scanned("--state", "named") == 0
    assert Path("named").is_dir()
    monkeypatch.setenv("MODERATE_STATE", "variable")
    assert scanned() == 2
    assert "--state and --no-state contradict each other" in capsys.readouterr().err
    monkeypatch.delenv("MODERATE_NO_STATE")
    Path("moderate.toml").write_text("no_state = true\n")
    assert scanned() == 0
    assert Path("variable").is_dir()
    assert scanned("--state", "both", "--no-state") == 2


def test_an_error_names_the_file_that_the_value_is_from(
    dump: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dump.parent / "moderate.toml"
    file.write_text("batch_size = 'many'\n")
    assert scan(dump) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"moderate: error: config {file}: ")
    assert "--batch-size" in err
    assert scan(dump, "--batch-size", "many") == 2
    assert str(file) not in capsys.readouterr().err


WRONG = {
    "batch_size": ("many", "--batch-size"),
    "max_file_size": ("10XB", "--max-file-size '10XB' is not a size"),
    "workers": ("none", "--workers 'none'"),
    "weights": ("gone", "no weights 'gone'"),
    "policy": ("gone", "no policy 'gone'"),
    "out": ("rows.txt", "rows.txt"),
    "fail_on": ("maybe", "--fail-on"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_names_the_file_or_variable_that_it_is_from(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Also where it is refused long after the command line was read."""
    value, message = WRONG[key]
    weights = [] if key == "weights" else ["--weights", bundle]
    file = dump.parent / "named.toml"
    file.write_text(f'{key} = "{value}"\n')
    assert scan(dump, *weights, "--config", file, "--quiet") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"moderate: error: config {file}: ")
    assert message in err
    monkeypatch.setenv(f"MODERATE_{key.upper()}", value)
    assert scan(dump, *weights) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"moderate: error: MODERATE_{key.upper()}: ")
    assert message in err
    monkeypatch.delenv(f"MODERATE_{key.upper()}")
    given = [*weights, f"--{key.replace('_', '-')}", value]
    assert scan(dump, *given) == 2
    err = capsys.readouterr().err
    assert "MODERATE_" not in err
    assert str(file) not in err


def test_a_flag_s_value_is_no_value_for_another_option(dump: Path, capsys: Captured) -> None:
    (dump.parent / "moderate.toml").write_text("batch_size = true\n")
    assert scan(dump) == 2
    assert "batch_size: expected a value, got true" in capsys.readouterr().err


def test_an_unknown_variable_is_an_error(
    dump: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODERATE_POLCY", "strict")
    assert scan(dump, "--weights", bundle) == 2
    assert capsys.readouterr().err == (
        "moderate: error: environment: unknown variable MODERATE_POLCY; "
        "did you mean MODERATE_POLICY?\n"
    )


def test_a_list_is_no_value_for_an_option_that_is_given_once(dump: Path, capsys: Captured) -> None:
    Path("mine.toml").write_text('partition_by = ["decision", "date"]\n')
    assert scan(dump, "--config", "mine.toml") == 2
    said = "partition_by: expected a single value, got a list\n"
    assert capsys.readouterr().err.endswith(said)


def test_keys_and_variables_are_called_as_the_options_are() -> None:
    command = typer.main.get_command(all_commands())
    assert isinstance(command, TyperGroup)
    for parameter in command.commands["scan"].params:
        names = [each[2:].replace("-", "_") for each in parameter.opts if each.startswith("--")]
        assert not names or parameter.name in names, parameter.opts


def test_help_needs_no_configuration(dump: Path, capsys: Captured) -> None:
    (dump.parent / "moderate.toml").write_text("wrong")
    assert run(["scan", "--help"]) == 0
    assert "--no-config" in capsys.readouterr().out


def test_the_state_of_the_command_line_wins_over_one_that_is_set_elsewhere(
    tmp_path: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, state = tmp_path / "empty", tmp_path / "state"
    empty.mkdir()
    asked = ["scan", str(empty), "--weights", str(bundle), "-q", "--out", "rows.csv"]
    monkeypatch.setenv("MODERATE_STATE", str(state))
    assert run([*asked, "--no-state"]) == 0
    assert not state.exists()
    monkeypatch.setenv("MODERATE_NO_STATE", "1")
    assert run(asked) == 2
    assert "--state and --no-state contradict" in capsys.readouterr().err
    monkeypatch.delenv("MODERATE_STATE")
    assert run([*asked, "--state", str(state)]) == 0
    assert state.exists()
    monkeypatch.delenv("MODERATE_NO_STATE")
    Path("named.toml").write_text(f'state = "{tmp_path / "other"}"\n')
    assert run([*asked, "--config", "named.toml", "--no-state"]) == 0
    assert not (tmp_path / "other").exists()
    assert run([*asked, "--state", str(state), "--no-state"]) == 2
