"""Writes `catalog.json`, the registry without torch: ``python -m attn_deploy.resolve.catalog`` (``--check`` only compares).

It imports every file under modules/ and backbones/, takes the specifications that their decorators made, and measures
the multiply-accumulates of each reference configuration.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import attn_deploy.backbones
import attn_deploy.modules
from attn_deploy import registry
from attn_deploy.files import write_atomic
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import fit_size
from attn_deploy.resolve.resolve import resolve
from attn_deploy.specs.sources import CATALOG

MAC_SIZES = {"N": 1, "H": 32, "W": 32}


def write_catalog(path: Path = CATALOG) -> str:
    """Write the catalogue; returns its text."""
    text = render_catalog()
    write_atomic(path, text)
    return text


def render_catalog() -> str:
    """The catalogue as it should stand in the file."""
    for spec in import_all():
        registry.add(spec)
    entries: list[dict[str, Any]] = []
    for spec in import_all():
        data = spec.to_dict()
        data["macs"] = count_macs(spec.name)
        entries.append(data)
    return json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def import_all() -> list[registry.ModelSpec]:
    """Import every file of the zoo and the backbones; the built-in specifications in order of name."""
    for package in (attn_deploy.modules, attn_deploy.backbones):
        for entry in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(entry.name)
    built_in = ("attn_deploy.modules.", "attn_deploy.backbones.")
    specs = [s for s in registry.registered() if s.target.startswith(built_in)]
    return sorted(specs, key=lambda s: s.name)


def count_macs(name: str) -> int:
    """Multiply-accumulates of convolutions and matrix products in a forward pass at batch 1, 32x32 or what fits next."""
    model = resolve(name)
    if model.inputs is None:
        return 0
    movable = {k: fit_size(v, k, model.inputs[0]) for k, v in MAC_SIZES.items() if k in model.dynamic}
    arrays = example_arrays(model.inputs, movable)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.module(*[torch.from_numpy(a) for a in arrays.values()])
    return int(counter.get_total_flops()) // 2


def main() -> int:
    """Command-line entry: 0 when the file is (now) right, 1 when ``--check`` finds it stale."""
    if "--check" in sys.argv[1:]:
        fresh = CATALOG.exists() and CATALOG.read_text(encoding="utf-8") == render_catalog()
        print(
            "catalog.json is up to date"
            if fresh
            else "catalog.json is stale: run python -m attn_deploy.resolve.catalog"
        )
        return 0 if fresh else 1
    write_catalog()
    print(f"wrote {CATALOG}: {len(import_all())} entries")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
