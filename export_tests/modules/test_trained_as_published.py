"""One step of training: outputs, gradients and running statistics of a module are those of the published formulation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attn_deploy import load_official_state_dict
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import as_tuple

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not (BENCHMARKS / "plain").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from plain import CASES, make_pair  # noqa: E402 - found through the path above
from plain.second_wave import SECOND_WAVE  # noqa: E402
from plain.second_wave_blocks import SECOND_WAVE_BLOCKS  # noqa: E402

NORMS = nn.modules.batchnorm._BatchNorm
# Parameters whose gradient is another one by design, and why.
OTHERWISE = {
    "nam": "the official weight is read without a gradient, which the plain formulation leaves out",
}


def projected(outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    return sum((o * torch.randn(o.shape, generator=generator).to(o)).sum() for o in outputs)


def one_step(module, inputs):
    outputs = as_tuple(module(*inputs))
    projected(outputs, 1).backward()
    return [o.detach() for o in outputs]


def assert_close(actual, expected, what):
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8 * scale, msg=lambda m: f"{what}: {m}")


def assert_same_buffers(actual, expected):
    for key, buffer in expected.named_buffers():
        assert_close(actual.get_buffer(key).double(), buffer.double(), key)


@pytest.mark.parametrize("name", [*SECOND_WAVE, *SECOND_WAVE_BLOCKS])
def test_a_step_of_training_is_the_published_one(name):
    case = CASES[name]
    pair = make_pair(name, case.at((64, 8, 8)))
    arrays = example_arrays(pair.inputs, {"N": 3})
    inputs = {
        side: [torch.from_numpy(a).double().requires_grad_() for a in arrays.values()] for side in ("zoo", "plain")
    }
    zoo, plain = pair.zoo.module.double().train(), pair.plain.double().train()
    for got, expected in zip(one_step(zoo, inputs["zoo"]), one_step(plain, inputs["plain"]), strict=True):
        assert_close(got, expected, "output")
    for got, expected in zip(inputs["zoo"], inputs["plain"], strict=True):
        assert_close(got.grad, expected.grad, "gradient of an input")
    twin = resolve(case.model or name, case.arguments(*case.at((64, 8, 8)))).module.double()
    load_official_state_dict(twin, plain.state_dict())
    assert_same_buffers(zoo, twin)
    if name in OTHERWISE:
        return
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in plain.named_parameters()}
    load_official_state_dict(twin, {**plain.state_dict(), **gradients})
    for key, parameter in zoo.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert_close(parameter.grad, twin.get_parameter(key).detach(), f"gradient of {key}")


def test_the_comparison_sees_another_momentum():
    pair = make_pair("coord_attention", (64, 8, 8))
    zoo, plain = pair.zoo.module.train(), pair.plain.train()
    next(m for m in zoo.modules() if isinstance(m, NORMS)).momentum = 0.2
    x = torch.randn(3, 64, 8, 8)
    zoo(x), plain(x)
    twin = resolve("coord_attention").module
    load_official_state_dict(twin, plain.state_dict())
    with pytest.raises(AssertionError, match="running_mean"):
        assert_same_buffers(zoo, twin)
