"""The proof of a package on one page, in Markdown and HTML, from its manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from attn_deploy.deploy.package.facts import AccuracyFacts, MedianInterval, RowFacts, RowSummary
from attn_deploy.pages.blocks import facts, table, tiles
from attn_deploy.pages.page import html, joined, page

Row = tuple[str, ...]
# Columns of words, by section; those of numbers stand to the right.
_WORDS = {"Latency": (0, 3), "Accuracy": (0, 1), "Engines": (0, 1, 2, 3), "Files": (0, 2)}


def evidence_markdown(manifest: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    parts = [f"# {_cell(str(manifest['name']))}: evidence", ""]
    for title, head, rows in _sections(manifest):
        if not rows:
            continue
        parts += [f"## {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        parts += [f"| {' | '.join(_cell(c) for c in row)} |" for row in rows] + [""]
    return "\n".join(parts)


def evidence_html(manifest: Mapping[str, Any]) -> str:
    """The page in HTML, without anything from outside it."""
    parts = [
        html(
            '<h1>{}: evidence</h1><div class="soft">From the model to what lies in this folder. <code>python verify.py</code> '
            "checks it again on the machine where it runs.</div>",
            manifest["name"],
        ),
        tiles(_figures(manifest)),
    ]
    for title, head, rows in _sections(manifest):
        if not rows:
            continue
        pairs = [(str(row[0]), str(row[1])) for row in rows]
        body = facts(pairs) if len(head) == 2 else table(head, rows, _WORDS[title])
        parts.append(html("<h2>{}</h2>{}", title, html('<div class="card">{}</div>', body) if len(head) == 2 else body))
    return page(f"{manifest['name']}: evidence", joined(parts, "\n"), kind="evidence")


def _figures(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What one wants to know first."""
    parity = manifest["record"].get("parity") or {}
    figures = [("ok", str(manifest["golden"]), "golden cases right")]
    if "relative_error" in parity:
        figures.append(("", f"{parity['relative_error']:.2g}", "error, relative"))
    elif "max_abs_error" in parity:
        figures.append(("", f"{parity['max_abs_error']:.2g}", "largest error"))
    timed = [row for row in manifest["latency"] if row[1]]
    if timed:
        figures.append(("", str(timed[0][1]), f"ms, {timed[0][0]}"))
    figures += [("", str(row[2]), f"top-1, {row[0]}") for row in manifest["accuracy"][:2]]
    figures.append(("", f"{manifest['files']['model.onnx']['size'] / 1e6:.2f}", "MB, model.onnx"))
    return figures


def _sections(manifest: Mapping[str, Any]) -> list[tuple[str, Row, list[Row]]]:
    record = manifest["record"]
    return [
        ("Model", ("what", "value"), _model(manifest, record)),
        ("Proof", ("what", "value"), _proof(manifest, record)),
        ("Steps", ("step", "facts"), [_step(s) for s in manifest["history"]]),
        ("Latency", ("row", "median ms", "95 % interval", "status"), [tuple(r) for r in manifest["latency"]]),
        ("Accuracy", ("runtime", "data", "top-1", "images"), [tuple(r) for r in manifest["accuracy"]]),
        (
            "Engines",
            ("file", "library", "targets", "precision"),
            [(e["file"], f"{e['flavor']} {e['version']}", ", ".join(e["targets"]), e["precision"]) for e in manifest["engines"]],
        ),
        (
            "Files",
            ("file", "bytes", "SHA-256"),
            [(n, f"{f['size']:,}", f["sha256"]) for n, f in manifest["files"].items()],
        ),
    ]  # fmt: skip


def _model(manifest: Mapping[str, Any], record: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [("source", _source(str(record.get("model") or "an ONNX file of others")))]
    if record.get("arguments"):
        rows.append(("arguments", _plain(record["arguments"])))
    if record.get("weights"):
        rows.append(("weights", " ".join(record["weights"])))
    for kind in ("inputs", "outputs"):
        rows += [(kind[:-1], f"{t['name']} {t['dtype']}[{', '.join(map(str, t['shape']))}]") for t in manifest[kind]]
    rows += [("opset", str(manifest["opset"])), ("precision", manifest["precision"])]
    for kind in ("preprocess", "postprocess"):
        if manifest[kind]:
            rows.append((kind, _plain({k: v for k, v in manifest[kind].items() if v not in ("", None, 0)})))
    return rows


def _proof(manifest: Mapping[str, Any], record: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [
        ("golden outputs", f"{manifest['golden']} cases, from {manifest['reference']}; proven in {manifest['runtime']}")
    ]
    parity = record.get("parity") or {}
    rows.append(("parity", _parity(parity) if parity else "none in the file: nothing is known of how it was made"))
    for shapes in record.get("verified_shapes") or ():
        rows.append(("untraced shape", ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in shapes.items())))
    if manifest["versions"]:
        rows.append(("made with", ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())))
    return rows


def _parity(parity: Mapping[str, Any]) -> str:
    """The comparison that a file was accepted by; that of 8 bits has other numbers than that of floating point."""
    if {"relative_error", "limit", "cases", "candidate", "reference"} <= set(parity):
        return (
            f"relative error {parity['relative_error']:.2%} over {parity['cases']} cases, {parity['candidate']}, against "
            f"{parity['reference']}; allowed {parity['limit']}"
        )
    if not {"max_abs_error", "rtol", "atol", "cases", "candidate", "reference"} <= set(parity):
        return _plain(parity)
    return (
        f"largest error {parity['max_abs_error']:.3g} over {parity['cases']} cases, {parity['candidate']} against "
        f"{parity['reference']}; allowed rtol {parity['rtol']:g}, atol {parity['atol']:g}"
    )


def _step(step: Mapping[str, Any]) -> Row:
    facts = {k: v for k, v in step.items() if k not in ("step", "version")}
    return (str(step.get("step", "")), _plain(facts))


def _plain(facts: Mapping[str, Any]) -> str:
    text = ", ".join(f"{str(k).replace('_', ' ')} {_value(v)}" for k, v in facts.items())
    return text if len(text) <= 400 else text[:397] + "..."


def _value(value: Any) -> str:
    """A value of a record in words: numbers short, lists and tables without their brackets."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(_value(v) if k == "name" else f"{k} {_value(v)}" for k, v in value.items())
    return " / ".join(map(_value, value)) if isinstance(value, (list, tuple)) else str(value)


def _source(model: str) -> str:
    """The name of a model, its file without the folders of the machine that it was made on."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


_MARKUP = str.maketrans({"\\": "&#92;", "<": "&lt;", "|": "\\|", "`": "&#96;", "[": "\\[", "]": "\\]", "*": "\\*"})


def _cell(text: str) -> str:
    """A text that stays text in a table, whoever wrote it."""
    return " ".join(text.split()).translate(_MARKUP)


def latency_rows(profile: Sequence[RowFacts]) -> Sequence[Sequence[str]]:
    """Rows of the page from those of a profile."""
    rows = []
    for row in profile:
        words = [row.runtime, row.precision, f"b{row.batch}", *(["x".join(map(str, row.size))] if row.size else [])]
        summary = row.summary or RowSummary()
        bounds = summary.median_interval_ms or MedianInterval()
        both = bounds.low is not None and bounds.high is not None
        interval = f"{bounds.low:.3f} to {bounds.high:.3f}" if both else ""
        rows.append(
            [" ".join(words), f"{summary.p50_ms:.3f}" if summary.p50_ms is not None else "", interval, row.status]
        )
    return rows


def evidence_accuracy_rows(results: Sequence[AccuracyFacts]) -> Sequence[Sequence[str]]:
    """Rows of the page from results of `evaluate`."""
    rows = []
    for result in results:
        ran = f"{result.info.runtime} {result.info.precision}".strip() if result.info else ""
        data = f"{result.dataset.name} {result.dataset.split}".strip() if result.dataset else ""
        right = sum(a == b for a, b in zip(result.labels, result.predictions, strict=True))
        count = len(result.labels)
        rows.append([ran, data, f"{right / count:.2%}", str(count)])
    return rows
