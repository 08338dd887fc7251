"""``attn-deploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, json_text
from attn_deploy.errors import InvalidRequestError


def verify(
    reference: Annotated[Path, typer.Argument(help="The .onnx file that is right, or the folder of a package.")],
    candidate: Annotated[Path | None, typer.Argument(help="An .onnx or .engine file to compare with it.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Tolerance to apply: that of fp32, fp16, bf16, int8 or fp8. Default: by the candidate's precision."
        ),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--input", help="NAME:1x3x224x224 of an input, to compare at; repeatable.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "--sample",
            help="Real inputs to compare on: FILE.npz with an array for each input, or NAME=VALUES, as "
            "size=60,90; repeatable.",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="For a package: run this engine in place of the .onnx file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Compare two files: which output differs, in which channels, where and by how much. Exit code 1 if one does.

    A package's folder is checked alone: the bytes of its files, and its model on the golden inputs.

    \b
    Examples:
      attn-deploy verify model.onnx model-fp16.onnx
      attn-deploy verify model.onnx model-int8.onnx --data frames.npz
      attn-deploy verify model.onnx model.engine --input images:1x3x640x640
      attn-deploy verify pkg/
    """
    if candidate is None:
        for option, value in (("--precision", precision), ("--input", shape), ("--data", data)):
            if value and reference.is_dir():
                raise InvalidRequestError(f"{option} is for two files; a package is checked on its own golden inputs.")
        _verify_package(reference, engine, as_json)
        return
    if engine is not None:
        raise InvalidRequestError(f"--engine is for the folder of a package; give {engine} as the second file.")
    from attn_deploy.parity.files import verify_files
    from attn_deploy.report.comparison_text import comparison_text

    comparison = verify_files(reference, candidate, precision=precision, inputs=shape or (), samples=data or ())
    echo(json_text(comparison.to_dict()) if as_json else comparison_text(comparison))
    if not comparison.passed:
        raise typer.Exit(1)


def _verify_package(folder: Path, engine: str | None, as_json: bool) -> None:
    from attn_deploy.deploy.package.check import verify_package
    from attn_deploy.report.package import package_check_text

    if not folder.is_dir():
        raise InvalidRequestError(f"{folder} is compared with nothing; give a second file, or the folder of a package.")
    check = verify_package(folder, engine)
    echo(json_text(check.to_dict()) if as_json else package_check_text(check))
    if not check.passed:
        raise typer.Exit(1)
