"""Labelled images as uint8 arrays, with the constants that normalise them. No torch: the device side uses it too."""

from attn_deploy.data.datasets import DATASETS, load_dataset, require_dataset, require_split
from attn_deploy.data.imageset import ImageSet
from attn_deploy.data.seeds import require_seed

__all__ = ["DATASETS", "ImageSet", "load_dataset", "require_dataset", "require_seed", "require_split"]
