"""The ONNX files that a profile times: the user's own, or exported for the occasion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.bench.subject import Subject
from attn_deploy.inputs import TensorInput

if TYPE_CHECKING:
    import onnx

_PRECISIONS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}  # by ONNX element type
_COARSEST_FIRST = ("bfloat16", "float16", "float32", "float64")


class OnnxFiles:
    """Gives the file for a shape, and makes it when there is none yet that moves that far.

    Args:
        subject: what is profiled.
        folder: where exported files go.
        opset: of exported files; None for the exporter's default.
        dynamic: symbols that move in exported files. None: all that a registry model allows, and the batch alone of a
            user's own model, of which nothing is known.
        progress: called with a few words at each step.
    """

    def __init__(
        self,
        subject: Subject,
        folder: Path,
        *,
        opset: int | None,
        dynamic: Sequence[str] | None,
        progress: Callable[[str], None],
    ) -> None:
        self._subject, self._folder, self._opset = subject, folder, opset
        if dynamic is None and subject.model is not None and subject.model.spec is None:
            dynamic = [s for s in subject.movable if s[0] == "N"]
        self._dynamic, self._tell = dynamic, progress
        self._made: list[tuple[Path, Mapping[str, int]]] = []  # with the extents that are numbers in the file
        self._descriptions: list[dict[str, Any]] = []
        self._precisions: dict[Path, str] = {}
        self._failure: Exception | None = None

    def path(self, inputs: tuple[TensorInput, ...]) -> Path:
        """A file that takes these inputs.

        Raises:
            ExportError, ParityError, MissingDependencyError: as `attn_deploy.export`.
        """
        given = self._subject.onnx
        if given is not None:
            if not self._descriptions:
                self._describe(given, "given")
            return given
        sizes = inputs[0].sizes
        for path, fixed in self._made:
            if all(sizes[s] == n for s, n in fixed.items()):
                return path
        if self._failure is not None:
            raise self._failure
        try:
            return self._export(inputs)
        except Exception as error:
            self._failure = error  # it would fail again at the next batch size, minutes later
            raise

    def precision(self, path: Path) -> str:
        """The element type of the weights of a file that `path` gave; the least precise where there are several."""
        return self._precisions[path]

    def described(self) -> tuple[Mapping[str, Any], ...]:
        """What was used, for the record."""
        return tuple(self._descriptions)

    def _export(self, inputs: tuple[TensorInput, ...]) -> Path:
        from attn_deploy.exporters.options import DEFAULT_OPSET, ExportOptions
        from attn_deploy.exporters.pipeline import export_prepared
        from attn_deploy.exporters.prepare import prepare

        model = self._subject.model
        if model is None:
            raise ValueError("a subject without a file has a model")
        options = ExportOptions(
            opset=self._opset if self._opset is not None else DEFAULT_OPSET,
            dynamic=tuple(self._dynamic) if self._dynamic is not None else None,
        )
        self._tell("exporting the file to time")
        prepared = prepare(model, inputs=inputs, dynamic=options.dynamic)
        path = self._folder / f"model-{len(self._made)}.onnx"
        export_prepared(prepared, path, options, progress=self._tell)
        fixed = {s: n for s, n in inputs[0].sizes.items() if s not in prepared.dynamic}
        self._made.append((path, fixed))
        self._describe(path, "exported for this profile")
        return path

    def _describe(self, path: Path, made: str) -> None:
        from attn_deploy.graph.artifact import load_model, read_onnx

        artifact = read_onnx(path)
        self._precisions[path] = weights_precision(load_model(path))
        self._descriptions.append(
            {
                "path": str(path) if made == "given" else None,
                "made": made,
                "sha256": artifact.sha256,
                "opset": artifact.opset,
                "nodes": artifact.nodes,
                "weights": self._precisions[path],
                "dynamic_axes": list(artifact.dynamic_axes),
                "exporter": artifact.metadata.get("exporter"),
                "fused": [" ".join(map(str, f)) for f in artifact.record.get("fused", ())],
            }
        )


def weights_precision(model: onnx.ModelProto) -> str:
    """The least precise floating-point type among the graph's weights; float32 for a graph that has none.

    A graph converted to half precision keeps softmax and norms in float32 and its inputs may be float32 too, so neither
    the inputs nor a majority tells how exact its results can be. Scalars do not count: they are eps and scales.
    """
    held = {_PRECISIONS[i.data_type] for i in model.graph.initializer if i.data_type in _PRECISIONS and len(i.dims) > 1}
    return next((p for p in _COARSEST_FIRST if p in held), "float32")
