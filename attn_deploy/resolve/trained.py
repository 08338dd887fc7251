"""Models with the weights that `attn-deploy train` left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attn_deploy.data import ImageSet
from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.resolve.checkpoints import load_tensors, read_weights
from attn_deploy.resolve.make import ResolvedModel, make_model
from attn_deploy.resolve.names import ModelName, parse_name


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with its weights, and what it was trained on.

    Attributes:
        resolved: the model; its registry entry is left out, since the weights are its own and nobody's to change.
        name: of the model without its weights.
        dataset: name of the data set; ``classes`` its classes, ``mean`` and ``std`` what its images were normalised by.
    """

    resolved: ResolvedModel
    name: str
    dataset: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def prepared(self, images: ImageSet) -> ImageSet:
        """The images normalised as in training.

        Raises:
            InvalidRequestError: if their classes are not those of the training.
        """
        if images.classes != self.classes:
            raise InvalidRequestError(
                f"{self.resolved.name.text} was trained on {len(self.classes)} classes of {self.dataset} "
                f"({_some(self.classes)}), and {images.name} has {len(images.classes)} ({_some(images.classes)})."
            )
        if np.allclose(images.mean, self.mean) and np.allclose(images.std, self.std):
            return images
        return replace(images, mean=self.mean, std=self.std)


def load_trained(name: ModelName) -> TrainedModel:
    """The trained model behind a checkpoint's name.

    Raises:
        CheckpointError: if there is no checkpoint, it is damaged, or its tensors are another model's.
        InvalidRequestError: if the model it names cannot be made.
    """
    path = Path(str(name.checkpoint))
    tensors, header = read_weights(path)
    try:
        model, arguments = header["model"], header["arguments"]
        classes, mean, std = tuple(header["classes"]), tuple(header["mean"]), tuple(header["std"])
        dataset = header["dataset"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its header lacks {error}; expected a file that `attn-deploy train` wrote."
        ) from error
    base = make_model(parse_name(model), arguments)
    load_tensors(base.module, tensors, f"{path}, which says it is {model},")
    resolved = replace(base, name=name, spec=None)
    return TrainedModel(resolved, model, dataset, classes, mean, std)


def _some(words: tuple[str, ...]) -> str:
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")
