"""What a command replaces unasked is what this tool wrote, and nobody has changed since."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.errors import OutputError
from moderate.report.files import FORMATS, render
from moderate.report.model import Paragraph, Report
from moderate.results.atomic import part_path
from moderate.results.existing import Kind, check_facts_replaceable, check_replaceable
from moderate.results.marks import MARK
from moderate.results.read import read_results
from moderate.results.targets import check_overwriting, open_writers, write_text
from moderate.results.text_writers import metadata_path
from moderate.types import Category
from tests.support.s3_server import fake_credentials, serve_s3
from tests.support.scored import write_results

SCORES = {Category.NUDITY: np.linspace(0, 1, 5)}


def why_not(target: str, kind: Kind) -> str | None:
    """The reason that a file is not replaced; None where it is."""
    try:
        check_replaceable(target, kind)
    except OutputError as error:
        line = str(error)
    else:
        return None
    start, end = f"{target} exists and ", "; add --force to replace it, or name another file"
    assert line.startswith(start)
    assert line.endswith(end)
    return line.removeprefix(start).removesuffix(end)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_results_behind_a_link_have_their_facts_beside_the_file(suffix: str) -> None:
    tonight, link = Path(f"nights/2026-11-24.{suffix}"), Path(f"latest.{suffix}")
    tonight.parent.mkdir()
    link.symlink_to(tonight)
    write_results(link, SCORES)  # where nothing was before
    assert sorted(os.listdir()) == [link.name, "nights"]
    assert sorted(os.listdir("nights")) == [tonight.name, f"{tonight.name}.meta.json"]
    for name in (link, tonight):
        results = read_results(str(name))
        assert results.facts["tool"] == "moderate"
        assert not results.mismatch
        assert why_not(str(name), "results") is None
    write_results(link, SCORES)
    assert not read_results(str(tonight)).mismatch
    tonight.with_name(f"{tonight.name}.meta.json").rename(f"{link}.meta.json")
    assert read_results(str(link)).facts["tool"] == "moderate"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_results_of_ours_are_replaced_and_others_are_not(suffix: str) -> None:
    target = f"r.{suffix}"
    assert why_not(target, "results") is None
    Path(target).touch()
    assert why_not(target, "results") is None
    Path(target).write_text("path,note\na.jpg,mine\n")
    assert why_not(target, "results") == "is not a results file of moderate"
    write_results(Path(target), SCORES)
    assert why_not(target, "results") is None
    if suffix == "parquet":
        table = pq.read_table(target)
        pq.write_table(table.replace_schema_metadata(None), target)  # as DuckDB does
        assert why_not(target, "results") == "is not known to be a results file of moderate"
        return
    data = Path(target).read_bytes()
    Path(target).write_bytes(data.replace(b"./0.jpg", b"./9.jpg"))
    assert why_not(target, "results") == "was changed since moderate wrote it"
    Path(target).write_bytes(data)
    os.unlink(metadata_path(target))
    assert f"there is no {target}.meta.json" in str(why_not(target, "results"))


def test_parquet_that_another_program_wrote_anew_is_not_replaced() -> None:
    """Also where it kept the metadata, which says that the file is ours."""
    write_results(Path("r.parquet"), SCORES)
    assert why_not("r.parquet", "results") is None
    written = pq.read_table("r.parquet")
    labelled = written.append_column("my_label", pa.array([1] * len(written)))
    pq.write_table(labelled, "r.parquet")
    assert read_results("r.parquet").facts["tool"] == "moderate"
    assert why_not("r.parquet", "results") == "was changed since moderate wrote it"
    Path("r.parquet").write_bytes(b"PAR1")
    assert why_not("r.parquet", "results") == "is not a results file of moderate"


def test_facts_beside_are_replaced_if_they_are_facts() -> None:
    write_results(Path("r.csv"), SCORES)
    os.unlink("r.csv")
    check_facts_replaceable("r.csv")
    for other in ("{}", "not JSON", '{"tool": "another"}'):
        Path("r.csv.meta.json").write_text(other)
        with pytest.raises(OutputError, match=r"^r\.csv\.meta\.json exists and is not a file of"):
            check_facts_replaceable("r.csv")
        check_overwriting(["r.csv"], [], (), force=True)


def test_a_kill_between_rows_and_their_facts_costs_neither() -> None:
    """The facts are then still in their `.part` file, whatever facts are beside the rows."""
    write_results(Path("r.csv"), SCORES, run_id="new")
    shutil.move("r.csv.meta.json", part_path("r.csv.meta.json"))
    assert read_results("r.csv").facts["run_id"] == "new"
    assert why_not("r.csv", "results") is None
    write_results(Path("old.csv"), {Category.NUDITY: np.zeros(2)}, run_id="old")
    shutil.move("old.csv.meta.json", "r.csv.meta.json")
    assert read_results("r.csv").facts["run_id"] == "new"
    assert not read_results("r.csv").mismatch
    Path(part_path("r.csv.meta.json")).write_text("{ cut")
    assert read_results("r.csv").mismatch


@pytest.mark.parametrize("suffix", list(FORMATS))
def test_reports_of_ours_are_replaced_and_others_are_not(suffix: str) -> None:
    target = f"report{suffix}"
    body = f"a name may be anything: {MARK} \ud800"
    written = Report(f"moderate: {MARK[:8]}", (Paragraph(body),), {"rows": 1, "note": MARK})
    write_text(target, render(written, target))
    assert why_not(target, "report") is None
    assert why_not(target, "labels") == "may hold labels that somebody filled in"
    text = Path(target).read_text()
    Path(target).write_text(text + "mine")
    assert why_not(target, "report") == "was changed since moderate wrote it"
    Path(target).write_text(text.replace("sha256", "SHA"))
    assert why_not(target, "report") == "is not a report of moderate"
    Path(target).write_text("")
    assert why_not(target, "report") is None


def test_objects_in_a_store_are_held_to_the_same_rule() -> None:
    with fake_credentials(), serve_s3() as server:
        server.put("rule", {"r.csv": b"path,note\na,mine\n", "r.parquet": b"x", "s.json": b"{}"})
        objects: dict[str, Kind] = {"r.csv": "results", "r.parquet": "results", "s.json": "report"}
        for key, kind in objects.items():
            uri = server.uri("rule", key)
            with pytest.raises(OutputError, match=rf"^s3://rule/{key} exists and .* add --force"):
                check_replaceable(uri, kind)
            check_replaceable(server.uri("rule", f"new-{key}"), kind)
            if kind == "results":
                with open_writers([uri]) as (writer,):
                    writer.start({"tool": "moderate", "policy_json": "{}"})
                    writer.commit({})
            else:
                write_text(uri, render(Report("moderate", (), {"rows": 1}), uri))
            check_replaceable(uri, kind)
