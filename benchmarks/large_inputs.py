"""Time and memory of `convert --precision fp16` and of `quantize` on large images, against onnxruntime.quantization.

    python benchmarks/large_inputs.py [--model resnet18] [--sizes 256,512] [--samples 16] [-o FILE.json]

Each step is a process of its own: wall time from the file to the file, and the peak of resident memory together with that
of the processes that it started, looked at every 20 ms. The quantizers calibrate on the same samples. The limit is three
times onnxruntime.quantization's time without --keep-accuracy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import attn_deploy
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.interface import fix_axes
from attn_deploy.machine.environment import describe_environment

LIMIT = 3.0
_OURS = {
    "fp16": "import attn_deploy; attn_deploy.convert(source, target, precision='fp16')",
    "int8": "import attn_deploy; attn_deploy.quantize(source, target, calibration=samples)",
}
_THEIRS = """
import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
class Reader(CalibrationDataReader):
    def __init__(self): self._left = iter(np.load(samples)['image'])
    def get_next(self):
        image = next(self._left, None)
        return None if image is None else {'image': image[None]}
quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
"""
_FRAME = """
import os, threading, time, warnings
import psutil
import sys
warnings.simplefilter('ignore')
source, target, samples = sys.argv[1:]
peak, done = [0], threading.Event()
def resident(process):
    try:
        return process.memory_info().rss
    except psutil.Error:  # it ended in between
        return 0
def watch():  # graphs run in a child, which ru_maxrss does not tell of
    own = psutil.Process()
    while not done.wait(0.02):
        peak[0] = max(peak[0], sum(map(resident, [own, *own.children(recursive=True)])))
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
started = time.perf_counter()
{body}
seconds = time.perf_counter() - started
done.set()
watcher.join()
print(seconds, peak[0] / 1024**2)
"""


def measured(body: str, source: Path, target: Path, samples: Path) -> dict[str, float]:
    """Seconds and MiB of one step in a fresh process."""
    command = [sys.executable, "-c", _FRAME.format(body=body), str(source), str(target), str(samples)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {"seconds": round(float(out[-2]), 2), "mib": round(float(out[-1]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        attn_deploy.export(arguments.model, folder / "any.onnx")
        model = load_model(folder / "any.onnx")
        for size in map(int, arguments.sizes.split(",")):
            source, samples = folder / f"{size}.onnx", folder / f"{size}.npz"
            onnx.save(fix_axes(model, {"N": 1, "H": size, "W": size}, arguments.model), source)
            shape = (arguments.samples, 3, size, size)
            np.savez(samples, image=np.random.default_rng(0).standard_normal(shape).astype(np.float32))
            row = {"size": size}
            for step, body in {**_OURS, "onnxruntime": _THEIRS}.items():
                row |= {f"{step} {k}": v for k, v in measured(body, source, folder / "out.onnx", samples).items()}
            row["ratio"] = round(row["int8 seconds"] / row["onnxruntime seconds"], 2)
            rows.append(row)
            print(json.dumps(row))
    record = {"model": arguments.model, "samples": arguments.samples, "limit": LIMIT, "rows": rows}
    if arguments.output:
        arguments.output.write_text(
            json.dumps({**record, "environment": describe_environment()}, indent=1, default=str)
        )
    sys.exit(any(r["ratio"] > LIMIT for r in rows))


if __name__ == "__main__":
    main()
