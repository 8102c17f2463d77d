"""The command line: exit codes, messages, precedence, what goes to which stream."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from moderate import stopping
from moderate.cli.exit_codes import of_scan
from moderate.cli.findings import report_errors
from moderate.cli.main import run
from moderate.cli.scan_values import parse_only
from moderate.errors import UsageError
from moderate.policy.load import load_policy
from moderate.run.options import ScanOptions
from moderate.run.scan import plan
from moderate.run.summary import Summary
from moderate.testcards import draw_card
from moderate.types import Origin
from tests.support import run_columns
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith("MODERATE_"):
            monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "style.css").write_bytes(b"body {}")
    return folder


def scan(*arguments: object) -> int:
    return run(["scan", *map(str, arguments)])


def policy(folder: Path, review: float, block: float, on_error: str = "review") -> Path:
    names = ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
    limits = f"{{ review = {review}, block = {block} }}"
    file = folder / f"policy-{review}-{block}-{on_error}.toml"
    lines = ['name = "test"', f'on_error = "{on_error}"', "[categories]"]
    file.write_text("\n".join(lines + [f"{name} = {limits}" for name in names]) + "\n")
    return file


# Exit codes, frozen ------------------------------------------------------------------------------


def summary_of(approve: int = 0, review: int = 0, block: int = 0, errors: int = 0) -> Summary:
    policy = load_policy("balanced").policy
    summary = Summary(audit=None, policy=policy)  # type: ignore[arg-type]
    summary.decisions.update({"approve": approve, "review": review, "block": block})
    summary.rows, summary.errors = approve + review + block, errors
    summary.error_codes["truncated"] = errors
    return summary


@pytest.mark.parametrize(
    ("counts", "fail_on", "rate", "code"),
    [
        ({"approve": 1, "review": 1, "block": 1}, "never", 1.0, 0),
        ({"approve": 1}, "review", 1.0, 0),
        ({"approve": 1, "review": 1}, "review", 1.0, 1),
        ({"approve": 1, "block": 1}, "review", 1.0, 1),
        ({"approve": 1, "review": 1}, "block", 1.0, 0),
        ({"approve": 1, "block": 1}, "block", 1.0, 1),
        ({"approve": 9, "review": 1, "errors": 1}, "never", 0.1, 0),
        ({"approve": 9, "review": 1, "errors": 1}, "never", 0.09, 2),
        ({"approve": 9, "block": 1, "errors": 1}, "block", 0.0, 2),
        ({"review": 9, "errors": 8}, "never", 1.0, 0),
        ({"review": 9, "errors": 9}, "never", 1.0, 2),
        ({}, "review", 0.0, 0),
    ],
)
def test_exit_codes_of_a_finished_scan(
    counts: dict[str, int], fail_on: str, rate: float, code: int
) -> None:
    assert of_scan(summary_of(**counts), fail_on, rate) == code


def test_nothing_scored_beside_what_was_left_out_is_no_error() -> None:
    summary = summary_of(review=1, errors=1)
    summary.left_out_scored = 100
    assert of_scan(summary, "never", 1.0) == 0


def test_many_errors_are_worth_a_warning(capsys: Captured) -> None:
    report_errors(summary_of(review=9, errors=4), 1.0)
    assert capsys.readouterr().err == ""
    report_errors(summary_of(review=9, errors=5), 1.0)
    assert "5 of 9 rows are errors (55.6%), mostly truncated" in capsys.readouterr().err


def test_a_name_that_looks_like_options_gets_a_hint(capsys: Captured) -> None:
    for arguments in (["explain", "rows.csv", "-x9Kd.jpg"], ["scan", "-x/a.png"]):
        assert run(arguments) == 2
        name = arguments[-1]
        assert capsys.readouterr().err.endswith(f"; if {name} is a file, write ./{name}\n")
    assert run(["scan", "-z"]) == 2
    assert "write ./" not in capsys.readouterr().err


def test_only_names_origins() -> None:
    expected = (Origin.NEW, Origin.CHANGED)
    for texts in (["new,changed"], ["changed", "new"], ["new, changed,"]):
        assert parse_only(texts) == expected
    assert parse_only([]) == parse_only([""]) == ()
    for texts, said in ((["newest"], "use new, changed, reused, duplicate"), ([","], "name an")):
        with pytest.raises(typer.BadParameter, match=said):
            parse_only(texts)


def test_exit_codes_end_to_end(images: Path, bundle: Path, tmp_path: Path) -> None:
    weights = ("--weights", bundle, "--quiet")
    blocks, passes = policy(tmp_path, 0.0, 0.0), policy(tmp_path, 1.0, 1.0)
    assert scan(images, *weights, "--policy", blocks) == 0
    assert scan(images, *weights, "--policy", blocks, "--fail-on", "block") == 1
    assert scan(images, *weights, "--policy", passes, "--fail-on", "block") == 0
    assert scan(images, *weights, "--policy", passes, "--fail-on", "review") == 1, "the error row"
    assert scan(images / "1.png", *weights, "--policy", passes, "--fail-on", "review") == 0
    assert scan(images, *weights, "--policy", blocks, "--fail-on", "block",
                "--max-error-rate", "0.1") == 2  # fmt: skip


def test_fail_on_names_the_images_that_failed_the_run(
    images: Path, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    (images / "a  b.png").write_bytes(encode(scene((80, 60), seed=9), "PNG"))
    given = [images, "--weights", bundle, "--quiet", "--policy", policy(tmp_path, 0.0, 0.0),
             "--fail-on", "review"]  # fmt: skip
    assert scan(*given) == 1
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "moderate: 6 images at or above --fail-on review:"
    paths = [line.split(": ", 1)[0] for line in lines]
    names = ("0.png", "1.png", "2.png", "3.png", "a  b.png")
    assert paths == [
        *(f"  block   {images}/{name}" for name in names),
        f"  review  {images}/broken.jpg",  # the worst decisions first
    ]
    assert all(" >= block 0.00" in line for line in lines[:5])
    assert lines[5].endswith(": error truncated: on_error review")
    assert scan(*given, "--max-listed", "2", "--log-json") == 1
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["findings", "finding", "finding"]
    assert (events[0]["count"], events[0]["listed"]) == (6, 2)
    assert events[2]["path"] == f"{images}/1.png"
    assert events[2]["decision"] == "block"
    assert "--max-listed lists more" in events[0]["message"]


@pytest.mark.parametrize(
    "name", ["folder", "list.txt", "m.csv", "m.jsonl", "m.parquet", "a.zip", "a.tar", "-"]
)
def test_an_empty_input_gives_empty_results_whatever_kind_it_is(
    bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Path("folder").mkdir()
    Path("list.txt").write_text("# nothing new\n")
    Path("m.csv").write_text("path\n")
    Path("m.jsonl").touch()
    pq.write_table(pa.table({"path": pa.array([], pa.string())}), "m.parquet")
    zipfile.ZipFile("a.zip", "w").close()
    tarfile.open("a.tar", "w").close()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert scan(name, "--weights", bundle, "--quiet", "--out", "rows.csv") == 0
    where = "standard input" if name == "-" else name
    expected = f"moderate: there are no images in {where}; nothing was scored\n"
    assert capsys.readouterr().err == expected
    assert len(Path("rows.csv").read_text().splitlines()) == 1


def test_input_that_cannot_be_read_to_its_end_is_an_error(
    images: Path, bundle: Path, capsys: Captured
) -> None:
    """Of each kind; the rows that there are get written."""
    with tarfile.open("half.tar", "w") as archive:
        for number in range(4):
            archive.add(images / f"{number}.png", f"{number}.png")
    whole = Path("half.tar").read_bytes()
    Path("half.tar").write_bytes(whole[: len(whole) // 4])
    Path("page.zip").write_text("<html>404</html>")
    inputs = ["half.tar", "page.zip", "nowhere", "images/*.none", images]
    assert scan(*inputs, "--weights", bundle, "--quiet", "--out", "rows.jsonl") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "moderate: error: some input could not be read, so images may be missing"
    )
    for name in ("./half.tar", "./page.zip", "./nowhere", "./images/*.none"):
        assert f"{name} (" in line
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert sum(row["status"] == "ok" for row in rows) >= 5
    assert "half.tar!/0.png" in rows[0]["path"]
    assert scan(images, "--weights", bundle, "--quiet") == 0, "one bad image is not an input"


def test_a_run_without_a_score_is_an_error(images: Path, bundle: Path, capsys: Captured) -> None:
    Path("list.txt").write_text("gone.png\nimages/style.css\n")
    assert scan("list.txt", "--weights", bundle, "-q", "--out", "rows.jsonl") == 2
    assert capsys.readouterr().err == (
        "moderate: error: no image could be scored: all rows are errors "
        "(1 not_found, 1 not_an_image)\n"
    )
    assert len(Path("rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scan"], "INPUT"),
        (["scan", "images"], "--weights testcard"),
        (["scan", "nowhere", "--weights", "BUNDLE"], "nowhere does not exist"),
        (["scan", "images", "--weights", "nonesuch"], "nonesuch"),
        (["scan", "images", "--weights", "BUNDLE", "--policy", "nope"], "balanced"),
        (["scan", "images", "--weights", "BUNDLE", "--out", "x.xls"], ".parquet"),
        (["scan", "images", "--weights", "BUNDLE", "--out", "no/x.csv"], "no folder"),
        (["scan", "images", "--weights", "BUNDLE", "--summary", "x.txt"], ".json"),
        (["scan", "images", "--weights", "BUNDLE", "--out", "a.csv", "--out", "./a.csv"], "twice"),
        (
            [
                "scan",
                "images",
                "--weights",
                "BUNDLE",
                "--out",
                "a.csv",
                "--summary",
                "a.csv.meta.json",
            ],
            "twice",
        ),
        (["scan", "images", "--weights", "BUNDLE", "--summary", "folder.json"], "it is a folder"),
        (["scan", "nodir/*.png", "--weights", "BUNDLE"], "nodir/*.png does not exist"),
        (["scan", "css", "--weights", "BUNDLE"], "none of 1 files in css is an image"),
        (["scan", "images/*.nomatch", "--weights", "BUNDLE"], "nothing is at"),
        (["scan", "images", "--weights", "BUNDLE", "--decode-timeout", "inf"], "--decode-timeout"),
        (["scan", "images", "--weights", "BUNDLE", "--hourly-cost", "inf"], "--hourly-cost"),
        (["scan", "images", "--weights", "BUNDLE", "--max-megapixels", "inf"], "--max-megapixels"),
        (["scan", "images", "--weights", "BUNDLE", "--max-file-size", "100000GB"], "terabyte"),
        (["scan", "images", "--weights", "BUNDLE", "--device", "gpu"], "--device"),
        (["scan", "images", "--weights", "BUNDLE", "--precision", "fp64"], "--precision"),
        (["scan", "images", "--weights", "BUNDLE", "--max-file-size", "big"], "big"),
        (["scan", "images", "--weights", "BUNDLE", "--batch-size", "0"], "--batch-size"),
        (["scan", "images", "--weights", "BUNDLE", "--fail-on", "maybe"], "--fail-on"),
        (["scan", "images", "--weights", "BUNDLE", "--config", "gone.toml"], "gone.toml"),
        (["scan", "images", "--colour"], "--colour"),
        (["paint"], "paint"),
        (["policy", "check", "nope.toml"], "nope.toml"),
        (["testcards", "images/0.png"], "images/0.png"),
        (["testcards", "cards", "--format", "tiff"], "tiff"),
    ],
)
def test_errors_are_one_clear_line_and_exit_2(
    images: Path, bundle: Path, tmp_path: Path, capsys: Captured, arguments: list[str], said: str
) -> None:
    (tmp_path / "css").mkdir()
    (tmp_path / "css" / "a.css").write_text("a {}")
    (tmp_path / "folder.json").mkdir()
    assert run([str(bundle) if a == "BUNDLE" else a for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("moderate: error: ")
    assert said in lines[-1]
    assert "Traceback" not in err


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has CUDA")
def test_cuda_asked_for_and_missing_is_an_error(
    images: Path, bundle: Path, capsys: Captured
) -> None:
    assert scan(images, "--weights", bundle, "--device", "cuda", "--out", "x.csv") == 2
    assert "no working CUDA" in capsys.readouterr().err
    assert not Path("x.csv").exists()


def test_debug_shows_the_traceback(images: Path, capsys: Captured) -> None:
    assert scan(images, "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("moderate: error: no weights chosen")


# Streams -----------------------------------------------------------------------------------------


def test_rows_on_stdout_alone(images: Path, bundle: Path, capsys: Captured) -> None:
    assert scan(images, "--weights", bundle, "--out", "-") == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"].rsplit("/", 1)[1] for row in rows] == [
        "0.png", "1.png", "2.png", "3.png", "broken.jpg",
    ]  # fmt: skip
    assert "4 scored + 1 errors + 1 skipped = 6 found" in err


def test_json_lines_on_stdout(images: Path, bundle: Path, capsys: Captured) -> None:
    assert scan(images, "--weights", bundle, "--out", "-.jsonl", "--quiet") == 0
    out, err = capsys.readouterr()
    assert len([json.loads(line) for line in out.splitlines()]) == 5
    assert err == ""


def test_quiet_prints_nothing_on_success(images: Path, bundle: Path, capsys: Captured) -> None:
    assert scan(images, "--weights", bundle, "--quiet", "--out", "x.csv") == 0
    assert capsys.readouterr() == ("", "")


def test_the_summary_fits_80_columns_and_is_plain(
    images: Path, bundle: Path, capsys: Captured
) -> None:
    scan(images.name, "--weights", bundle)
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out + err
    assert "corrupt_image" in out or "truncated" in out
    assert "add --out" in err


def test_no_control_character_of_a_name_reaches_the_terminal(
    tmp_path: Path, bundle: Path, capsys: Captured
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("\x1b]0;owned\x07.jpg", "a\u202egpj.exe.jpg", "b\n\r.jpg", "[red]c[-].jpg"):
        (folder / name).write_bytes(b"no image")
    assert scan(folder, "--weights", bundle, "--summary", "s.md", "--fail-on", "review") == 2
    out, err = capsys.readouterr()
    assert err.count("error not_an_image") == 4
    for text in (out, err, Path("s.md").read_text()):
        assert not {"\x1b", "\x07", "\u202e", "\r"} & set(text)


# Results -----------------------------------------------------------------------------------------


def without_times(text: str) -> str:
    facts = json.loads(text)
    for key in ("run_id", "started", "ended"):
        facts.get("audit", facts).pop(key)
    # Of the run, not of its input.
    for key in ("throughput", "origins", "sha256", "generator"):
        facts.pop(key, None)
    return json.dumps(facts)


def test_two_runs_give_the_same_bytes(images: Path, bundle: Path) -> None:
    for run_name in ("a", "b"):
        outs = [f"--out={run_name}.{suffix}" for suffix in ("csv", "jsonl", "parquet")]
        assert scan(images, "--weights", bundle, *outs, f"--summary={run_name}.json", "-q") == 0
    for suffix in ("csv", "jsonl"):
        rows = [run_columns.without(Path(f"{name}.{suffix}").read_bytes()) for name in "ab"]
        assert rows[0] == rows[1]
        meta = [Path(f"{name}.{suffix}.meta.json").read_text() for name in "ab"]
        assert without_times(meta[0]) == without_times(meta[1])
    tables = [pq.read_table(f"{name}.parquet").drop_columns(run_columns.NAMES) for name in "ab"]
    assert tables[0].equals(tables[1])
    named_alike = Path("b.json").read_text().replace('"b.', '"a.')
    assert without_times(Path("a.json").read_text()) == without_times(named_alike)


def test_the_summary_file_adds_up(images: Path, bundle: Path) -> None:
    scan(images, "--weights", bundle, "-q", "--summary", "s.json", "--summary", "s.md",
         "--hourly-cost", "2.5")  # fmt: skip
    facts = json.loads(Path("s.json").read_text())
    assert facts["total"] == facts["scored"] + facts["errors"] + facts["skipped"] == 6
    assert sum(facts["decisions"].values()) == facts["rows"] == 5
    assert sum(facts["error_codes"].values()) == facts["errors"] == 1
    assert facts["skipped_by_reason"] == {"not an image": 1}
    for bands in facts["categories"].values():
        assert sum(bands.values()) == facts["scored"]
    assert facts["warnings"] == {"small_image": 4}
    assert facts["cost"]["per_hour"] == 2.5
    assert len(facts["audit"]["weights_sha256"]) == 64
    text = Path("s.md").read_text()
    assert "| approve |" in text
    assert "cost: " in text


def test_options_of_the_walk(images: Path, bundle: Path, capsys: Captured) -> None:
    (images / ".hidden.png").write_bytes((images / "0.png").read_bytes())
    (images / "link.png").symlink_to("0.png")

    def paths(*options: str, code: int = 0) -> list[str]:
        assert scan(images, "--weights", bundle, "-q", "--out", "-", *options) == code
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return [row["path"].rsplit("/", 1)[1] for row in rows]

    assert paths("--include", "[12].png") == ["1.png", "2.png"]
    assert paths("--exclude", "*.png", code=2) == ["broken.jpg"]
    assert paths("--limit", "2") == ["0.png", "1.png"]
    assert ".hidden.png" in paths("--hidden")
    assert "link.png" in paths("--follow-symlinks")
    assert "style.css" in paths("--all-files")


# Configuration -----------------------------------------------------------------------------------


def decisions(capsys: Captured, *arguments: object) -> set[str]:
    assert scan(*arguments, "-q", "--out", "-") == 0
    return {row["decision"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def test_options_win_over_environment_over_config_over_defaults(
    images: Path, bundle: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, passes = policy(tmp_path, 0.0, 0.0, "block"), policy(tmp_path, 1.0, 1.0, "block")
    (tmp_path / "moderate.toml").write_text(
        f'weights = "{bundle}"\npolicy = "{block.name}"\nexclude = ["broken*"]\n'
    )
    assert decisions(capsys, images) == {"block"}
    other = tmp_path / "other.toml"
    other.write_text(f'weights = "{bundle}"\npolicy = "{passes.name}"\nexclude = ["broken*"]\n')
    assert decisions(capsys, images, "--config", other) == {"approve"}
    monkeypatch.setenv("MODERATE_POLICY", str(passes))
    assert decisions(capsys, images) == {"approve"}
    assert decisions(capsys, images, "--policy", block) == {"block"}


def test_one_value_for_a_list_and_spaces_in_it(
    images: Path, bundle: Path, capsys: Captured
) -> None:
    Path("moderate.toml").write_text(f'weights = "{bundle}"\nout = "one file.csv"\nquiet = true\n')
    assert scan(images) == 0
    assert len(Path("one file.csv").read_text().splitlines()) == 6


def test_pyproject_and_parent_folders(
    images: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pyproject.toml").write_text(f'[tool.moderate]\nweights = "{bundle}"\nlimit = 1\n')
    below = images / "deeper"
    below.mkdir()
    monkeypatch.chdir(below)
    assert scan(images, "-q", "--out", "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("number", "wanted"), [("0", "use 1 or more"), ("1001", "use 1000 or less")]
)
def test_a_number_out_of_range_is_one_plain_line(
    images: Path, capsys: Captured, number: str, wanted: str
) -> None:
    assert scan(images, "--video-every", "1", "--min-frames", number) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"moderate: error: Invalid value for '--min-frames': {wanted}"


@pytest.mark.parametrize("option", ["--views", "--embedded", "--fail-on"])
def test_a_wrong_choice_is_one_plain_line(images: Path, capsys: Captured, option: str) -> None:
    assert scan(images, option, "x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"moderate: error: Invalid value for '{option}': 'x' is not one of '")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wieghts = 'x'", "wieghts"),
        ("weights = ", "not valid TOML"),
        ("batch_size = 'many'", "batch-size"),
        ("[policy]\nname = 'x'", "policy"),
        ("inputs = ['x']", "inputs"),
    ],
)
def test_a_wrong_config_is_one_clear_line(
    images: Path, capsys: Captured, text: str, said: str
) -> None:
    Path("moderate.toml").write_text(text)
    assert scan(images) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert said in err


# Other commands ----------------------------------------------------------------------------------


def test_policy_commands(tmp_path: Path, capsys: Captured) -> None:
    assert run(["policy", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "balanced", "strict", "permissive", "children",
    ]  # fmt: skip
    assert run(["policy", "show", "strict"]) == 0
    Path("mine.toml").write_text(capsys.readouterr().out)
    assert run(["policy", "check", "mine.toml"]) == 0
    Path("mine.toml").write_text(Path("mine.toml").read_text().replace("block = 0.60", "block = 6"))
    assert run(["policy", "check", "mine.toml"]) == 2
    assert "categories.nudity.block" in capsys.readouterr().err


def test_version_names_what_runs(capsys: Captured) -> None:
    assert run(["--version"]) == 0
    out = capsys.readouterr().out
    for word in ("moderate 0.", "torch 2.", "timm 1.", "device "):
        assert word in out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["scan", "--help"], ["policy", "list"], ["--version"]]
)
def test_help_imports_neither_torch_nor_timm(arguments: list[str]) -> None:
    code = (
        "import sys; from moderate.classify import device; device._GPU_FILES = ();"
        "from moderate.cli.main import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'timm', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_scan_imports_no_more_than_it_uses(tmp_path: Path, images: Path, bundle: Path) -> None:
    code = (
        "import sys; from moderate.cli.main import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'timm', 'pyarrow', 'pandas', 'asyncio', 'moderate.cli.tune',"
        "'moderate.decode.image', 'moderate.report.html', 'av'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "scan", str(images / "1.png"), "--weights", str(bundle),
         "--device", "cpu", "--no-state", "--out", "out.csv", "--out", "out.jsonl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("arguments", [["scan", "1.png", "--weights", "nowhere"], ["runs", "list"]])
def test_garbage_is_collected_once_all_is_imported(arguments: list[str]) -> None:
    code = (
        "import gc, os, sys; from moderate.cli import entry;"
        "real = os._exit; os._exit = lambda code: real(7 if gc.isenabled() else 8);"
        "sys.argv[0] = 'moderate'; entry.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert done.returncode == 7


# Signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signals_stop_the_run_and_leave_nothing(
    tmp_path: Path, bundle: Path, number: int, code: int
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    data = encode(scene((1200, 900)), "PNG")
    for index in range(400):
        (folder / f"{index}.png").write_bytes(data)
    process = subprocess.Popen(
        [sys.executable, "-c", "from moderate.cli.main import main; main()", "scan", str(folder),
         "--weights", str(bundle), "--out", "out.csv", "--out", "-.jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline(), "the first row"
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert len(err.splitlines()) == 1, err
    assert sorted(os.listdir(tmp_path)) == ["many"]


@pytest.mark.parametrize("rows_read", [0, 1])
def test_a_reader_that_goes_away_is_no_finding(images: Path, bundle: Path, rows_read: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from moderate.cli.main import main; main()", "scan", str(images),
         "--weights", str(bundle), "--out", "-", "-q", "--batch-size", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(rows_read):
        process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(PATIENCE) == 141


def test_what_the_terminal_cannot_show_is_escaped(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "\u00fc.jpg").write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-m", "moderate", "scan", "\u00fc.jpg", "--weights", str(bundle)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "\\xfc.jpg" in done.stdout


def test_a_long_path_leaves_the_counts_of_errors_legible(
    tmp_path: Path, bundle: Path, capsys: Captured
) -> None:
    folder = tmp_path / "deep" / ("n" * 100)
    folder.mkdir(parents=True)
    (folder / "x.jpg").write_bytes(b"no image")
    assert scan(tmp_path / "deep", "--weights", bundle) == 2
    out = capsys.readouterr().out
    assert re.search(r"^not_an_image +1 ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_a_signal_that_an_import_turned_into_an_error_is_still_a_signal(
    images: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the initialisation of an extension module does."""

    monkeypatch.setattr(stopping, "_noted", None)

    def failing(*_: object, **__: object) -> None:
        stopping.note(signal.SIGTERM)
        raise ImportError("initialization failed")

    monkeypatch.setattr("moderate.run.resources.Resources.load", failing)
    assert scan(images, "--weights", bundle) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_formats_are_read_where_they_are_asked_for(
    tmp_path: Path, bundle: Path, capsys: Captured
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for kind in ("TIFF", "ICO", "AVIF"):
        (folder / f"a.{kind.lower()}").write_bytes(encode(scene((64, 64)), kind))
    (folder / "named.png").write_bytes(encode(scene((64, 64)), "TIFF"))
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(folder / "a.tiff", "b.tif")
    out = tmp_path / "rows.csv"

    def rows(*options: str) -> dict[str, dict[str, str]]:
        inputs = (folder, folder / "more.zip")
        assert scan(*inputs, "--weights", bundle, "--out", out, "--no-state", *options) == 0
        lines = csv.DictReader(io.StringIO(out.read_text()))
        return {os.path.basename(row["path"]): row for row in lines}

    plain = rows()
    assert plain["a.avif"]["status"] == "ok"
    assert plain["a.avif"]["format"] == "avif"
    for name, kind in (("a.tiff", "tiff"), ("b.tif", "tiff"), ("a.ico", "ico")):
        assert plain[name]["error_code"] == "unsupported_format"
        assert f"--formats +{kind}" in plain[name]["error_message"]
    asked = rows("--formats", "+tiff")
    assert asked["a.ico"]["error_code"] == "unsupported_format"
    for name in ("a.tiff", "b.tif", "named.png"):
        assert asked[name]["status"] == "ok"
    assert asked["named.png"]["warnings"] != asked["a.tiff"]["warnings"]
    capsys.readouterr()
    assert scan(folder, "--weights", bundle, "--formats", "+psd") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "+ico, +tiff" in line


def test_views_show_a_card_that_the_crop_leaves_out(tmp_path: Path, capsys: Captured) -> None:
    """With weights that see the middle third of such an image, and a card at its left."""
    testcard = Path(__file__).parents[2] / "weights" / "testcard"
    weights = Path(shutil.copytree(testcard, tmp_path / "cropping"))
    text = (weights / "moderation.toml").read_text()
    (weights / "moderation.toml").write_text(text.replace('"squash"', '"crop"'))
    folder = tmp_path / "panoramas"
    folder.mkdir()
    image = scene((1200, 400))
    image.paste(draw_card("nudity", "block", 5, 400), (0, 0))
    (folder / "left.png").write_bytes(encode(image, "PNG"))

    def row(*options: str) -> dict[str, str]:
        assert scan(folder, "--weights", weights, "-q", "--out", "-", *options) == 0
        (read,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return read

    alone = row("--views", "1")
    assert alone["decision"] == "review"
    assert alone["reasons"] == "warning partly_seen 67%: on_warning review"
    assert float(alone["unseen"]) == pytest.approx(2 / 3, abs=1e-3)
    found = row()
    assert found["decision"] == "block", found
    assert found["reasons"].startswith("nudity 0."), found
    assert " at 0 to " in found["reasons"], found
    assert found["unseen"] == "0.0"
    with pytest.raises(UsageError, match="--views 'all': use 'auto', '1', '3', 'tiles'"):
        plan(ScanOptions([str(folder)], str(weights), views="all"))  # type: ignore[arg-type]
