"""What the values of a pipeline's file mean, checked before the first step: a wrong word does not cost a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attn_deploy.conversion.calibration import check_calibration
from attn_deploy.conversion.quantize import check_options
from attn_deploy.data import require_dataset
from attn_deploy.deploy.package.request import PackageRequest
from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.exporters.options import check_export
from attn_deploy.graph.quantize.formats import quant_format
from attn_deploy.machine.devices import load_device
from attn_deploy.pipeline.settings import PipelineSettings
from attn_deploy.resolve.wanted import check_name
from attn_deploy.runtimes.table import choose_runtimes

Values = Mapping[str, Any]


def check_values(settings: PipelineSettings) -> None:
    """Refuse a model, an opset, a precision, a device ... that there is not, as far as that is known without torch.

    Raises:
        InvalidRequestError: with the step and the command's own words.
    """
    if not (settings.folder / settings.model).exists():  # a trained run, or a file
        check_name(settings.model, files=(".onnx",))
    for name, table in settings.steps:
        check = _CHECKS.get(name)
        if check is None:
            continue
        try:
            check(table, settings.folder)
        except AttnDeployError as error:
            raise InvalidRequestError(f"[{name}]: {error}", rule=error.rule) from error


def _train(table: Values, folder: Path) -> None:
    if "dataset" in table:
        require_dataset(table["dataset"])


def _export(table: Values, folder: Path) -> None:
    given = {
        k: table[k] for k in ("io", "exporter", "native_attention", "verify", "preprocess", "postprocess") if k in table
    }
    check_export(opset=table.get("opset"), precision=str(table.get("precision", "fp32")).lower(), **given)


def _quantize(table: Values, folder: Path) -> None:
    quant_format(str(table.get("precision", "int8")).lower())
    check_options(table.get("method", "auto"), table.get("keep_accuracy"))
    source = table.get("calibration")
    if isinstance(source, str) and not (folder / source).exists():
        check_calibration(source)


def _build(table: Values, folder: Path) -> None:
    if isinstance(table.get("device"), str) and not (folder / table["device"]).exists():
        load_device(table["device"])


def _runtimes(table: Values, folder: Path) -> None:
    if names := _words(table.get("runtime")):
        choose_runtimes(names)


def _package(table: Values, folder: Path) -> None:
    parts = _words(table.get("for"))
    given: dict[str, Any] = {k: table[k] for k in ("name", "max_batch", "triton") if k in table}
    if parts:
        given["parts"] = parts
    PackageRequest(**given)


def _words(value: Any) -> tuple[str, ...]:
    """A text with commas, or a list, as its words."""
    texts = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(word.strip() for text in texts for word in str(text).split(",") if word.strip())


_CHECKS: Mapping[str, Callable[[Values, Path], None]] = {
    "train": _train,
    "export": _export,
    "quantize": _quantize,
    "build": _build,
    "profile": _runtimes,
    "evaluate": _runtimes,
    "package": _package,
}
