"""What makes the rows of a profile: the protocol, and what is known once the model was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.bench.fit import Need
from attn_deploy.bench.plan import ProfilePlan, Shape, Variant
from attn_deploy.bench.row import ProfileRow
from attn_deploy.errors import MissingDependencyError
from attn_deploy.inputs.tensors import TensorInput

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known once the model was made.

    Attributes:
        name: of the model, for the record.
        inputs: of each shape of the plan.
        has_module: whether there is a PyTorch model to compare with.
        needs: of each shape the memory that it takes at least.
    """

    name: str
    inputs: Mapping[Shape, tuple[TensorInput, ...]]
    has_module: bool
    needs: Mapping[Shape, Need] = field(default_factory=dict)


class Maker(Protocol):
    """Makes the rows of a plan."""

    def begin(self) -> Begun:
        """Make the model, and refuse what cannot be asked of it, before anything is timed."""
        ...

    def rows(self, inputs: tuple[TensorInput, ...]) -> list[ProfileRow]:
        """The rows of one shape."""
        ...

    def accuracy(self, variant: Variant) -> AccuracyResult:
        """The plan's images through one variant.

        Raises:
            AttnDeployError: if it cannot be had; another error where a runtime raises one.
        """
        ...

    def files(self) -> tuple[Mapping[str, Any], ...]:
        """Descriptions of the ONNX files that were used."""
        ...

    def missing(self) -> list[MissingDependencyError]:
        """Dependencies that rows lacked, one for each such row."""
        ...


def accuracy_variants(plan: ProfilePlan, begun: Begun) -> Sequence[Variant]:
    """Each runtime and precision once, the reference first; it is added where it was not asked for."""
    variants = dict.fromkeys(Variant(v.runtime, v.precision) for v in plan.variants)
    eager = [v for v in variants if v.runtime == "eager" and v.precision in ("", "fp32")]
    first = eager[:1] or ([Variant("eager", "")] if begun.has_module else [])
    return [*first, *(v for v in variants if v not in first)]
