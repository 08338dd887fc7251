"""PyTorch eager mode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy.errors import NoDeviceError
from attn_deploy.inputs import Arrays
from attn_deploy.runtimes.base import RuntimeInfo


class EagerRunner:
    """Runs a copy of an nn.Module in eval mode under ``inference_mode``.

    Args:
        module: the model; left alone.
        output_names: names given to the outputs in order; by default y, or y0, y1, ...
        device: cpu or cuda.
        dtype: element type of parameters and floating-point inputs.
        threads: torch's intra-op threads while running; None leaves the process setting.

    Raises:
        NoDeviceError: if a CUDA device is asked for and there is none.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        output_names: Sequence[str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise NoDeviceError("eager on CUDA was asked for, and torch finds no CUDA device; use --device cpu.")
        self._device = torch.device(device)
        self._dtype = dtype
        self._module = copy.deepcopy(module).eval().to(self._device, dtype)
        self._names = list(output_names) if output_names else None
        self._threads = threads
        self._inputs: list[Tensor] = []
        self._outputs: Any = None
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        cuda = self._device.type == "cuda"
        settings: dict[str, Any] = {"memory_format": "contiguous"}
        if cuda:
            settings |= {
                "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
                "tf32_conv": torch.backends.cudnn.allow_tf32,
            }
        return RuntimeInfo(
            runtime="eager",
            version=f"torch {torch.__version__}",
            provider=torch.cuda.get_device_name(self._device) if cuda else "CPU",
            precision=str(self._dtype).removeprefix("torch."),
            threads=None if cuda else torch.get_num_threads(),
            settings=settings,
        )

    def prepare(self, inputs: Arrays) -> None:
        """Move ``inputs`` to the device, in order; floating-point ones take the runner's element type."""
        self._inputs = []
        for array in inputs.values():
            tensor = torch.tensor(array, device=self._device)  # a copy: a model may change its input in place
            self._inputs.append(tensor.to(self._dtype) if tensor.is_floating_point() else tensor)

    @torch.inference_mode()
    def enqueue(self) -> None:
        """Start one forward pass."""
        self._outputs = self._module(*self._inputs)

    def synchronize(self) -> None:
        """Wait for the device; nothing to wait for on a CPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def outputs(self) -> Arrays:
        """The outputs by name."""
        tensors = flatten_outputs(self._outputs)
        names = self._names or output_names(self._outputs)
        return {n: t.detach().cpu().numpy() for n, t in zip(names, tensors, strict=True)}

    def close(self) -> None:
        """Drop the model and its tensors."""
        self._inputs, self._outputs = [], None
        del self._module


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """The tensors of a model's output: a tensor, a dict, a dataclass-like output or a nested sequence of them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [t for v in outputs.values() for t in flatten_outputs(v)]
    if isinstance(outputs, (list, tuple)):
        return [t for v in outputs for t in flatten_outputs(v)]
    return []


def output_names(outputs: Any) -> list[str]:
    """Names for a model's outputs: ``y``, ``y0, y1, ...``, or the keys of dicts and the fields of named tuples."""
    found = _paths(outputs)
    if any(not path for path in found) or len(set(found)) < len(found):
        return ["y"] if len(found) == 1 else [f"y{i}" for i in range(len(found))]
    return found


def _paths(outputs: Any) -> list[str]:
    """A name for each tensor, empty where an enclosing container gives none."""
    if isinstance(outputs, Tensor):
        return [""]
    if isinstance(outputs, dict):
        named = [(str(k), v) for k, v in outputs.items()]
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        named = list(zip(outputs._fields, outputs, strict=True))
    elif isinstance(outputs, (list, tuple)):
        if not any(isinstance(v, (dict, tuple, list)) for v in outputs):
            return [""] * len(flatten_outputs(outputs))
        named = [(str(i), v) for i, v in enumerate(outputs)]
    else:
        return []
    found = []
    for key, value in named:
        inner = _paths(value)
        for index, path in enumerate(inner):
            found.append("_".join(p for p in (key, path or (str(index) if len(inner) > 1 else "")) if p))
    return [p if not p[:1].isdigit() else "" for p in found]
