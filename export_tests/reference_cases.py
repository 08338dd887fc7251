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
    "gsop": ("gsop", {"channels": 64}),
    "gsop_channel_stride1": ("gsop", {"channels": 272, "att_dim": 16}),
    "gsop_position": ("gsop_position", {"channels": 64}),
    "gsop_position_up": ("gsop_position", {"channels": 64, "att_dim": 32}),
    "gsop_avg": ("gsop_avg", {"channels": 64, "att_dim": 32}),
    "gsop_max": ("gsop_max", {"channels": 64, "att_dim": 32}),
    "gsop_concat": ("gsop_concat", {"channels": 64, "att_dim": 32}),
    "light_nl": ("light_nl", {"channels": 64, "nl_ratio": 0.25}),
    "light_nl_port_scale_bug": ("light_nl", {"channels": 64, "nl_ratio": 0.25, "port_scaling": True}),
    "light_nl_r1": ("light_nl", {"channels": 64, "nl_ratio": 1.0}),
    "light_nl_s2": ("light_nl", {"channels": 64, "nl_ratio": 0.25, "nl_stride": 2}),
    "light_nl_s2_odd": ("light_nl", {"channels": 32, "nl_ratio": 0.5, "nl_stride": 2}),
    "sk": ("sk", {"channels": 64}),
    "sk_pytorchinsight": ("sk", {"channels": 64, "groups": (1, 32), "dilations": (1, 1), "min_dim": 1}),
    "gc": ("gc", {"channels": 64, "ratio": 1 / 16}),
    "gc_mul": ("gc", {"channels": 64, "fusion_types": ("channel_mul",)}),
    "gc_add_mul": ("gc", {"channels": 64, "fusion_types": ("channel_add", "channel_mul")}),
    "gc_avg": ("gc", {"channels": 64, "pooling_type": "avg"}),
    "gc_r4": ("gc", {"channels": 64, "ratio": 1 / 4}),
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
}
