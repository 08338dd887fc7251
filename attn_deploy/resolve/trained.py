"""Models with the weights that `attn-deploy train` left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attn_deploy.data import ImageSet
from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.checkpoints import WEIGHTS, load_tensors, read_weights
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


def load_trained(name: ModelName, model: str | None = None) -> TrainedModel:
    """The trained model behind a checkpoint's name.

    Args:
        name: of the checkpoint.
        model: the model that it was trained as, where that is the user's own file or of a package: a checkpoint comes
            from anywhere, and what it says of itself must not choose code to run.

    Raises:
        CheckpointError: if there is no checkpoint, it is damaged, or its tensors are another model's.
        InvalidRequestError: if the model it names cannot be made, or is not the one that was given.
    """
    path = Path(str(name.checkpoint))
    tensors, header = read_weights(path)
    parsed = parse_name(header.model)
    if model is not None and parse_name(model).text != parsed.text:
        raise InvalidRequestError(f"{path} was trained as {parsed.text}, not {model}; name {parsed.text}.")
    if model is None and not parsed.of_registry:
        raise InvalidRequestError(
            f"{path} says that its model is {parsed.text}, which is not of the registry; what a file says must not choose "
            f"code to run. If you trust it, name the model yourself: attn-deploy evaluate {path} --model {parsed.text}, "
            f"or attn-deploy export {parsed.text} --weights {path / WEIGHTS if path.is_dir() else path}."
        )
    made = make_model(parsed, header.arguments)
    load_tensors(made.module, tensors, f"{path}, which says it is {header.model},")
    resolved = replace(made, name=name, spec=None)
    return TrainedModel(resolved, header.model, header.dataset, header.classes, header.mean, header.std)


def _some(words: tuple[str, ...]) -> str:
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")
