"""The pages of the site that are made from the program itself: commands, zoo, rules, devices, records.

MkDocs calls `on_files` while it builds (`hooks` in ``mkdocs.yml``). Nothing that is made here is committed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file alone

from official_exports_page import official_exports_page
from rule_pages import rule_pages
from support_pages import support_pages
from zoo_pages import cell, zoo_pages

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
    for make in (_commands, zoo_pages, official_exports_page, rule_pages, _devices, support_pages, _records):
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


def _devices() -> Pages:
    """The devices that engines are built for and profiles compared with."""
    from attn_deploy.machine.devices import DEVICES, list_devices, load_device

    parts = [
        "# Devices",
        "",
        "`--device NAME` of `build` and `profile`; `attn-deploy list --devices` prints the same, and a file of your own "
        "(`--device mine.toml`) describes another. Peaks are dense, in 10^12 operations a second.",
        "",
        "| name | device | target | GB | GB/s | fp32 | fp16 | int8 |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    sources = ["", "## Where the figures are from", ""]
    for name in list_devices():
        device = load_device(name)
        peaks = [f"{device.peaks_tflops[p]:g}" if p in device.peaks_tflops else "" for p in ("fp32", "fp16", "int8")]
        sizes = [f"{v:g}" if v is not None else "" for v in (device.memory_gib, device.bandwidth_gbs)]
        cells = [
            name,
            cell(device.title),
            device.target or "processor",
            *sizes,
            *peaks,
        ]
        parts.append(f"| {' | '.join(cells)} |")
        sources.append(f"- **{name}**: {cell(_source(DEVICES / f'{name}.toml'))}")
    return {"generated/devices.md": "\n".join([*parts, *sources, ""])}


def _source(path: Path) -> str:
    """The comment that a description begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line.lstrip("# ") for line in lines[: next(k for k, x in enumerate(lines) if not x.startswith("#"))]]
    return " ".join(comment).removeprefix("Source: ")


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
