"""Models that are there without an import of their code: those of the catalogue, and those of installed packages."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from attn_deploy.specs.spec import ModelSpec

CATALOG = Path(__file__).resolve().parent.parent / "catalog.json"
ENTRY_POINT_GROUP = "attn_deploy.models"


@functools.cache
def catalog() -> dict[str, ModelSpec]:
    """The specifications of `catalog.json` by name; empty where it has not been written yet."""
    if not CATALOG.exists():
        return {}
    return {d["name"]: ModelSpec.from_dict(d) for d in json.loads(CATALOG.read_text(encoding="utf-8"))}


@functools.cache
def plugins() -> dict[str, ModelSpec]:
    """The specifications that installed packages name under `ENTRY_POINT_GROUP`; a broken one is a warning."""
    if not _anyone_registers():
        return {}
    import warnings
    from importlib.metadata import entry_points

    specs_by_name: dict[str, ModelSpec] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            specs = point.load()()
        except Exception as error:  # a broken plug-in of somebody else must not take the whole command line down
            warnings.warn(
                f"the entry point {point.name!r} ({point.value}) failed and its models are missing: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        for spec in [specs] if isinstance(specs, ModelSpec) else specs:
            if spec.name in catalog():
                warnings.warn(
                    f"the entry point {point.name!r} names {spec.name!r}, which is built in; it is left out.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            else:
                specs_by_name[spec.name] = spec
    return specs_by_name


def _anyone_registers() -> bool:
    """Whether an installed package may name our group: importlib.metadata costs 40 ms, a third of `attn-deploy list`."""
    for place in sys.path:
        folder = Path(place or ".")
        if folder.is_file():  # a zip: leave it to importlib.metadata
            return True
        for kind in ("dist", "egg"):
            for file in folder.glob(f"*.{kind}-info/entry_points.txt"):
                if ENTRY_POINT_GROUP in file.read_text(encoding="utf-8", errors="replace"):
                    return True
    return False
