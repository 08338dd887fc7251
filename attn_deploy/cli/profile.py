"""``attn-deploy profile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.streams import echo, output_aside
from attn_deploy.cli.trust import Trust

if TYPE_CHECKING:
    from attn_deploy.bench.request import ProfileRequest


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="A model (ghostmodule, resnet18+se, net.py:MyNet ...) or an .onnx file.", autocompletion=complete_model
        ),
    ],
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="eager, compile, ort-cpu, openvino, ort-cuda, ort-tensorrt-rtx, tensorrt, tensorrt-rtx, separated by commas; "
            "eager,ort-cpu by default.",
        ),
    ] = None,
    precisions: Annotated[
        list[str] | None, typer.Option("--precision", help="fp32, fp16, bf16, int8; the model as it is by default.")
    ] = None,
    batch: Annotated[list[str] | None, typer.Option(help="Batch sizes, separated by commas; 1 by default.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Heights and widths, as 32x32,224x224; 32x32 by default.")
    ] = None,
    cuda_graph: Annotated[str, typer.Option(help="Replay CUDA graphs: off, on, or both.")] = "off",
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="Shape of an input, as 1x3x224x224; once for each input."),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own inputs, timed and compared on: FILE.npz, or NAME=VALUES, as size=60,90; repeatable."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads in every runtime; the usable cores by default.")] = None,
    torch_device: Annotated[
        str, typer.Option("--on", help="Where eager and compile run: cpu, cuda, or auto: the GPU if there is one.")
    ] = "auto",
    tf32: Annotated[bool, typer.Option("--tf32/--no-tf32", help="Let fp32 products round to TF32 on GPUs.")] = False,
    seconds: Annotated[float, typer.Option(help="Timed seconds of each row, at least.")] = 1.0,
    opset: Annotated[int | None, typer.Option(help="Opset of the exported file.")] = None,
    dynamic: Annotated[list[str] | None, typer.Option(help="Dynamic axes of the exported file, as N,H,W.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Time this file, already made from the model.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint for the model.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="For int8: digits, cifar10, a folder of images or an .npz.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Measure accuracy too, on digits, cifar10 or folder.")] = None,
    images: Annotated[int | None, typer.Option(help="Test on the first so many.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the images are.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device whose theoretical peak the rows are compared with: rtx4090, my.toml; default: this one."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of inputs, order and intervals.")] = 0,
    save: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; or a .json file for the record alone.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder of -o.")] = False,
    executor: Annotated[
        str | None,
        typer.Option(help="inline, processes (rows in processes of their own; default with -o DIR), or ray."),
    ] = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory, with processes.")] = True,
    layers: Annotated[
        bool, typer.Option("--layers", help="Show too which modules and nodes the time of the first shape goes to.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for the start of one row, with processes.")] = 1800.0,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record on standard output.")] = False,
) -> None:
    """Time a model in several runtimes with one clock, and check that they compute the same.

    With -o DIR each row runs in processes of its own: a crash, a hang or a lack of memory costs that row, peak
    memory is measured, Ctrl-C keeps what is done and --resume goes on. Exits with 1 when a row has no valid number; the
    table says why.

    \b
    Examples:
      attn-deploy profile ghostmodule --batch 1,8
      attn-deploy profile resnet18+se --size 32x32,224x224 --threads 4 -o se
      attn-deploy profile resnet18+se --runtime eager,compile,ort-cpu --precision fp32,int8 -o se --resume
      attn-deploy profile runs/resnet8-se-digits-s0 --dataset digits --precision fp32,fp16
      attn-deploy profile resnet18+se --batch 1,8,64 --executor ray -o fleet
      attn-deploy profile net.py:MyNet --input 1x3x224x224 --runtime eager,ort-cpu
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
    from attn_deploy.resolve.wanted import check_model

    check_model(model, files=(".onnx", ".engine"))
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
    import json

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
        echo(json.dumps(fleet.to_dict(), indent=1))
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
