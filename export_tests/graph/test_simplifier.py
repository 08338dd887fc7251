"""What the child that simplifies imports, which every export pays for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_child_imports_onnx_and_nothing_large():
    code = (
        "import sys; from attn_deploy.isolate import serve; import attn_deploy.graph.simplifier; "
        "print(sorted({'torch', 'sympy', 'onnx_ir', 'onnxruntime'} & set(sys.modules)), 'onnx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "[] True"
