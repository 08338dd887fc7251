"""A campaign of hostile inputs against the command line: damaged, altered and malicious files of every kind it reads.

    python benchmarks/hostile.py [--seed 0] [--count 2000] [--seconds 0] [--keep FOLDER] [--only CLASS] [--first N]

Each case is one command on one input in a process of its own, forked from this one, which has the libraries loaded.
Before it begins, each command on ONNX files is tried on a sound one, and must do its work there.
The table counts by class: commands that refused the input, that did their work, and whose native code crashed and was
contained; and what must never happen: tracebacks (and defects reported as such), deaths of the command line itself,
hangs, inputs that were accepted although nothing can be right about them, files that were lost, half-written or left
behind, and code of the input that ran. The exit code is 1 if any of those is not 0. With one seed the cases are the same.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the same attn-deploy as this file's

from hostile_inputs import arrays, code, edits, folders, handmade, records, weights, world
from hostile_inputs.case import MAY_SAY_NO, ONNX_COMMANDS, Maker, case_of
from hostile_inputs.graphs import forget, proven, put_sound
from hostile_inputs.running import BAD, COLUMNS, judged, run

CLASSES: dict[str, tuple[float, Maker]] = {
    "protobuf edits": (4, edits.protobuf_edit),
    "evidence": (1.5, edits.evidence),
    "bit flips": (4, edits.flip),
    "broken seals": (1, edits.sealed),
    "external data": (1, edits.external),
    "truncations": (1.5, edits.truncation),
    "hand-written graphs": (3, handmade.handmade),
    "checkpoints": (2, weights.checkpoint),
    "runs": (1, weights.run_folder),
    "pickles": (0.5, weights.pickled),
    "weights": (0.7, weights.tensors),
    "calibration": (1.5, arrays.calibration),
    "names of arrays": (0.5, arrays.names),
    "images": (1, arrays.images),
    "engines": (0.7, records.engine),
    "records": (4, records.record),
    "device profiles": (0.5, records.device),
    "packages": (1, folders.package),
    "hostile packages": (1, folders.manifest),
    "pipelines": (1, folders.pipeline),
    "user files": (1.5, code.user_file),
    "a hostile world": (2, world.world),
}
# What the commands import when they run: once, and not in each of thousands of processes.
LIBRARIES = """torch onnxruntime attn_deploy.cli attn_deploy.conversion.convert attn_deploy.conversion.quantize
attn_deploy.deploy.quantize attn_deploy.deploy.run attn_deploy.deploy.package.make attn_deploy.deploy.package.check
attn_deploy.parity.files attn_deploy.bench.profiler attn_deploy.accuracy.evaluate attn_deploy.diagnosis.diagnose
attn_deploy.diagnosis.lint attn_deploy.exporters.pipeline attn_deploy.engine.builder attn_deploy.training.run
attn_deploy.matrix.run attn_deploy.matrix.merge attn_deploy.report.profile.html attn_deploy.pipeline.run msgspec""".split()  # noqa: SIM905


def refused_when_sound() -> list[str]:
    """Commands that do not do their work on a sound file: what they refuse afterwards would say nothing."""
    faults = []
    for words in ONNX_COMMANDS:
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        put_sound(folder)
        (folder / "m.onnx").write_bytes(proven())
        code, text = run(case_of(words, "m.onnx"), folder)
        answers = any(w in words for w in MAY_SAY_NO)
        if code is None or code not in ((0, 1) if answers else (0,)) or "Usage" in text:
            faults.append(f"{' '.join(words)}: exit {code}: {text.strip()[-300:]}")
        shutil.rmtree(folder, ignore_errors=True)
    return faults


def attack(name: str, label: str, keep: Path | None) -> str:
    """One case of a class; the column that it belongs to."""
    chance = random.Random(label)
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    case = CLASSES[name][1](chance, folder)
    code, text = run(case, folder)
    column = judged(case, code, text, folder)
    if column in BAD:
        last = (text.strip().splitlines() or [""])[-1][:300]
        faults = f" [{', '.join(case.faults)}]" if case.faults else ""
        print(f"{column}: {name}, case {label}: {' '.join(case.command)}{faults}: exit {code}: {last}", flush=True)
        if keep:
            place = keep / label.replace("/", "-")
            shutil.copytree(folder, place, symlinks=True, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    shutil.rmtree(folder, ignore_errors=True)
    return column


def table_of(counts: dict[str, collections.Counter[str]]) -> str:
    """The table, a line for each class."""
    width = 12
    lines = [f"{'':20}{'cases':>8}" + "".join(f"{c:>{width}}" for c in COLUMNS)]
    total: collections.Counter[str] = collections.Counter()
    for name, row in counts.items():
        total += row
        lines.append(f"{name:20}{row.total():>8}" + "".join(f"{row[c]:>{width}}" for c in COLUMNS))
    lines.append(f"{'all':20}{total.total():>8}" + "".join(f"{total[c]:>{width}}" for c in COLUMNS))
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to go on with a campaign")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so many; 0 for never")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of cases that went wrong")
    parser.add_argument("--only", choices=list(CLASSES))
    parser.add_argument("--save", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what torch has to say about the tensors of a case
    for library in LIBRARIES:
        importlib.import_module(library)
    started, load = time.monotonic(), os.getloadavg()[0]
    vacuous = refused_when_sound() if options.first == 0 else []
    if vacuous:
        print("commands that refuse a sound file:", *vacuous, sep="\n  ")
        return 1
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in CLASSES}
    weights_of = [w for w, _ in CLASSES.values()]
    for number in range(options.first, options.first + options.count):
        if options.seconds and time.monotonic() - started > options.seconds:
            break
        label = f"{options.seed}/{number}"
        name = options.only or random.Random(f"class {label}").choices(list(CLASSES), weights_of)[0]
        counts[name][attack(name, label, options.keep)] += 1
    forget()
    seconds = time.monotonic() - started
    print(f"\n{table_of(counts)}\nseed {options.seed}, {seconds:.0f} s")
    if options.save:
        rows = {name: {"cases": row.total(), **{c: row[c] for c in COLUMNS}} for name, row in counts.items()}
        data = {
            "seed": options.seed,
            "first": options.first,
            "seconds": round(seconds),
            "load": [load, os.getloadavg()[0]],
        }
        data |= {"python": platform.python_version(), "machine": platform.machine(), "classes": rows}
        options.save.write_text(json.dumps(data, indent=1) + "\n")
    return 1 if any(row[c] for row in counts.values() for c in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
