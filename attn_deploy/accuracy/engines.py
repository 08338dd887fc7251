"""Engines as classifiers of images. No torch."""

from __future__ import annotations

from pathlib import Path

from attn_deploy.engine.artifact import EngineArtifact
from attn_deploy.errors import InvalidRequestError
from attn_deploy.runtimes.tensorrt import TensorRTRunner


def open_classifier(path: Path, batch: int) -> tuple[TensorRTRunner, int]:
    """A runner for an engine that takes one image tensor, and the batch size to run it with.

    Args:
        path: the engine.
        batch: images at a time that are asked for; the profiles may allow more or fewer.

    Raises:
        InvalidRequestError: if the engine is not a classifier of images.
        EngineError: see `TensorRTRunner`.
    """
    runner = TensorRTRunner(path)
    taken = runner.artifact.inputs
    if len(taken) == 1 and len(taken[0].shape) == 4:
        return runner, fitting_batch(runner.artifact, batch)
    runner.close()
    shown = ", ".join(map(str, taken))
    raise InvalidRequestError(
        f"{path} is not a classifier of images: its inputs are {shown}; expected one N x 3 x H x W."
    )


def fitting_batch(artifact: EngineArtifact, batch: int) -> int:
    """The batch size nearest to what is asked for that a profile of the engine's first input has."""
    first = artifact.inputs[0]
    fixed = first.shape[0]
    if isinstance(fixed, int):
        return fixed
    ranges = [r for p in artifact.profiles for r in p.ranges if r.name == first.name]
    return min((max(r.minimum[0], min(batch, r.maximum[0])) for r in ranges), key=lambda n: abs(n - batch))
