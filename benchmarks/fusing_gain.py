"""What fusing is worth in ONNX Runtime: each module's fused export against the same export with fuse=False.

    python benchmarks/fusing_gain.py [--only acblock,spp] [--quick] [--render RECORD.json] [--output RECORD.json]

Both files are simplified, have moving axes and run on one CPU thread at batch 1 and 32x32 (or the module's own size),
interleaved. A ratio is unfused over fused: the median over rounds of the ratio of medians, with a bootstrap interval.

Not all of fusing shows here. The TorchScript exporter, the simplifier and ONNX Runtime's own graph optimisation fold a
BatchNorm right after a convolution as well, so that a module with nothing else to fuse has the same kernels in both files
and a ratio of 1. What those cannot do (merge branches, multiply factors, drop what nobody uses, re-chain pools) is what
the ratios above 1 are made of.

Exit code 1: a module is slower when fused, beyond doubt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from ratios import Record, Row, default_path, environment, markdown, record, time_files, times

from attn_deploy.bench.options import BenchOptions
from attn_deploy.exporters.pipeline import export
from attn_deploy.fusing import fuse_with_report
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import fit_size
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from attn_deploy.resolve.seeding import enliven

OPSET = 17
EXTENT = {"N": 1, "H": 32, "W": 32}
FULL = BenchOptions(threads=1, rounds=30, min_samples=90, min_seconds=0.5, max_seconds=12.0)
QUICK = BenchOptions(threads=1, rounds=12, min_samples=36, min_seconds=0.2, max_seconds=5.0)
# Forms that fusing takes only where they are asked for: fewer kernels for more multiplications, for devices on which a
# launch is dear. On a CPU they cost more.
OPT_IN = ("psconv:deploy_form=one_conv", "spconv:deploy_form=one_conv")
EXTRA = (  # what the reference configurations do not show
    "ghostmodule:out_channels=49",
    *OPT_IN,
    "spp:in_channels=256,out_channels=256",
    "dynamic_conv:kernel_size=1,padding=0",
    "resnet18",
    "resnet18+se",
)


def candidates() -> list[str]:
    """Every module that fusing changes, at its reference configuration, and a few others."""
    names = [s.name for s in catalog.import_all() if s.family != "backbone"]
    return [n for n in names if _changes(n)] + list(EXTRA)


def _changes(name: str) -> str:
    return "; ".join(dict.fromkeys(words for _, words in fuse_with_report(resolve(name).module).changes))


def slow(rows: Sequence[Row]) -> list[str]:
    """The modules that fusing makes slower unasked."""
    return [r.name for r in rows if r.verdict == "slower" and r.name not in OPT_IN]


def time_module(name: str, options: BenchOptions) -> Row:
    """Export both ways, see that both give the same numbers, and time."""
    model = resolve(name)
    enliven(model.module)
    first = model.inputs[0]
    sizes = {s: fit_size(EXTENT[s], s, first) for s in first.sizes if s in EXTENT and s in model.dynamic}
    files = {}
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        for side, fused in (("unfused", False), ("fused", True)):
            path = Path(folder, f"{side}.onnx")
            artifact = export(name, path, opset=OPSET, fuse=fused, verify=False)
            files[side] = (path.read_bytes(), len(onnx.load(artifact.path).graph.node))
    arrays = example_arrays(model.inputs, sizes)
    words = ", ".join("x".join(map(str, a.shape)) for a in arrays.values())
    return time_files(name, words, files, arrays, options, note=_changes(name))


def page(found: Record) -> str:
    """The record for readers."""
    rows = []
    for row in found.rows:
        nodes = " -> ".join(str(s.nodes) for s in row.sides.values())
        rows.append([f"`{row.name}`", row.note, row.settings, *times(row), nodes, row.verdict])
    headings = ("module", "fusing", "inputs", "unfused ms", "fused ms", "ratio", "95 % interval", "nodes", "verdict")
    by = {
        v: [r.name for r in found.rows if r.verdict == v] for v in ("faster", "equal", "not slower", "noise", "slower")
    }
    told = [
        f"# {found.title}",
        "",
        "Fused against unfused export, one thread, batch 1: the ratio is above 1 where the fused file is faster. "
        "TorchScript's exporter, the simplifier and ONNX Runtime itself fold a BatchNorm after a convolution too, so that "
        "modules with nothing else to fuse are equal; `python benchmarks/fusing_gain.py` makes this page.",
        "",
        f"Faster by more than 5 % beyond doubt: {len(by['faster'])} of {len(found.rows)}; equal within 5 %: "
        f"{len(by['equal'])}; between the two: {len(by['not slower'])}; undecided: {len(by['noise'])}; slower: "
        f"{', '.join(slow(found.rows)) or 'none'}, but for the forms with `deploy_form=one_conv`, which are taken only "
        f"where they are asked for: fewer kernels for more multiplications. {found.foot}",
        "",
        markdown(headings, rows, 3),
    ]
    return "\n".join(told) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names, separated by spaces or semicolons")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--render", type=Path, metavar="RECORD", help="print a record made earlier; nothing is timed")
    parser.add_argument(
        "--again", type=Path, metavar="RECORD", help="time only what that record leaves undecided or slower"
    )
    parser.add_argument("--output", type=Path, help="write the record here, and a page beside it")
    given = parser.parse_args()
    if given.render:
        found = Record.read(given.render)
        if given.output:
            found.write(given.output, page(found))
    else:
        torch.set_num_threads(1)
        before = environment()
        old = Record.read(given.again) if given.again else None
        names = given.only.replace(";", " ").split() if given.only else candidates()
        if old:
            names = [r.name for r in old.rows if r.verdict in ("noise", "slower")]
        rows = []
        for name in names:
            rows.append(time_module(name, QUICK if given.quick else FULL))
            print(name, *times(rows[-1]), rows[-1].verdict, sep="  ", file=sys.stderr, flush=True)
        if old:
            again = {r.name: r for r in rows}
            rows = [again.get(r.name, r) for r in old.rows]
        found = record("What fusing is worth in ONNX Runtime", rows, QUICK if given.quick else FULL, before)
        full = not given.only and not given.quick
        if given.output or full:
            found.write(given.output or default_path(before, "fusing-gain"), page(found))
    print(page(found))
    return int(bool(slow(found.rows)))


if __name__ == "__main__":
    raise SystemExit(main())
