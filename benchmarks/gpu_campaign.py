"""Everything that a short time on a GPU is worth, in steps that can be stopped, repeated, rehearsed and imported.

    python benchmarks/gpu_campaign.py environment latency training prepare --budget 500 --out DIR [--data-dir CIFAR]
    python3.10 benchmarks/gpu_campaign.py tensorrt --budget 150 --out DIR    # where TensorRT 8.5.3 is; no torch
    python benchmarks/gpu_campaign.py --rehearse --budget 120 --out DIR      # all steps on a CPU, at tiny sizes
    python benchmarks/gpu_campaign.py --import DIR                           # records, pages and rows of the README

Steps, in order of worth: ``environment`` (the machine, doctor, the tests that need a GPU), ``latency`` (eager, compile and
CUDA graphs of ResNets and of the zoo, with parity), ``training`` (CIFAR-10 by the recipe), ``prepare`` (graphs for the next
step, of the trained networks where there are some; needs no GPU and may be done before, on any machine), ``tensorrt``
(engines of these graphs: build, parity, top-1, latency, layers; needs no torch and runs under Python 3.10), ``ort`` (ONNX
Runtime's CUDA provider).

The Python of ``tensorrt`` needs numpy, onnx, msgspec, ml-dtypes, typer<0.29, rich, tomli (before 3.11), TensorRT and
cuda-python.

Each step runs in a process of its own within its share of the budget. A unit that is done leaves a record and is not done
again; one that fails, hangs or crashes leaves the reason, and the others go on (``--retry`` does it again). Exits with 1
when a unit failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [p for p in (str(ROOT), str(ROOT / "benchmarks")) if p not in sys.path]
# The processes of steps, and those that they start, find the package too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
)

from campaign.budget import WEIGHTS, run_steps  # noqa: E402
from campaign.units import Settings, StepFolder, Unit, run_units, say  # noqa: E402

# Step -> module and function that lists its units.
STEPS = {
    "environment": ("campaign.environment", "units"),
    "latency": ("campaign.latency", "units"),
    "training": ("campaign.training", "units"),
    "prepare": ("campaign.prepare", "units"),
    "tensorrt": ("campaign.tensorrt", "units"),
    "ort": ("campaign.latency", "ort_units"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--budget", type=float, help="seconds for all steps together")
    parser.add_argument("--out", type=Path, help="folder of the campaign")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at tiny sizes")
    parser.add_argument("--retry", action="store_true", help="do failed units again")
    parser.add_argument("--data-dir", help="where CIFAR-10 is")
    parser.add_argument("--graphs", type=Path, help="folder of the prepared graphs; by default OUT/graphs")
    parser.add_argument(
        "--import", type=Path, dest="imported", metavar="DIR", help="make records and pages of a campaign"
    )
    parser.add_argument("--into", type=Path, default=ROOT, help="the repository that --import writes into")
    parser.add_argument("--child", choices=list(STEPS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.imported is not None:
        from campaign.importing import import_campaign

        return import_campaign(given.imported, given.into, rehearsed=given.rehearse)
    if given.out is None or given.budget is None:
        parser.error("--out DIR and --budget SECONDS are needed.")
    unknown = [s for s in given.steps if s not in STEPS]
    if unknown:
        parser.error(f"there is no step {', '.join(unknown)}; steps are {', '.join(STEPS)}.")
    given.out = given.out.absolute()
    if given.child:
        return _child(given)
    steps = given.steps or list(STEPS)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.retry:
        for step, unit, _ in _failures(given.out, steps):
            StepFolder(given.out, step).file(unit).unlink()
    words = ["--out", str(given.out)]
    words += ["--rehearse"] if given.rehearse else []
    words += ["--data-dir", given.data_dir] if given.data_dir else []
    words += ["--graphs", str(given.graphs.absolute())] if given.graphs else []
    outcome = run_steps(Path(__file__).resolve(), steps, given.budget, words, given.out)
    failed = _failures(given.out, steps)
    say("; ".join(f"{s}: {o}" for s, o in outcome.items()))
    for step, unit, reason in failed:
        say(f"failed: {step}/{unit}: {reason[:300]}")
    return 1 if failed or any("outside of a unit" in o for o in outcome.values()) else 0


def _child(given: argparse.Namespace) -> int:
    """One step, in this process."""
    settings = Settings(
        out=given.out,
        rehearse=given.rehearse,
        data_dir=given.data_dir,
        graphs=given.graphs or given.out / "graphs",
        deadline=time.monotonic() + given.budget,
    )
    module, name = STEPS[given.child]
    units: Callable[[Settings], list[Unit]] = getattr(importlib.import_module(module), name)
    folder = StepFolder(given.out, given.child)
    if given.child == "training":  # a run that was cut off goes on
        for unit in units(settings):
            _forget_cut_off(folder, unit.name)
    run_units(units(settings), settings, folder)
    return 0


def _forget_cut_off(folder: StepFolder, unit: str) -> None:
    path = folder.file(unit)
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] == "failed" and "OutOfTimeError" in record.get("reason", ""):
            path.unlink()


def _failures(out: Path, steps: list[str]) -> list[tuple[str, str, str]]:
    """Step, unit and reason of each unit without a number."""
    failed = []
    for step in steps:
        for path in sorted((out / step).glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["status"] == "failed":
                failed.append((step, str(record["unit"]), str(record.get("reason", ""))))
    return failed


assert set(WEIGHTS) == set(STEPS)

if __name__ == "__main__":
    sys.exit(main())
