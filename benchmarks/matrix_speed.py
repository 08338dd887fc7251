"""Time per cell: the matrix against a plain loop that calls ``torch.onnx.export`` for every cell.

    python benchmarks/matrix_speed.py [--models 10] [--opsets 13-22] [--output results.json]

Both make the same cells (models x opsets x both exporters, all axes dynamic) one after another in one process and make
the same checks of each file: the full ONNX checker, the opset, symbolic axes, the operator list, and ONNX Runtime
against eager at the traced and at four other sizes. The loop is spared two things that the matrix does: it simplifies
nothing, and where the torch.export exporter writes opset 18 instead of a lower one it notes that and goes on.
Each runs in a process of its own; processor time is that of the process and all its children, start-up included.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 3.0
MODELS = (
    "se", "cbam", "ghostmodule", "sk", "danet_head", "aspp", "gc", "criss_cross", "psp", "aff"
)  # fmt: skip


def plain(names: list[str], opsets: list[int]) -> dict[str, int]:
    """The loop; how many cells met every check, how many had another opset than asked, how many failed otherwise."""
    import onnx
    import torch
    from torch.export import Dim

    from attn_deploy.exporters.quiet import quiet_torch
    from attn_deploy.fusing import fuse
    from attn_deploy.graph.operators import unlisted_operators
    from attn_deploy.inputs.samples import example_arrays
    from attn_deploy.inputs.tensors import bounds
    from attn_deploy.parity.verify import verify_onnx
    from attn_deploy.resolve.resolve import resolve
    from attn_deploy.resolve.seeding import enliven

    counts = {"good": 0, "other opset": 0, "failed": 0}
    for name in names:
        resolved = resolve(name)
        original = enliven(resolved.module)
        inputs, dynamic = (
            resolved.inputs or (),
            [s for s in resolved.dynamic if s in (resolved.inputs or ())[0].symbols],
        )
        for exporter in ("dynamo", "torchscript"):
            for opset in opsets:
                module = fuse(original)
                example = tuple(torch.from_numpy(a) for a in example_arrays(inputs).values())
                roots = {s: Dim(s, min=bounds(s, inputs[0])[0], max=4096) for s in dynamic}
                shapes = tuple({a: roots[d] for a, d in enumerate(i.dims) if d in roots} for i in inputs)
                axes = {i.name: {a: str(d) for a, d in enumerate(i.dims) if d in roots} for i in inputs}
                buffer = io.BytesIO()
                with quiet_torch():
                    try:
                        if exporter == "dynamo":
                            made = torch.onnx.export(
                                module, example, dynamo=True, opset_version=opset, dynamic_shapes=shapes,
                                input_names=list(axes), output_names=list(resolved.outputs or ()), verbose=False,
                            )  # fmt: skip
                            buffer.write(made.model_proto.SerializeToString())
                        else:
                            torch.onnx.export(
                                module, example, buffer, dynamo=False, opset_version=min(opset, 20), dynamic_axes=axes,
                                input_names=list(axes), output_names=list(resolved.outputs or ()),
                            )  # fmt: skip
                    except Exception:
                        counts["failed"] += 1
                        continue
                model = onnx.load_from_string(buffer.getvalue())
                onnx.checker.check_model(model, full_check=True)
                symbolic = any(d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim)
                report = verify_onnx(original, buffer.getvalue(), inputs, dynamic, output_names=resolved.outputs)
                if not (report.passed and symbolic and not unlisted_operators(model)):
                    counts["failed"] += 1
                else:
                    counts["good" if model.opset_import[0].version == opset else "other opset"] += 1
    return counts


def matrix(names: list[str], opsets: list[int]) -> dict[str, int]:
    from attn_deploy.matrix.options import MatrixOptions
    from attn_deploy.matrix.run import run_matrix

    options = MatrixOptions(models=tuple(names), opsets=tuple(opsets), runtimes=("ort",))
    return run_matrix(options, jobs=1).counts


def measure(variant: str, names: list[str], opsets: list[int]) -> dict[str, object]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "counts.json")
        command = [sys.executable, __file__, "--variant", variant, "--output", str(target)]
        command += ["--names", ",".join(names), "--opsets", ",".join(map(str, opsets))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment)
        counts = json.loads(target.read_text(encoding="utf-8"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cells = len(names) * len(opsets) * 2
    wall = time.perf_counter() - started
    return {"cells": cells, "wall_per_cell": wall / cells, "cpu_per_cell": cpu / cells, "counts": counts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--opsets", default="13-22")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--variant", choices=("plain", "matrix"), help=argparse.SUPPRESS)
    parser.add_argument("--names", default=",".join(MODELS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    from attn_deploy.machine.environment import describe_environment
    from attn_deploy.matrix.options import parse_opsets

    names, opsets = given.names.split(",")[: given.models], list(parse_opsets(given.opsets))
    if given.variant:
        if given.variant == "plain":
            import torch

            torch.set_num_threads(1)
        counts = {"plain": plain, "matrix": matrix}[given.variant](names, opsets)
        given.output.write_text(json.dumps(counts), encoding="utf-8")
        return 0
    found = {variant: measure(variant, names, opsets) for variant in ("plain", "matrix")}
    for variant, row in found.items():
        print(
            f"{variant:<7} {row['wall_per_cell']:.2f} s wall, {row['cpu_per_cell']:.2f} s processor time for each of "
            f"{row['cells']} cells; {', '.join(f'{n} {status}' for status, n in row['counts'].items())}"
        )
    gain = {k: found["plain"][f"{k}_per_cell"] / found["matrix"][f"{k}_per_cell"] for k in ("wall", "cpu")}
    print(f"the matrix is {gain['wall']:.1f} times faster ({gain['cpu']:.1f} in processor time); wanted: {LIMIT:g}")
    if given.output is not None:
        record = {"models": names, "opsets": opsets, "gain": gain, **found}
        record["environment"] = describe_environment().to_dict()
        given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if gain["cpu"] >= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
