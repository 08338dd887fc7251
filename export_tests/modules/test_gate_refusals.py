"""Coordinate attention to ParNet: arguments and inputs that do not fit, in the user's words."""

from __future__ import annotations

import pytest
import torch

from attn_deploy import create

REFUSED = [
    ("coord_attention", {"in_channels": 64, "out_channels": 32}, "in_channels=64 and out_channels=32"),
    ("coord_attention", {"reduction": 0}, "reduction must be an integer of at least 1, got 0"),
    ("simam", {"e_lambda": 0}, "e_lambda must be above 0, got 0"),
    ("ema", {"channels": 60, "factor": 8}, "channels=60 and factor=8"),
    ("ema", {"channels": 16, "factor": 32}, "channels=16 and factor=32"),
    ("lka", {"channels": 0}, "channels must be an integer of at least 1"),
    ("lska", {"kernel_size": 9}, "kernel_size must be one of 7, 11, 23, 35, 41, 53, got 9"),
    ("lska_attention", {"kernel_size": 21}, "kernel_size must be one of 7, .* got 21"),
    ("gam", {"channels": 3}, "channels=3 and reduction=4"),
    ("gam", {"out_channels": 32}, "channels=64 and out_channels=32"),
    ("gam", {"padding_mode": "reflect"}, "padding_mode must be one of 'zeros', 'replicate', got 'reflect'"),
    ("mlca", {"local_size": 0}, "local_size must be"),
    ("mlca", {"gamma": 0}, "gamma must be above 0, got 0"),
    ("ela", {"num_groups": 24}, "channels=64 and num_groups=24"),
    ("ela", {"groups": 24}, "channels=64 and groups=24"),
    ("ela", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ("caa", {"h_kernel_size": 10}, "h_kernel_size must be odd, got 10"),
    ("caa", {"act": "relu"}, "act must be one of 'silu', None, got 'relu'"),
    ("lsk", {"channels": 7}, "channels must be even, got 7"),
    ("lsk_attention", {"channels": 9}, "channels must be even, got 9"),
    ("gct", {"mode": "l3"}, "mode must be one of 'l2', 'l1', got 'l3'"),
    ("gct", {"epsilon": 0}, "epsilon must be above 0, got 0"),
    ("external_attention", {"memory": 0}, "memory must be"),
    ("multihead_external_attention", {"channels": 30}, "channels=30 and num_heads=8"),
    ("csra", {"num_classes": 0}, "num_classes must be"),
    ("csra", {"T": 0}, "T must be above 0, got 0"),
    ("csra_multihead", {"num_heads": 3}, "num_heads must be one of 1, 2, 4, 6, 8, got 3"),
    ("parnet_block", {"channels": 0}, "channels must be"),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_arguments_that_do_not_fit_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        create(name, **settings)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("simam", (2, 64, 1, 1), "at least 2 positions, got 1x1"),
        ("srm", (2, 64, 1, 1), "at least 2 positions, got 1x1"),
        ("simam", (64, 4, 4), r"\(N, C, H, W\), got \(64, 4, 4\)"),
        ("triplet_attention", (64, 4, 4), r"\(N, C, H, W\), got \(64, 4, 4\)"),
        ("multihead_external_attention", (2, 9, 32), r"\(N, L, 64\), got \(2, 9, 32\)"),
        ("multihead_external_attention", (2, 64, 4, 4), r"\(N, L, 64\), got \(2, 64, 4, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        create(name)(torch.zeros(shape))
