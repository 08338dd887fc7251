"""The command line on a device: what ``attn-deploy[device]`` does not bring cannot be imported."""

from __future__ import annotations

import sys
from typing import Any

ABSENT = ("torch", "torchvision", "onnxscript", "onnx_ir", "safetensors", "onnxsim", "onnxslim", "timm")


class Blocker:
    """Finds the absent packages first, and says that they are not there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocker())
    from attn_deploy.cli import main

    main()
