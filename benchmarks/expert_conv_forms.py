"""The two forms of a convolution with mixed experts, measured: what `export_form="auto"` of CondConv rests on.

    python benchmarks/expert_conv_forms.py [--quick] [--render RECORD.json] [--output RECORD.json]

Both forms of one layer are exported with moving batch, height and width, run in ONNX Runtime on one CPU thread and timed
interleaved. A ratio is mix_kernels over mix_outputs: above 1, mixing the outputs of all experts is faster.

Exit code 1: `auto` takes the form that is slower beyond doubt by more than a quarter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
import torch
from ratios import Record, Row, default_path, environment, markdown, record, time_files, times

from attn_deploy.bench.options import BenchOptions
from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.ops import cheaper_form
from attn_deploy.resolve.resolve import resolve

OPSET = 17
COSTLY = 1.25
FORMS = ("mix_kernels", "mix_outputs")
BATCHES = (1, 8)
# C_in, C_out, k, groups, experts, side of the map.
LAYERS = (
    (16, 16, 1, 1, 4, 32),
    (64, 64, 1, 1, 4, 32),
    (64, 64, 1, 1, 8, 32),
    (64, 256, 1, 1, 4, 16),
    (256, 256, 1, 1, 4, 16),
    (64, 64, 1, 4, 4, 32),
    (16, 16, 3, 1, 4, 32),
    (64, 64, 3, 1, 2, 32),
    (64, 64, 3, 1, 4, 32),
    (64, 64, 3, 1, 8, 32),
    (64, 64, 3, 1, 4, 14),
    (128, 128, 3, 1, 4, 16),
    (256, 256, 3, 1, 4, 16),
    (64, 16, 3, 1, 4, 32),
    (64, 64, 3, 4, 4, 32),
    (64, 64, 3, 16, 4, 32),
    (16, 16, 5, 1, 4, 32),
    (64, 64, 5, 1, 4, 32),
    (64, 64, 3, 64, 2, 32),
    (64, 64, 3, 64, 4, 32),
    (256, 256, 3, 256, 4, 16),
    (64, 64, 3, 64, 8, 32),
    (64, 64, 5, 64, 4, 32),
)
FULL = BenchOptions(threads=1, rounds=24, min_samples=72, min_seconds=0.8, max_seconds=20.0)
QUICK = BenchOptions(threads=1, rounds=12, min_samples=24, min_seconds=0.2, max_seconds=5.0)


def time_layer(layer: tuple[int, ...], options: BenchOptions) -> list[Row]:
    """Both forms of one layer at every batch size."""
    ins, outs, kernel, groups, experts, side = layer
    arguments = {
        "in_channels": ins,
        "out_channels": outs,
        "kernel_size": kernel,
        "groups": groups,
        "num_experts": experts,
    }
    files = {}
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        for form in FORMS:
            path = Path(folder, f"{form}.onnx")
            export("condconv", path, opset=OPSET, arguments={**arguments, "export_form": form})
            files[form] = (path.read_bytes(), len(onnx.load(path).graph.node))
    inputs = resolve("condconv", arguments).inputs
    what = "depthwise" if groups == ins else f"{groups} groups" if groups > 1 else "dense"
    name = f"{what} {kernel}x{kernel}, {ins} to {outs}, {experts} experts"
    rows = []
    for batch in BATCHES:
        arrays = example_arrays(inputs, {"N": batch, "H": side, "W": side})
        choice = cheaper_form(experts, ins, outs, kernel, groups)
        rows.append(time_files(name, f"{batch}x{ins}x{side}x{side}", files, arrays, options, choice=choice))
        print(name, rows[-1].settings, *times(rows[-1]), choice, sep="  ", file=sys.stderr, flush=True)
    return rows


def loss(row: Row) -> float:
    """How many times as long the chosen form takes as the other; below 1 where it is the faster one."""
    return row.speedup.speedup if row.choice == "mix_kernels" else 1 / row.speedup.speedup


def costly(row: Row) -> bool:
    """Whether the chosen form is much slower, over the whole interval."""
    ends = (row.speedup.interval.low, row.speedup.interval.high)
    return min(e if row.choice == "mix_kernels" else 1 / e for e in ends) > COSTLY


def page(found: Record) -> str:
    """The record for readers."""
    rows = [[r.name, r.settings, *times(r), r.choice, "" if loss(r) <= 1 else f"{loss(r):.2f}"] for r in found.rows]
    headings = (
        "layer",
        "input",
        "mix_kernels ms",
        "mix_outputs ms",
        "ratio",
        "95 % interval",
        "auto takes",
        "at a loss of",
    )
    right = sum(loss(r) <= 1.05 for r in found.rows)
    told = [
        f"# {found.title}",
        "",
        "The ratio is above 1 where mixing outputs is faster. `auto` knows the layer and not the size of the map or the "
        "batch; `python benchmarks/expert_conv_forms.py` makes this page.",
        "",
        f"`auto` takes the faster form, or one within 5 % of it, in {right} of {len(found.rows)} rows; its worst loss is "
        f"{max(loss(r) for r in found.rows):.2f} times. {found.foot}",
        "",
        markdown(headings, rows, 2),
    ]
    return "\n".join(told) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples, no record unless --output is given")
    parser.add_argument("--render", type=Path, metavar="RECORD", help="print a record made earlier; nothing is timed")
    parser.add_argument("--output", type=Path, help="write the record here, and a page beside it")
    given = parser.parse_args()
    if given.render:
        found = Record.read(given.render)
        if given.output:
            found.write(given.output, page(found))
    else:
        torch.set_num_threads(1)
        before, options = environment(), QUICK if given.quick else FULL
        rows = [row for layer in LAYERS for row in time_layer(layer, options)]
        found = record("The two forms of a convolution with mixed experts", rows, options, before)
        if given.output or not given.quick:
            found.write(given.output or default_path(before, "expert-conv-forms"), page(found))
    print(page(found))
    return int(any(costly(r) for r in found.rows))


if __name__ == "__main__":
    raise SystemExit(main())
