"""What a profile is asked for: every runtime in every precision at every batch size and every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from attn_deploy.bench.options import BenchOptions
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.machine.devices import DeviceProfile
from attn_deploy.reading import typed
from attn_deploy.runtimes.table import RUNTIMES, choose_precisions, choose_runtimes

Size = tuple[int, int]

_FREE = ("batches", "sizes", "timeout", "device")  # what two plans may differ in and still use each other's results


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model: a runtime, a precision (empty for the model as it is), with or without a CUDA graph."""

    runtime: str
    precision: str = ""
    cuda_graph: bool = False

    @property
    def key(self) -> str:
        """Its name within a shape, such as ``ort-cpu fp16``."""
        words = [self.runtime, self.precision or "fp32"]
        return " ".join(words + ["cuda-graph"] * self.cuda_graph)


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: batch size, and height and width; None for what the model has by default."""

    batch: int | None
    size: Size | None

    @property
    def key(self) -> str:
        """Its name, such as ``b8-32x32``."""
        size = "x".join(map(str, self.size)) if self.size else "default"
        return f"b{self.batch if self.batch is not None else 'default'}-{size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyPlan:
    """Images to test every runtime and precision on; see `attn_deploy.evaluate`."""

    dataset: str
    split: str = "test"
    images: int | None = None
    data_dir: str | None = None  # None for that of the plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """A profile that another process can make.

    Attributes:
        model: a name or a path.
        runtimes, precisions: names; an empty precision is the model as it is.
        cuda_graphs: without, with, or both.
        batches, sizes: None in them stands for the default.
        options: of the clock, with the number of threads.
        torch_device: auto, cpu or cuda.
        tf32: whether fp32 products may round their inputs to TF32.
        inputs, samples, arguments, onnx, weights, opset, dynamic: as `attn_deploy.profile`.
        calibration: what int8 ranges are measured on, see `attn_deploy.quantize`; None for what the model was trained on
            or is tested on.
        accuracy: images; None for none.
        timeout: seconds that one row may take before it is timed, and the timed part beyond what it was given.
        memory_limit: bytes of a process; None for what is free.
        data_dir: where the images of a data set are; None for where `attn_deploy.data.load_dataset` looks.
        device: whose speed of light the rows are put against; None for the one that fits the machine.
    """

    model: str
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...] = ("",)
    cuda_graphs: tuple[bool, ...] = (False,)
    batches: tuple[int | None, ...] = (None,)
    sizes: tuple[Size | None, ...] = (None,)
    options: BenchOptions = field(default_factory=BenchOptions)
    torch_device: str = "auto"
    tf32: bool = False
    inputs: tuple[TensorInput, ...] | None = None
    samples: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    onnx: str | None = None
    weights: str | None = None
    opset: int | None = None
    dynamic: tuple[str, ...] | None = None
    calibration: str | None = None
    accuracy: AccuracyPlan | None = None
    timeout: float = 1800.0
    memory_limit: int | None = None
    data_dir: str | None = None
    device: DeviceProfile | None = None

    def __post_init__(self) -> None:
        choose_runtimes(self.runtimes)
        if self.precisions != ("",):
            choose_precisions(self.precisions)
        if not self.timeout > 0:
            raise InvalidRequestError(f"the timeout is {self.timeout:g} s; it must be above 0.")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All shapes, by size and then batch."""
        return tuple(Shape(b, s) for s in self.sizes for b in self.batches)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All ways to run it at each shape.

        A CUDA graph is asked only of runtimes that may run on a GPU, and int8 only of those that run files: to ask more
        of them would fill a table with rows that nobody expects to work. Where that leaves nothing, all are asked.
        """
        every = [Variant(r, p, g) for p in self.precisions for r in self.runtimes for g in self.cuda_graphs]
        sensible = [
            v
            for v in every
            if not (v.cuda_graph and RUNTIMES[v.runtime].on == "cpu")
            and not (v.precision == "int8" and RUNTIMES[v.runtime].needs == "module")
        ]
        return tuple(sensible or every)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfilePlan:
        """The inverse of `to_dict`.

        Raises:
            InvalidRequestError: if the data are not a plan.
        """
        return typed(data, cls)

    def differences(self, other: ProfilePlan) -> list[str]:
        """What keeps the results of one plan from serving the other: everything but batch sizes and sizes."""
        mine, theirs = (_settings(p) for p in (self, other))
        return [
            f"{n} {' became '.join(_told(theirs.get(n), mine.get(n)))}"
            for n in dict.fromkeys((*mine, *theirs))
            if mine.get(n) != theirs.get(n)
        ]


def _settings(plan: ProfilePlan) -> dict[str, Any]:
    """Every setting under a name of its own, as JSON gives it back."""
    settings: dict[str, Any] = {}
    for name, value in plan.to_dict().items():
        if name in _FREE:
            continue
        if name == "inputs" and value is not None:
            value = {i["name"]: {**i, "shape": list(t.shape())} for i, t in zip(value, plan.inputs or (), strict=True)}
            value = {n: _plain(d) for n, d in value.items()}
        if not isinstance(value, Mapping):
            settings[name] = _plain(value)
            continue
        for key, part in value.items():
            settings[key if name == "options" else f"{name}.{key}"] = _plain(part)
    return settings


def inputs_to_dicts(inputs: Sequence[TensorInput]) -> list[dict[str, Any]]:
    """Inputs in their JSON form, without the user's own values."""
    return [asdict(replace(i, values=())) for i in inputs]


def inputs_from_dicts(data: Sequence[Mapping[str, Any]]) -> tuple[TensorInput, ...]:
    """Inputs from their JSON form."""
    return typed(data, tuple[TensorInput, ...])


def size_of(inputs: Sequence[TensorInput]) -> Size | None:
    """Height and width of the first image among the inputs; None where there is none."""
    shapes = [i.shape() for i in inputs]
    return next(((s[2], s[3]) for s in shapes if len(s) == 4), None)


def plan_path(path: Path | str | None) -> str | None:
    """A path as another process finds it."""
    return None if path is None else str(Path(path).absolute())


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _told(before: Any, after: Any) -> tuple[str, str]:
    """Two values in words: of inputs the shapes, of long ones the beginning, unless only the rest tells them apart."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [k for k in dict.fromkeys((*after, *before)) if before.get(k) != after.get(k)]
        chosen = "shape" if "shape" in keys else keys[0]
        before, after = before.get(chosen), after.get(chosen)
    texts = (str(before), str(after))
    short = [text if len(text) <= 80 else text[:77] + "..." for text in texts]
    return (short[0], short[1]) if short[0] != short[1] else texts
