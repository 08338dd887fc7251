"""Which registry entry, with which constructor arguments, each vector file of the official code belongs to.

Key: the file's stem in the folder of vectors. Value: (registry name, arguments of `create` over the reference
configuration).
"""

from __future__ import annotations

REFERENCE_CASES: dict[str, tuple[str, dict]] = {
    # attention, part 1
    "se": ("se", {"channels": 64, "reduction": 16}),
    "se_nobias": ("se", {"channels": 64, "reduction": 16, "bias": False}),
    "bam": ("bam", {"channels": 64}),
    "bam_square": ("bam", {"channels": 64}),
    "cse": ("cse", {"channels": 64, "reduction": 2}),
    "sse": ("sse", {"channels": 64}),
    "scse": ("scse", {"channels": 64, "reduction": 2}),
    "shuffle_attention": ("shuffle_attention", {"channels": 64, "groups": 8}),
    "shuffle_attention_g64": ("shuffle_attention", {"channels": 256, "groups": 64}),
    "sge": ("sge", {"channels": 64, "groups": 8}),
    "sge_g64": ("sge", {"channels": 128, "groups": 64}),
    "fca": ("fca", {"channels": 64, "dct_h": 7, "dct_w": 7}),
    "fca_7x7_native": ("fca", {"channels": 64, "dct_h": 7, "dct_w": 7}),
    "fca_bot": ("fca", {"channels": 64, "dct_h": 14, "dct_w": 21, "reduction": 8, "freq_sel_method": "bot4"}),
    "fca_exact": ("fca", {"channels": 64, "dct_h": 16, "dct_w": 20}),
    "fca_up": ("fca", {"channels": 64, "dct_h": 14, "dct_w": 14, "freq_sel_method": "low8"}),
    "ge_theta_minus": ("ge_theta_minus", {"channels": 64}),
    "ge_theta_minus_e2": ("ge_theta_minus", {"channels": 64, "extent": 2}),
    "ge_theta_minus_e8": ("ge_theta_minus", {"channels": 64, "extent": 8}),
    "ge_theta": ("ge_theta", {"channels": 64, "feat_size": (16, 20)}),
    "ge_theta_e4": ("ge_theta", {"channels": 64, "extent": 4}),
    "ge_theta_e8": ("ge_theta", {"channels": 64, "extent": 8}),
    "ge_theta_plus": ("ge_theta_plus", {"channels": 64, "feat_size": (16, 20)}),
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
    "a2_double_attention": ("a2_double_attention", {"in_channels": 64, "c_m": 32, "c_n": 16}),
    "a2_double_attention_reconstruct": (
        "a2_double_attention",
        {"in_channels": 64, "c_m": 32, "c_n": 16, "reconstruct": True},
    ),
    "apnb": ("apnb", {"in_channels": 64, "out_channels": 64, "key_channels": 32, "value_channels": 32}),
    "afnb": (
        "afnb",
        {
            "low_in_channels": 48,
            "high_in_channels": 64,
            "out_channels": 64,
            "key_channels": 32,
            "value_channels": 32,
        },
    ),
    "efficient_attention": (
        "efficient_attention",
        {"channels": 64, "key_channels": 32, "num_heads": 4, "value_channels": 64},
    ),
    "efficient_attention_1head": (
        "efficient_attention",
        {"channels": 64, "key_channels": 32, "num_heads": 1, "value_channels": 32},
    ),
    "rnan_nonlocal_block2d": ("rnan_nonlocal", {"channels": 64}),
    "rnan_res_att": ("rnan_res_att", {"channels": 16}),
    "rnan_nl_res_att": ("rnan_nl_res_att", {"channels": 16}),
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
