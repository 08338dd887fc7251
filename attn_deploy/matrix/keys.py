"""What a cell's result depends on, as a hash: a run that goes on makes only the cells whose hash changed.

In the hash are the source of the model (the file of its class and the files of the zoo that it imports), the source of
the toolkit that makes and judges files, the versions of the packages that do the work, and the options. A change in one
zoo module leaves the cells of the others alone; a change in an exporter or a check touches all.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import platform
from pathlib import Path
from typing import Any

from attn_deploy import registry
from attn_deploy.machine.environment import installed_versions
from attn_deploy.matrix.cell import CellId
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.plan import in_registry
from attn_deploy.resolve.names import ModelName, parse_name
from attn_deploy.resolve.package_names import MODULES

_ROOT = Path(__file__).resolve().parent.parent
# Rooms whose code cannot change what is found: they report, time, or hold the models, which are hashed one by one.
_WITHOUT_EFFECT = ("modules", "backbones", "cli", "report", "bench", "profiles")
_PACKAGES = ("torch", "numpy", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxsim", "onnxslim")
_ENGINE_PACKAGES = ("tensorrt", "tensorrt-rtx")


def cell_key(cell: CellId, options: MatrixOptions) -> str:
    """The hash of everything that the result of a cell depends on."""
    parsed = parse_name(cell.model)
    engine = options.builds_engine(cell.opset)
    foreign = not in_registry(parsed)
    parts: dict[str, Any] = {
        "cell": [cell.model, cell.exporter, cell.opset, cell.dynamic, cell.precision],
        "runtimes": [r for r in options.runtimes if r == "ort" or engine],
        "inputs": list(options.inputs) if foreign else [],
        "toolkit": toolkit_hash(),
        "model": model_hash(cell.model),
        "versions": {**_versions(engine), **installed_versions((MODULES[parsed.package],) if parsed.package else ())},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


@functools.cache
def _versions(engine: bool) -> dict[str, str]:
    names = _PACKAGES + (_ENGINE_PACKAGES if engine else ())
    return {"python": platform.python_version(), **installed_versions(names)}


@functools.cache
def toolkit_hash() -> str:
    """The hash of the toolkit's own source, the zoo left out."""
    files = [p for p in _ROOT.rglob("*.py") if p.relative_to(_ROOT).parts[0] not in _WITHOUT_EFFECT]
    return _hash_of(files)


def source_hash(path: Path) -> str:
    """The hash of a user's Python file and of those beside it that it imports, however far."""
    files: set[Path] = set()
    _collect(path.resolve(), files)
    return _hash_of(files)


@functools.cache
def model_hash(name: str) -> str:
    """The hash of the source of a model, with the zoo files that it imports and its registry entry."""
    parsed = parse_name(name)
    files: set[Path] = set()
    for path in _files(parsed):
        _collect(path, files)
    entries = []
    if in_registry(parsed):
        entries = [registry.get(n) for n in (parsed.base, parsed.slot) if n]
    described = [[e.name, e.target, str(e.reference), str(e.inputs), str(e.dynamic), str(e.sizes)] for e in entries]
    return _hash_of(files) + hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]


def _files(parsed: ModelName) -> list[Path]:
    if parsed.file is not None:
        return [Path(parsed.file).resolve()]
    if parsed.checkpoint is not None:
        path = Path(parsed.checkpoint)
        return [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".json"))
    if parsed.pickled is not None:
        return [Path(parsed.pickled)]
    files: list[Path] = []
    if parsed.package is not None:
        return files  # its version is in the key
    for name in (parsed.base, parsed.slot):
        if name is not None:
            source = _source_of(registry.get(name).target.partition(":")[0])
            files += [source] if source is not None else []
    return files


def _source_of(module: str) -> Path | None:
    """The file of an importable module; for our own without importing anything."""
    package, _, rest = module.partition(".")
    if package == _ROOT.name:
        path = _ROOT.joinpath(*rest.split(".")).with_suffix(".py")
        return path if path.is_file() else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _collect(path: Path, files: set[Path]) -> None:
    """A file and those that it imports, as far as they are of the zoo or lie beside a user's own file."""
    if path in files or not path.is_file():
        return
    files.add(path)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return  # importing it will tell; the hash of its bytes is enough
    for node in ast.walk(tree):
        for module in _imported(node):
            for candidate in _candidates(module, path):
                _collect(candidate, files)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module else [a.name for a in node.names]
    return []


def _candidates(module: str, importer: Path) -> list[Path]:
    parts = module.split(".")
    if parts[0] == _ROOT.name:
        is_zoo = len(parts) > 1 and parts[1] in ("modules", "backbones")
        return [_ROOT.joinpath(*parts[1:]).with_suffix(".py")] if is_zoo else []
    return [importer.parent.joinpath(*parts).with_suffix(".py"), importer.parent.joinpath(*parts, "__init__.py")]


def _hash_of(files: set[Path] | list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        place = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else Path(path.name)
        digest.update(os.fsencode(place) + b"\0")
        digest.update(path.read_bytes() if path.is_file() else b"missing")
    return digest.hexdigest()[:20]
