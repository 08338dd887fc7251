"""The smallest part of a graph that a target refuses: prefixes over module boundaries, then what the last node needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attn_deploy.diagnosis.shapes import ShapeBook
from attn_deploy.diagnosis.trials import Laboratory, Refusal, module_at
from attn_deploy.errors import GraphError
from attn_deploy.graph.parts import Part, Parts

_MOST_DROPPED = 12  # ancestors that are tried to be left out one by one


@dataclass(frozen=True, slots=True)
class Refused:
    """The part that is refused.

    Attributes:
        node: index of the node at which it begins to be refused; None if only the whole graph is.
        part: the part; None if only the whole graph is refused.
        refusal: why.
    """

    node: int | None
    part: Part | None
    refusal: Refusal


class Search:
    """Looks for the smallest part that is refused as the whole graph is.

    Args:
        parts: the graph.
        book: shapes of its tensors.
        laboratory: where parts are tried.
        whole: why the whole graph is refused.
    """

    def __init__(self, parts: Parts, book: ShapeBook, laboratory: Laboratory, whole: Refusal) -> None:
        self._parts, self._book, self._laboratory, self._whole = parts, book, laboratory, whole
        self._paths = [module_at(parts, i) for i in range(len(parts.nodes))]

    def run(self) -> Refused:
        """Search: first the nodes that the refusal names, each alone, then by halves."""
        by_name = {n.name: i for i, n in enumerate(self._parts.nodes)}
        for node in [by_name[n] for n in self._whole.nodes[:2]]:
            part = self._parts.part([node], self._outputs_of(node))
            refusal = self._try(part, f"{self._words(node)} alone")
            if refusal is not None:
                return Refused(node, part, refusal)
        last = self._first_refused_prefix()
        if last is None:
            return Refused(None, None, self._whole)
        refused = self._at(last)
        if refused is not None:
            return refused
        part = self._parts.part(range(last + 1))
        refusal = self._try(part, f"everything up to {self._words(last)}")
        return Refused(last, part, refusal or self._whole)

    def _at(self, node: int) -> Refused | None:
        """The smallest part that ends at a node and is refused: alone, or with what is computed before it."""
        outputs = self._outputs_of(node)
        before = [a for a in self._parts.ancestors(node) if not self._is_fixed(a)]

        def with_nearest(count: int) -> tuple[Part, Refusal | None]:
            part = self._parts.part([node, *before[:count]], outputs)
            what = f"{self._words(node)} " + (f"with {count} nodes before it" if count else "alone")
            return part, self._try(part, what)

        count, refused = 0, None
        passed = -1
        while True:
            part, refusal = with_nearest(count)
            if refusal is not None:
                refused = (count, part, refusal)
                break
            passed = count
            if count >= len(before):
                return None
            count = min(len(before), max(1, 2 * count))
        while refused[0] - passed > 1:
            middle = (passed + refused[0]) // 2
            part, refusal = with_nearest(middle)
            if refusal is None:
                passed = middle
            else:
                refused = (middle, part, refusal)
        return self._leaner(node, before[: refused[0]], outputs, Refused(node, refused[1], refused[2]))

    def _leaner(self, node: int, needed: Sequence[int], outputs: Sequence[str], best: Refused) -> Refused:
        """Leave out what the refusal does not need."""
        kept = list(needed)
        for candidate in reversed(list(needed)) if len(needed) <= _MOST_DROPPED else ():
            fewer = [n for n in kept if n != candidate]
            part = self._parts.part([node, *fewer], outputs)
            if best.part is not None and len(part.nodes) >= len(best.part.nodes):
                continue
            refusal = self._try(part, f"{self._words(node)} without {self._words(candidate)}")
            if refusal is not None:
                kept, best = fewer, Refused(node, part, refusal)
        return best

    def _first_refused_prefix(self) -> int | None:
        """The node with which the graph begins to be refused: by top-level modules, then inside the one that breaks."""
        taken, refused = 0, len(self._parts.nodes)
        if self._try(self._parts.part(range(refused)), "all nodes") is None:
            return None
        deepest = max((p.count(".") + 1 for p in self._paths if p), default=0)
        for depth in range(1, deepest + 2):
            ends = [k for k in range(taken + 1, refused) if depth > deepest or self._is_boundary(k, depth)]
            taken, refused = self._halved(taken, refused, ends)
        return refused - 1

    def _halved(self, taken: int, refused: int, ends: Sequence[int]) -> tuple[int, int]:
        low, high = 0, len(ends)  # ends[:low] are taken, ends[high:] refused
        while low < high:
            middle = (low + high) // 2
            end = ends[middle]
            try:
                part = self._parts.part(range(end))
            except GraphError:  # nothing leads out of it: nothing to try
                low = middle + 1
                continue
            if self._try(part, f"up to {self._words(end - 1)}") is None:
                taken, low = end, middle + 1
            else:
                refused, high = end, middle
        return taken, refused

    def _is_boundary(self, end: int, depth: int) -> bool:
        before, after = (self._paths[k].split(".")[:depth] for k in (end - 1, end))
        return before != after

    def _try(self, part: Part, what: str) -> Refusal | None:
        """Why a part is refused, if for the reason for which the whole is."""
        try:
            profile = self._book.profile(part.inputs)
        except GraphError:  # a shape that cannot be known
            return None
        refusal = self._laboratory.attempt(part.model, profile, what)
        return refusal if refusal is not None and refusal.is_like(self._whole) else None

    def _outputs_of(self, node: int) -> tuple[str, ...]:
        parts = self._parts
        made = [o for o in parts.nodes[node].output if o]
        read = [o for o in made if parts.readers.get(o) or o in parts.outputs]
        return tuple(o for o in read or made[:1])

    def _is_fixed(self, node: int) -> bool:
        return not any(self._parts.can_enter(o) for o in self._parts.nodes[node].output if o)

    def _words(self, node: int) -> str:
        path, operator = self._paths[node], self._parts.nodes[node]
        return f"{path} ({operator.op_type})" if path else f"{operator.op_type} {operator.name}"
