"""`attn_deploy.quantize`: from a model's name, or a file, to a proven file in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attn_deploy.conversion.calibration import NO_OPTIONS, check_calibration
from attn_deploy.conversion.preprocess import Preprocess, PreprocessOptions, images_of_record
from attn_deploy.conversion.quantize import check_options, quantize_file
from attn_deploy.conversion.quantizer import Progress
from attn_deploy.data import ImageSet, load_dataset
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import output_file, scratch_folder
from attn_deploy.graph.artifact import OnnxArtifact, load_model
from attn_deploy.graph.evidence import read_evidence
from attn_deploy.graph.quantize import QuantOptions, quant_format


def quantize(
    model: OnnxArtifact | Path | str,
    path: Path | str | None = None,
    *,
    precision: str = "int8",
    calibration: str | Path | ImageSet | None = None,
    images: int | None = None,
    method: str = "auto",
    keep_accuracy: float | None = None,
    size: int | tuple[int, int] | None = None,
    data_dir: Path | str | None = None,
    seed: int = 0,
    preprocess: PreprocessOptions = NO_OPTIONS,
    scores: str | None = None,
    inputs: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
    target: str | None = None,
    activations: str | None = None,
    per_tensor: bool = False,
    attention: bool = False,
    timed: bool = True,
    format: str = "qdq",  # as the option is called
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    owner: str | None = None,
    weights: Path | str | None = None,
    progress: Progress | None = None,
) -> OnnxArtifact:
    """As `attn_deploy.conversion.quantize.quantize_file`, from a file or from a model's name, which is exported first.

    Args:
        model: the file, its artifact, or a model's name.
        path: the file to write; by default ``<name>-int8.onnx`` beside the source, or in the working directory.
        precision: as `quantize_file`.
        images: as `quantize_file`.
        method: as `quantize_file`.
        keep_accuracy: as `quantize_file`.
        size: as `quantize_file`.
        data_dir: as `quantize_file`.
        seed: as `quantize_file`.
        preprocess: as `quantize_file`; by default what the model's package or record says of it.
        scores: as `quantize_file`.
        inputs: as `quantize_file`; of a model by name they are those of its export, as ``1x3x224x224``.
        samples: as `quantize_file`.
        target: ``cpu`` or ``gpu``: what will run the file. None: GPUs for fp8, for files in fp16 and on machines with a
            GPU, else CPUs.
        activations: for CPUs, uint8 (the default) or int8.
        per_tensor: one scale for a tensor of weights, in place of one for each output channel.
        attention: for CPUs, quantize products of two activations too.
        timed: for CPUs, time the graph on this machine, and leave in float what is slower in 8 bits, unless ``only`` says
            what is quantized.
        format: ``qdq``, or for CPUs ``qoperator``: the form that ONNX Runtime alone reads.
        only: patterns (``*``, ``?``) of nodes, modules or operator types; what matches none stays in float.
        exclude: patterns of what stays in float.
        progress: as `quantize_file`.
        calibration: what ranges are measured on, see `attn_deploy.conversion.calibration.load_calibration`. By default
            what a trained model was trained on, else ramped noise, which says little of real images.
        weights: a checkpoint for a model by name.
        owner: how messages name the model; as it was named here where None.

    Returns:
        What was read back from the finished file.

    Raises:
        AttnDeployError: what `attn_deploy.export` and `quantize_file` raise.
    """
    options: dict[str, Any] = {
        "precision": precision,
        "images": images,
        "method": method,
        "keep_accuracy": keep_accuracy,
        "size": size,
        "data_dir": data_dir,
        "seed": seed,
        "preprocess": preprocess,
        "scores": scores,
        "inputs": inputs,
        "samples": samples,
        "form": _form(target, activations, format, per_tensor, attention, timed, only, exclude),
        "progress": progress,
    }
    if isinstance(model, OnnxArtifact) or _is_file(model):
        if weights is not None:
            raise InvalidRequestError(f"{model} holds its weights; leave --weights out, or name the model.")
        path_of = model.path if isinstance(model, OnnxArtifact) else Path(model)
        usual = _of_file(path_of) if calibration is not None else None
        return quantize_file(model, path, calibration=calibration, owner=owner, usual=usual, **options)
    from attn_deploy.inputs.grammar import parse_inputs
    from attn_deploy.resolve.names import parse_name

    form = quant_format(precision)
    check_options(method, keep_accuracy)
    if isinstance(calibration, (str, Path)):
        check_calibration(calibration)
    name = parse_name(str(model))
    destination = output_file(path, Path(f"{name.stem}-{form.word}.onnx"), (".onnx",))
    from attn_deploy.exporters.pipeline import export  # torch, which files do without

    with scratch_folder() as folder:
        if progress is not None:
            progress(f"exporting {model}")
        exported = export(
            str(model),
            Path(folder) / "model.onnx",
            inputs=parse_inputs(inputs) if inputs else None,
            weights=weights,
            progress=progress,
        )
        options["inputs"] = ()
        if calibration is None and name.checkpoint is not None:
            from attn_deploy.resolve.trained import load_trained

            trained = load_trained(name)
            calibration = trained.prepared(load_dataset(trained.dataset, "train", data_dir=data_dir))
        usual = images_of_record(exported.record)
        artifact = quantize_file(
            exported.path, destination, calibration=calibration, owner=owner or str(model), usual=usual, **options
        )
    return replace(artifact, path=destination)


def _form(
    target: str | None,
    activations: str | None,
    written: str,
    per_tensor: bool,
    attention: bool,
    timed: bool,
    only: Sequence[str],
    exclude: Sequence[str],
) -> QuantOptions:
    words: dict[str, Any] = {"target": target, "activations": activations, "written": written}
    form = QuantOptions(
        **words, per_channel=not per_tensor, attention=attention, timed=timed, only=tuple(only), exclude=tuple(exclude)
    )
    form.check()
    return form


def _of_file(path: Path) -> Preprocess | None:
    """What the record in a file says of its images; None without one."""
    if not path.is_file():
        return None
    evidence = read_evidence(load_model(path, check_seal=False))
    return None if evidence is None else images_of_record(evidence.record)


def _is_file(model: Path | str) -> bool:
    return isinstance(model, Path) or model.lower().endswith(".onnx")
