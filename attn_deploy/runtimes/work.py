"""What a runner is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.inputs.tensors import TensorInput

if TYPE_CHECKING:
    from torch import nn


TORCH_TYPES = {"": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Work:
    """What a runner is made from.

    Attributes:
        module: the PyTorch module; None when a file is profiled.
        onnx: the ONNX file; None when no runtime in the profile needs one.
        outputs: output names.
        threads: threads within an operator.
        precision: fp32, fp16, bf16 or int8; empty for the model as it is. Files are in that precision already.
        device: of torch: cpu or cuda.
        inputs: the shapes that will be run; engines are built for them.
        folder: where engines and caches go; None where nothing may be kept.
        tf32: whether fp32 products may round their inputs to TF32, the same for every runtime.
        cuda_graph: capture the work once and replay it.
        keep: whether the module is left alone, by running a copy; otherwise it is the runner's to change.
    """

    module: nn.Module | None
    onnx: Path | None
    outputs: tuple[str, ...] | None
    threads: int
    precision: str = ""
    device: str = "cpu"
    inputs: tuple[TensorInput, ...] = ()
    folder: Path | None = None
    tf32: bool = False
    cuda_graph: bool = False
    keep: bool = True
