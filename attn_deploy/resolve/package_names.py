"""The packages whose models have names here, and what Python calls them. No torch here."""

from __future__ import annotations

MODULES = {
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "smp": "segmentation_models_pytorch",
    "ultralytics": "ultralytics",
}
