"""Runs this package's model on an image or an .npz.

    python client/infer.py photo.png
    python client/infer.py inputs.npz -o outputs.npz
    python client/infer.py photo.png --engine NAME.engine       in TensorRT (needs tensorrt and cuda-python)

Needs numpy, Pillow and onnxruntime. Exit code 0: it ran; 1: it did not; 2: usage; 3: a runtime is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent


def main() -> int:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description="Run this package's model.")
    parser.add_argument("data", type=Path, help="an image, or an .npz with an array for each input")
    parser.add_argument("-o", "--output", type=Path, help="an .npz to write the outputs to")
    parser.add_argument("--engine", help="run an engine of the package in place of the ONNX file")
    options = parser.parse_args()
    sys.path[:0] = [str(FOLDER), str(FOLDER / "client")]  # verify.py and images.py of this package
    checks: Any = importlib.import_module("verify")
    images: Any = importlib.import_module("images")
    try:
        manifest = checks.read_manifest(FOLDER)
        inputs = images.load_inputs(options.data, manifest)
        if options.engine:
            facts = {Path(e["file"]).name: e for e in manifest["engines"]}.get(Path(options.engine).name)
            if facts is None:
                raise ValueError(f"the package has no engine {options.engine!r}.")
            results, _ = checks.run_engine(FOLDER / facts["file"], facts["flavor"], [(inputs, {})])
        else:
            results, _ = checks.run_onnx(FOLDER / "model.onnx", [(inputs, {})])
    except checks.UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.code)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output:
        np.savez(options.output, **results[0])
    print(json.dumps(images.readable(results[0], manifest["labels"]), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
