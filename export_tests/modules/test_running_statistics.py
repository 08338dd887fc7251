"""Training mode of every entry with a BatchNorm: one step moves the running statistics as the official code does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import fit_size
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import cheap_first, randomize

NORMS = nn.modules.batchnorm._BatchNorm
DEFAULT = {(1e-5, 0.1)}
# (eps, momentum) of the official code, where they are not PyTorch's own.
OFFICIAL = {
    "bifpn_layer": {(1e-3, 0.01)},
    "caa": {(1e-3, 0.03)},
    "cbam": {(1e-5, 0.01)},
    "cbam_spatial": {(1e-5, 0.01)},
    "cgnet_block": {(1e-3, 0.1)},
    "cgnet_block_down": {(1e-3, 0.1)},
    "dca_cbam": {(1e-5, 0.01), (1e-5, 0.1)},  # of the spatial gate, and of the channels' fusion
    "dca_cbam_first": {(1e-5, 0.01)},
    "effnet_block": {(1e-5, 0.01)},
    "light_nl": {(1e-3, 0.01)},
    "rfb": {(1e-5, 0.01)},
    "rfb_e": {(1e-5, 0.01)},
    "rfb_s": {(1e-5, 0.01)},
    "triplet_attention": {(1e-5, 0.01)},
    "ulsam": {(1e-5, 0.9)},
}
NOT_COUNTED = ("rcca_head",)  # InPlaceABN has no counter of batches


@pytest.mark.parametrize("spec", cheap_first(s for s in catalog.import_all() if s.family != "backbone"))
def test_a_step_moves_running_statistics_as_the_official_code_does(spec):
    model = resolve(spec.name)
    sizes = {s: fit_size(6 if s != "N" else 3, s, model.inputs[0]) for s in model.dynamic}
    module = randomize(model.module).double()
    norms = {n: m for n, m in module.named_modules() if isinstance(m, NORMS)}
    if not norms:
        assert spec.name not in OFFICIAL
        pytest.skip("no BatchNorm")
    assert {(m.eps, m.momentum) for m in norms.values()} == OFFICIAL.get(spec.name, DEFAULT)
    before = {n: (m.running_mean.clone(), m.running_var.clone()) for n, m in norms.items()}
    seen: dict[str, list[torch.Tensor]] = {n: [] for n in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].detach()))
    inputs = [torch.from_numpy(a) for a in example_arrays(model.inputs, sizes).values()]
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    module.eval()(*inputs)
    for name, norm in norms.items():
        assert torch.equal(norm.running_mean, before[name][0]), f"{name} moves in eval mode"
        seen[name].clear()
    module.train()(*inputs)
    for name, norm in norms.items():
        assert seen[name], f"{name} is not called"
        assert int(norm.num_batches_tracked) == (0 if spec.name in NOT_COUNTED else len(seen[name]))
        mean, variance = before[name]
        for batch in seen[name]:
            rows = batch.transpose(0, 1).flatten(1)
            mean = (1 - norm.momentum) * mean + norm.momentum * rows.mean(1)
            variance = (1 - norm.momentum) * variance + norm.momentum * rows.var(1)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
