"""A model again with fewer axes that move, where the request leaves them open and an exporter cannot make all of them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from attn_deploy.errors import AttnDeployError
from attn_deploy.exporters.prepare import remade, with_fewer_axes
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.size_decisions import with_steps_of_decisions

# Causes that no choice of axes mends.
_WHATEVER_MOVES = frozenset(
    {
        "data-dependent-branch",
        "not-finite",
        "complex-output",
        "later-form",
        "native-attention",
        "fft",
        "overlapping-write",
    }
)
# Causes that may be decisions which come out alike at multiples of some number.
_BY_SIZE = frozenset(
    {"branch-on-shape", "baked-size", "number-from-shape", "endless-arithmetic", "wrong-numbers", None}
)
_LONGEST_REASON = 240


def with_fewer_and_fewer_axes(prepared: PreparedModel, refusals: list[AttnDeployError]) -> Iterator[PreparedModel]:
    """The model; and where the request leaves the axes open, again without those that an exporter cannot make move."""
    yield prepared
    if not prepared.flexible:
        return
    stepped = with_steps_of_decisions(prepared) if refusals[-1].rule in _BY_SIZE else None
    if stepped is not None:
        yield remade(stepped, stepped.dynamic)
    tried = {prepared.dynamic}
    current = prepared
    while current.dynamic and refusals[-1].rule not in _WHATEVER_MOVES:
        text = str(refusals[-1]).removeprefix(f"{prepared.label}: ")
        text = re.sub(r"^the axis [\w, ]+ cannot be dynamic, since ", "", text)
        reason = re.split(r"(?<=[a-z0-9)])\. |: the \w+ exporter failed|: torch\.export cannot", text)[0]
        match = re.search(r"the axis ([\w, ]+) cannot be dynamic", str(refusals[-1]))
        named = {s for s in current.dynamic if match and re.search(rf"\b{s}\b", match[1])}
        rest = tuple(s for s in current.dynamic if s not in named)
        choices = [rest] if named and rest else []  # one that names them all says nothing of which alone would do
        batch = tuple(s for s in prepared.dynamic if s[0] == "N")
        choices += [batch, tuple(s for s in prepared.dynamic if s not in batch), ()]
        fewer = next((c for c in choices if c not in tried), None)
        if fewer is None:
            return
        tried.add(fewer)
        reason = textwrap.shorten(reason, _LONGEST_REASON, placeholder=" ...")
        reasons = {s: reason for s in prepared.dynamic if s not in fewer}
        current = with_fewer_axes(prepared, fewer, reasons)
        yield current
