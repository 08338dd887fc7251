"""What a matrix is asked for. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.reading import typed

EXPORTERS = ("dynamo", "torchscript")
DYNAMIC = ("none", "batch", "all")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
RUNTIMES = ("ort", "tensorrt-rtx", "tensorrt")
ALL_MODELS = ("*", "resnet18+se", "resnet18+cbam", "resnet18+non_local")
FIRST_OPSET, DEFAULT_LAST_OPSET, LAST_OPSET, ENGINE_OPSET = 13, 22, 25, 20
TORCHSCRIPT_LAST_OPSET = 22
BF16_FIRST_OPSET = 22
CELL_SECONDS = 600.0  # the first cell of a large backbone traces for a minute, and machines are shared


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOptions:
    """What to make and how to check it; together with the plan this determines every cell.

    Attributes:
        models: words of the model grammar, see `attn_deploy.matrix.plan`.
        opsets, exporters, dynamic, precisions: the axes of the matrix.
        runtimes: what the files go through: ``ort`` compares with PyTorch, ``tensorrt-rtx`` or ``tensorrt`` builds.
        engine_opset: engines are built from the files of this opset, one of ``opsets``; None for all opsets.
        inputs: ``--input`` texts for models of the user's own.

    Raises:
        InvalidRequestError: if a value is unknown or an axis is empty.
    """

    models: tuple[str, ...] = ALL_MODELS
    opsets: tuple[int, ...] = tuple(range(FIRST_OPSET, DEFAULT_LAST_OPSET + 1))
    exporters: tuple[str, ...] = EXPORTERS
    dynamic: tuple[str, ...] = ("all",)
    precisions: tuple[str, ...] = ("fp32",)
    runtimes: tuple[str, ...] = ("ort", "tensorrt-rtx")
    engine_opset: int | None = ENGINE_OPSET
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _among("--exporter", self.exporters, EXPORTERS)
        _among("--dynamic", self.dynamic, DYNAMIC)
        _among("--precision", self.precisions, PRECISIONS)
        _among("--runtime", self.runtimes, RUNTIMES)
        if not self.models:
            raise InvalidRequestError("--models names no model; leave it out for all of them.")
        _among("--opsets", self.opsets, tuple(range(FIRST_OPSET, LAST_OPSET + 1)))
        _check_engine_opset(self.engine_opset, self.opsets)
        if "ort" not in self.runtimes:
            raise InvalidRequestError(
                f"--runtime {','.join(self.runtimes)} leaves out ort, and without it no number is compared with "
                "PyTorch; use --runtime ort,tensorrt-rtx."
            )

    @property
    def engine_runtimes(self) -> tuple[str, ...]:
        """The runtimes that build engines."""
        return tuple(r for r in self.runtimes if r != "ort")

    def builds_engine(self, opset: int) -> bool:
        """Whether files of this opset are built."""
        return bool(self.engine_runtimes) and self.engine_opset in (None, opset)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MatrixOptions:
        """The inverse of `to_dict`."""
        return typed(data, cls)


def _check_engine_opset(opset: int | None, opsets: tuple[int, ...]) -> None:
    """The default may miss the opsets: such a part of a matrix, on a machine of its own, builds no engine."""
    if opset is None or opset in opsets:
        return
    if not FIRST_OPSET <= opset <= LAST_OPSET:
        raise InvalidRequestError(
            f"--engine-opset {opset} is not an opset of the matrix, which has {FIRST_OPSET} to {LAST_OPSET}; all builds each."
        )
    if opset != ENGINE_OPSET:
        raise InvalidRequestError(
            f"--engine-opset {opset} is not among --opsets {','.join(map(str, opsets))}, so no engine would be built; "
            "name one of them, or all."
        )


def parse_models(text: str) -> tuple[str, ...]:
    """The words of ``--models``: separated by commas, where ``ghostmodule:ratio=3,kernel_size=1`` is one word."""
    words: list[str] = []
    for part in (p.strip() for p in re.split(r",(?![^(\[]*[)\]])", text)):
        if words and re.match(r"\w+=", part):
            words[-1] += f",{part}"
        elif part:
            words.append(part)
    return tuple(words)


def _among(option: str, values: tuple[Any, ...], choices: tuple[Any, ...]) -> None:
    unknown = [v for v in values if v not in choices]
    if unknown or not values:
        culprit = repr(unknown[0]) if unknown else "nothing"
        raise InvalidRequestError(f"{option}: {culprit} is not among {', '.join(map(str, choices))}.")


def parse_opsets(text: str) -> tuple[int, ...]:
    """``13-22``, ``13,17,20-22``.

    Raises:
        InvalidRequestError: if the text cannot be read.
    """
    opsets: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise InvalidRequestError(f"--opsets {text!r} cannot be read; write 13-22, or 13,17,20.")
        opsets.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(opsets))


def parse_shard(text: str) -> tuple[int, int]:
    """``2/4``: the second of four parts.

    Raises:
        InvalidRequestError: if the text cannot be read.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidRequestError(f"--shard {text!r} cannot be read; write 1/4 to 4/4 for four machines.")
    return int(match[1]), int(match[2])
