"""What a training run leaves for reports: settings, history, result, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from attn_deploy.errors import CheckpointError
from attn_deploy.training.checkpoint import SCHEMA_VERSION
from attn_deploy.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: mean loss and accuracy on augmented images, and seconds."""

    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """One run.

    Attributes:
        model: its name.
        parameters: trainable scalars.
        dataset: the training images, as `ImageSet.described` gives them.
        recipe, seed, device, amp, compiled, threads: how it was trained; ``threads`` of the CPU, since sums depend on it.
        history: the epochs that are done.
        state: file, hash and epoch of the state to go on from; None when finished.
        weights: file and hash of the finished run's weights.
        test: correct answers and images of the test split, once, after the last epoch.
        environment, argv, created: of the process that began the run.
    """

    model: str
    parameters: int
    dataset: Mapping[str, Any]
    recipe: Recipe
    seed: int
    device: str
    amp: bool
    compiled: bool
    threads: int
    environment: Mapping[str, Any]
    argv: tuple[str, ...]
    created: str
    history: tuple[Epoch, ...] = ()
    state: Mapping[str, Any] | None = None
    weights: Mapping[str, str] | None = None
    test: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is trained, tested and written."""
        return self.test is not None

    @property
    def seconds(self) -> float:
        """Training time of all epochs."""
        return sum(e.seconds for e in self.history)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "argv": list(self.argv)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingRecord:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: if the data are no training record.
        """
        try:
            values = {f.name: data[f.name] for f in fields(cls)}
            values["recipe"] = Recipe.from_dict(values["recipe"])
            values["history"] = tuple(Epoch(**e) for e in values["history"])
            values["argv"] = tuple(values["argv"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"the record is not one of a training run: {error} is missing or malformed."
            ) from error
