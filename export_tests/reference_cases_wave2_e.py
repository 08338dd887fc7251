"""Rows of the mobile, large-kernel and wavelet blocks, and of what goes with them; the form is that of reference_cases."""

from __future__ import annotations

CASES: dict[str, tuple[str, dict]] = {
    "convnext_block": ("convnext_block", {"channels": 16}),
    "convnext_block_nols": ("convnext_block", {"channels": 16, "layer_scale_init_value": 0}),
    "convnextv2_block": ("convnextv2_block", {"channels": 16}),
    "grn": ("grn", {"channels": 16}),
    "layer_norm_2d": ("layer_norm_2d", {"channels": 16}),
    "mbconv": ("mbconv", {"in_channels": 16, "out_channels": 16}),
    "mbconv_s2_k5": (
        "mbconv",
        {"in_channels": 16, "out_channels": 24, "kernel_size": 5, "stride": 2, "expand_ratio": 6},
    ),
    "mbconv_same_s2": (
        "mbconv",
        {"in_channels": 16, "out_channels": 24, "stride": 2, "pad": "same", "bn_eps": 1e-3},
    ),
    "inverted_residual": ("inverted_residual", {"in_channels": 16, "out_channels": 16}),
    "inverted_residual_se_hswish": (
        "inverted_residual",
        {
            "in_channels": 16,
            "out_channels": 16,
            "kernel_size": 5,
            "expand_ratio": 3,
            "se_ratio": 0.25,
            "act": "hardswish",
            "gate": "hardsigmoid",
        },
    ),
    "fused_mbconv": ("fused_mbconv", {"in_channels": 16, "out_channels": 16}),
    "fused_mbconv_s2_se": (
        "fused_mbconv",
        {"in_channels": 16, "out_channels": 24, "stride": 2, "se_ratio": 0.25},
    ),
    "uib": ("uib", {"in_channels": 16, "out_channels": 16, "start_kernel": 5, "mid_kernel": 3}),
    "uib_ib_s2": (
        "uib",
        {
            "in_channels": 16,
            "out_channels": 24,
            "start_kernel": 0,
            "mid_kernel": 5,
            "expand_ratio": 3,
            "stride": 2,
            "layer_scale": None,
        },
    ),
    "uib_convnext": ("uib", {"in_channels": 16, "out_channels": 16, "start_kernel": 3, "mid_kernel": 0}),
    "uib_ffn": (
        "uib",
        {
            "in_channels": 16,
            "out_channels": 16,
            "start_kernel": 0,
            "mid_kernel": 0,
            "expand_ratio": 2,
            "layer_scale": None,
        },
    ),
    "uib_end": (
        "uib",
        {
            "in_channels": 16,
            "out_channels": 16,
            "start_kernel": 0,
            "mid_kernel": 0,
            "end_kernel": 3,
            "expand_ratio": 2,
        },
    ),
    "ghostmodule_v2": ("ghostmodule_v2", {"in_channels": 32, "out_channels": 48}),
    "ghostmodule_v2_s2": (
        "ghostmodule_v2",
        {
            "in_channels": 32,
            "out_channels": 25,
            "kernel_size": 3,
            "ratio": 3,
            "dw_size": 5,
            "stride": 2,
            "relu": False,
        },
    ),
    "ghostv2_bottleneck": ("ghostv2_bottleneck", {"in_channels": 16, "mid_channels": 24, "out_channels": 16}),
    "ghostv2_bottleneck_noattn": (
        "ghostv2_bottleneck",
        {"in_channels": 16, "mid_channels": 24, "out_channels": 24, "attention": False},
    ),
    "ghostv2_bottleneck_s2_se": (
        "ghostv2_bottleneck",
        {
            "in_channels": 16,
            "mid_channels": 25,
            "out_channels": 23,
            "kernel_size": 5,
            "stride": 2,
            "se_ratio": 0.25,
        },
    ),
    "starnet_block": ("starnet_block", {"channels": 16}),
    "starnet_block_r4": ("starnet_block", {"channels": 12, "mlp_ratio": 4}),
}
