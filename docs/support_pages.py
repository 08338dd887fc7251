"""The support matrix: which versions are tested, which are accepted, and the TensorRT of each release of Triton."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino", "onnxsim", "onnxslim", "tensorrt-rtx", "tensorrt",
    "numpy", "safetensors", "timm", "torchvision", "tritonclient",
)  # fmt: skip


def support_pages() -> dict[str, str]:
    """One page, from ``pyproject.toml`` and ``constraints.txt``."""
    from attn_deploy.deploy.package.triton import TENSORRT_OF
    from attn_deploy.graph.opset import MAX_OPSET, MIN_OPSET

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    accepted = accepted_versions(project)
    tested = dict(re.findall(r"(?m)^([\w.-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8")))
    pythons = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    parts = [
        "# What is supported",
        "",
        f"Python {', '.join(pythons)} on Linux; {pythons[1]} is the one that the constraints pin. ONNX opsets {MIN_OPSET} to "
        f"{MAX_OPSET}. Every night the tests run with the newest version of everything, without constraints.",
        "",
        "| package | accepted | tested | what for |",
        "|---|---|---|---|",
    ]
    for name in SHOWN:
        extras, bounds = accepted.get(name, ((), ""))
        what = (
            "core"
            if "core" in extras
            else ", ".join(f"`{e}`" for e in extras if e not in ("dev", "device")) or "`device`"
        )
        parts.append(f"| {name} | {bounds or 'any'} | {tested.get(name, 'not pinned')} | {what} |")
    parts += [
        "",
        "TensorRT 10 and 11 share TensorRT-RTX's adapter; 8.5 and 8.6 (JetPack 5) have a weakly typed one. Engines of "
        "TensorRT-RTX are built in the tests; none has been run on a GPU yet ([limits](../limits.md)).",
        "",
        "## Triton",
        "",
        "`package --triton RELEASE` refuses an engine of another TensorRT than the server ships:",
        "",
        "| Triton | TensorRT |",
        "|---|---|",
        *(f"| {release} | {version} |" for release, version in TENSORRT_OF.items()),
        "",
    ]
    return {"generated/support.md": "\n".join(parts)}


def accepted_versions(project: dict[str, object]) -> dict[str, tuple[tuple[str, ...], str]]:
    """For each package the extras that bring it (``core`` for all), and its bounds."""
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}  # type: ignore[dict-item]
    result: dict[str, tuple[tuple[str, ...], str]] = {}
    for group, lines in groups.items():
        for line in lines:  # type: ignore[attr-defined]
            match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*([^;]*)", line)
            if match is None:
                continue
            extras, bounds = result.get(match[1], ((), ""))
            result[match[1]] = ((*extras, group), bounds or match[2].strip())
    return result
