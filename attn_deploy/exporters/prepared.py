"""A model ready for export, and the work that is done on it once for many opsets."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from attn_deploy.exporters.serving import Serving
from attn_deploy.files import KeptFolder
from attn_deploy.fusing.copying import copy_model
from attn_deploy.graph.heads import Reading
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import TensorInput, symbols_of
from attn_deploy.ops.bounded import half_range
from attn_deploy.parity.reference import EagerReference
from attn_deploy.rules.examine import examine
from attn_deploy.rules.finding import Finding
from attn_deploy.runtimes.eager import flatten_outputs


@dataclass(frozen=True, slots=True)
class TracedProgram:
    """A program and the least sizes that it holds for, where those are more than the model itself needs."""

    program: ExportedProgram
    minimum: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Remark:
    """What a tracer said of a line of the user's."""

    text: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Translation:
    """A raw ONNX model and what its exporter remarked.

    Attributes:
        model: the graph.
        exporter: what wrote it.
        opset: of the graph, as its exporter was asked for it.
        minimum: the least extents that it holds for, where those are more than the model itself needs.
        frozen: what the tracer says of the user's code that it made constants of; the proof judges them.
    """

    model: onnx.ModelProto
    exporter: str
    opset: int
    minimum: Mapping[str, int] = field(default_factory=dict)
    frozen: tuple[Remark, ...] = ()


@dataclass(slots=True)
class SharedWork:
    """What depends on a prepared model alone, made when it is first needed.

    Attributes:
        program: the traced program (see `attn_deploy.exporters.program`).
        decomposed: what `attn_deploy.exporters.torchlib` keeps of the programs.
        translations: for each exporter its last one.
        findings: what in the model is known to break exports.
        home: the folder where the weights of graphs lie until they are written; made when it is first needed.
        beside: a path in whose folder it is made; None for that of temporary files.
        places: for each exporter the folder in it that holds its last translation.
    """

    program: TracedProgram | None = None
    decomposed: dict[Any, Any] = field(default_factory=dict)
    translations: dict[str, Translation] = field(default_factory=dict)
    findings: tuple[Finding, ...] | None = None
    home: KeptFolder | None = None
    beside: Path | None = None
    places: dict[str, Path] = field(default_factory=dict)

    def another(self) -> SharedWork:
        """Of a variant of the model, in the same home."""
        return SharedWork(home=self.home, beside=self.beside)

    def place(self, exporter: str) -> Path:
        """An empty folder for a translation; the last one of this exporter goes."""
        self.forget(exporter)
        if self.home is None:
            self.home = KeptFolder(self.beside)
        self.places[exporter] = Path(tempfile.mkdtemp(prefix=f"{exporter}-", dir=self.home.path))
        return self.places[exporter]

    def forget(self, *exporters: str) -> None:
        """Drop the translations of some exporters, and their files; without a name, those of all."""
        for exporter in exporters or tuple({*self.places, *self.translations}):
            self.translations.pop(exporter, None)
            place = self.places.pop(exporter, None)
            if place is not None:
                shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """Drop what is large, and remove the home."""
        self.forget()
        self.program = None
        self.decomposed.clear()
        if self.home is not None:
            self.home.close()
            self.home = None


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """What both exporters start from.

    Attributes:
        label: the name in messages and records.
        original: the model in eval mode, as it was before any run: the reference that a file is verified against.
        module: what is exported; the fused copy, or the original. It is never run: see `fresh_module`.
        inputs: inputs with their symbols; a batch axis that moves is traced at 2 or more.
        outputs: output names.
        output_dims: for each output its dims as integers, symbols and expressions of them.
        dynamic: symbols that move.
        reference: the model in eager mode; it remembers its outputs.
        sizes: the extents of the request, which axes that stay keep.
        fixed: for each axis that stays although it was not asked to, the reason.
        arguments: constructor arguments in force.
        changes: what fusing did, as (module path, words).
        rewritten: calls that were replaced because exporters get them wrong, as (module path, words).
        weights: the checkpoint that was loaded, as (file name, sha256, what of it was taken); empty if none was.
        gates: parameters that hide what they multiply, in a model of the user's without loaded weights.
        called: what of the inputs goes to forward by position although it has a name, in words.
        dropped: what among the outputs is no tensor, and in no file: the types.
        narrow: trace the forms of the modules that keep their products within the range of fp16.
        whole_windows: much of it pads to whole windows, on which torch.export does not end.
        free_sizes: padding is computed from sizes, layer after layer; torch takes minutes to hold that against ranges.
        trace_sizes: extents at which traces are made, over those of the inputs (see `attn_deploy.exporters.other_size`).
        flexible: nobody asked for the axes by name, and fewer may move than the model itself allows.
        serving: what stands around the model.
        reading: how choices among the outputs are compared; None where their types decide.
        images: what the package that the model is of says of its images.
        work: what is made once.
    """

    label: str
    original: nn.Module
    module: nn.Module
    inputs: tuple[TensorInput, ...]
    outputs: tuple[str, ...]
    output_dims: tuple[tuple[int | str, ...], ...]
    dynamic: tuple[str, ...]
    reference: EagerReference
    sizes: Mapping[str, int]
    fixed: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[tuple[str, str], ...] = ()
    rewritten: tuple[tuple[str, str], ...] = ()
    weights: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    called: str = ""
    dropped: tuple[str, ...] = ()
    narrow: bool = False
    free_sizes: bool = False
    whole_windows: bool = False
    trace_sizes: Mapping[str, int] = field(default_factory=dict)
    flexible: bool = False
    serving: Serving = field(default_factory=Serving)
    reading: Reading | None = None
    images: Mapping[str, Any] | None = None
    work: SharedWork = field(default_factory=SharedWork, compare=False)

    def moves(self, dim: int | str) -> bool:
        """Whether an input's dim holds a symbol that moves."""
        return any(s in self.dynamic for s in symbols_of(dim))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What in the exported module is known to break exports; looked for when it is first asked for."""
        if self.work.findings is None:
            sizes = [None, *verification_sizes(self.inputs, self.dynamic)[:2]]
            self.work.findings = examine(self.fresh_module(), [self.example(s) for s in sizes])
        return self.work.findings

    def fresh_module(self) -> nn.Module:
        """A copy of what is exported that no run has changed; the parameters are shared."""
        return copy_model(self.module, share_parameters=True)

    def traceable_module(self) -> nn.Module:
        """As `fresh_module`, with outputs that every tracer takes: a tensor, or a tuple of tensors."""
        twin = self.fresh_module()
        cls: Any = type(twin)

        @functools.wraps(cls.forward)
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            outputs = cls.forward(module, *args, **kwargs)
            return outputs if isinstance(outputs, Tensor) else tuple(flatten_outputs(outputs))

        if "forward" not in vars(twin):  # one that was put on the instance is its own business
            words = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
            twin.__class__ = type(cls.__name__, (cls,), {**words, "forward": forward})
        return twin

    def traced(self) -> AbstractContextManager[None]:
        """What an exporter's trace runs under."""
        return half_range() if self.narrow else contextlib.nullcontext()

    def example(self, sizes: Mapping[str, int] | None = None, *, seed: int = 0, draw: int = 0) -> tuple[Tensor, ...]:
        """Input tensors at the traced sizes, or at others."""
        arrays = example_arrays(self.inputs, sizes, seed, draw=draw)
        return tuple(torch.from_numpy(a) for a in arrays.values())
