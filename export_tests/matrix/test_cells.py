"""The matrix makes cells as `attn_deploy.export` does, finds what is broken, and survives what crashes or hangs."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from pathlib import Path

import pytest
import torch
from onnx import numpy_helper

import attn_deploy
from attn_deploy.engine import builder
from attn_deploy.errors import EngineBuildError, InvalidRequestError
from attn_deploy.exporters import pipeline, torchlib, translate
from attn_deploy.exporters.prepare import prepare
from attn_deploy.matrix import keys, making
from attn_deploy.matrix.drive import LANE
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.run import run_matrix
from attn_deploy.matrix.workers import worker_factory

NETS = str(Path(__file__).with_name("matrix_models.py"))


def options(*models, **settings):
    given = {"opsets": (17,), "exporters": ("torchscript",), "runtimes": ("ort",), "inputs": ("2x4x9x12",), **settings}
    return MatrixOptions(models=models, **given)


def nets(*classes, **settings):
    return options(*(f"{NETS}:{c}" for c in classes), **settings)


def run(given, **settings):
    return run_matrix(given, **{"executor": "inline", "jobs": 1, **settings})


# Cells


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_the_files_are_those_that_export_gives(exporter, tmp_path):
    record = run(options("se", opsets=(13, 18, 22), exporters=(exporter,), inputs=()))
    assert record.counts == {"passed": 3, "failed": 0, "skipped": 0}
    for cell in record.cells[::2]:
        made = attn_deploy.export("se", tmp_path / "se.onnx", opset=cell.id.opset, exporter=exporter)
        assert cell.found["sha256"] == made.sha256
        assert cell.found["nodes"] == made.nodes


BROKEN = [
    ("BakedBatch", "torchscript", "axes", "loop-over-batch", "goes over the samples of the batch in Python"),
    ("BakedBatch", "dynamo", "axes", "loop-over-batch", "axis N cannot be dynamic.*goes over the samples of the batch"),
    ("BakedSize", "torchscript", "axes", "number-from-shape", "the traced size is frozen into the graph"),
    ("TrainModeDropout", "torchscript", "export", "random-in-forward", "draws random numbers in eval mode"),
    ("NanWeights", "torchscript", "parity", "not-finite", "NaN or infinite"),
]


@pytest.mark.parametrize(("net", "exporter", "check", "rule", "reason"), BROKEN)
def test_a_broken_model_is_a_red_cell_with_its_reason_and_rule(net, exporter, check, rule, reason):
    record = run(nets(net, exporters=(exporter,), opsets=(18,)))
    (cell,) = record.failures
    assert re.search(reason, cell.reason), cell.reason
    assert cell.rule == rule
    assert check in (None, cell.failed_check)


def test_what_the_exporter_makes_once_gives_the_same_graph(monkeypatch):
    """Its table of functions and the decomposed program are used again at opset 22; without that the bytes are equal."""
    monkeypatch.setattr(torchlib, "_tables", {})  # an operator registered since another test is in the newer ones alone
    kept = prepare("hswish")
    translate.translate(kept, "dynamo", 18)
    (decomposed,) = kept.work.decomposed.values()
    shared = translate.translate(kept, "dynamo", 22).model
    assert list(kept.work.decomposed.values()) == [decomposed], "the second opset did not use what the first one made"
    monkeypatch.setattr(translate, "shared_work", lambda _: contextlib.nullcontext())
    alone = translate.translate(prepare("hswish"), "dynamo", 22).model
    assert shared.SerializeToString(deterministic=True) == alone.SerializeToString(deterministic=True)


def test_a_wrong_bias_is_a_red_cell(monkeypatch):
    def wrong(prepared, exporter, opset, **_):
        made = translate.translate(prepared, exporter, opset)
        bias = next(i for i in made.model.graph.initializer if i.name.endswith("bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1e-2, bias.name))
        return made

    monkeypatch.setattr(pipeline, "translate", wrong)
    (cell,) = run(nets("Good")).failures
    assert (cell.failed_check, cell.kind) == ("parity", "ParityError")
    assert "the largest error is 0.01" in cell.reason


def test_a_wrong_opset_is_a_red_cell(monkeypatch):
    monkeypatch.setattr(pipeline, "standard_opset", lambda _: 17)  # the exporter's word is believed, and it lies

    def wrong(prepared, exporter, opset, **_):
        return translate.translate(prepared, exporter, 16)

    monkeypatch.setattr(pipeline, "translate", wrong)
    (cell,) = run(nets("Good")).failures
    assert (cell.failed_check, cell.kind) == ("opset", "OpsetError")
    assert "asked for opset 17, the graph has opset 16" in cell.reason


@pytest.mark.parametrize("axis", [0, 2])
def test_a_size_that_is_baked_behind_symbolic_axes_is_a_red_cell(axis, monkeypatch):
    """The exporter says that N, H and W move, and a constant of the traced size stands inside."""

    def baked(prepared, exporter, opset, **_):
        made = translate.translate(prepared, exporter, opset)
        graph = made.model.graph
        shape = [1, 6, 1, 1]
        shape[axis] = prepared.example()[0].shape[axis]
        graph.initializer.append(numpy_helper.from_array(torch.ones(shape).numpy(), "ones"))
        last = graph.node[-1]
        node = pipeline.onnx.helper.make_node("Mul", ["inner", "ones"], [last.output[0]])
        last.output[0] = "inner"
        graph.node.append(node)
        return made

    monkeypatch.setattr(pipeline, "translate", baked)
    (cell,) = run(nets("Good")).failures
    assert cell.failed_check in ("parity", "checker", "axes"), cell.reason
    assert cell.reason


def test_an_operator_outside_the_list_is_a_red_cell(monkeypatch):
    monkeypatch.setattr(making, "unlisted_operators", lambda _: ["Det"])
    (cell,) = run(nets("Good")).failures
    assert (cell.failed_check, cell.kind) == ("operators", "OperatorError")
    assert "Det" in cell.reason


def test_a_module_of_a_pattern_that_fits_no_slot_is_grey_and_one_that_was_named_is_red():
    (cell,) = run(options("resnet18+rcca_h*", inputs=())).cells
    assert (cell.id.model, cell.status) == ("resnet18+rcca_head", "skipped")
    assert "cannot fill a slot" in cell.reason
    (cell,) = run(options("resnet18+rcca_head", inputs=())).failures
    assert (cell.failed_check, cell.kind) == ("export", "InvalidRequestError")


def test_a_value_that_the_constructor_refuses_is_a_red_cell():
    (cell,) = run(options("se:reduction=0", inputs=())).failures
    assert (cell.failed_check, cell.kind) == ("export", "InvalidRequestError")
    assert "reduction" in cell.reason


def test_a_runtime_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(making.importlib.util, "find_spec", lambda _: None)
    (cell,) = run(nets("Good", runtimes=("ort", "tensorrt-rtx"), engine_opset=17)).cells
    assert cell.status == "passed"
    assert cell.check("engine").status == "skipped"
    assert "not installed" in cell.check("engine").detail


def test_an_engine_that_cannot_be_built_is_a_red_cell(monkeypatch):
    pytest.importorskip("tensorrt_rtx")

    def refuses(*_, **__):
        raise EngineBuildError("planted: no kernel.")

    monkeypatch.setattr(builder, "build", refuses)
    (cell,) = run(nets("Good", runtimes=("ort", "tensorrt-rtx"), engine_opset=17)).failures
    assert (cell.failed_check, cell.kind, cell.reason) == ("engine", "EngineBuildError", "planted: no kernel.")
    assert cell.check("parity").status == "passed"


def test_an_engine_is_part_of_a_cell():
    pytest.importorskip("tensorrt_rtx")
    first, second = run(nets("Good", opsets=(17, 18), runtimes=("ort", "tensorrt-rtx"), engine_opset=18)).cells
    assert first.check("engine") is None
    assert second.check("engine").status == "passed"
    assert second.found["engine_bytes"] > 0


# Runs

CRASHES_ONCE = """

class CrashesAtItsThirdTrace(Good):
    def forward(self, x):
        calls = __import__("pathlib").Path(__file__).with_name("calls")
        if torch.jit.is_tracing():
            calls.write_text(calls.read_text() + "x")
            if calls.read_text() == "xxx":
                os.kill(os.getpid(), signal.SIGSEGV)
        return self.conv(x)
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_crash_and_a_hang_cost_one_cell_each(tmp_path, monkeypatch):
    note = tmp_path / "sleeper"
    monkeypatch.setenv("NOTE_OF_THE_SLEEPER", str(note))
    record = run_matrix(nets("Hangs", "Crashes", "Good"), jobs=1, timeout=8)
    found = {c.id.model.rpartition(":")[2]: c for c in record.cells}
    assert found["Good"].status == "passed"
    assert found["Crashes"].kind == "crash"
    assert "SIGSEGV" in found["Crashes"].reason
    assert found["Hangs"].kind == "timeout"
    assert "took longer than 8 s" in found["Hangs"].reason
    assert not is_running(int(note.read_text())), "what the cell started is ended with it"


@pytest.mark.slow
def test_a_crash_in_a_group_leaves_the_rest_of_the_group_alone(tmp_path):
    """The third translation kills the process; the cells around it share a model with it."""
    (tmp_path / "calls").write_text("")
    source = tmp_path / "net.py"
    source.write_text(Path(NETS).read_text() + CRASHES_ONCE)
    model = f"{source}:CrashesAtItsThirdTrace"
    record = run_matrix(options(model, opsets=(13, 14, 15, 16)), jobs=1, timeout=60)
    assert record.counts == {"passed": 4, "failed": 0, "skipped": 0}, "a crash that does not come again is no red cell"


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(tmp_path):
    made = []

    def interrupt(cell):
        made.append(cell)
        if len(made) == 2:
            raise KeyboardInterrupt

    given = nets("Good", opsets=(13, 14, 15, 16, 17))
    first = run(given, output=tmp_path / "run", on_cell=interrupt)
    assert first.interrupted
    assert LANE not in [t.name for t in threading.enumerate()], "an exporter at work would break the next one"
    assert [c.status for c in first.cells] == ["passed", "passed"]
    with pytest.raises(InvalidRequestError, match="holds a matrix run"):
        run(given, output=tmp_path / "run")
    second = run(given, output=tmp_path / "run", resume=True)
    assert (len(second.cells), second.reused, second.interrupted) == (5, 2, False)
    third = run(given, output=tmp_path / "run", resume=True)
    assert third.reused == 5
    assert json.loads((tmp_path / "run" / "record.json").read_text())["counts"]["passed"] == 5


def test_resume_makes_again_what_changed_or_was_ended(tmp_path, monkeypatch):
    source = tmp_path / "net.py"
    source.write_text(Path(NETS).read_text())
    given = options(f"{source}:Good", f"{NETS}:NanWeights")
    run(given, output=tmp_path / "run")
    cells = tmp_path / "run" / "cells.jsonl"
    cells.write_text(cells.read_text() + '{"torn')
    source.write_text(source.read_text() + "\n# changed\n")
    keys.model_hash.cache_clear()
    made = []
    second = run(given, output=tmp_path / "run", resume=True, on_cell=made.append)
    assert [c.id.model for c in made] == [f"{source}:Good"]
    assert second.counts == {"passed": 1, "failed": 1, "skipped": 0}
    lines = [json.loads(line) for line in cells.read_text().splitlines() if not line.startswith('{"torn')]
    ended = [{**line, "kind": "timeout"} if line["status"] == "failed" else line for line in lines]
    cells.write_text("\n".join(map(json.dumps, ended)) + "\n")
    made.clear()
    run(given, output=tmp_path / "run", resume=True, on_cell=made.append)
    assert [c.id.model for c in made] == [f"{NETS}:NanWeights"], "a cell whose process was ended is tried again"


def test_what_cannot_be_asked():
    with pytest.raises(InvalidRequestError, match="--jobs 0"):
        run_matrix(nets("Good"), jobs=0)
    with pytest.raises(InvalidRequestError, match="executor 'cloud' is unknown"):
        worker_factory("cloud", 1)
    with pytest.raises(InvalidRequestError, match="to resume a run"):
        run_matrix(nets("Good"), resume=True)


def test_a_defect_of_a_library_belongs_to_its_cell(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr(making, "export_prepared", broken)
    (cell,) = run(nets("Good")).failures
    assert (cell.failed_check, cell.kind) == ("export", "RuntimeError")
    assert cell.reason == "RuntimeError: planted"
