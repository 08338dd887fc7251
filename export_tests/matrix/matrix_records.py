"""Records made up for the tests of what is made from records."""

from __future__ import annotations

from attn_deploy.machine.environment import describe_environment
from attn_deploy.matrix.cell import CRASH, FAILED, PASSED, SKIPPED, Cell, CellId, Check, failed, skipped, sorted_cells
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.record import MatrixRecord

ENVIRONMENT = describe_environment()
REASON = "se: ort-cpu and eager disagree at x 1x64x23x12: the largest error is {} <b>| </script>\x00bad"


def green(model, exporter, opset, engine=PASSED):
    names = ("export", "opset", "checker", "axes", "operators", "parity")
    checks = (*(Check(n, PASSED, "", 0.1) for n in names), Check("engine", engine, "why not"))
    found = {"sha256": "0" * 64, "bytes": 10, "nodes": 3, "error": 1e-6}
    return Cell(id=CellId(model, exporter, opset), checks=checks, seconds=0.5, key=f"{model}{opset}", found=found)


def red(model, exporter, opset):
    checks = (Check("export", PASSED), Check("parity", FAILED, REASON.format(opset / 10)))
    return Cell(id=CellId(model, exporter, opset), checks=checks, kind="ParityError", seconds=1.5, rule="R7")


def record(*cells, **settings):
    given = {"options": MatrixOptions(), "environment": ENVIRONMENT, "seconds": 61.0, "jobs": 2, **settings}
    return MatrixRecord(cells=tuple(sorted_cells(cells)), **given)


def mixed_record():
    cells = [green("se", "dynamo", n) for n in (13, 14, 17)]
    cells += [red("se", "torchscript", n) for n in (13, 14)]
    cells.append(skipped(CellId("se", "torchscript", 17), "the batch axis of se cannot move."))
    cells.append(green("eca", "dynamo", 13, engine=SKIPPED))
    cells.append(failed(CellId("eca", "torchscript", 13), CRASH, "eca: crashed (SIGSEGV).", seconds=2))
    return record(*cells)
