"""Step (c): CIFAR-10 by the recipe on the GPU: ResNet-18 first, then networks with modules, then further seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from campaign.units import Settings, Unit

# What is trained, in order of worth.
MODELS = (
    "resnet18", "resnet18+se", "resnet18+cbam", "resnet18+eca", "resnet18+coord_attention", "mobilenet_v2",
    "shufflenet_v2",
)  # fmt: skip
SEEDS = 3
# For a GPU whose every epoch takes seconds: large batches in bfloat16, small images first.
CHANGES: dict[str, Any] = {
    "epochs": 24,
    "batch": 512,
    "peak_rate": 0.1,
    "cutout": 8,
    "start_side": 20,
    "alternate_flip": True,
}


class OutOfTimeError(Exception):
    """The share of the step is spent; the run can go on later."""


def units(settings: Settings) -> list[Unit]:
    """Each model once, then each again with the next seed; ResNet-18 compiled last: compiling takes longer than training."""
    models, seeds = (("resnet8",), 1) if settings.rehearse else (MODELS, SEEDS)

    def unit(model: str, seed: int, compiled: bool = False) -> Unit:
        name = f"{model.replace('+', '-')}{'-compiled' * compiled}-s{seed}"
        return Unit(name, lambda: _train(settings, name, model, seed, compiled), 60)

    made = [unit(m, s) for s in range(seeds) for m in models]
    return made if settings.rehearse else [*made, unit(MODELS[0], 0, compiled=True)]


def _train(settings: Settings, name: str, model: str, seed: int, compiled: bool) -> Mapping[str, Any]:
    from attn_deploy.training.recipe import recipe_for
    from attn_deploy.training.run import TrainProgress, train

    dataset = "digits" if settings.rehearse else "cifar10"
    changes = {"epochs": 1, "batch": 128, "start_side": 16} if settings.rehearse else CHANGES
    if compiled:  # a size that changes would be compiled again
        changes = {**changes, "start_side": 0}

    def watch(_: TrainProgress) -> None:
        if settings.left < 0:
            raise OutOfTimeError(f"the share is spent; {model} seed {seed} goes on from its last epoch")

    record = train(
        model,
        dataset=dataset,
        recipe=recipe_for(dataset, **changes),
        seed=seed,
        device="cpu" if settings.rehearse else "cuda",
        compile=compiled,
        threads=1 if settings.rehearse else None,
        output=settings.out / "runs" / name,
        resume=True,
        data_dir=settings.data_dir,
        on_step=watch,
    )
    if record.test is None:
        raise RuntimeError("the run ended without its test")
    return {
        "record": record.to_dict(),
        "line": f"top-1 {record.test['top1']:.2%} in {record.seconds:.1f} s of {len(record.history)} epochs, {record.arithmetic}",
    }
