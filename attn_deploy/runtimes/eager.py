"""PyTorch eager mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy.errors import NoDeviceError
from attn_deploy.fusing.copying import copy_model
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import RuntimeInfo


class EagerRunner:
    """Runs a copy of an nn.Module in eval mode under ``inference_mode``.

    Args:
        module: the model.
        output_names: names given to the outputs in order; by default y, or y0, y1, ...
        device: cpu or cuda.
        dtype: element type of parameters and floating-point inputs; float32 leaves the types that the model has.
        threads: torch's intra-op threads while running; None leaves the process setting.
        tf32: whether fp32 products on a GPU may round their inputs to TF32; None leaves the process setting.
        cuda_graph: capture the forward pass at the first run on prepared inputs, and replay it from then on.
        keep: run a copy, so that ``module`` is left alone.

    Raises:
        NoDeviceError: if a CUDA device is asked for and there is none, or a CUDA graph on a CPU.
    """

    runtime = "eager"

    def __init__(
        self,
        module: nn.Module,
        *,
        output_names: Sequence[str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        tf32: bool | None = None,
        cuda_graph: bool = False,
        keep: bool = True,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise NoDeviceError("torch was asked to run on CUDA, and finds no CUDA device; run it on the CPU.")
        if cuda_graph and not device.startswith("cuda"):
            raise NoDeviceError("a CUDA graph needs a GPU, and torch runs on the CPU here; leave it out.")
        self._device = torch.device(device)
        self._dtype = dtype
        self._cuda_graph = cuda_graph
        self._graph: torch.cuda.CUDAGraph | None = None
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if self._device.type == "cuda":
            self._events = (_event(), _event())
            if tf32 is not None:
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        self._module = (copy_model(module) if keep else module).eval().to(self._device)
        if dtype != torch.float32:
            self._module = self._module.to(dtype)
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
                "cuda_graph": self._cuda_graph,
            }
        return RuntimeInfo(
            runtime=self.runtime,
            version=f"torch {torch.__version__}",
            provider=torch.cuda.get_device_name(self._device) if cuda else "CPU",
            precision=str(self._dtype).removeprefix("torch."),
            threads=None if cuda else torch.get_num_threads(),
            settings=settings,
        )

    def prepare(self, inputs: Arrays) -> None:
        """Move ``inputs`` to the device, in order; floating-point ones take the runner's element type."""
        tensors = []
        for array in inputs.values():
            tensor = torch.tensor(array, device=self._device)  # a copy: a model may change its input in place
            cast = tensor.is_floating_point() and self._dtype != torch.float32
            tensors.append(tensor.to(self._dtype) if cast else tensor)
        same = [(t.shape, t.dtype) for t in tensors] == [(t.shape, t.dtype) for t in self._inputs]
        if self._graph is not None and same:  # a captured graph reads from the addresses that it was captured with
            for kept, new in zip(self._inputs, tensors, strict=True):
                kept.copy_(new)
            return
        self._inputs = tensors
        if self._cuda_graph:
            self._capture()

    def bracket(self) -> AbstractContextManager[Any]:
        """Inference mode, which costs a small model a thirtieth of its time where each run enters and leaves it."""
        return torch.inference_mode()

    def enqueue(self) -> None:
        """Start one forward pass."""
        if torch.is_inference_mode_enabled():
            self._run()
            return
        with torch.inference_mode():
            self._run()

    def _run(self) -> None:
        if self._graph is None:
            self._outputs = None  # its memory serves this run, as it does where a caller drops what he has read
        if self._events is None:
            self._outputs = self._module(*self._inputs)
            return
        self._events[0].record()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._outputs = self._module(*self._inputs)
        self._events[1].record()

    @torch.inference_mode()
    def _capture(self) -> None:
        self._graph = None
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries allocate in their first runs, which must not be captured
            for _ in range(3):
                self._module(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs = self._module(*self._inputs)
        self._graph = graph

    def synchronize(self) -> None:
        """Wait for the device; nothing to wait for on a CPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @property
    def has_device_clock(self) -> bool:
        """Whether `elapsed_ms` can be asked: on a GPU."""
        return self._events is not None

    def elapsed_ms(self) -> float:
        """Milliseconds that the last run took on the GPU; waits for its end.

        Raises:
            NoDeviceError: on a CPU.
        """
        if self._events is None:
            raise NoDeviceError("torch runs on the CPU here, which has no clock of its own.")
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1]))

    def outputs(self) -> Arrays:
        """The outputs by name; bfloat16, which numpy lacks, as float32."""
        return named_outputs(self._outputs, self._names)

    def close(self) -> None:
        """Drop the model and its tensors."""
        self._inputs, self._outputs, self._graph = [], None, None
        del self._module


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def named_outputs(outputs: Any, names: Sequence[str] | None = None) -> Arrays:
    """What a model returned, by name; bfloat16, which numpy lacks, as float32."""
    wide = [t.float() if t.dtype == torch.bfloat16 else t for t in flatten_outputs(outputs)]
    return {n: t.detach().cpu().numpy() for n, t in zip(names or output_names(outputs), wide, strict=True)}


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """The tensors of a model's output: a tensor, a dict, a dataclass-like output or a nested sequence of them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [t for v in outputs.values() for t in flatten_outputs(v)]
    if isinstance(outputs, (list, tuple)):
        return [t for v in outputs for t in flatten_outputs(v)]
    return [t for v in _fields(outputs).values() for t in flatten_outputs(v)]


def _fields(outputs: Any) -> dict[str, Any]:
    """The fields of a dataclass; nothing for anything else."""
    if not dataclasses.is_dataclass(outputs) or isinstance(outputs, type):
        return {}
    return {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}


def dropped_outputs(outputs: Any) -> list[str]:
    """What among a model's outputs is no tensor, and so in no file: the names of the types."""
    if isinstance(outputs, Tensor):
        return []
    if isinstance(outputs, (dict, list, tuple)):
        values = outputs.values() if isinstance(outputs, dict) else outputs
        return [t for v in values for t in dropped_outputs(v)]
    if _fields(outputs):
        return [t for v in _fields(outputs).values() for t in dropped_outputs(v)]
    return ["None" if outputs is None else type(outputs).__name__]


def output_names(outputs: Any) -> list[str]:
    """Names for a model's outputs: ``y``, ``y0, y1, ...``, or the keys of dicts and the fields of named tuples."""
    paths = _paths(outputs)
    if any(not path for path in paths) or len(set(paths)) < len(paths):
        return ["y"] if len(paths) == 1 else [f"y{i}" for i in range(len(paths))]
    return paths


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
    elif _fields(outputs):
        named = list(_fields(outputs).items())
    else:
        return []
    paths = []
    for key, value in named:
        inner = _paths(value)
        for index, path in enumerate(inner):
            paths.append("_".join(p for p in (key, path or (str(index) if len(inner) > 1 else "")) if p))
    return [p if not p[:1].isdigit() else "" for p in paths]
