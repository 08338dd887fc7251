"""Reports of a matrix are functions of its record; records can be merged and compared."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError
from attn_deploy.matrix.cell import FAILED, SKIPPED, CellId, skipped
from attn_deploy.matrix.diff import diff_records
from attn_deploy.matrix.merge import merge_records
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.record import read_record
from attn_deploy.matrix.request import matrix_request, outcome
from attn_deploy.matrix.summary import cell_groups, ranges
from attn_deploy.report.matrix.files import write_reports
from attn_deploy.report.matrix.tables import matrix_csv, matrix_junit, matrix_markdown
from attn_deploy.report.matrix.terminal import headline, matrix_summary
from attn_deploy.report.matrix.text import matrix_diff_text
from export_tests.matrix.matrix_records import green, mixed_record, record, red


@pytest.fixture
def mixed():
    return mixed_record()


def test_a_record_is_read_as_it_was_written(mixed, tmp_path):
    mixed.write(tmp_path / "record.json")
    assert read_record(tmp_path) == mixed
    assert read_record(tmp_path / "record.json").counts == {"passed": 4, "failed": 3, "skipped": 1}
    lines = (tmp_path / "record.json").read_text().splitlines()
    assert sum('"model":"se"' in line for line in lines) == 6, "a line for each cell"


@pytest.mark.parametrize("text", ["{", "{}", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(InvalidRequestError, match=r"record\.json is not (JSON|a matrix record: .*(schema|is missing))"):
        read_record(tmp_path)
    with pytest.raises(InvalidRequestError, match="there is no matrix record"):
        read_record(tmp_path / "elsewhere")


ALTERED = {
    "cells[0].checks[0][1]": ("FAILED", "Passed", 1, None),
    "cells[0].checks[0][0]": ("speed",),
    "cells[0].checks[0]": (["export"], "export"),
    "cells[0].checks": ([], {}),
    "cells[0].status": ("failed", "green", None),
    "cells[0].opset": ("13", 13.5),
    "cells[0].exporter": ("onnx",),
    "cells[0].seconds": (float("nan"), "1"),
    "cells[0].found": ([],),
    "shard": ([1], "1/1"),
    "jobs": ("two",),
    "interrupted": ("no",),
    "options.opsets": ("13",),
    "options.opsets[0]": ("13",),
    "environment.cpu": (7,),
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in ALTERED.items() for v in values])
def test_an_altered_record_is_refused_with_the_field(field, value, tmp_path):
    """A cell that says FAILED in another spelling must not count as passed."""
    data = json.loads(record(green("se", "dynamo", 13)).to_json())
    *path, last = [int(p) if p.isdigit() else p for p in field.replace("[", ".").replace("]", "").split(".")]
    place = data
    for step in path:
        place = place[step]
    place[last] = value
    (tmp_path / "record.json").write_text(json.dumps(data))
    with pytest.raises(InvalidRequestError, match=re.escape(f"record: {field} ")):
        read_record(tmp_path)


def test_cells_with_one_reason_are_one_finding(mixed):
    found = {f.model: f for f in cell_groups(mixed.failures)}
    assert found["se"].opsets == (13, 14), "errors differ from opset to opset, the cause is one"
    assert (found["se"].check, found["se"].rule, found["se"].cells) == ("parity", "R7", 2)
    assert found["se"].where == "torchscript; opset 13-14"
    assert found["eca"].check == "export"
    assert ranges([20, 13, 14, 17]) == "13-14, 17, 20"


def test_csv(mixed):
    reader = csv.DictReader(io.StringIO(matrix_csv(mixed)))
    rows = list(reader)
    assert len(rows) == 8
    assert len(set(reader.fieldnames)) == len(reader.fieldnames), "two columns of one name: a reader gets the last"
    assert [(r["model"], int(r["opset"]), r["precision"]) for r in rows] == [
        (c.id.model, c.id.opset, c.id.precision) for c in mixed.cells
    ]
    first = next(r for r in rows if r["model"] == "se" and r["status"] == "failed")
    assert (first["check_parity"], first["check_engine"], first["rule"]) == ("failed", "", "R7")
    assert first["reason"] == mixed.failures[1].reason


def test_junit(mixed):
    root = ElementTree.fromstring(matrix_junit(mixed))
    assert {k: root.get(k) for k in ("tests", "failures", "skipped")} == {"tests": "8", "failures": "3", "skipped": "1"}
    cases = root.findall(".//testcase")
    assert len({(c.get("classname"), c.get("name")) for c in cases}) == 8
    failures = root.findall(".//failure")
    assert {f.get("type") for f in failures} == {"ParityError", "crash"}
    assert any("rule: R7" in f.text and "<b>| </script>?bad" in f.text for f in failures)
    for suite in root:
        assert int(suite.get("tests")) == len(suite)


def test_markdown(mixed):
    text = matrix_markdown(mixed)
    assert "8 cells: 4 passed, 3 failed, 1 not applicable" in text
    assert "| `se` | torchscript; opset 13-14 | parity |" in text
    assert "&lt;b>\\| " in text, "a reason must not break the table"
    assert "| `se` | pass 13-14, 17 | **fail** 13-14; n/a 17 | pass | 1.0e-06 |" in text
    assert "- engine, in 1 cells: why not" in text


def test_terminal(mixed):
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(matrix_summary(mixed))
    text = console.export_text()
    assert "Red: se, torchscript; opset 13-14: [parity] se: ort-cpu and eager disagree" in text
    assert "(rule R7)" in text
    assert "Grey: se, torchscript; opset 17: the batch axis" in text
    assert "Not checked in 1 cells: engine: why not" in text
    assert headline(mixed) == "8 cells: 4 passed, 3 failed, 1 not applicable; 7 made in 1 min 01 s by 2 jobs."


def test_merging_keeps_the_worst(mixed):
    bad, good = red("se", "dynamo", 13), green("mish", "dynamo", 13)
    whole = merge_records([mixed, record(bad, good, seconds=9.0, interrupted=True)], partial=True)
    assert len(whole.cells) == 9
    assert bad in whole.cells
    assert good in whole.cells
    assert (whole.seconds, whole.interrupted, whole.shard) == (70.0, True, (1, 1))
    swapped = merge_records([record(bad), mixed], partial=True)
    assert swapped.failures == merge_records([mixed, record(bad)], partial=True).failures
    with pytest.raises(InvalidRequestError):
        merge_records([])


def test_merging_wants_every_shard_and_cell(tmp_path):
    options = MatrixOptions(models=("se", "eca"), opsets=(13, 14), exporters=("dynamo",), runtimes=("ort",))
    first = record(*(green("se", "dynamo", n) for n in (13, 14)), options=options, shard=(1, 2))
    second = record(*(green("eca", "dynamo", n) for n in (13, 14)), options=options, shard=(2, 2), interrupted=True)
    assert (merge_records([first, second]).lacks, merge_records([first, second]).interrupted) == ((), False)
    with pytest.raises(InvalidRequestError, match=r"shard 2/2; 2 of 4 cells, of eca, such as eca dynamo opset 13") as e:
        merge_records([first])
    assert e.value.exit_code == 1
    short = replace(second, cells=second.cells[:1])
    with pytest.raises(InvalidRequestError, match="incomplete: 1 of 4 cells, of eca, such as eca dynamo opset 14"):
        merge_records([first, short])
    write_reports(first, tmp_path / "p1")
    assert command("merge", tmp_path / "p1", "-o", tmp_path / "all").exit_code == 1
    assert not (tmp_path / "all").exists()
    made = command("merge", tmp_path / "p1", "-o", tmp_path / "all", "--partial")
    assert made.exit_code == 0
    again = read_record(tmp_path / "all")
    assert again.lacks[0] == "shard 2/2"
    assert "not whole, without shard 2/2; 2 of 4 cells" in headline(again)
    for page in ("matrix.md", "matrix.html"):
        assert "Not whole, without shard 2/2" in (tmp_path / "all" / page).read_text()
    assert merge_records([again, second]).lacks == (), "what was missing has come"
    assert "; shard 1/2" in headline(first)


def test_regressions():
    old = record(*(green("se", "dynamo", n) for n in (13, 14, 15, 16)), red("eca", "dynamo", 13))
    engineless = replace(green("se", "dynamo", 16), checks=green("se", "dynamo", 16).checks[:-1])
    new = record(
        green("se", "dynamo", 13),
        red("se", "dynamo", 14),
        skipped(CellId("se", "dynamo", 15), "not here"),
        engineless,
        green("eca", "dynamo", 13),
        green("mish", "dynamo", 13),
        red("mish", "dynamo", 14),
    )
    found = diff_records(old, new)
    assert [(c.id.opset, c.check, c.after) for c in found.regressions] == [
        (14, "parity", FAILED),
        (15, "export", SKIPPED),
        (16, "engine", "missing"),
        (14, "parity", FAILED),
    ]
    assert [c.before for c in found.regressions] == ["passed", "passed", "passed", "missing"]
    assert [(c.id.model, c.before) for c in found.fixed] == [("eca", FAILED)]
    assert found.added == (CellId("mish", "dynamo", 13), CellId("mish", "dynamo", 14))
    assert diff_records(old, old).regressions == ()
    gone = diff_records(new, record())
    assert gone.removed == tuple(c.id for c in new.cells)
    assert [(c.id, c.after) for c in gone.regressions] == [
        (c.id, "missing") for c in new.cells if c.status != SKIPPED
    ], "green or red, it is known no more"


def test_a_subset_is_compared_in_what_it_asks_for():
    options = MatrixOptions(models=("se", "eca"), opsets=(19, 20), exporters=("dynamo",))
    old = record(*(green(m, "dynamo", n) for m in ("se", "eca") for n in (19, 20)), options=options)
    without = green("se", "dynamo", 20)
    without = replace(without, checks=without.checks[:-1])

    def diff(*cells, **settings):
        return diff_records(old, record(*cells, options=replace(options, **settings)), subset=True)

    found = diff(without, models=("se",), opsets=(20,), runtimes=("ort",))
    assert (found.regressions, len(found.removed), found.left_out) == ((), 3, (("engine", 1),))
    assert "does not ask for it: engine in 1 cell." in matrix_diff_text(found)
    (change,) = diff(without, models=("se",), opsets=(20,)).regressions
    assert (change.check, change.after) == ("engine", "missing"), "an engine was asked for and is not there"
    (change,) = diff(green("se", "dynamo", 20), models=("se",)).regressions
    assert (change.id.opset, change.after) == (19, "missing"), "a cell was asked for and is not there"
    gone = diff(green("se", "dynamo", 19), green("se", "dynamo", 20))
    assert {c.id.model for c in gone.regressions} == {"eca"}, "asked for by the same words, and no model any more"
    assert "2 cells are gone, though the newer run asks for them, such as eca dynamo opset 19" in matrix_diff_text(gone)
    (change,) = diff(red("se", "dynamo", 20), models=("se",), opsets=(20,), runtimes=("ort",)).regressions
    assert change.check == "parity"


def command(*arguments):
    return CliRunner().invoke(app, ["matrix", *map(str, arguments)])


def test_diff_and_merge_on_the_command_line(tmp_path):
    options = MatrixOptions(models=("se",), opsets=(13,), exporters=("dynamo",))
    write_reports(record(green("se", "dynamo", 13), options=options), tmp_path / "old")
    write_reports(record(red("se", "dynamo", 13), options=options), tmp_path / "new")
    assert command("diff", tmp_path / "old", tmp_path / "old").exit_code == 0
    worse = command("diff", tmp_path / "old", tmp_path / "new" / "record.json")
    assert worse.exit_code == 1
    assert "regression  se dynamo opset 13 dynamic all fp32: parity passed -> failed" in worse.stdout
    assert json.loads(command("diff", tmp_path / "old", tmp_path / "new", "--json").stdout)["regressions"]
    merged = command("merge", tmp_path / "old", tmp_path / "new", "-o", tmp_path / "whole")
    assert merged.exit_code == 1, "the merged record has a red cell"
    assert read_record(tmp_path / "whole").counts["failed"] == 1
    assert command("diff", tmp_path / "old", tmp_path / "nowhere").exit_code == 2
    whole = replace(options, opsets=(13, 14))
    write_reports(record(*(green("se", "dynamo", n) for n in (13, 14)), options=whole), tmp_path / "more")
    gone = command("diff", tmp_path / "more", tmp_path / "old")
    assert gone.exit_code == 1
    assert "1 cells are gone, which counts as a regression each, such as se dynamo opset 14" in gone.stdout
    assert command("diff", "--subset", tmp_path / "more", tmp_path / "old").exit_code == 0


def test_matrix_on_the_command_line(tmp_path):
    options = [
        "--opsets",
        "17",
        "--exporter",
        "torchscript",
        "--runtime",
        "ort",
        "--executor",
        "inline",
        "--jobs",
        "1",
    ]
    folder = tmp_path / "run"
    made = command("--models", "hswish", *options, "-o", folder, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["counts"] == {"passed": 1, "failed": 0, "skipped": 0}
    assert {p.name for p in folder.iterdir()} >= {
        "record.json",
        "matrix.csv",
        "matrix.xml",
        "matrix.md",
        "matrix.html",
        "cells.jsonl",
    }
    again = command("-o", folder, "--resume")
    assert again.exit_code == 0
    assert "1 taken over" in " ".join(again.stdout.split()), "in a narrow terminal the line is broken"
    old = command("--resume", folder, "--json")
    assert (old.exit_code, json.loads(old.stdout)["reused"]) == (0, 1), "the old spelling"
    assert f"note: write matrix -o {folder} --resume now" in old.stderr
    taken = command("--models", "hswish", "-o", folder)
    assert taken.exit_code == 2
    assert f"continue it with -o {folder} --resume" in taken.stderr
    assert command("--models", "hswis").exit_code == 2
    assert command("-o", tmp_path / "nothing", "--resume").exit_code == 2
    worse = command("-o", folder, "--resume", "--fail-on", "regressions", "--baseline", folder)
    assert worse.exit_code == 0
    assert "no regression" in worse.stderr


def test_a_folder_stays_its_shard_and_tells_what_it_is_asked_beside(tmp_path):
    given = ["--opsets", "17", "--exporter", "torchscript", "--runtime", "ort", "--executor", "inline"]
    folder = tmp_path / "part"
    assert command("--models", "hswish,mish", *given, "--shard", "1/2", "-o", folder).exit_code == 0
    again = command("-o", folder, "--resume")
    assert again.exit_code == 0, again.output
    record = read_record(folder)
    assert (record.shard, len(record.cells), record.reused) == ((1, 2), 1, 1)
    assert "goes on with" not in again.stderr
    assert command("-o", folder, "--resume", "--shard", "1/2").exit_code == 0
    other = command("-o", folder, "--resume", "--shard", "2/2")
    assert other.exit_code == 2
    assert "holds shard 1/2 of its matrix and cannot be resumed as 2/2" in other.stderr
    changed = command("-o", folder, "--resume", "--opsets", "17,18", "--executor", "inline")
    assert changed.exit_code == 0, changed.output
    assert "is resumed with other options than before; its record has their cells: opsets 17 -> 17,18" in changed.stderr
    (folder / "options.json").write_text('{"models": ["se"], "of_another_version": 1}')
    unread = command("-o", folder, "--resume")
    assert unread.exit_code == 2
    assert "options.json holds no options that this version reads" in unread.stderr
    (folder / "options.json").unlink()
    assert "holds no matrix run to resume" in command("-o", folder, "--resume").stderr


@pytest.mark.parametrize("wrong", [{"engine_opset": "99"}, {"engine_opset": "12"}, {"engine_opset": "19"}])
def test_an_opset_of_engines_that_no_cell_has_is_refused(wrong):
    with pytest.raises(InvalidRequestError, match=r"--engine-opset \d+ is (not an opset|not among --opsets 13,14)"):
        matrix_request(opsets="13,14", **wrong)
    assert matrix_request(opsets="13,14", engine_opset="20").options.engine_opset == 20, "a part without engines"


def test_options_of_the_command_line_as_a_request(tmp_path):
    request = matrix_request(models="se,eca", opsets="13-15", runtimes="ort,tensorrt-rtx", shard="2/3")
    assert request.options.models == ("se", "eca")
    assert request.options.engine_opset == 15, "the default opset of engines is not among these"
    assert request.shard == (2, 3)
    assert matrix_request().options == MatrixOptions()
    assert matrix_request(engine_opset="all").options.engine_opset is None
    for wrong in (
        {"engine_opset": "some"},
        {"fail_on": "never"},
        {"output": tmp_path / "a", "resume": tmp_path / "b"},
        {"exporters": "caffe"},
        {"models": ","},
    ):
        with pytest.raises(InvalidRequestError):
            matrix_request(**wrong)


def test_what_a_record_means_for_the_exit_code(mixed, tmp_path):
    assert outcome(mixed, matrix_request()).exit_code == 1
    assert outcome(record(green("se", "dynamo", 13)), matrix_request()).exit_code == 0
    stopped = outcome(replace(mixed, interrupted=True), matrix_request(output=tmp_path / "run"))
    assert stopped.exit_code == 130
    assert f"-o {tmp_path / 'run'} --resume" in stopped.words
    mixed.write(tmp_path / "record.json")
    request = matrix_request(fail_on="regressions", baseline=tmp_path / "record.json")
    assert outcome(mixed, request).exit_code == 0, "red before, red now"
    options = MatrixOptions(models=("se",), opsets=(13,), exporters=("dynamo",))
    found = outcome(record(red("se", "dynamo", 13), options=options), request)
    assert found.exit_code == 1
    assert "1 regressions against the baseline" in found.words
