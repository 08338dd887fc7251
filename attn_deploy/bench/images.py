"""The images of a profile: those that accuracy is measured on, and those that int8 is calibrated with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.bench.plan import ProfilePlan
from attn_deploy.errors import DatasetError, InvalidRequestError
from attn_deploy.inputs.tensors import Arrays, TensorInput

if TYPE_CHECKING:
    from attn_deploy.data import ImageSet
    from attn_deploy.resolve.trained import TrainedModel

Progress = Callable[[str], None]
_COMPARED = 8  # batches


def images_to_test(plan: ProfilePlan, *, has_module: bool, progress: Progress) -> ImageSet:
    """The images to test on, normalised as the model was trained.

    Raises:
        InvalidRequestError: if the plan names none, or the model has other classes.
        DatasetError: if they cannot be had.
    """
    from attn_deploy.data import load_dataset, require_split

    wanted = plan.accuracy
    if wanted is None:
        raise InvalidRequestError("no data set to measure accuracy on; add --dataset digits.")
    images = load_dataset(wanted.dataset, require_split(wanted.split), data_dir=data_dir_of(plan), progress=progress)
    trained = trained_model(plan) if has_module else None
    chosen = images.head(wanted.images)
    return trained.prepared(chosen) if trained is not None else chosen


def calibration_images(plan: ProfilePlan, *, has_module: bool, progress: Progress) -> str | ImageSet | None:
    """What int8 ranges are measured on: what the user named, what the model was trained on, or what it is tested on.

    None where nothing is known: ranges are then measured on noise, which the file's metadata says.
    """
    from attn_deploy.data import DATASETS, load_dataset

    def training(name: str) -> ImageSet:
        return load_dataset(name, "train", data_dir=data_dir_of(plan), progress=progress)

    if plan.calibration is not None:
        named = plan.calibration in DATASETS and plan.calibration != "folder"
        return training(plan.calibration) if named else plan.calibration
    trained = trained_model(plan) if has_module else None
    if trained is not None:
        return trained.prepared(training(trained.dataset))
    tested = plan.accuracy.dataset if plan.accuracy is not None else "folder"
    return training(tested) if tested != "folder" else None


def batches_to_compare(
    plan: ProfilePlan, inputs: Sequence[TensorInput], *, has_module: bool, progress: Progress
) -> tuple[Arrays, ...]:
    """Real images on which a graph in 8 bits is held against eager, at the shapes that are timed; none where none fit."""
    from attn_deploy.conversion.calibration import load_calibration

    source: str | ImageSet | None
    if plan.accuracy is not None:
        source = images_to_test(plan, has_module=has_module, progress=progress)
    else:
        source = calibration_images(plan, has_module=has_module, progress=progress)
    if source is None:
        return ()
    wanted = _COMPARED * max(1, inputs[0].shape()[0])
    try:
        return load_calibration(source, inputs, (), images=wanted).batches[:_COMPARED]
    except (InvalidRequestError, DatasetError):  # of another size than what is timed
        return ()


def data_dir_of(plan: ProfilePlan) -> str | None:
    """Where the images of a plan are, as far as it says."""
    return (plan.accuracy.data_dir if plan.accuracy is not None else None) or plan.data_dir


def check_images(plan: ProfilePlan) -> None:
    """Refuse images that cannot be had, as far as that can be told without reading them: timing takes long.

    Raises:
        InvalidRequestError: if a data set is unknown, or a path does not exist.
    """
    from attn_deploy.conversion.calibration import check_calibration
    from attn_deploy.data import require_dataset, require_split
    from attn_deploy.data.datasets import DATA_VARIABLE

    folder = data_dir_of(plan)
    if plan.accuracy is not None:
        require_dataset(plan.accuracy.dataset)
        require_split(plan.accuracy.split)
        if plan.accuracy.images is not None and plan.accuracy.images < 1:
            raise InvalidRequestError(f"{plan.accuracy.images} images were asked for; --images takes at least 1.")
        if plan.accuracy.dataset == "folder" and folder is None and not os.environ.get(DATA_VARIABLE):
            raise InvalidRequestError("the data set 'folder' needs to know which: --data-dir path/to/images.")
    if folder is not None and not Path(folder).is_dir():
        raise InvalidRequestError(f"there is no folder {folder}, named by --data-dir; give the folder with the images.")
    if plan.calibration is not None:
        check_calibration(plan.calibration)


def trained_model(plan: ProfilePlan) -> TrainedModel | None:
    """The trained model behind the plan's name or weights; None where they are not of `attn_deploy.train`."""
    path = plan.weights or plan.model
    if not Path(path).exists() or (plan.weights is not None and not Path(path).is_dir()):
        return None
    from attn_deploy.resolve.names import parse_name
    from attn_deploy.resolve.trained import load_trained

    name = parse_name(path)
    return load_trained(name) if name.checkpoint is not None else None
