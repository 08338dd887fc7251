"""Which registry entry, with which constructor arguments, each vector file of the official code belongs to.

Key: the file's stem in the folder of vectors. Value: (registry name, arguments of `create` over the reference
configuration).
"""

from __future__ import annotations

REFERENCE_CASES: dict[str, tuple[str, dict]] = {
    # attention, part 1
    "se": ("se", {"channels": 64, "reduction": 16}),
    "se_nobias": ("se", {"channels": 64, "reduction": 16, "bias": False}),
    "eca": ("eca", {"channels": 64, "kernel_size": 3}),
    "eca_k7": ("eca", {"channels": 64, "kernel_size": 7}),
    "eca_ns": ("eca_ns", {"channels": 64, "kernel_size": 3}),
    "cbam": ("cbam", {"channels": 64, "reduction": 16}),
    "cbam_channel": ("cbam_channel", {"channels": 64, "reduction": 16}),
    "cbam_pool4": ("cbam", {"channels": 64, "reduction": 16, "pool_types": ("avg", "max", "lp", "lse")}),
    "cbam_spatial": ("cbam_spatial", {}),
    "non_local_embedded_gaussian": ("non_local_embedded_gaussian", {"channels": 64}),
    "non_local_embedded_gaussian_nosub_nobn": (
        "non_local_embedded_gaussian",
        {"channels": 32, "inter_channels": 8, "sub_sample": False, "bn_layer": False},
    ),
    "non_local_gaussian": ("non_local_gaussian", {"channels": 64}),
    "non_local_gaussian_nosub_nobn": (
        "non_local_gaussian",
        {"channels": 32, "inter_channels": 8, "sub_sample": False, "bn_layer": False},
    ),
    "non_local_dot_product": ("non_local_dot_product", {"channels": 64}),
    "non_local_dot_product_nosub_nobn": (
        "non_local_dot_product",
        {"channels": 32, "inter_channels": 8, "sub_sample": False, "bn_layer": False},
    ),
    "non_local_concatenation": ("non_local_concatenation", {"channels": 64}),
    "non_local_concatenation_nosub_nobn": (
        "non_local_concatenation",
        {"channels": 32, "inter_channels": 8, "sub_sample": False, "bn_layer": False},
    ),
    "non_local_embedded_gaussian_odd": ("non_local_embedded_gaussian", {"channels": 32}),
    "criss_cross": ("criss_cross", {"channels": 64}),
    "rcca_core": ("rcca", {"channels": 64, "recurrence": 2}),
    "rcca_head": ("rcca_head", {"in_channels": 64, "out_channels": 24, "num_classes": 5, "recurrence": 2}),
    # attention, part 2
    # plug-and-play
    "ghost_module": ("ghostmodule", {"in_channels": 64, "out_channels": 64}),
    "ghost_module_r3_odd_k3_s2": (
        "ghostmodule",
        {
            "in_channels": 64,
            "out_channels": 50,
            "kernel_size": 3,
            "ratio": 3,
            "dw_size": 5,
            "stride": 2,
            "relu": False,
        },
    ),
    "psp_ppm": ("psp", {"channels": 32, "reduced_channels": 8}),
    "psp_ppm_odd": ("psp", {"channels": 32, "reduced_channels": 8}),
    "condconv": ("condconv", {"in_channels": 32, "out_channels": 24, "bias": True}),
    "condconv_dw_s2_e8": (
        "condconv",
        {"in_channels": 32, "out_channels": 32, "stride": 2, "groups": 32, "num_experts": 8},
    ),
    "condconv_k1": ("condconv", {"in_channels": 64, "out_channels": 48, "kernel_size": 1}),
    "condconv_same_s2": (
        "condconv",
        {"in_channels": 32, "out_channels": 24, "stride": 2, "padding": "same"},
    ),
    "acblock_k3p0_crop": ("acblock", {"in_channels": 16, "out_channels": 16, "padding": 0}),
    "acblock_k3p1": ("acblock", {"in_channels": 16, "out_channels": 24, "padding": 1}),
    "acblock_k5p3_s2_g4": (
        "acblock",
        {"in_channels": 16, "out_channels": 24, "kernel_size": 5, "padding": 3, "stride": 2, "groups": 4},
    ),
    "dgc": ("dgc", {"in_channels": 32, "out_channels": 32, "padding": 1}),
    "dgc_c64_h4_k1": ("dgc", {"in_channels": 64, "out_channels": 48, "kernel_size": 1, "padding": 0}),
    "dgc_c96_sr16": ("dgc", {"in_channels": 96, "out_channels": 32, "kernel_size": 1, "padding": 0}),
    "dgc_h2_half": (
        "dgc",
        {"in_channels": 16, "out_channels": 24, "padding": 1, "stride": 2, "num_heads": 2, "gate_factor": 0.5},
    ),
    "dgc_h2_s2_noprune": (
        "dgc",
        {"in_channels": 16, "out_channels": 24, "padding": 1, "stride": 2, "num_heads": 2, "inactive_channels": 0},
    ),
    "doconv": ("doconv", {"in_channels": 32, "out_channels": 24, "padding": 1}),
    "doconv_depthwise": ("doconv", {"in_channels": 32, "out_channels": 32, "padding": 1, "groups": 32}),
    "doconv_dmul18_s2": (
        "doconv",
        {"in_channels": 16, "out_channels": 24, "padding": 1, "stride": 2, "depth_multiplier": 18, "bias": False},
    ),
    "doconv_dmul20_k3": ("doconv", {"in_channels": 16, "out_channels": 16, "padding": 1, "depth_multiplier": 20}),
    "doconv_group4": ("doconv", {"in_channels": 32, "out_channels": 48, "padding": 1, "groups": 4}),
    "doconv_k1": ("doconv", {"in_channels": 32, "out_channels": 24, "kernel_size": 1, "padding": 0}),
    "dynamic_conv": ("dynamic_conv", {"in_channels": 32, "out_channels": 24, "padding": 1}),
    "dynamic_conv_g4_s2_T1": (
        "dynamic_conv",
        {
            "in_channels": 32,
            "out_channels": 32,
            "padding": 1,
            "stride": 2,
            "groups": 4,
            "bias": False,
            "temperature": 1,
        },
    ),
    "dynamic_conv_in3": (
        "dynamic_conv",
        {"in_channels": 3, "out_channels": 16, "padding": 1, "temperature": 31},
    ),
    "dynamic_conv_k1": (
        "dynamic_conv",
        {"in_channels": 64, "out_channels": 48, "kernel_size": 1, "padding": 0, "temperature": 1},
    ),
    "psconv": ("psconv", {"in_channels": 32, "out_channels": 32}),
    "psconv_s2_bias": ("psconv", {"in_channels": 16, "out_channels": 24, "stride": 2, "bias": True}),
    "psgconv_g2_p4": ("psgconv", {"in_channels": 32, "out_channels": 32, "groups": 2, "official_mask": True}),
    "psgconv_g4_p4": ("psgconv", {"in_channels": 32, "out_channels": 32, "groups": 4, "official_mask": True}),
    "pyconv2": ("pyconv2", {"in_channels": 32, "out_channels": 48}),
    "pyconv2d_bias": (
        "pyconv",
        {
            "in_channels": 32,
            "out_channels": (16, 8, 24),
            "kernel_sizes": (3, 5, 7),
            "groups": (1, 4, 8),
            "bias": True,
        },
    ),
    "pyconv3_s2": ("pyconv3", {"in_channels": 32, "out_channels": 32, "stride": 2}),
    "pyconv4": ("pyconv", {"in_channels": 64, "out_channels": 64}),
    "slimconv": ("slimconv", {"channels": 64}),
    "slimconv_s2_g4_d2": ("slimconv", {"channels": 64, "stride": 2, "groups": 4, "dilation": 2}),
    "spconv": ("spconv", {"in_channels": 64, "out_channels": 64}),
    "spconv_s2": ("spconv_s2", {"in_channels": 32, "out_channels": 48}),
}
