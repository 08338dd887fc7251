"""fp16: no value on the way leaves the range, where the maths allows it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attn_deploy import fuse
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.ops.bounded import half_range
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import as_tuple, randomize

pytestmark = pytest.mark.uncounted  # a sweep over the zoo: tests of single cases reach the same lines, in half the time

ZOO = [s for s in catalog.import_all() if s.family != "backbone"]
FP16_MAX = 65504.0
INPUT_RANGE = 100.0

# Modules whose own definition leaves the range for inputs of +-100: the result itself, not a step on the way to it.
OUT_OF_RANGE: dict[str, str] = {
    "gnconv": "a product of as many features as its order: the result itself is of the order of x ** 6",
    "iau": "a part is a sum over positions: the result itself grows with x * H * W",
    "iau3d": "a part is a sum over positions: the result itself grows with x * H * W",
    "light_nl": "cubic in its input without a normalisation: the result itself is of the order of x ** 3",
    "non_local_dot_product": "cubic in its input without a normalisation: the result itself is of the order of x ** 3",
}

# Where 11 bits leave more than 2% of the output's scale, and why.
FP16_ERROR: dict[str, tuple[float, str]] = {
    "bi_level_routing_attention": (
        0.3,
        "the choice of regions is a step: where two are nearly as close, fp16 takes the other",
    ),
    "ia_block": (5e-2, "a softmax over sums of 374 products: logits in the hundreds, of which fp16 keeps a unit"),
    "scconv_recon_sru": (1e-1, "a gate that jumps at 0: a value within rounding of it changes by half of itself"),
}


class LargestMagnitude(TorchDispatchMode):
    """Remembers the largest magnitude that any operator returned, and which operator."""

    def __init__(self):
        super().__init__()
        self.largest, self.operator = 0.0, ""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel():
                magnitude = float(leaf.abs().max())
                if not magnitude <= self.largest:
                    self.largest, self.operator = magnitude, str(function)
        return result


def wide_inputs(model):
    """Inputs that reach +-100 in every channel, with offsets and ramps."""
    found = []
    for array in example_arrays(model.inputs, {"N": 2} if "N" in model.dynamic else None).values():
        if np.issubdtype(array.dtype, np.floating):
            array = array * (INPUT_RANGE / np.abs(array).max())
        found.append(torch.from_numpy(array))
    return found


@pytest.mark.parametrize("spec", ZOO, ids=lambda s: s.name)
@pytest.mark.parametrize("deployed", [False, True], ids=["as written", "fused"])
def test_no_intermediate_leaves_the_range_of_fp16(spec, deployed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resolve(spec.name)
    module = randomize(model.module)
    module = fuse(module) if deployed else module
    watch = LargestMagnitude()
    with torch.no_grad(), half_range(), watch:
        module(*wide_inputs(model))
    if spec.name in OUT_OF_RANGE:
        assert watch.largest > FP16_MAX, f"{spec.name} stays in range ({watch.largest:.3g}): take it off the list"
        return
    assert watch.largest < FP16_MAX, f"{watch.operator} returned {watch.largest:.4g}"


@pytest.mark.parametrize("spec", [s for s in ZOO if s.name not in OUT_OF_RANGE], ids=lambda s: s.name)
def test_a_run_in_fp16_is_finite_and_near_fp32(spec):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resolve(spec.name)
    module = fuse(randomize(model.module))
    half = copy.deepcopy(module).half()
    inputs = [torch.from_numpy(a) for a in example_arrays(model.inputs).values()]
    with torch.no_grad():
        exact = as_tuple(module(*inputs))
        wide = as_tuple(half(*[i.half() if i.is_floating_point() else i for i in wide_inputs(model)]))
        near = as_tuple(half(*[i.half() if i.is_floating_point() else i for i in inputs]))
    for right, got, far in zip(exact, near, wide, strict=True):
        assert torch.isfinite(far).all(), "infinite or NaN for inputs of +-100"
        scale = max(1.0, float(right.abs().max()))
        allowed, _ = FP16_ERROR.get(spec.name, (2e-2, ""))
        assert float((got.float() - right).abs().max()) < allowed * scale
