"""The pages of the site that are made from the program itself: commands, zoo, rules, devices, records.

MkDocs calls `on_files` while it builds (`hooks` in ``mkdocs.yml``). Nothing that is made here is committed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

OFFICIAL_EXPORTS = Path(__file__).resolve().parents[1] / "profiles" / "official-exports.json"

Pages = Mapping[str, str]


def on_files(files: Any, *, config: Any) -> Any:
    """Add the generated pages to those of the folder."""
    from mkdocs.structure.files import File

    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def generated_pages() -> dict[str, str]:
    """Every page by its path in the site's sources."""
    pages: dict[str, str] = {}
    for make in (_commands, _zoo, _official_exports, _rules, _devices, _records):
        pages |= make()
    return pages


def _commands() -> Pages:
    """What ``--help`` prints of each command."""
    import typer

    from attn_deploy.cli import app

    root = typer.main.get_command(app)
    parts = ["# Commands", "", "What `attn-deploy COMMAND --help` prints.", ""]
    for name, command in _each_command(root, ""):
        context = _context(command, f"attn-deploy {name}")
        parts += [f"## {name}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return {"generated/commands.md": "\n".join(parts)}


def _each_command(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if hasattr(command, "commands"):
            yield from _each_command(command, f"{prefix}{name} ")


def _context(command: Any, name: str) -> Any:
    return command.context_class(command, info_name=name, max_content_width=100, terminal_width=100)


def _zoo() -> Pages:
    """An index by family and a page for each entry."""
    from attn_deploy.comparison.digest import read_digest
    from attn_deploy.registry import list_models

    rows: dict[str, list[Any]] = {}
    for row in read_digest().rows:
        rows.setdefault(row.model, []).append(row)
    specs = list_models()
    index = ["# The zoo", "", f"{len(specs)} entries. `attn-deploy info NAME` prints the same of one.", ""]
    pages: dict[str, str] = {}
    for family, members in groupby(specs, key=lambda s: s.family):
        index += [f"## {family}", "", "| name | what it computes | year | parameters |", "|---|---|---:|---:|"]
        for spec in members:
            count = "" if spec.parameters is None else f"{spec.parameters:,}"
            index.append(f"| [{spec.name}]({spec.name}.md) | {_cell(spec.summary)} | {spec.year or ''} | {count} |")
            pages[f"generated/zoo/{spec.name}.md"] = _entry(spec, rows.get(spec.name, []))
        index.append("")
    pages["generated/zoo/index.md"] = "\n".join(index)
    return pages


def _entry(spec: Any, rows: list[Any]) -> str:
    parts = [f"# {spec.name}", "", _text(spec.summary), ""]
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
    parts += ["| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in facts if v), ""]
    if spec.arguments:
        parts += ["## Arguments", "", "| name | type | default |", "|---|---|---|"]
        parts += [
            f"| {_cell(a.name)} | {_cell(a.annotation)} | {_cell('required' if a.default is None else a.default)} |"
            for a in spec.arguments
        ]
        parts.append("")
    for title, text in (
        ("How it exports", spec.export),
        ("Limits", spec.limits),
        ("Where popular copies and the paper differ", spec.deviations),
    ):
        if text:
            parts += [f"## {title}", "", _text(text), ""]
    parts += ["## Try it", "", "```sh", f"attn-deploy export {spec.name}", "```", ""]
    timed = [r for r in rows if r.p50_ms is not None]
    if timed:
        parts += [
            "## Measured",
            "",
            f"Medians on {_text(timed[0].machine)}; see the repository's `profiles/` for the records.",
            "",
            "| runtime | precision | batch | size | median ms | against eager |",
            "|---|---|---:|---|---:|---|",
        ]
        for r in timed:
            against = "" if r.speedup is None else f"{r.speedup:.2f}x ({r.speedup_low:.2f} - {r.speedup_high:.2f})"
            parts.append(f"| {r.runtime} | {r.precision} | {r.batch} | {r.size} | {r.p50_ms:.4g} | {against} |")
        parts.append("")
    return "\n".join(parts)


VERDICTS = {
    "right": "right",
    "wrong": "**wrong numbers**, no error",
    "static": "**fixed sizes**, no error",
    "fails": "stops at other sizes",
    "refused": "refused",
    "crash": "**ends the process**",
}


def _official_exports() -> Pages:
    """Which published formulations export wrong, from the record of ``benchmarks/official_exports.py``."""
    data = json.loads(OFFICIAL_EXPORTS.read_text(encoding="utf-8"))
    packages, opsets = data["environment"]["packages"], data["exporters"]
    parts = [
        "# Published code that exports wrong",
        "",
        "Each formulation below was written anew as its repository publishes it, and exported with moving axes as the "
        "documentation of `torch.onnx.export` says: by the torch.export exporter (`dynamo=True`) and by the TorchScript "
        "exporter. Each file was then run by ONNX Runtime at the traced size and at two others, and compared with PyTorch.",
        "",
        f"torch {packages['torch']}, onnx {packages['onnx']}, ONNX Runtime {packages['onnxruntime']}; opset "
        f"{opsets['dynamo']} and {opsets['torchscript']}; {data['created'][:10]}. An error is the largest difference over "
        "the largest output. The same module of the zoo, on the same weights at the same sizes, is right in every row.",
        "",
        "| published formulation | torch.export | TorchScript | what goes wrong | in the zoo | error |",
        "|---|---|---|---|---|---:|",
    ]
    for row in data["rows"]:
        cells = [_outcome(row["outcomes"][exporter]) for exporter in opsets]
        model, error = row["model"], row["zoo"]["error"]
        link = f"[{_cell(model)}](zoo/{model}.md)"
        parts.append(f"| {_cell(row['title'])} | {' | '.join(cells)} | {_cell(row['cause'])} | {link} | {error:.0e} |")
    parts += [
        "",
        "## See it",
        "",
        "From a checkout; each line exports one formulation and runs its file:",
        "",
        "```text",
    ]
    parts += [f"python benchmarks/official_exports.py --only {row['name']}" for row in data["rows"]]
    parts += ["```", "", "## What the exporters and the runtime said", ""]
    for row in data["rows"]:
        said = {k: o["detail"] for k, o in row["outcomes"].items() if o["detail"]}
        if said:
            parts += [f"**{_text(row['title'])}**", ""]
            parts += [f"- {exporter}: {_text(detail)}" for exporter, detail in said.items()]
            parts.append("")
    return {"generated/official-exports.md": "\n".join(parts)}


def _outcome(outcome: Mapping[str, Any]) -> str:
    """A verdict as a cell, with the error of numbers that are wrong."""
    words = VERDICTS[outcome["verdict"]]
    wrong = outcome["verdict"] == "wrong" and outcome["error"] is not None
    return f"{words} ({outcome['error']:.1g})" if wrong else words


def _rules() -> Pages:
    """Each known cause with its remedy."""
    from attn_deploy.rules.rules import RULES

    parts = [
        "# Rules",
        "",
        f"The {len(RULES)} known ways in which an export goes wrong. `lint` finds them in the source before an export, and "
        "errors name them.",
        "",
    ]
    for rule in RULES:
        parts += [
            f"## {rule.id}",
            "",
            f"**Why:** {_text(rule.explanation)}.",
            "",
            f"**Remedy:** {_text(rule.remedy)}",
            "",
        ]
    return {"generated/rules.md": "\n".join(parts)}


def _devices() -> Pages:
    """The devices that engines are built for and profiles compared with."""
    from attn_deploy.machine.devices import list_devices, load_device

    parts = [
        "# Devices",
        "",
        "`--device NAME` of `build` and `profile`.",
        "",
        "| name | device | target |",
        "|---|---|---|",
    ]
    for name in list_devices():
        device = load_device(name)
        title = getattr(device, "title", "") or getattr(device, "description", "") or device.name
        parts.append(f"| {name} | {_cell(str(title))} | {_cell(device.target or 'CPU')} |")
    return {"generated/devices.md": "\n".join([*parts, ""])}


def _records() -> Pages:
    """The JSON Schema of each kind of record."""
    parts = [
        "# Records",
        "",
        "Every result is a JSON record with a `schema_version`. These are the schemas (JSON Schema, draft 2020-12) of this "
        "version; a record that does not follow its schema is refused with the field's name.",
        "",
    ]
    pages: dict[str, str] = {}
    for name, kind in record_kinds().items():
        schema = json.dumps(json_schema(kind()), indent=1)
        pages[f"generated/schemas/{name}.json"] = schema + "\n"
        parts.append(f"- [{name}](schemas/{name}.json)")
    pages["generated/records.md"] = "\n".join([*parts, ""])
    return pages


def record_kinds() -> dict[str, Callable[[], type]]:
    """The records that commands write, by name."""

    def profile() -> type:
        from attn_deploy.bench.record import ProfileRecord

        return ProfileRecord

    def matrix() -> type:
        from attn_deploy.matrix.record import MatrixRecord

        return MatrixRecord

    def training() -> type:
        from attn_deploy.training.record import TrainingRecord

        return TrainingRecord

    return {"profile": profile, "matrix": matrix, "training": training}


def json_schema(kind: type) -> dict[str, Any]:
    """The JSON Schema of a record."""
    import msgspec

    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    record = schema["$defs"][kind.__name__]
    record["properties"].setdefault("schema_version", {"type": "integer"})  # some records write it beside their fields
    return schema


def _text(text: str) -> str:
    """Text as Markdown: one paragraph, no markup."""
    return escape(" ".join(text.split()), quote=False).replace("*", "\\*").replace("[", "\\[").replace("_", "\\_")


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")
