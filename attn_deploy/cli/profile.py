"""``attn-deploy profile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.panels import ACCURACY, SUBJECT, TIMED, TIMING
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust

if TYPE_CHECKING:
    from attn_deploy.bench.request import ProfileRequest


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file, or the name of a model: ghostmodule, resnet18+se, net.py:MyNet ...",
            autocompletion=complete_model,
        ),
    ],
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="Runtimes, separated by commas: eager, compile, ort-cpu, openvino, ort-cuda, "
            "ort-tensorrt-rtx, tensorrt, tensorrt-rtx. Default: eager,ort-cpu.",
            rich_help_panel=TIMED,
        ),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="Precisions, separated by commas: fp32, fp16, bf16, int8. Default: the model as it is.",
            rich_help_panel=TIMED,
        ),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(help="Batch sizes, separated by commas. Default: 1.", rich_help_panel=TIMED),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Heights and widths, separated by commas, as 32x32,224x224. Default: 32x32.", rich_help_panel=TIMED
        ),
    ] = None,
    cuda_graph: Annotated[
        str, typer.Option(help="Replay CUDA graphs: off, on or both.", rich_help_panel=TIMED)
    ] = "off",
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="[name:]1x3x224x224[:dtype] of each input; repeatable.", rich_help_panel=SUBJECT),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs to time and compare on: FILE.npz with an array for each input, or NAME=VALUES, "
            "as size=60,90; repeatable.",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of every runtime. Default: the usable cores.", rich_help_panel=TIMING),
    ] = None,
    torch_device: Annotated[
        str,
        typer.Option(
            "--on",
            help="Where eager and compile run: cpu, cuda, or auto (the GPU, if there is one).",
            rich_help_panel=TIMING,
        ),
    ] = "auto",
    tf32: Annotated[
        bool,
        typer.Option("--tf32/--no-tf32", help="Let fp32 products round to TF32 on GPUs.", rich_help_panel=TIMING),
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="Time each row for at least this many seconds.", rich_help_panel=TIMING)
    ] = 1.0,
    opset: Annotated[
        int | None, typer.Option(help="Opset of the exported file, 13 to 25.", rich_help_panel=SUBJECT)
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option(help="Dynamic axes of the exported file, as N,H,W, or none.", rich_help_panel=SUBJECT),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(help="Time this file, which was exported from the model.", rich_help_panel=SUBJECT),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint to load: .safetensors, .pth or .pt.", rich_help_panel=SUBJECT)
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="For int8: cifar10, digits, a folder of images, or an .npz with an array for each input.",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Also measure accuracy, on cifar10, digits or folder.", rich_help_panel=ACCURACY),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Test on the first images only, this many. Default: all.", rich_help_panel=ACCURACY),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set. Default: $ATTN_DEPLOY_DATA.", rich_help_panel=ACCURACY),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device whose theoretical peak the rows are compared with, as rtx4090 or my.toml. Default: "
            "this machine."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence level of the intervals.", rich_help_panel=TIMING)
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of inputs, order and intervals.", rich_help_panel=TIMING)] = 0,
    save: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run, or a .json file for the record alone.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder of -o.")] = False,
    executor: Annotated[
        str | None,
        typer.Option(help="inline, processes (child processes; default with -o DIR) or ray.", rich_help_panel=TIMING),
    ] = None,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory/--no-memory",
            help="Measure peak memory, where rows are made in child processes.",
            rich_help_panel=TIMING,
        ),
    ] = True,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Also show which modules and nodes take the time, at the first shape.",
            rich_help_panel=TIMED,
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(help="Time limit for the start of a row in a child process, in seconds.", rich_help_panel=TIMING),
    ] = 1800.0,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Time a model in several runtimes with one clock, and check that they compute the same.

    With -o DIR rows are made in child processes: a crash, a hang or a lack of memory costs that row only, peak memory is
    measured, Ctrl-C keeps what is finished, and --resume continues. Exit code 1 if a row has no valid number; the table
    says why.

    \b
    Examples:
      attn-deploy profile ghostmodule --batch 1,8
      attn-deploy profile resnet18+se --size 32x32,224x224 --threads 4 -o se
      attn-deploy profile resnet18+se --runtime eager,compile,ort-cpu \\
          --precision fp32,int8 -o se --resume
      attn-deploy profile runs/resnet8-se-digits-s0 --dataset digits \\
          --precision fp32,fp16
      attn-deploy profile resnet18+se --batch 1,8,64 --executor ray -o fleet
      attn-deploy profile net.py:MyNet --input 1x3x224x224 \\
          --runtime eager,ort-cpu
      attn-deploy profile resnet18+se --layers
      attn-deploy profile model.onnx --input 1x3x224x224 --json
      attn-deploy profile speech.onnx --sample clip.npz
    """
    from attn_deploy.bench.options import BenchOptions
    from attn_deploy.bench.plan import AccuracyPlan
    from attn_deploy.bench.request import ProfileRequest
    from attn_deploy.cli.parse import parse_dynamic, parse_integers, parse_sizes, parse_switch, parse_words
    from attn_deploy.errors import InvalidRequestError
    from attn_deploy.inputs.grammar import parse_inputs
    from attn_deploy.resolve.wanted import check_name

    check_name(model, files=(".onnx", ".engine"))
    if images is not None and dataset is None:
        raise InvalidRequestError("--images belongs to --dataset, which was not given; add it, or leave --images out.")
    alone = save if save is not None and save.suffix == ".json" else None
    request = ProfileRequest(
        model=model,
        runtimes=parse_words(",".join(runtimes), "--runtime") if runtimes else None,
        precisions=parse_words(",".join(precisions), "--precision") if precisions else None,
        batch=parse_integers(",".join(batch), "--batch") if batch else None,
        size=parse_sizes(",".join(size)) if size else None,
        cuda_graph=parse_switch(cuda_graph, "--cuda-graph"),
        torch_device=torch_device,
        tf32=tf32,
        options=BenchOptions(
            min_seconds=seconds,
            max_seconds=max(20.0, 5 * seconds),
            threads=threads,
            seed=seed,
            confidence=confidence,
        ),
        opset=opset,
        dynamic=parse_dynamic(",".join(dynamic)) if dynamic else None,
        inputs=parse_inputs(shape) if shape else None,
        samples=sample or (),
        weights=weights,
        onnx=onnx,
        calibration=calibration,
        accuracy=AccuracyPlan(dataset=dataset, images=images) if dataset is not None else None,
        data_dir=data_dir,
        save=None if alone is not None else save,
        resume=resume,
        executor=None if executor == "ray" else executor,
        memory=memory,
        timeout=timeout,
        device=device,
    )
    if executor == "ray":
        if layers:
            raise InvalidRequestError(
                "--layers looks at this machine, and --executor ray measures on others; leave one of them out."
            )
        _on_a_cluster(request, as_json=as_json)
    else:
        _here(request, alone, layers=layers, as_json=as_json)


def _here(request: ProfileRequest, alone: Path | None, *, layers: bool, as_json: bool) -> None:
    """Profile on this machine; ``alone`` is the file of a record that is kept without a folder."""
    from attn_deploy.bench.profiler import profile
    from attn_deploy.files import check_writable
    from attn_deploy.report.console import print_result, profile_bar

    if alone is not None:
        check_writable(alone)
    with output_aside(), profile_bar() as bar:
        record = profile(request, progress=bar.progress, on_step=bar.step)
    if alone is not None:
        record.write(alone)
    if as_json:
        echo(record.to_json(), nl=False)
    else:
        from attn_deploy.report.profile.terminal import profile_report

        print_result(lambda width: profile_report(record, width))
    if layers and not record.unfinished:
        _show_layers(request, as_json=as_json)
    if record.unfinished:
        echo(f"stopped; what is done is kept. Continue with -o {request.save} --resume.", err=True)
        raise typer.Exit(130)
    raise typer.Exit(0 if record.passed else 1)


def _show_layers(request: ProfileRequest, *, as_json: bool) -> None:
    from attn_deploy.bench.layer_views import layer_views
    from attn_deploy.bench.request import plan_profile
    from attn_deploy.report.console import status
    from attn_deploy.report.layers_text import layers_text

    save = None if request.save is None else Path(request.save)
    with output_aside(), status() as progress:
        views = layer_views(plan_profile(request), save=save, progress=progress)
    for report in views.reports:
        echo(f"\n{layers_text(report)}", err=as_json)  # with --json, standard output is the record's
    for variant, why in views.missing.items():
        echo(f"{variant}: no per-layer view: {why}", err=True)


def _on_a_cluster(request: ProfileRequest, *, as_json: bool) -> None:

    from attn_deploy.bench.request import plan_profile
    from attn_deploy.comparison.fleet import profile_fleet
    from attn_deploy.comparison.overview import overview
    from attn_deploy.errors import InvalidRequestError
    from attn_deploy.report.console import print_result, status
    from attn_deploy.report.profile.files import write_fleet_reports
    from attn_deploy.report.profile.terminal import profile_report
    from attn_deploy.report.profile.text import known_text

    if request.save is None:
        raise InvalidRequestError("--executor ray measures on several machines; give a folder for them with -o DIR.")
    save = Path(request.save)
    with output_aside(), status() as progress:
        fleet = profile_fleet(
            plan_profile(request), save=save, resume=request.resume, memory=request.memory, progress=progress
        )
    if as_json:
        echo(json_text(fleet.to_dict()))
    else:
        for kind, record in fleet.records.items():
            echo(f"{kind}:")
            print_result(lambda width, record=record: profile_report(record, width))  # type: ignore[misc]
    if fleet.records:
        together = overview(fleet.runs(save))
        if not as_json:
            echo(f"\n{known_text(together)}")
        for path in write_fleet_reports(together, save):
            echo(f"written: {path}", err=True)
    for kind, why in fleet.failures.items():
        echo(f"{kind}: {why}", err=True)
    if fleet.stopped:
        left = ", ".join(fleet.stopped)
        echo(f"stopped; {left} is still to be made. Go on with -o {save} --resume.", err=True)
        raise typer.Exit(130)
    raise typer.Exit(0 if fleet.passed else 1)
