"""Writes what the commands of docs/guide.md name beside the examples: weights of net.py, and arrays of inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from net import Net
from safetensors.torch import save_file

FOLDER = Path(__file__).parent


def main() -> None:
    """Write net.safetensors, images.npz and pair.npz into the folder of the examples."""
    torch.manual_seed(0)
    save_file(Net().state_dict(), FOLDER / "net.safetensors")
    random = np.random.default_rng(0)
    images = random.normal(size=(16, 3, 64, 64)).astype(np.float32)
    np.savez(FOLDER / "images.npz", image=images)
    np.savez(
        FOLDER / "pair.npz", image=images[:2], mask=random.random((2, 64, 64)) > 0.5, strength=np.float32([0.5, 1])
    )
    print("wrote net.safetensors, images.npz and pair.npz")


if __name__ == "__main__":
    main()
