"""What a training run leaves for reports: settings, history, result, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_deploy.accuracy.predict import TestSummary
from attn_deploy.data.imageset import DatasetNote
from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.machine.environment import Environment
from attn_deploy.reading import field_error, require_share, typed
from attn_deploy.training.checkpoint import SCHEMA_VERSION, FileNote
from attn_deploy.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: mean loss and accuracy on augmented images, and seconds."""

    loss: float
    accuracy: float
    seconds: float


class StateNote(FileNote):
    """The state to go on from, after so many epochs."""

    epoch: int


class TestNote(TestSummary):
    """Right answers on the test images, and which they are."""

    source: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """One run.

    Attributes:
        model: its name.
        parameters: trainable scalars.
        dataset: the training images, as `ImageSet.described` gives them.
        recipe, seed, device, amp, compiled, threads: how it was trained; ``amp`` says whether in bfloat16, ``threads`` of the
            CPU, since sums depend on it.
        arithmetic: bfloat16 or float32, and why; empty in records from before this was noted.
        history: the epochs that are done.
        state: file, hash and epoch of the state to go on from; None when finished.
        weights: file and hash of the finished run's weights.
        test: correct answers and images of the test split, once, after the last epoch.
        environment, argv, created: of the process that began the run.
    """

    model: str
    parameters: int
    dataset: DatasetNote
    recipe: Recipe
    seed: int
    device: str
    amp: bool
    compiled: bool
    threads: int
    environment: Environment
    argv: tuple[str, ...]
    created: str
    history: tuple[Epoch, ...] = ()
    state: StateNote | None = None
    weights: FileNote | None = None
    test: TestNote | None = None
    arithmetic: str = ""

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
            record = typed(data, cls, signed=("mean", "loss", "temperature"))
            test = record.test
            if test is not None and not 0 <= test["correct"] <= test["images"] > 0:
                raise field_error("test.images", test["images"], "at least 1, and at least those that are correct")
            if (test is None) != (record.weights is None):
                raise field_error("weights", record.weights, "there when the run is tested, and only then")
            for place, share in (("test.top1", test and test["top1"]), ("test.top5", test and test["top5"])):
                require_share(place, share)
            for index, epoch in enumerate(record.history):
                require_share(f"history[{index}].accuracy", epoch.accuracy)
            if record.dataset["images"] < 1:
                raise field_error("dataset.images", record.dataset["images"], "at least 1")
            if record.history and not record.seconds > 0:
                raise field_error("history", "one of 0 seconds", "of epochs that took time")
            if test is not None and not record.history:
                raise field_error("history", (), "that of a run that is tested: an epoch at least")
            for name, note in (("state", record.state), ("weights", record.weights)):
                if note is not None and Path(note["file"]).name != note["file"]:
                    raise field_error(f"{name}.file", note["file"], "the name of a file in the run's folder")
        except InvalidRequestError as error:
            raise CheckpointError(f"the record is not one of a training run: {error}") from error
        return record
