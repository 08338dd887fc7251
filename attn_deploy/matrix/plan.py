"""Which cells there are. No torch: the plan of the full matrix is made in milliseconds.

The words of ``--models``, separated by commas:

    ghostmodule             one model, in any form of the name grammar (resnet18+cbam@layer3, net.py:MyNet ...)
    family:attention        all of a family
    sk*                     a pattern over the registry's names; * alone is all of them
    resnet18+*              a backbone with each attention module that can fill its slots
    resnet18+ge_*           likewise with those that match
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError
from attn_deploy.matrix.cell import Cell, CellId, skipped
from attn_deploy.matrix.options import BF16_FIRST_OPSET, TORCHSCRIPT_LAST_OPSET, MatrixOptions
from attn_deploy.registry import ModelSpec
from attn_deploy.resolve.names import ModelName, parse_name


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """The cells to make, in groups that share a prepared model, and those known not to apply."""

    groups: tuple[tuple[CellId, ...], ...]
    skipped: tuple[Cell, ...]

    @property
    def cells(self) -> int:
        """Number of cells in all."""
        return sum(map(len, self.groups)) + len(self.skipped)

    @property
    def ids(self) -> set[CellId]:
        """All of them, by their coordinates."""
        return {c for g in self.groups for c in g} | {c.id for c in self.skipped}


def plan_matrix(options: MatrixOptions, *, shard: tuple[int, int] = (1, 1)) -> MatrixPlan:
    """The cells of a matrix, or of one shard of it.

    Raises:
        UnknownModelError, InvalidRequestError: if a word of ``--models`` names nothing.
    """
    groups: dict[tuple[str, str], list[CellId]] = {}
    grey: list[Cell] = []
    number, shards = shard
    names = expand_models(options.models)
    for position, name in enumerate(sorted(names, key=_cost, reverse=True)):
        if position % shards != number - 1:
            continue
        for cell in _cells(name, options):
            reason = _does_not_apply(cell)
            if reason:
                grey.append(skipped(cell, reason))
            else:
                groups.setdefault(cell.group, []).append(cell)
    return MatrixPlan(tuple(tuple(g) for g in groups.values()), tuple(grey))


def _cells(name: str, options: MatrixOptions) -> Iterable[CellId]:
    for dynamic in options.dynamic:
        for exporter in options.exporters:
            for opset in options.opsets:
                for precision in options.precisions:
                    yield CellId(name, exporter, opset, dynamic, precision)


def _cost(name: str) -> tuple[bool, int, str]:
    """Backbones first, by their work: a long group that is begun last keeps one core busy and the others waiting."""
    parsed = parse_name(name)
    if not in_registry(parsed):
        return (True, 0, name)
    spec = registry.get(parsed.base)
    return (spec.family == "backbone", spec.macs or 0, name)


def _does_not_apply(cell: CellId) -> str:
    if cell.precision == "bf16" and cell.opset < BF16_FIRST_OPSET:
        return f"convolutions have bf16 from opset {BF16_FIRST_OPSET} on."
    if cell.exporter == "torchscript" and cell.opset > TORCHSCRIPT_LAST_OPSET:
        return f"the TorchScript exporter ends at opset {TORCHSCRIPT_LAST_OPSET}; the torch.export exporter writes {cell.opset}."
    parsed = parse_name(cell.model)
    if not in_registry(parsed) or cell.dynamic == "none":
        return ""
    spec = registry.get(parsed.base)
    if cell.dynamic == "batch" and "N" not in spec.dynamic:
        return f"the batch axis of {spec.name} cannot move: {spec.limits or 'its size is part of the model.'}"
    if not spec.dynamic:
        return f"no axis of {spec.name} can move: {spec.limits or 'its sizes are part of the model.'}"
    return ""


def expand_models(words: Iterable[str]) -> list[str]:
    """The model names that the words of ``--models`` stand for, each once.

    Raises:
        UnknownModelError, InvalidRequestError: if a word names nothing.
    """
    names: list[str] = []
    for word in (w.strip() for w in words if w.strip()):
        names += _expand(word)
    return list(dict.fromkeys(names))


def _expand(word: str) -> list[str]:
    if word.startswith("family:"):
        return [s.name for s in registry.list_models(word.removeprefix("family:"))]
    head, plus, tail = word.partition("+")
    pattern, at, stage = tail.partition("@")
    if plus and any(c in pattern for c in "*?["):
        registry.get(parse_name(head).base)
        fitting = [s.name for s in registry.list_models("attention") if _fits(s) and fnmatch.fnmatch(s.name, pattern)]
        if not fitting:
            raise InvalidRequestError(f"--models {word!r}: no attention module that fits a slot matches {pattern!r}.")
        return [f"{head}+{name}{at}{stage}" for name in fitting]
    if not plus and any(c in word for c in "*?[") and ":" not in word:
        matching = [s.name for s in registry.list_models() if fnmatch.fnmatch(s.name, word)]
        if not matching:
            raise InvalidRequestError(f"--models {word!r}: no registry name matches; `attn-deploy list` shows all.")
        return matching
    parsed = parse_name(word)
    if not in_registry(parsed):
        return [word]
    spec = registry.get(parsed.base)
    if parsed.slot is not None:
        registry.get(parsed.slot)
        return [word]
    return [spec.name if not parsed.arguments else word]


def in_registry(parsed: ModelName) -> bool:
    """Whether a name is of the registry, and not of a user's file, an installed package or a checkpoint."""
    return parsed.of_registry


def _fits(spec: ModelSpec) -> bool:
    """Whether a module can stand in a slot, by what the registry says of it; a slot gives one map and takes its like."""
    widths = {"channels", "in_channels", "out_channels"} & {a.name for a in spec.arguments}
    one_map = len(spec.inputs) == 1 and not spec.inputs[0].repeat and len(spec.inputs[0].shape) == 4
    return bool(widths) and one_map and len(spec.outputs) == 1
