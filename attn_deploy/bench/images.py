"""The images of a profile: those that accuracy is measured on, and those that int8 is calibrated with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.bench.plan import ProfilePlan
from attn_deploy.errors import InvalidRequestError

if TYPE_CHECKING:
    from attn_deploy.data import ImageSet
    from attn_deploy.trained import TrainedModel

Tell = Callable[[str], None]


def images_to_test(plan: ProfilePlan, *, has_module: bool, tell: Tell) -> ImageSet:
    """The images to test on, normalised as the model was trained.

    Raises:
        InvalidRequestError: if the plan names none, or the model has other classes.
        DatasetError: if they cannot be had.
    """
    from attn_deploy.data import load_dataset, require_split

    wanted = plan.accuracy
    if wanted is None:
        raise InvalidRequestError("the profile names no data set to measure accuracy on; give --dataset digits.")
    images = load_dataset(wanted.dataset, require_split(wanted.split), data_dir=wanted.data_dir, progress=tell)
    trained = trained_model(plan) if has_module else None
    chosen = images.head(wanted.images)
    return trained.prepared(chosen) if trained is not None else chosen


def calibration_images(plan: ProfilePlan, *, has_module: bool, tell: Tell) -> str | ImageSet | None:
    """What int8 ranges are measured on: what the user named, what the model was trained on, or what it is tested on.

    None where nothing is known: ranges are then measured on noise, which the file's metadata says.
    """
    if plan.calibration is not None:
        return plan.calibration
    data_dir = plan.accuracy.data_dir if plan.accuracy is not None else None
    trained = trained_model(plan) if has_module else None
    if trained is not None:
        from attn_deploy.data import load_dataset

        return trained.prepared(load_dataset(trained.dataset, "train", data_dir=data_dir, progress=tell))
    return plan.accuracy.dataset if plan.accuracy is not None and plan.accuracy.dataset != "folder" else None


def trained_model(plan: ProfilePlan) -> TrainedModel | None:
    """The trained model behind the plan's name or weights; None where they are not of `attn_deploy.train`."""
    path = plan.weights or plan.model
    if not Path(path).exists() or (plan.weights is not None and not Path(path).is_dir()):
        return None
    from attn_deploy.names import parse_name
    from attn_deploy.trained import load_trained

    name = parse_name(path)
    return load_trained(name) if name.checkpoint is not None else None
