"""The module at which numbers first go wrong by themselves, rather than by what they were given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from attn_deploy.diagnosis.checkpoints import Checkpoint
from attn_deploy.diagnosis.record import Step
from attn_deploy.diagnosis.references import Reference
from attn_deploy.diagnosis.specimen import Specimen
from attn_deploy.errors import GraphError
from attn_deploy.graph.parts import Part, Parts
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

AT_A_TIME = 8  # extra outputs of the first run: their memory is what limits
_HELD = 256 << 20  # bytes of extra outputs of both sides, by the largest of the run before
MOST_ALONE = 32  # parts that are run alone in search of the one to blame
_INFINITE = -1.0
_BEYOND = 1e9  # JSON has no infinity

Array = NDArray[Any]
Pair = tuple[Checkpoint, str]


@dataclass(frozen=True, slots=True)
class Blamed:
    """The part at which numbers go wrong.

    Attributes:
        step: the error at its end, its own share included.
        point: the checkpoint there.
        nodes: indices, in the running graph, of the nodes between it and the checkpoints before it.
        guilty: whether it is out of tolerance when it is fed with right values; otherwise it has the largest share.
        feeds: the right values that enter it, by tensor of the running graph.
        expected: the right value at its end.
    """

    step: Step
    point: Checkpoint
    nodes: tuple[int, ...]
    guilty: bool
    feeds: Arrays
    expected: Array


class Walk:
    """A candidate and its reference on one set of inputs, tensor by tensor.

    Args:
        candidate: what is examined.
        reference: what is right.
        inputs: by name.
        progress: called with what is compared.
    """

    def __init__(
        self, candidate: Specimen, reference: Reference, inputs: Arrays, progress: Callable[[str], None]
    ) -> None:
        self._candidate, self._reference, self._inputs, self._progress = candidate, reference, inputs, progress
        self._running = candidate.running

    def steps(self, pairs: Sequence[Pair]) -> list[tuple[Pair, Step]]:
        """The error at each checkpoint, a few at a time; those that hold something else on both sides are left out."""
        results: list[tuple[Pair, Step]] = []
        start, count = 0, AT_A_TIME
        while start < len(pairs):
            some = pairs[start : start + count]
            self._progress(f"comparing tensors {start + 1} to {start + len(some)} of {len(pairs)}")
            right = self._reference.values([key for _, key in some], self._inputs)
            names = [self._shown(point.tensor) for point, _ in some]
            model = self._running.up_to(list(dict.fromkeys(names)))
            got = run_once(OnnxRuntimeRunner(model.SerializeToString(), optimize=False), self._inputs)
            for (point, key), name in zip(some, names, strict=True):
                if key not in right:
                    continue
                if right[key].shape != got[name].shape and point.tensor not in self._running.outputs:
                    continue  # a simplifier moved a reshape over the boundary
                results.append(((point, key), self._step(point, right[key], got[name])))
            start += len(some)
            largest = max((a.nbytes for a in (*right.values(), *got.values())), default=1)
            # Each run begins at the inputs: as many tensors of it as the memory holds, or long graphs take hours.
            count = min(8 * count, max(AT_A_TIME, _HELD // (2 * max(1, largest))))
        return results

    def pairs(self) -> list[Pair]:
        """Everything at module boundaries that both sides have."""
        matched = self._reference.matched(self._candidate.logical)
        return [p for p in matched if self._shown(p[0].tensor) in self._running.maker]

    def inside(self, blamed: Blamed, results: Sequence[tuple[Pair, Step]], source: Reference | None) -> Blamed:
        """The node to blame within a part.

        Args:
            blamed: the part.
            results: as `steps` gives it.
            source: the graph before its conversion, where there was one; otherwise the reference is asked, which may
                see no node.
        """
        walk, around = self, list(results)
        if source is not None:
            walk = Walk(self._candidate, source, self._inputs, self._progress)
            around = [((p, p.tensor), step) for (p, _), step in results]
        inner = walk._reference.inside(self._running, blamed.nodes)
        if len(inner) < 2:
            return blamed
        own = {point.tensor for point, _ in inner}
        around = [entry for entry in around if entry[0][0].tensor not in own]
        better = walk.blame([*around, *walk.steps(inner)], own)
        return better if better is not None and better.guilty else blamed

    def blame(self, results: Sequence[tuple[Pair, Step]], among: set[str] | None = None) -> Blamed | None:
        """The first step that is wrong by itself; where none is, the one with the largest share of the error.

        An error that is gone at every step behind is none: the boundary lies elsewhere in the graph.

        Args:
            results: as `steps` gives it.
            among: the tensors that may be to blame; all by default.
        """
        by_name = {self._shown(point.tensor): (point, key) for (point, key), _ in results}
        regions = {name: self._region(name, by_name) for name in by_name}
        by_tensor = {self._shown(point.tensor): step for (point, _), step in results}
        behind: dict[str, list[str]] = {}
        for other, (_, entering) in regions.items():
            for source in entering:
                behind.setdefault(source, []).append(other)
        best: Blamed | None = None
        tried = 0
        for (point, key), step in results:
            name = self._shown(point.tensor)
            if among is not None and point.tensor not in among:
                continue
            if not step.exceeds or self._recovers(name, behind, by_tensor):
                continue
            if tried == MOST_ALONE:
                break
            tried += 1
            self._progress(f"feeding {point.module or point.operator} with right values")
            blamed = self._alone(point, key, step, *regions[name], by_name)
            if blamed is None:
                continue
            if blamed.guilty:
                return blamed
            if best is None or (blamed.step.alone or 0.0) > (best.step.alone or 0.0):
                best = blamed
        return best

    def _shown(self, tensor: str) -> str:
        return self._candidate.shown.get(tensor, tensor)

    def _recovers(self, name: str, behind: Mapping[str, Sequence[str]], steps: Mapping[str, Step]) -> bool:
        """Whether an error is gone at every step behind this one."""
        if name in self._running.outputs:
            return False
        after = [steps[other] for other in behind.get(name, ())]
        return bool(after) and not any(s.exceeds for s in after)

    def _region(self, name: str, by_name: Mapping[str, Pair]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The nodes between a tensor and the known ones before it, and those known ones."""
        running = self._running
        chosen: set[int] = set()
        entering: dict[str, None] = {}
        pending = [running.maker[name]]
        while pending:
            node = pending.pop()
            if node in chosen:
                continue
            chosen.add(node)
            for read in running.reads[node]:
                if read in by_name and running.can_enter(read, node):
                    entering[read] = None
                elif read in running.maker:
                    pending.append(running.maker[read])
        return tuple(sorted(chosen)), tuple(entering)

    def _alone(
        self,
        point: Checkpoint,
        key: str,
        step: Step,
        nodes: tuple[int, ...],
        entering: tuple[str, ...],
        by_name: Mapping[str, Pair],
    ) -> Blamed | None:
        name = self._shown(point.tensor)
        part = self._running.part(nodes, [name])
        keys = {n: by_name[n][1] for n in entering}
        right = self._reference.values([*keys.values(), key], self._inputs)
        feeds: Arrays = {}
        for needed in part.inputs:
            if needed in self._inputs:
                feeds[needed] = self._inputs[needed]
            elif needed in keys and keys[needed] in right:
                feeds[needed] = right[keys[needed]]
            else:
                return None
        try:
            got = run_once(OnnxRuntimeRunner(part.model.SerializeToString(), optimize=False), feeds)[name]
        except GraphError:
            return None
        if got.shape != right[key].shape:
            return Blamed(replace(step, alone=_INFINITE), point, nodes, True, feeds, right[key])
        alone = self._step(point, right[key], got)
        judged = replace(step, alone=_INFINITE if alone.ratio is None else alone.ratio)
        return Blamed(judged, point, nodes, alone.exceeds, feeds, right[key])

    def _step(self, point: Checkpoint, right: Array, got: Array) -> Step:
        name = self._reference.classes.get(point.module, "")
        place = (point.module, name, point.tensor, point.operator)
        if right.shape != got.shape:
            return Step(*place, None, None, None, bool(np.isfinite(got.astype(np.float64)).all()))
        exact, other = right.astype(np.float64), got.astype(np.float64)
        meant = np.isfinite(exact)
        finite = bool(np.isfinite(other[meant]).all()) and bool((~np.isfinite(other[~meant])).all())
        if not finite:
            return Step(*place, None, None, None, False)
        exact, other = exact[meant], other[meant]
        if exact.size == 0:
            return Step(*place, 0.0, 0.0, 0.0, True)
        error, scale = np.abs(other - exact), float(np.abs(exact).max())
        worst = float(error.max())
        return Step(*place, worst, worst / scale if scale else float(worst > 0), self._ratio(error, exact), True)

    def _ratio(self, error: Array, exact: Array) -> float:
        """The error in units of what is allowed."""
        share, tolerance = self._candidate.share, self._candidate.tolerance
        if share is not None:
            return root_ratio(error, exact) / share
        scale = float(np.abs(exact).max())
        allowed = tolerance.atol * max(1.0, scale) + tolerance.rtol * np.abs(exact)
        return float((error / allowed).max())


def root_ratio(error: Array, exact: Array) -> float:
    """The root mean square of an error in units of that of what is right; a billion where that is zero."""
    size, wrong = (float(np.sqrt(np.mean(np.square(a)))) if a.size else 0.0 for a in (exact, error))
    return wrong / size if size else (0.0 if wrong == 0 else _BEYOND)


def written_part(candidate: Specimen, blamed: Blamed) -> tuple[Part, Arrays]:
    """The blamed part as the candidate's own graph holds it, with the right values that enter it.

    Values for half inputs are rounded to fp16; bf16, which numpy lacks, stays in float32.
    """
    whole = Parts(candidate.model)
    names = {candidate.running.nodes[i].name for i in blamed.nodes}
    nodes = [i for i, n in enumerate(whole.nodes) if n.name in names]
    part = whole.part(nodes, [blamed.point.tensor])
    held = {candidate.shown.get(n, n): n for n in part.inputs}
    entering: Arrays = {}
    for shown, name in held.items():
        source = blamed.feeds.get(shown)
        if source is None:  # a cast stands between the two: the tensor before it has the value
            source = _before_casts(whole, name, blamed.feeds, candidate)
        if source is None:
            return part, {}
        kind = (whole.values.get(name) or whole.inputs[name]).type.tensor_type.elem_type
        entering[name] = source.astype(np.float16) if kind == onnx.TensorProto.FLOAT16 else source
    return part, entering


def _before_casts(whole: Parts, name: str, feeds: Arrays, candidate: Specimen) -> Array | None:
    current = name
    while current in whole.maker and whole.nodes[whole.maker[current]].op_type == "Cast":
        current = whole.nodes[whole.maker[current]].input[0]
        value = feeds.get(candidate.shown.get(current, current))
        if value is not None:
            return value
    return None
