"""Our training step against the plain loop of the common CIFAR repositories, and in bfloat16 against float32.

    python benchmarks/train_throughput.py [--model resnet8] [--device cpu] [--threads 2] [--rounds 7]
    python benchmarks/train_throughput.py --precisions --model resnet20,resnet20+se --threads 1 [--record FILE.json]

The plain loop: a DataLoader with worker processes, each image cropped, flipped, converted and normalised by itself with
Pillow, contiguous float32, `loss.item()` and the count of right answers after every step. Ours: `attn_deploy.training`
as `attn-deploy train` runs it, with averaging, label smoothing and its learning rate. Both train the same network on the
same random images of CIFAR-10's shape; rounds alternate. Processor seconds count worker processes too, and say the same
on a busy machine as on an idle one; the wall clock does not.

`--precisions` leaves the plain loop out: our own step in bfloat16 (`attn-deploy train --amp`) and in float32, steps in turn,
each model by itself; the ratio is the median of the pairs of rounds, by processor time. The record names the processor's
instruction sets and the load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import attn_deploy
from attn_deploy.data import ImageSet
from attn_deploy.data.cifar10 import CLASSES, MEAN, STD
from attn_deploy.files import write_atomic
from attn_deploy.machine.environment import command_line, describe_environment
from attn_deploy.training.batches import ResidentImages
from attn_deploy.training.memory import freed_memory_kept
from attn_deploy.training.recipe import Recipe
from attn_deploy.training.trainer import Trainer

PADDING, SIDE = 4, 32


class PlainImages(Dataset):
    """Images one at a time, transformed one at a time."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images.images.transpose(0, 2, 3, 1)
        self.labels = images.labels
        self.mean = torch.tensor(MEAN).reshape(3, 1, 1)
        self.std = torch.tensor(STD).reshape(3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = ImageOps.expand(Image.fromarray(self.images[index]), border=PADDING)
        top, left = (int(torch.randint(0, 2 * PADDING + 1, ())) for _ in range(2))
        image = image.crop((left, top, left + SIDE, top + SIDE))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return tensor.sub_(self.mean).div_(self.std), int(self.labels[index])


class PlainLoop:
    """The loop that everybody writes."""

    def __init__(self, model: str, images: ImageSet, device: torch.device, batch: int, workers: int) -> None:
        self.network = attn_deploy.create(model).to(device).train()
        self.loader = DataLoader(
            PlainImages(images), batch_size=batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        self.device = device
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(self.loader)

    def run(self, steps: int) -> None:
        total, right = 0.0, 0
        for _ in range(steps):
            try:
                given, labels = next(self.batches)
            except StopIteration:
                self.batches = iter(self.loader)
                given, labels = next(self.batches)
            given, labels = given.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            logits = self.network(given)
            loss = self.criterion(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
            right += logits.max(1)[1].eq(labels).sum().item()


class OurLoop:
    """`Trainer`, an epoch of so many steps at a time."""

    def __init__(
        self,
        model: str,
        images: ImageSet,
        device: torch.device,
        batch: int,
        steps: int,
        compiled: bool,
        amp: bool,
    ) -> None:
        recipe = Recipe(epochs=1000, batch=batch)
        part = images.head(steps * batch)
        self.trainer = Trainer(
            attn_deploy.create(model).to(device),
            ResidentImages(part, recipe, device),
            recipe,
            seed=0,
            amp=amp,
            compiled=compiled,
        )
        self.epoch = 0
        self.device = device

    def run(self, steps: int) -> None:
        with freed_memory_kept() if self.device.type == "cpu" else contextlib.nullcontext():
            self.trainer.run_epoch(self.epoch)
        self.epoch += 1


def processor_seconds() -> float:
    """Of this process and its living children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return own.ru_utime + own.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def measure(loop: PlainLoop | OurLoop, steps: int, device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds of so many steps."""
    started, spent = time.perf_counter(), processor_seconds()
    loop.run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, processor_seconds() - spent


def precision_ratio(model: str, images: ImageSet, given: argparse.Namespace) -> dict[str, Any]:
    """Images per processor second in both precisions, and the ratio of each pair of rounds."""
    device = torch.device(given.device)
    loops = {
        name: OurLoop(model, images, device, given.batch, given.steps, given.compile, name == "bf16")
        for name in ("fp32", "bf16")
    }
    for loop in loops.values():
        measure(loop, given.steps, device)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    load = []
    for index in range(given.rounds):
        for name in list(loops)[:: 1 if index % 2 else -1]:
            taken[name].append(measure(loops[name], given.steps, device))
        load.append(round(os.getloadavg()[0], 1))
    clock = 0 if device.type == "cuda" else 1  # a GPU's time is not the processor's
    ratios = sorted(f[clock] / b[clock] for f, b in zip(taken["fp32"], taken["bf16"], strict=True))
    seen = given.steps * given.batch
    return {
        "model": model,
        "ratio": round(statistics.median(ratios), 3),
        "rounds": [round(r, 3) for r in ratios],
        **{f"{n}_images_s": round(seen / statistics.median(t[clock] for t in v), 1) for n, v in taken.items()},
        "load": max(load),
    }


def compare_precisions(images: ImageSet, given: argparse.Namespace) -> None:
    rows = []
    isa = describe_environment().isa
    print(f"batch {given.batch}, {given.threads} thread(s), torch {torch.__version__}, {', '.join(isa)}")
    for model in given.model.split(","):
        rows.append(precision_ratio(model, images, given))
        row = rows[-1]
        print(
            f"{model:24} fp32 {row['fp32_images_s']:8,.0f}  bf16 {row['bf16_images_s']:8,.0f} images/s: bf16 is "
            f"{row['ratio']:.2f}x (rounds {row['rounds'][0]:.2f} to {row['rounds'][-1]:.2f}, load {row['load']:.1f})",
            flush=True,
        )
        if given.record:
            record = {
                "schema_version": 1,
                "claim": "training steps in bfloat16 over float32",
                "clock": "wall" if given.device == "cuda" else "processor seconds",
                "batch": given.batch,
                "threads": given.threads,
                "rows": rows,
                "argv": command_line(),
                "environment": describe_environment().to_dict(),
            }
            write_atomic(Path(given.record), json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16, help="of one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="use torch.compile in our loop")
    parser.add_argument("--precisions", action="store_true", help="bfloat16 against float32; several models by commas")
    parser.add_argument("--record", help="JSON file to write, with --precisions")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    rng = np.random.default_rng(0)
    count = given.steps * given.batch if given.precisions else max(10_000, given.steps * given.batch)
    images = ImageSet(
        name="noise", split="train", source="noise", classes=CLASSES, mean=MEAN, std=STD,
        images=rng.integers(0, 256, (count, 3, SIDE, SIDE), np.uint8), labels=rng.integers(0, 10, count),
    )  # fmt: skip
    if given.precisions:
        with freed_memory_kept() if device.type == "cpu" else contextlib.nullcontext():
            compare_precisions(images, given)
        return
    plain = PlainLoop(given.model, images, device, given.batch, given.workers)
    ours = OurLoop(given.model, images, device, given.batch, given.steps, given.compile, device.type == "cuda")
    for loop in (plain, ours):
        measure(loop, given.steps, device)  # workers start, caches fill, kernels are chosen
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
    for _ in range(given.rounds):
        taken["plain"].append(measure(plain, given.steps, device))
        taken["ours"].append(measure(ours, given.steps, device))
    seen = given.steps * given.batch
    load = os.getloadavg()[0]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{given.threads} CPU thread(s)"
    print(f"{given.model}, batch {given.batch}, {where}, {given.workers} loader workers, torch {torch.__version__}")
    for name, rounds in taken.items():
        wall = statistics.median(w for w, _ in rounds)
        spent = statistics.median(s for _, s in rounds)
        print(f"{name:6} {seen / wall:9,.0f} images/s by the wall clock, {seen / spent:9,.0f} per processor second")
    for index, clock in enumerate(("wall clock", "processor time")):
        ratios = sorted(p[index] / o[index] for p, o in zip(taken["plain"], taken["ours"], strict=True))
        middle = statistics.median(ratios)
        print(f"ours is {middle:.2f}x by {clock} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f}, load {load:.1f})")


if __name__ == "__main__":
    main()
