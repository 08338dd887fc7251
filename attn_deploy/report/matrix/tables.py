"""The matrix as CSV, JUnit XML and Markdown."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

from attn_deploy.matrix.cell import CHECKS, FAILED, PASSED, SKIPPED, Cell
from attn_deploy.matrix.record import MatrixRecord
from attn_deploy.matrix.summary import cell_groups, exporters_of, models_of, opsets_of, ranges, tally, unmade_checks
from attn_deploy.report.markdown import inline, name, row

_MARKS = {PASSED: "pass", FAILED: "**fail**", SKIPPED: "n/a"}


def matrix_csv(record: MatrixRecord) -> str:
    """A row for each cell, a column ``check_NAME`` for each check; no two columns have one name."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    facts = ("nodes", "bytes", "error", "engine_bytes", "sha256")
    writer.writerow(
        [
            *("model", "exporter", "opset", "dynamic", "precision", "status"),
            *(f"check_{name}" for name in CHECKS),
            *("reason", "rule", "seconds"),
            *facts,
        ]
    )
    for cell in record.cells:
        statuses = {c.name: c.status for c in cell.checks}
        identity = (cell.id.model, cell.id.exporter, cell.id.opset, cell.id.dynamic, cell.id.precision)
        writer.writerow(
            [
                *identity,
                cell.status,
                *(statuses.get(name, "") for name in CHECKS),
                cell.reason,
                cell.rule or "",
                cell.seconds,
                *(cell.found.get(f, "") for f in facts),
            ]
        )
    return out.getvalue()


def matrix_junit(record: MatrixRecord) -> str:
    """A test suite for each exporter and opset, a test case for each cell."""
    counts = record.counts
    root = ElementTree.Element(
        "testsuites",
        name="attn-deploy matrix",
        tests=str(len(record.cells)),
        failures=str(counts[FAILED]),
        skipped=str(counts[SKIPPED]),
        time=f"{sum(c.seconds for c in record.cells):.3f}",
    )
    for exporter in exporters_of(record):
        for opset in opsets_of(record):
            cells = [c for c in record.cells if c.id.exporter == exporter and c.id.opset == opset]
            if not cells:
                continue
            counted = tally(cells)
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=f"{exporter} opset {opset}",
                tests=str(counted.total),
                failures=str(counted.failed),
                skipped=str(counted.skipped),
                time=f"{counted.seconds:.3f}",
            )
            for cell in cells:
                _test_case(suite, cell)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _test_case(suite: ElementTree.Element, cell: Cell) -> None:
    title = f"{cell.id.model}[{cell.id.exporter}-{cell.id.opset}-{cell.id.dynamic}-{cell.id.precision}]"
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"matrix.{cell.id.exporter}", name=title, time=f"{cell.seconds:.3f}"
    )
    if cell.status == FAILED:
        reason = _printable(cell.reason)
        failure = ElementTree.SubElement(case, "failure", type=cell.kind or cell.failed_check, message=reason)
        failure.text = f"{cell.failed_check}: {reason}" + (f"\nrule: {cell.rule}" if cell.rule else "")
    elif cell.status == SKIPPED:
        ElementTree.SubElement(case, "skipped", message=_printable(cell.reason))


def _printable(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]", "?", text)


def environment_line(record: MatrixRecord) -> str:
    """Versions, machine and time in one line."""
    here, packages = record.environment, record.environment.packages
    versions = ", ".join(
        f"{n} {packages[n]}" for n in ("torch", "onnx", "onnxruntime", "tensorrt-rtx") if n in packages
    )
    return (
        f"attn-deploy {record.attn_deploy}, {versions}; {here.python}, {here.os}; {here.cpu}, {here.usable_cores} cores. "
        f"{record.started}."
    )


def matrix_markdown(record: MatrixRecord) -> str:
    """Counts, reasons, and a row for each model with the opsets that pass."""
    counts = record.counts
    lines = [
        "# Compatibility matrix",
        "",
        f"{len(record.cells)} cells: {counts[PASSED]} passed, {counts[FAILED]} failed, "
        f"{counts[SKIPPED]} not applicable. "
        f"{record.seconds / 60:.1f} minutes with {record.jobs} jobs, {record.reused} cells taken over.",
        "",
        inline(environment_line(record)),
        "",
    ]
    if record.lacks:
        lines += [inline(f"Not whole, without {'; '.join(record.lacks)}."), ""]
    lines += _by_opset(record) + _reasons(record) + _by_model(record)
    return "\n".join(lines) + "\n"


def _by_opset(record: MatrixRecord) -> list[str]:
    exporters = exporters_of(record)
    lines = [f"| opset | {' | '.join(exporters)} |", "|---:|" + "---:|" * len(exporters)]
    for opset in opsets_of(record):
        entries = []
        for exporter in exporters:
            counted = tally(c for c in record.cells if c.id.exporter == exporter and c.id.opset == opset)
            extra = [f"{counted.failed} failed"] if counted.failed else []
            extra += [f"{counted.skipped} n/a"] if counted.skipped else []
            entries.append(f"{counted.passed} of {counted.total}" + (f" ({', '.join(extra)})" if extra else ""))
        lines.append(f"| {opset} | {' | '.join(entries)} |")
    return [*lines, ""]


def _reasons(record: MatrixRecord) -> list[str]:
    lines: list[str] = []
    for title, cells in (("Red cells", record.failures), ("Grey cells", record.skipped)):
        if not cells:
            lines += [f"## {title}", "", "None.", ""]
            continue
        lines += [f"## {title}", "", "| model | where | check | reason | rule |", "|---|---|---|---|---|"]
        for f in cell_groups(cells):
            lines.append(f"| {name(f.model)} {row((f.where, f.check, f.reason, f.rule or ''))}")
        lines.append("")
    unmade = unmade_checks(record)
    if unmade:
        lines += ["## Checks that were not made", ""]
        lines += [f"- {inline(f'{check}, in {count} cells: {reason}')}" for (check, reason), count in unmade.items()]
        lines.append("")
    return lines


def _by_model(record: MatrixRecord) -> list[str]:
    exporters = exporters_of(record)
    lines = ["## Models", "", f"| model | {' | '.join(exporters)} | engine | largest error |"]
    lines.append("|---|" + "---|" * len(exporters) + "---|---:|")
    for model in models_of(record):
        cells = [c for c in record.cells if c.id.model == model]
        entries = []
        for exporter in exporters:
            mine = [c for c in cells if c.id.exporter == exporter]
            parts = []
            for status in (PASSED, FAILED, SKIPPED):
                opsets = sorted({c.id.opset for c in mine if c.status == status})
                if opsets:
                    parts.append(f"{_MARKS[status]} {ranges(opsets)}")
            entries.append("; ".join(parts))
        errors = [float(c.found["error"]) for c in cells if c.found.get("error") is not None]
        engines = {check.status for c in cells for check in c.checks if check.name == "engine"}
        engine = ", ".join(_MARKS[s] for s in (FAILED, SKIPPED, PASSED) if s in engines)
        error = f"{max(errors):.1e}" if errors else ""
        lines.append(f"| {name(model)} | {' | '.join(entries)} | {engine} | {error} |")
    return lines
