"""``attn-deploy train-table``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.panels import PLACE, RUNS
from attn_deploy.cli.streams import echo, json_text, output_aside

if TYPE_CHECKING:
    from attn_deploy.training.run import TrainProgress


def train_table(
    backbone: Annotated[
        str, typer.Option(help="Backbone that the modules are put into.", autocompletion=complete_model)
    ] = "resnet20",
    models: Annotated[
        str, typer.Option(help="Modules, separated by commas; or usual (16 mechanisms), or all that could fit.")
    ] = "usual",
    dataset: Annotated[str, typer.Option(help="cifar10, digits or folder (with --data-dir).")] = "cifar10",
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the images in each run. Default: that of the data set.", rich_help_panel=RUNS),
    ] = None,
    start_side: Annotated[
        int | None,
        typer.Option(
            help="Side of the first epochs' images, in pixels; it grows over half of the run.", rich_help_panel=RUNS
        ),
    ] = None,
    alternate_flip: Annotated[
        bool | None,
        typer.Option(
            "--alternate-flip/--random-flip",
            help="Mirror each image in every second epoch, or at random.",
            rich_help_panel=RUNS,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each module, with seeds 0, 1, ...", rich_help_panel=RUNS)] = 1,
    more_seeds: Annotated[
        int,
        typer.Option(
            help="Runs of the plain backbone and of the best rows; 0: as many as the others.", rich_help_panel=RUNS
        ),
    ] = 3,
    best: Annotated[
        int, typer.Option(help="Number of rows that get --more-seeds, by their first runs.", rich_help_panel=RUNS)
    ] = 4,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the table. Default: runs/train-table/BACKBONE-DATASET."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the table in that folder.")] = False,
    shard: Annotated[
        str,
        typer.Option(help="Part of the table to make: 2/4 for the second of four machines.", rich_help_panel=PLACE),
    ] = "1/1",
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Run nothing; write the pages of what is there.")
    ] = False,
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
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: as many as torch sets.", rich_help_panel=PLACE)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set. Default: $ATTN_DEPLOY_DATA.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Train one backbone with every module in turn: accuracy, cost, and what export and int8 change.

    It may be stopped at any moment; --resume continues it. Its folder gets the pages table.md and table.html.

    \b
    Examples:
      attn-deploy train-table --backbone resnet20 --epochs 30
      attn-deploy train-table --backbone resnet20 --models all --epochs 30 \\
          --seeds 3
      attn-deploy train-table --backbone resnet8 --models se,eca,cbam \\
          --epochs 6 --resume
      attn-deploy train-table --backbone resnet8 --models se,eca \\
          --dataset digits --only-report
    """
    from attn_deploy.cli.parse import parse_words
    from attn_deploy.matrix.options import parse_shard
    from attn_deploy.report.console import step_bar
    from attn_deploy.report.train_table import table_markdown, write_pages
    from attn_deploy.training.recipe import recipe_for
    from attn_deploy.training.table import default_folder, plan_table, require_table
    from attn_deploy.training.table import train_table as make_table

    folder = output or default_folder(backbone, dataset)
    if only_report:
        require_table(folder)  # before the images are fetched
    recipe = recipe_for(dataset, epochs=epochs, start_side=start_side, alternate_flip=alternate_flip)
    words = parse_words(models, "--models")
    plan = plan_table(backbone, words, dataset, recipe, seeds, data_dir, more_seeds=more_seeds, best=best)
    with output_aside(), step_bar("training") as bar:
        row = [""]

        def show(at: TrainProgress) -> None:
            bar(at.step, at.steps, f"{row[0]}: epoch {at.epoch} of {at.epochs}")

        summary = make_table(
            folder,
            plan,
            resume=resume,
            shard=parse_shard(shard),
            only_report=only_report,
            device=device,
            amp=amp,
            threads=threads,
            data_dir=data_dir,
            on_step=show,
            progress=lambda text: row.__setitem__(0, text),
            on_row=lambda summary: write_pages(summary, folder),
        )
    echo(json_text(summary.to_dict()) if as_json else table_markdown(summary), nl=False)
    echo(f"{folder}/table.md, {folder}/table.html", err=True)
