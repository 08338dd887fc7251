"""Asks a Triton server that serves this package's model.

    python client/triton_infer.py photo.png --url localhost:8000
    python client/triton_infer.py photo.png --url localhost:8001 --protocol grpc

Needs numpy, Pillow and tritonclient[http,grpc]. Exit code 0: it answered; 1: it did not; 2: usage; 3: tritonclient is missing.
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
_TYPES = {
    "float32": "FP32", "float16": "FP16", "float64": "FP64", "uint8": "UINT8", "int8": "INT8", "int32": "INT32",
    "int64": "INT64", "bool": "BOOL",
}  # fmt: skip


def ask(url: str, protocol: str, model: str, inputs: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    """The server's answer.

    Raises:
        ConnectionError: if it is not there, or does not have the model ready.
    """
    client_module: Any = importlib.import_module(f"tritonclient.{protocol}")
    client = client_module.InferenceServerClient(url)
    if not client.is_model_ready(model):
        raise ConnectionError(f"the server at {url} does not have the model {model!r} ready.")
    tensors = []
    for name, array in inputs.items():
        tensor = client_module.InferInput(name, list(array.shape), _TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    wanted = [client_module.InferRequestedOutput(n) for n in outputs]
    answer = client.infer(model, tensors, outputs=wanted)
    return {n: answer.as_numpy(n) for n in outputs}


def main() -> int:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description="Ask a Triton server that serves this package's model.")
    parser.add_argument("data", type=Path, help="an image, or an .npz with an array for each input")
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--protocol", choices=("http", "grpc"), default="http")
    parser.add_argument("--model", help="the model's name on the server; by default the package's")
    parser.add_argument("-o", "--output", type=Path, help="an .npz to write the outputs to")
    options = parser.parse_args()
    sys.path[:0] = [str(FOLDER), str(FOLDER / "client")]  # verify.py and images.py of this package
    checks: Any = importlib.import_module("verify")
    images: Any = importlib.import_module("images")
    try:
        manifest = checks.read_manifest(FOLDER)
        inputs = images.load_inputs(options.data, manifest)
        names = [o["name"] for o in manifest["outputs"]]
        outputs = ask(options.url, options.protocol, options.model or manifest["name"], inputs, names)
    except checks.UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.code)
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install 'tritonclient[http,grpc]'.", file=sys.stderr)
        return 3
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ConnectionError) else 2
    except Exception as error:  # tritonclient and its transports have errors of their own
        print(f"error: the server at {options.url} did not answer: {error}", file=sys.stderr)
        return 1
    if options.output:
        np.savez(options.output, **outputs)
    print(json.dumps(images.readable(outputs, manifest["labels"]), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
