"""Gradients of every entry of the zoo in float64, in both modes: those of small differences, and zero only by the maths.

The derivative along one random direction of all inputs and parameters together is compared with a central difference.
The direction gives every tensor a share that its own gradient can be seen by, however small that is beside the others.
"""

from __future__ import annotations

import pytest
import torch

from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import fit_size
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import as_tuple, cheap_first, randomize

ZOO = [s for s in catalog.import_all() if s.family != "backbone"]
SMALL = {"N": 2, "H": 4, "W": 5, "L": 6, "P": 4, "Q": 3}
# The coarsest map of pyramids: at larger ones a step of any length crosses a kink of some ReLU or maximum.
PYRAMIDS = {"afpn": {"H": 1, "W": 2}, "bifpn_layer": {"H": 1, "W": 2}}
STEP = 1e-6  # length of the longest move of a tensor; float64 leaves about 1e-9 of the output's sum
BESIDE = 1e-2  # tensors whose derivative is smaller than this share of the largest have a smaller share of the sum

# Where the official code leaves a path out of its gradient, and which test holds that form.
OTHERWISE = {
    ("diverse_branch_block", "train"): "the border of its inner maps: test_training_statistics.py",
    ("nam", "eval"): "the weights of the channels: test_channel_and_spatial_gates.py",
    ("nam", "train"): "the weights of the channels: test_channel_and_spatial_gates.py",
    ("psconv", "train"): "the weights under the mask: test_convolution.py",
    ("psgconv", "train"): "the weights under the mask: test_convolution.py",
}


def small(spec, mode):
    """The reference configuration in float64 at a few positions, its inputs, and its trained parameters."""
    model = resolve(spec.name)
    first = model.inputs[0]
    small = {**SMALL, **PYRAMIDS.get(spec.name, {})}
    sizes = {s: fit_size(small.get(s.rstrip("0123456789"), 2), s, first) for s in model.dynamic}
    inputs = [torch.from_numpy(a) for a in example_arrays(model.inputs, sizes, 3).values()]
    if spec.name == "deformable_attention":
        inputs[1] = inputs[1].sigmoid()  # places within the maps
    inputs = [x.double().requires_grad_() if x.is_floating_point() else x for x in inputs]
    module = randomize(model.module).double().train(mode == "train")
    return module, inputs, {n: p for n, p in module.named_parameters() if p.requires_grad}


def projected(module, inputs):
    """A random projection of all outputs."""
    torch.manual_seed(0)  # of dropout
    outputs = as_tuple(module(*inputs))
    generator = torch.Generator().manual_seed(1)
    return sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs)


def directions(tensors, gradients):
    """A direction for each tensor, up the slope, of lengths by which all are seen; and the derivative along them."""
    generator = torch.Generator().manual_seed(2)
    units = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
    units = [u / u.norm() for u in units]
    slopes = [float((g * u).sum()) for g, u in zip(gradients, units, strict=True)]
    largest = max(map(abs, slopes))
    weights = [1.0 / max(abs(s), BESIDE * largest) for s in slopes]
    scale = STEP / max(weights)
    moves = [u * (scale * w if s >= 0 else -scale * w) for u, s, w in zip(units, slopes, weights, strict=True)]
    return moves, scale * sum(abs(s) * w for s, w in zip(slopes, weights, strict=True))


def difference(module, inputs, tensors, moves):
    """Of the projection, along the moves, from steps of two lengths, so that a third derivative falls out."""
    with torch.no_grad():
        kept = [t.clone() for t in tensors]
        values = []
        for length in (1.0, -1.0, 0.5, -0.5):
            for tensor, start, move in zip(tensors, kept, moves, strict=True):
                tensor.copy_(start + length * move)
            values.append(float(projected(module, inputs)))
        for tensor, start in zip(tensors, kept, strict=True):
            tensor.copy_(start)
    whole, half = (values[0] - values[1]) / 2, values[2] - values[3]
    return (4 * half - whole) / 3, max(map(abs, values))


def moves_the_output(module, inputs, tensor):
    """Whether another value of a tensor gives another output; BatchNorm leaves an error of rounding behind."""
    with torch.no_grad():
        torch.manual_seed(0)
        before = as_tuple(module(*inputs))
        kept = tensor.clone()
        tensor += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3), dtype=tensor.dtype)
        torch.manual_seed(0)
        after = as_tuple(module(*inputs))
        tensor.copy_(kept)
    return any(float((a - b).abs().max()) > 1e-9 * float(b.abs().max()) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("spec", cheap_first(ZOO))
def test_gradients_are_those_of_small_differences(spec, mode):
    module, inputs, trained = small(spec, mode)
    moving = {f"input {i}": x for i, x in enumerate(inputs) if x.requires_grad}
    tensors = {**moving, **trained}
    gradients = torch.autograd.grad(projected(module, inputs), tensors.values(), allow_unused=True)
    gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors.values(), gradients, strict=True)]
    still = {n for n, g in zip(tensors, gradients, strict=True) if not float(g.abs().max()) > 1e-9}
    assert not {n for n in still if moves_the_output(module, inputs, tensors[n])}, "no gradient, but an effect"
    if mode == "eval":  # softmax cancels what is added to all of its positions; in training BatchNorm cancels more
        assert all(n.endswith("bias") or spec.name.startswith("iau") for n in still), still
    if (spec.name, mode) in OTHERWISE:
        return
    moves, derivative = directions(list(tensors.values()), gradients)
    measured, size = difference(module, inputs, list(tensors.values()), moves)
    assert abs(measured - derivative) <= 1e-5 * derivative + 1e-13 * size


def test_a_wrong_gradient_of_one_small_tensor_is_seen():
    module, inputs, trained = small(next(s for s in ZOO if s.name == "se"), "eval")
    tensors = [*inputs, *trained.values()]
    gradients = list(torch.autograd.grad(projected(module, inputs), tensors))
    gradients[1] = gradients[1] * 1.01
    moves, derivative = directions(tensors, gradients)
    measured, _ = difference(module, inputs, tensors, moves)
    assert abs(measured - derivative) > 1e-5 * derivative
