"""``attn-deploy matrix``, ``matrix merge`` and ``matrix diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.panels import CELLS, PLACE
from attn_deploy.cli.streams import echo, json_text, output_aside


def matrix(
    context: typer.Context,
    models: Annotated[
        str | None,
        typer.Option(
            help="Names, patterns, family:NAME or resnet18+*, separated by commas. Default: all.", rich_help_panel=CELLS
        ),
    ] = None,
    opsets: Annotated[
        str | None, typer.Option(help="Opsets, as 13-22 or 13,17,20. Default: 13-22.", rich_help_panel=CELLS)
    ] = None,
    exporters: Annotated[
        str | None,
        typer.Option("--exporter", help="Exporters: dynamo, torchscript. Default: both.", rich_help_panel=CELLS),
    ] = None,
    dynamic: Annotated[
        str | None, typer.Option(help="Sets of dynamic axes: none, batch, all. Default: all.", rich_help_panel=CELLS)
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option("--precision", help="Precisions: fp32, fp16, bf16, int8. Default: fp32.", rich_help_panel=CELLS),
    ] = None,
    runtimes: Annotated[
        str | None,
        typer.Option(
            "--runtime", help="Runtimes: ort, tensorrt-rtx, tensorrt. Default: ort,tensorrt-rtx.", rich_help_panel=CELLS
        ),
    ] = None,
    engine_opset: Annotated[
        str | None,
        typer.Option(help="Opset whose files are built into engines, or all. Default: 20.", rich_help_panel=CELLS),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[name:]1x3x224x224[:dtype] of each input of a model of your own; repeatable.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Worker processes. Default: the usable cores.", rich_help_panel=PLACE)
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Part to make: 2/4 for the second of four; --resume keeps it.", rich_help_panel=PLACE),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run. Default: matrix-results.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder of -o.")] = False,
    timeout: Annotated[float, typer.Option(help="Time limit of one cell, in seconds.", rich_help_panel=PLACE)] = 600.0,
    executor: Annotated[str, typer.Option(help="processes, inline or ray.", rich_help_panel=PLACE)] = "processes",
    fail_on: Annotated[
        str,
        typer.Option(help="Exit code 1 for any red cell; or for regressions: red cells that --baseline does not have."),
    ] = "any",
    baseline: Annotated[
        Path | None, typer.Option(help="Record to compare with. Default: the one that comes with this version.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Export every model at every opset with both exporters, check each file, and give the reason where one is wrong.

    A cell is one model at one opset, with one exporter and one set of dynamic axes. Each is made in its own process: a
    crash or a hang costs that cell only, and Ctrl-C keeps what is finished. The folder of the run gets record.json,
    matrix.csv, matrix.xml (JUnit), matrix.md and matrix.html.

    \b
    Examples:
      attn-deploy matrix --models 'family:fusion,resnet18+*' --opsets 13,17,20
      attn-deploy matrix --models ghostmodule --dynamic none,batch,all
      attn-deploy matrix ghostmodule se --opsets 17
      attn-deploy matrix -o matrix-results --resume
      attn-deploy matrix --shard 2/4 -o part2
      attn-deploy matrix merge part1 part2 part3 part4 -o matrix-results
      attn-deploy matrix diff old/record.json matrix-results
    """
    if context.invoked_subcommand is not None:
        return
    from attn_deploy.matrix.request import DEFAULT_FOLDER, matrix_request, outcome
    from attn_deploy.matrix.run import run_matrix
    from attn_deploy.report.console import print_result
    from attn_deploy.report.matrix.files import write_reports
    from attn_deploy.report.matrix.terminal import matrix_summary, watch_matrix

    request = matrix_request(
        models=models,
        opsets=opsets,
        exporters=exporters,
        dynamic=dynamic,
        precisions=precisions,
        runtimes=runtimes,
        engine_opset=engine_opset,
        inputs=shape,
        shard=shard,
        output=None if resume else output,
        resume=(output or DEFAULT_FOLDER) if resume else None,
        fail_on=fail_on,
        baseline=baseline,
    )
    for note in request.notes:
        echo(note, err=True)
    with output_aside(), watch_matrix() as watch:
        record = run_matrix(
            request.options,
            output=request.folder,
            resume=request.resume,
            jobs=jobs,
            shard=request.shard,
            timeout=timeout,
            executor=executor,
            on_plan=watch.on_plan,
            on_cell=watch.on_cell,
            on_start=watch.on_start,
        )
    written = write_reports(record, request.folder)
    if as_json:
        echo(record.to_json(), nl=False)
    else:
        print_result(lambda _: matrix_summary(record))
        echo(f"written: {', '.join(map(str, written))}", err=True)
    result = outcome(record, request)
    if result.words:
        echo(result.words, err=True)
    raise typer.Exit(result.exit_code)


def merge(
    records: Annotated[list[Path], typer.Argument(help="Records of shards, or the folders that hold them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write the merged record to.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept missing shards and cells; the record names them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Merge the records of several shards; where two have the same cell, the worse result is kept.

    Exit code 1 if a cell is red; also if a shard or a cell is missing, and then nothing is written.

    \b
    Example:
      attn-deploy matrix merge part1 part2 -o whole
    """
    from attn_deploy.matrix.merge import merge_records
    from attn_deploy.matrix.record import read_record
    from attn_deploy.report.console import print_result
    from attn_deploy.report.matrix.files import write_reports
    from attn_deploy.report.matrix.terminal import matrix_summary

    record = merge_records([read_record(path) for path in records], partial=partial)
    written = write_reports(record, output)
    if as_json:
        echo(record.to_json(), nl=False)
    else:
        print_result(lambda _: matrix_summary(record))
        echo(f"written: {', '.join(map(str, written))}", err=True)
    raise typer.Exit(1 if record.failures else 0)


def diff(
    old: Annotated[Path, typer.Argument(help="The earlier record, or the folder that holds it.")],
    new: Annotated[Path, typer.Argument(help="The later record, or the folder that holds it.")],
    subset: Annotated[bool, typer.Option("--subset", help="Compare only what the later run was asked for.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON and nothing else.")] = False,
) -> None:
    """Show what got worse from one record to another. Exit code 1 if something did.

    A missing cell or check counts as worse.

    \b
    Example:
      attn-deploy matrix diff main/record.json matrix-results/record.json
      attn-deploy matrix diff --subset main/record.json two-models/record.json
    """
    from attn_deploy.matrix.diff import diff_records
    from attn_deploy.matrix.record import read_record
    from attn_deploy.report.matrix.text import matrix_diff_text

    changes = diff_records(read_record(old), read_record(new), subset=subset)
    echo(json_text(changes.to_dict()) if as_json else matrix_diff_text(changes))
    raise typer.Exit(1 if changes.regressions else 0)
