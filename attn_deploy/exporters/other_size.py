"""A trace at another size than the one asked for, where a decision on a size leaves out what other sizes need.

``if pad > 0: x = x[:, :H, :W]`` is not in a trace at a size that needs no padding, and ``if x.shape[2] != 224: x = resize(x)``
is not in one at 224; traced at a size that goes the general way, both are right everywhere. Which way is the general one
nobody says: the proof judges it, at the size that was asked for, where the decision falls the other way, among others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from attn_deploy.errors import AttnDeployError, DynamicAxisError, ParityError
from attn_deploy.exporters.decisions import traced_conversions
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.prepared import PreparedModel, Remark
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import TensorInput, fit_size
from attn_deploy.runtimes.base import run_once

_OF_SIZES = frozenset({"branch-on-shape", "number-from-shape"})
_LEVELS = (1, 2, 4, 8, 16, 32)  # of a pyramid
_WINDOWS = (7, 8, 12, 14, 16)
_TRIED = 24  # extents on either side of the one that was asked for


def trace_variants(
    prepared: PreparedModel, exporter: str, options: ExportOptions, failures: Sequence[tuple[str, AttnDeployError]]
) -> Iterator[PreparedModel]:
    """The model; and if the exporter then fails by what its trace took for granted of a size, the model at another one.

    That is done with the exporter whose traces are quick, or that was asked for, and only where the proof judges.

    Args:
        prepared: the model.
        exporter: its name.
        options: of the export.
        failures: of this model so far, each with its exporter; the caller adds to them.
    """
    yield prepared
    if not options.verify or (exporter != "torchscript" and options.exporter != exporter):
        return
    error = failures[-1][1]
    if isinstance(error, (DynamicAxisError, ParityError)) or error.rule in _OF_SIZES:
        other = at_another_size(prepared)
        if other is not None:
            yield other
            other.work.forget()


def at_another_size(prepared: PreparedModel) -> PreparedModel | None:
    """The model, to be traced where its maps do not divide into windows; None where it does not run there.

    Args:
        prepared: with an axis that moves beside the batch, else there is no other size.
    """
    space = [s for s in prepared.dynamic if s[0] != "N"]
    sizes = {s: _uneven(prepared.inputs[0], s, k) for k, s in enumerate(space)}
    if not space or all(sizes[s] == prepared.inputs[0].sizes[s] for s in space):
        return None
    try:
        run_once(prepared.reference.runner, example_arrays(prepared.inputs, sizes))
    except Exception:  # whatever a model of the user's raises
        return None
    return replace(prepared, trace_sizes=sizes, work=prepared.work.another())


def _uneven(tensor: TensorInput, symbol: str, place: int) -> int:
    """An extent near the one asked for whose pyramid divides into as few windows of usual sizes as can be.

    Those of two axes differ: ``place`` is which of the best ones is taken.
    """
    asked, step = tensor.sizes[symbol], tensor.multiple.get(symbol, 1)
    near = {fit_size(asked + k * step, symbol, tensor) for k in range(-_TRIED, _TRIED + 1) if asked + k * step > 0}
    other = [n for n in near if n != asked]
    ranked = sorted(other or [asked], key=lambda n: (_whole_windows(n), abs(n - asked)))
    return ranked[min(place, len(ranked) - 1)]


def _whole_windows(extent: int) -> int:
    maps = {rounded for level in _LEVELS for rounded in (extent // level, -(-extent // level))}
    return sum(n % w == 0 for n in maps for w in _WINDOWS)


def fallen_both_ways(prepared: PreparedModel, remarks: Sequence[Remark]) -> set[tuple[str, int]]:
    """The lines whose decisions fall one way where the trace is made and the other way at the size asked for.

    The proof has both, so that no decision on such a line can be wrong unseen.
    """
    outcomes: list[Mapping[tuple[str, int], set[bool]]] = []
    for sizes in (prepared.trace_sizes, {}):
        by_line: dict[tuple[str, int], set[bool]] = {}
        for conversion in traced_conversions(prepared, prepared.example(sizes)) or ():
            if conversion.function == "__bool__":
                by_line.setdefault((conversion.place.file, conversion.place.line), set()).add(bool(conversion.value))
        outcomes.append(by_line)
    one, other = outcomes
    lines = {(r.file, r.line) for r in remarks}
    return {k for k in lines if one.get(k) and other.get(k) and not one[k] & other[k]}
