"""Which registry entry, with which constructor arguments, each vector file of the official code belongs to.

Key: the file's stem in the folder of vectors. Value: (registry name, arguments of `create` over the reference
configuration).
"""

from __future__ import annotations

REFERENCE_CASES: dict[str, tuple[str, dict]] = {
    # attention, part 1
    "se": ("se", {"channels": 64, "reduction": 16}),
    "se_nobias": ("se", {"channels": 64, "reduction": 16, "bias": False}),
    # attention, part 2
    "splat_conv2d": (
        "splat_conv2d",
        {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "bias": False, "norm": True},
    ),
    "splat_conv2d_g2r4_nobn": (
        "splat_conv2d",
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2, "bias": True, "radix": 4, "norm": False},
    ),
    "splat_conv2d_r1": (
        "splat_conv2d",
        {"in_channels": 32, "out_channels": 32, "padding": 1, "bias": False, "radix": 1, "norm": True},
    ),
    "sc_conv": ("sc_conv", {"channels": 32}),
    "sc_conv_s2_odd": ("sc_conv", {"channels": 32, "stride": 2, "dilation": 2, "groups": 2}),
    "sc_bottleneck": ("sc_bottleneck", {"in_channels": 64, "planes": 16}),
    "danet_pam": ("danet_pam", {"channels": 64}),
    "danet_cam": ("danet_cam", {"channels": 64}),
    "danet_head": ("danet_head", {"in_channels": 64, "out_channels": 19}),
    "ms_cam": ("ms_cam", {"channels": 64, "reduction": 4}),
    "aff": ("aff", {"channels": 64, "reduction": 4}),
    "iaff": ("iaff", {"channels": 64, "reduction": 4}),
    "iaff_pytorch_shared_global": ("iaff", {"channels": 64, "reduction": 4, "share_global": True}),
    "san_pairwise": ("san_pairwise", {"relation_channels": 4, "kernel_size": 7}),
    "san_pairwise_k3_s2": ("san_pairwise", {"relation_channels": 4, "kernel_size": 3, "stride": 2}),
    "san_pairwise_k3_d2_wide": (
        "san_pairwise",
        {"out_channels": 64, "relation_channels": 16, "share": 4, "kernel_size": 3, "dilation": 2},
    ),
    "san_patchwise": ("san_patchwise", {"relation_channels": 4, "kernel_size": 7}),
    "san_bottleneck_pairwise": ("san_bottleneck_pairwise", {"channels": 64, "kernel_size": 7}),
    "san_bottleneck_patchwise": ("san_bottleneck_patchwise", {"channels": 64, "kernel_size": 3}),
    "generalized_attention_1111": ("generalized_attention", {"channels": 64, "num_heads": 9}),
    "generalized_attention_1000": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "1000"}),
    "generalized_attention_0100": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "0100"}),
    "generalized_attention_0010": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "0010"}),
    "generalized_attention_0001": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "0001"}),
    "generalized_attention_0110": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "0110"}),
    "generalized_attention_0011": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "0011"}),
    "generalized_attention_1010": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "1010"}),
    "generalized_attention_0101": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "0101"}),
    "generalized_attention_1100": ("generalized_attention", {"channels": 32, "num_heads": 4, "attention_type": "1100"}),
    "generalized_attention_1111_qs2": (
        "generalized_attention",
        {"channels": 32, "num_heads": 4, "q_stride": 2, "position_magnitude": 2},
    ),
    "generalized_attention_range3": ("generalized_attention", {"channels": 32, "num_heads": 4, "spatial_range": 3}),
    "ocr_spatial_gather": ("ocr_spatial_gather", {}),
    "ocr_object_attention": ("ocr_object_attention", {"channels": 64, "key_channels": 32}),
    "ocr_object_attention_scale2": ("ocr_object_attention", {"channels": 64, "key_channels": 32, "scale": 2}),
    "ocr": ("ocr", {"in_channels": 64, "out_channels": 64, "key_channels": 32, "dropout": 0.05}),
    "ia_block": ("ia_block", {"channels": 64, "alpha_x": 0.5, "alpha_y": 0.7}),
    "iau": ("iau", {"channels": 64, "return_masks": True}),
    "iau3d": ("iau3d", {"channels": 32, "frames": 4, "return_masks": True}),
    "dca_se": ("dca_se", {"channels": 64, "previous_channels": 32}),
    "dca_se_same": ("dca_se", {"channels": 64, "previous_channels": 64}),
    "dca_se_first": ("dca_se_first", {"channels": 64}),
    "dca_gc": ("dca_gc", {"channels": 64, "previous_channels": 32, "reduction": 4}),
    "dca_cbam": ("dca_cbam", {"channels": 32, "previous_channels": 16, "reduction": 8, "ratio": 2}),
    "fpt_self_trans": ("fpt_self_trans", {"channels": 64, "num_heads": 1, "num_mixtures": 2}),
    "fpt_self_trans_h2m4_nopool": (
        "fpt_self_trans",
        {
            "channels": 32,
            "num_heads": 2,
            "num_mixtures": 4,
            "key_channels": 16,
            "value_channels": 16,
            "pooling": False,
        },
    ),
    "fpt_self_trans_m1_ffn_concat": (
        "fpt_self_trans",
        {"channels": 32, "num_mixtures": 1, "query_transform": "ffn", "concat": True},
    ),
    "fpt_ground_trans_dot": ("fpt_ground_trans", {"channels": 64, "mode": "dot"}),
    "fpt_ground_trans_embedded": ("fpt_ground_trans", {"channels": 64, "mode": "embedded"}),
    "fpt_ground_trans_gaussian": ("fpt_ground_trans", {"channels": 64, "mode": "gaussian"}),
    "fpt_ground_trans_concatenate": ("fpt_ground_trans", {"channels": 64, "mode": "concatenate"}),
    "fpt_render_trans": ("fpt_render_trans", {"channels": 32, "low_channels": 32}),
    "fpt_render_trans_up": ("fpt_render_trans", {"channels": 32, "low_channels": 32}),
    "fpt_locality_gt": ("fpt_locality_gt", {"in_channels": 32, "out_channels": 32, "kernel_size": 3}),
    "ulsam": ("ulsam", {"channels": 64, "num_splits": 4}),
    "ulsam_subspace": ("ulsam", {"channels": 16, "num_splits": 1}),
    # plug-and-play
}
