"""Profile every module and backbone, and say what the records have in common.

    python benchmarks/zoo_profiles.py [FOLDER] [--models '*'] [--runtimes eager,compile,ort-cpu] [--jobs 2]

Each model is profiled by `attn_deploy.profile` in a process of its own, which is kept on one core where all runtimes are
CPU's: a model that crashes or hangs costs its own record. A model whose record is there with the rows that are asked for
is not measured again, so that a run that was stopped goes on; ``--again`` measures all. At the end the means over models
are printed; ``attn-deploy report FOLDER -o zoo.html`` makes a page of the folder.

Samples are fewer than a single profile takes (240 a row at most), since the records are kept in the repository; intervals
are as wide as that makes them. Jobs side by side share caches and memory, equally for all runtimes of a row's model.

Exits with 1 when a model left no record, or a row without a number; int8 of a model that has no product with weights is
no such row: there is nothing to quantize.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import attn_deploy
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.collection import read_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.errors import AttnDeployError
from attn_deploy.machine.environment import usable_cores
from attn_deploy.report.profile.rows import mean_text

RESULTS = Path(__file__).resolve().parents[1] / "profiles"
OPTIONS = BenchOptions(
    threads=1, min_samples=200, max_samples=240, min_seconds=0.4, warmup_seconds=0.2, max_seconds=8.0
)
SECONDS = 1200  # of one model: densenet121 compiles for minutes
NOTHING = "has no product with weights"  # of the reason why a model is not to be had in int8


def known(path: Path, given: argparse.Namespace) -> bool:
    """Whether the record has every row that is asked for; one that failed is tried again."""
    try:
        record = ProfileRecord.read(path)
    except AttnDeployError:
        return False
    made = [r for r in record.rows if r.status != "failed" or NOTHING in r.reason]
    found = {(r.runtime, r.precision, r.batch) for r in made}
    wanted = {(r, "fp32", b) for r in given.runtimes.split(",") for b in given.batch}
    wanted |= {
        ("ort-cpu", p, b) for p in given.precisions.split(",") for b in given.batch if "ort-cpu" in given.runtimes
    }
    return not record.unfinished and wanted <= found


def measure(name: str, path: Path, given: argparse.Namespace) -> None:
    """One model, in this process."""
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    record = attn_deploy.profile(
        name,
        runtimes=given.runtimes.split(","),
        precisions=given.precisions.split(","),
        batch=given.batch,
        options=OPTIONS,
        executor="inline",
    )
    record.write(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--models", default="*", help="patterns, separated by commas")
    parser.add_argument("--runtimes", default="eager,compile,ort-cpu")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--batch", type=lambda text: [int(b) for b in text.split(",")], default=[1, 8])
    parser.add_argument("--jobs", type=int, default=usable_cores())
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.one, given.folder, given)
        return 0
    folder = given.folder or RESULTS / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    patterns = given.models.split(",")
    names = [s.name for s in attn_deploy.list_models() if any(fnmatch.fnmatch(s.name, p) for p in patterns)]
    todo = [n for n in names if given.again or not known(folder / f"{n}.json", given)]
    print(f"{len(names)} models, {len(names) - len(todo)} of them measured before")
    cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    all_cpu = all(r in ("eager", "compile", "ort-cpu") for r in given.runtimes.split(","))
    usable = sorted(os.sched_getaffinity(0)) if all_cpu and hasattr(os, "sched_getaffinity") else [None] * given.jobs
    for core in usable[: given.jobs]:
        cores.put(core)

    def run(name: str) -> tuple[str, str, float]:
        core, started = cores.get(), time.perf_counter()
        path = folder / f"{name}.json"
        if not given.again and known(path, given):  # by another run on this folder, meanwhile
            cores.put(core)
            return name, "", 0.0
        command = [sys.executable, __file__, str(path), "--one", name, "--runtimes", given.runtimes]
        command += ["--precisions", given.precisions, "--batch", ",".join(map(str, given.batch))]
        command += [] if core is None else ["--core", str(core)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return (
                name,
                "" if done.returncode == 0 else f"exit code {done.returncode}: {words}",
                time.perf_counter() - started,
            )
        except subprocess.TimeoutExpired:
            return name, f"not done in {SECONDS} s", time.perf_counter() - started
        finally:
            cores.put(core)

    failed = {}
    with ThreadPoolExecutor(min(given.jobs, len(usable))) as pool:
        for count, future in enumerate(as_completed([pool.submit(run, n) for n in todo]), 1):
            name, reason, seconds = future.result()
            print(f"[{count}/{len(todo)}] {name}: {reason or 'measured'} ({seconds:.0f} s)", flush=True)
            if reason:
                failed[name] = reason
    found = overview(read_runs([folder]))
    print("\n".join(mean_text(m) for m in found.means))
    without = [(e, found.runs[e.run].record.name) for e in found.entries if e.row.status != "ok"]
    bad = [(e, name) for e, name in without if NOTHING not in e.row.reason]
    for entry, name in without:
        print(f"{name} {entry.row.key}: {entry.row.reason}")
    for name, reason in failed.items():
        print(f"no record of {name}: {reason}")
    return 1 if bad or failed else 0


if __name__ == "__main__":
    sys.exit(main())
