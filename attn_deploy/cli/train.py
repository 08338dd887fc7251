"""``attn-deploy train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.panels import PLACE, RECIPE
from attn_deploy.cli.streams import echo, json_text, output_aside

if TYPE_CHECKING:
    from attn_deploy.training.run import TrainProgress


def train(
    model: Annotated[
        str,
        typer.Argument(help="A backbone: resnet8+se, resnet18 ..., or net.py:MyNet.", autocompletion=complete_model),
    ],
    dataset: Annotated[
        str, typer.Option(help="cifar10, digits (comes with this package) or folder (with --data-dir).")
    ] = "cifar10",
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the images.", rich_help_panel=RECIPE),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images in one step.", rich_help_panel=RECIPE)] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate, for a batch of 128.", rich_help_panel=RECIPE),
    ] = None,
    cutout: Annotated[
        int | None,
        typer.Option(help="Side of a square that is blanked in each image, in pixels.", rich_help_panel=RECIPE),
    ] = None,
    start_side: Annotated[
        int | None,
        typer.Option(
            help="Side of the first epochs' images, in pixels; it grows over half of the run.", rich_help_panel=RECIPE
        ),
    ] = None,
    alternate_flip: Annotated[
        bool | None,
        typer.Option(
            "--alternate-flip/--random-flip",
            help="Mirror each image in every second epoch, or at random.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option(help="Label smoothing: probability spread over all classes.", rich_help_panel=RECIPE),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            "--on", help="Where to train: cpu or cuda. Default: cuda, if there is one.", rich_help_panel=PLACE
        ),
    ] = None,
    amp: Annotated[
        bool | None,
        typer.Option(
            "--amp/--no-amp",
            help="Compute in bfloat16. Default: on CUDA, and on CPUs with AMX or AVX512-BF16.",
            rich_help_panel=PLACE,
        ),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.", rich_help_panel=PLACE)] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: as many as torch sets.", rich_help_panel=PLACE)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run. Default: runs/MODEL-DATASET-sSEED.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set. Default: $ATTN_DEPLOY_DATA.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Train a classifier, and test it once. A run may be stopped at any moment; --resume continues it.

    \b
    Examples:
      attn-deploy train resnet8+se --dataset digits
      attn-deploy train resnet18+cbam@layer3 --dataset cifar10 --epochs 30 \\
          --seed 1
      attn-deploy train resnet20 --dataset folder --data-dir pictures --resume
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model)
    from attn_deploy.report.accuracy import training_text
    from attn_deploy.report.console import step_bar
    from attn_deploy.training.recipe import recipe_for

    recipe = recipe_for(
        dataset,
        epochs=epochs,
        batch=batch,
        peak_rate=rate,
        cutout=cutout,
        start_side=start_side,
        alternate_flip=alternate_flip,
        label_smoothing=smoothing,
    )
    from attn_deploy.training.run import train as train_model  # torch, which a wrong value does not wait for

    with output_aside(), step_bar(model) as progress:

        def show(at: TrainProgress) -> None:
            loss = "" if at.loss is None else f", loss {at.loss:.3f}"
            progress(at.step, at.steps, f"epoch {at.epoch} of {at.epochs}{loss}")

        record = train_model(
            model,
            dataset=dataset,
            recipe=recipe,
            seed=seed,
            device=device,
            amp=amp,
            compile=compiled,
            threads=threads,
            output=output,
            resume=resume,
            data_dir=data_dir,
            on_step=show,
        )
    if as_json:
        echo(json_text(record.to_dict()))
    else:
        echo(training_text(record))
