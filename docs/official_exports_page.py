"""The page of published formulations that export wrong, from the record of ``benchmarks/official_exports.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_pages import cell, text_of

RECORD = Path(__file__).resolve().parents[1] / "profiles" / "official-exports.json"
VERDICTS = {
    "right": "right",
    "wrong": "**wrong numbers**, no error",
    "static": "**fixed sizes**, no error",
    "fails": "stops at other sizes",
    "refused": "refused",
    "crash": "**ends the process**",
}


def official_exports_page() -> dict[str, str]:
    """A table of the verdicts, the command that shows each, and what the exporters and the runtime said."""
    data = json.loads(RECORD.read_text(encoding="utf-8"))
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
        link = f"[{cell(model)}](zoo/{model}.md)"
        parts.append(f"| {cell(row['title'])} | {' | '.join(cells)} | {cell(row['cause'])} | {link} | {error:.0e} |")
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
            parts += [f"**{text_of(row['title'])}**", ""]
            parts += [f"- {exporter}: {text_of(detail)}" for exporter, detail in said.items()]
            parts.append("")
    return {"generated/official-exports.md": "\n".join(parts)}


def _outcome(outcome: Mapping[str, Any]) -> str:
    """A verdict as a cell, with the error of numbers that are wrong."""
    words = VERDICTS[outcome["verdict"]]
    wrong = outcome["verdict"] == "wrong" and outcome["error"] is not None
    return f"{words} ({outcome['error']:.1g})" if wrong else words
