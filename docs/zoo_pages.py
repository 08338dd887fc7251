"""The index of the zoo and a page for each entry, from the catalogue, the measured profiles and ``zoo_graphs.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from zoo_drawing import drawing, operators

GRAPHS = Path(__file__).with_name("zoo_graphs.json")


def zoo_pages() -> dict[str, str]:
    """An index by family and a page for each entry."""
    from attn_deploy.comparison.digest import read_digest
    from attn_deploy.registry import list_models

    rows: dict[str, list[Any]] = {}
    for row in read_digest().rows:
        rows.setdefault(row.model, []).append(row)
    graphs = json.loads(GRAPHS.read_text(encoding="utf-8"))
    specs = list_models()
    index = ["# The zoo", "", f"{len(specs)} entries. `attn-deploy info NAME` prints the same of one.", ""]
    pages: dict[str, str] = {}
    for family, members in groupby(specs, key=lambda s: s.family):
        index += [f"## {family}", "", "| name | what it computes | year | parameters |", "|---|---|---:|---:|"]
        for spec in members:
            count = "" if spec.parameters is None else f"{spec.parameters:,}"
            index.append(f"| [{spec.name}]({spec.name}.md) | {cell(spec.summary)} | {spec.year or ''} | {count} |")
            pages[f"generated/zoo/{spec.name}.md"] = _entry(spec, rows.get(spec.name, []), graphs.get(spec.name))
        index.append("")
    pages["generated/zoo/index.md"] = "\n".join(index)
    return pages


def _entry(spec: Any, rows: list[Any], graph: Mapping[str, Any] | None) -> str:
    parts = [f"# {spec.name}", "", text_of(spec.summary), ""]
    facts = (
        ("family", spec.family),
        ("other names", ", ".join(spec.aliases)),
        ("paper", spec.paper),
        ("official source", spec.official),
        ("class", spec.target),
        ("parameters", "" if spec.parameters is None else f"{spec.parameters:,} in the reference configuration"),
        ("multiply-accumulates", "" if spec.macs is None else f"{spec.macs:,} at batch 1 and 32x32"),
        ("inputs", "; ".join(f"{i.name} {i.dtype} ({', '.join(map(str, i.shape))})" for i in spec.inputs)),
        ("outputs", ", ".join(spec.outputs)),
        ("dynamic axes", ", ".join(spec.dynamic) or "none"),
    )
    parts += [f"| entry | {spec.name} |", "|---|---|", *(f"| {k} | {cell(v)} |" for k, v in facts if v), ""]
    if spec.arguments:
        parts += ["## Arguments", "", "| name | type | default |", "|---|---|---|"]
        parts += [
            f"| {cell(a.name)} | {cell(a.annotation)} | {cell('required' if a.default is None else a.default)} |"
            for a in spec.arguments
        ]
        parts.append("")
    if graph is not None:
        parts += _graph(spec, graph)
    for title, text in (
        ("How it exports", spec.export),
        ("Limits", spec.limits),
        ("Where popular copies and the paper differ", spec.deviations),
    ):
        if text:
            parts += [f"## {title}", "", text_of(text), ""]
    parts += ["## Try it", "", "```sh", f"attn-deploy export {spec.name}", "```", ""]
    timed = [r for r in rows if r.p50_ms is not None]
    return "\n".join(parts + (_measured(timed) if timed else []))


def _graph(spec: Any, graph: Mapping[str, Any]) -> list[str]:
    """The picture of what is exported, fused, in the reference configuration."""
    picture = drawing(graph)
    note = (
        f"What `attn-deploy export {spec.name}` writes at opset 20, fused, without its constants: {operators(graph)}."
    )
    return [
        "## Graph",
        "",
        text_of(note).replace("\\_", "_") if "`" in note else note,
        "",
        *([picture, ""] if picture else []),
    ]


def _measured(rows: list[Any]) -> list[str]:
    parts = [
        "## Measured",
        "",
        f"Medians on {text_of(rows[0].machine)}; see the repository's `profiles/` for the records.",
        "",
        "| runtime | precision | batch | size | median ms | against eager |",
        "|---|---|---:|---|---:|---|",
    ]
    for r in rows:
        against = "" if r.speedup is None else f"{r.speedup:.2f}x ({r.speedup_low:.2f} - {r.speedup_high:.2f})"
        parts.append(f"| {r.runtime} | {r.precision} | {r.batch} | {r.size} | {r.p50_ms:.4g} | {against} |")
    return [*parts, ""]


def text_of(text: str) -> str:
    """Text as Markdown: one paragraph, no markup."""
    return escape(" ".join(text.split()), quote=False).replace("*", "\\*").replace("[", "\\[").replace("_", "\\_")


def cell(text: str) -> str:
    """Text in a table."""
    return text_of(text).replace("|", "\\|")
