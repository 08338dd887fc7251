from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser

from attn_deploy.graph.opset import IR_VERSIONS, convert_opset
from attn_deploy.inputs.samples import ramped
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner


@dataclass(frozen=True)
class Case:
    """One operator in a tiny graph: where it starts, where it must go, and what must be different there.

    ``shapes`` gives each input's shapes, one for each run; ``gone`` are operators the target must not have, ``rule``
    is the rule that must have been applied (None: only the number may change; maybe: either).
    """

    name: str
    opset: int
    targets: Sequence[int]
    inputs: str
    outputs: str
    body: str
    shapes: Mapping[str, Sequence[tuple[int, ...]]]
    rule: str | None = None
    gone: Sequence[str] = ()
    exact: bool = False
    loose: bool = False
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def model(self) -> onnx.ModelProto:
        return parse(self.opset, self.inputs, self.outputs, self.body)


def parse(opset: int, inputs: str, outputs: str, body: str) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return onnx.parser.parse_model(text)


def numpy_type(model: onnx.ModelProto, name: str) -> str:
    kind = next(i.type.tensor_type.elem_type for i in model.graph.input if i.name == name)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name


def feeds_of(case: Case) -> list[dict[str, np.ndarray]]:
    runs = len(next(iter(case.shapes.values()))) if case.shapes else 1
    model = case.model
    return [
        {n: ramped(s[k], numpy_type(model, n), seed=k) for n, s in case.shapes.items()} | dict(case.values)
        for k in range(runs)
    ]


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, optimize: bool = False) -> dict[str, np.ndarray]:
    runner = OnnxRuntimeRunner(model.SerializeToString(), optimize=optimize)
    runner.prepare(dict(feeds))
    runner.enqueue()
    runner.synchronize()
    return runner.outputs()


def assert_same(
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    what: str,
    *,
    exact: bool = False,
    loose: bool = False,
) -> None:
    assert list(expected) == list(got), what
    for name, right in expected.items():
        found = got[name]
        assert right.shape == found.shape, f"{what}: {name} is {found.shape}, was {right.shape}"
        assert right.dtype == found.dtype, f"{what}: {name} is {found.dtype}, was {right.dtype}"
        if exact or right.dtype.kind in "biu":
            np.testing.assert_array_equal(found, right, err_msg=what)
            continue
        half = loose or right.dtype == np.float16
        assert np.isfinite(right.astype(np.float64)).all(), f"{what}: the reference of {name} is not finite"
        scale = max(1.0, float(np.abs(right.astype(np.float64)).max(initial=0.0)))
        np.testing.assert_allclose(
            found.astype(np.float64),
            right.astype(np.float64),
            rtol=1e-2 if half else 1e-5,
            atol=(5e-3 if half else 2e-6) * scale,
            err_msg=what,
        )


def check_case(case: Case, target: int) -> onnx.ModelProto:
    """Convert, check the file in full, compare the numbers before and after."""
    model = case.model
    before = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(model, full_check=True)
    result = convert_opset(model, target)
    assert model.SerializeToString(deterministic=True) == before, "the given model was changed"
    converted = result.model
    assert [(o.domain, o.version) for o in converted.opset_import] == [("", target)]
    assert converted.ir_version == IR_VERSIONS[target]
    onnx.checker.check_model(converted, full_check=True)
    found = {n.op_type for n in converted.graph.node}
    assert not found & set(case.gone), f"{case.gone} still in {found}"
    if case.rule is None:
        assert not result.applied
    elif case.rule != "maybe":
        assert any(case.rule in applied for applied in result.applied), result.applied
    for feeds in feeds_of(case):
        assert_same(
            run(model, feeds),
            run(converted, feeds),
            f"{case.name} {case.opset} -> {target}",
            exact=case.exact,
            loose=case.loose,
        )
    return converted
