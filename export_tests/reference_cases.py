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
    # plug-and-play: activations, context, fusion, and the convolutions that go with them
    "swish": ("swish", {}),
    "hswish": ("hswish", {}),
    "mish": ("mish", {}),
    "depthwise_separable_plain_bias": (
        "depthwise_separable_conv",
        {"in_channels": 64, "out_channels": 48, "bias": True, "depthwise_bias": True},
    ),
    "depthwise_separable_timm": (
        "depthwise_separable_conv",
        {"in_channels": 64, "out_channels": 48, "kernel_size": 5, "stride": 2},
    ),
    "depthwise_separable_timm_bnact": (
        "depthwise_separable_conv",
        {"in_channels": 64, "out_channels": 48, "norm": "last"},
    ),
    "depthwise_separable_mobilenetv1": (
        "depthwise_separable_conv",
        {"in_channels": 64, "out_channels": 48, "stride": 2, "norm": "both"},
    ),
    "conv_bn_fuse_conv": (
        "fused_conv_bn",
        {"in_channels": 32, "out_channels": 48, "stride": 2, "bias": True},
    ),
    "conv_bn_fuse_nobias_dil": (
        "fused_conv_bn",
        {"in_channels": 32, "out_channels": 48, "dilation": 2, "bn_eps": 1e-3},
    ),
    "conv_bn_fuse_grouped": ("fused_conv_bn", {"in_channels": 32, "out_channels": 48, "groups": 4}),
    "conv_bn_fuse_depthwise": (
        "fused_conv_bn",
        {"in_channels": 32, "out_channels": 32, "kernel_size": 5, "stride": 2, "groups": 32, "bias": True},
    ),
    "conv_bn_fuse_transposed": (
        "fused_conv_bn",
        {
            "in_channels": 32,
            "out_channels": 24,
            "kernel_size": 4,
            "stride": 2,
            "padding": 1,
            "bias": True,
            "transposed": True,
        },
    ),
    "conv_bn_fuse_transposed_grouped": (
        "fused_conv_bn",
        {"in_channels": 32, "out_channels": 48, "stride": 2, "groups": 4, "transposed": True, "output_padding": 1},
    ),
    "mixconv_timm_dw": (
        "mixconv",
        {"in_channels": 64, "out_channels": 64, "kernel_size": (3, 5, 7, 9), "depthwise": True},
    ),
    "mixconv_timm_dw_uneven_s2": (
        "mixconv",
        {"in_channels": 50, "out_channels": 50, "kernel_size": (3, 5, 7), "stride": 2, "depthwise": True},
    ),
    "mixconv_timm_same_s2": (
        "mixconv",
        {
            "in_channels": 64,
            "out_channels": 64,
            "kernel_size": (3, 5, 7, 9),
            "stride": 2,
            "padding": "same",
            "depthwise": True,
        },
    ),
    "mixconv_timm_grouped": (
        "mixconv",
        {"in_channels": 32, "out_channels": 48, "kernel_size": (1, 1), "depthwise": False},
    ),
    "aspp": ("aspp", {"in_channels": 24, "out_channels": 24, "atrous_rates": (12, 24, 36)}),
    "aspp_rates_1_2_3": ("aspp", {"in_channels": 16, "out_channels": 24, "atrous_rates": (1, 2, 3)}),
    "rfb_v1": ("rfb", {"in_channels": 64, "out_channels": 64}),
    "rfb_v2_s2": ("rfb", {"in_channels": 64, "out_channels": 48, "stride": 2, "scale": 1.0, "visual": 2}),
    "rfb_s": ("rfb_s", {"in_channels": 64, "out_channels": 64}),
    "rfb_e": ("rfb_e", {"in_channels": 64, "out_channels": 64}),
    "seb_seed": ("seb", {"high_channels": 48, "low_channels": 32, "out_channels": 24}),
    "seb_paper": ("seb", {"high_channels": 48, "low_channels": 32, "out_channels": 32, "project_low": False}),
    "ssh_retinaface": ("ssh", {"in_channels": 64, "out_channels": 64}),
    "ssh_retinaface_noleaky": ("ssh", {"in_channels": 16, "out_channels": 80}),
    "ssh_original_caffe": ("ssh", {"in_channels": 48, "out_channels": 64, "norm": False}),
    "feature_concat": ("feature_concat", {}),
    "feature_flatten": ("flatten", {}),
    "gram_matrix": ("gram_matrix", {}),
    "weighted_fusion_fast": ("weighted_feature_fusion", {"num_inputs": 3, "channels": 32}),
    "weighted_fusion_softmax": ("weighted_feature_fusion", {"num_inputs": 3, "channels": 32, "method": "softmax"}),
    "weighted_fusion_yolo": ("yolo_weighted_fusion", {"channels": (32, 24, 48)}),
    "weighted_fusion_yolo_noweight": ("yolo_weighted_fusion", {"channels": (32, 24, 48), "weighted": False}),
    "strip_pooling": ("strip_pooling", {"channels": 32}),
    "strip_pooling_big": ("strip_pooling", {"channels": 16}),
    "context_gating_loupe_bn": ("context_gating", {"channels": 64}),
    "context_gating_loupe_bias": ("context_gating", {"channels": 64, "add_batch_norm": False}),
    "context_gating_mee": ("context_gating", {"channels": 64, "linear_bias": True}),
    "effnet_block_andrij": ("effnet_block", {"in_channels": 64, "out_channels": 128}),
    "effnet_block_andrij_odd": ("effnet_block", {"in_channels": 64, "out_channels": 96}),
    "spp_yolov5": ("spp", {"in_channels": 64, "out_channels": 48}),
    "spp_plain": ("spp", {"in_channels": 16, "out_channels": 64, "project": False}),
    "spp_darknet": ("spp", {"in_channels": 16, "out_channels": 64, "project": False, "order": "darknet"}),
    "spp_he_max": ("spp_he", {}),
    "spp_he_max_6321": ("spp_he", {"levels": (6, 3, 2, 1)}),
    "spp_he_avg": ("spp_he", {"pool": "avg"}),
    "blazeblock_seed_k5": ("blaze_block", {"in_channels": 64, "out_channels": 64}),
    "blazeblock_seed_double_s2": (
        "double_blaze_block",
        {"in_channels": 48, "mid_channels": 24, "out_channels": 96, "stride": 2},
    ),
    "blazeblock_mediapipe": ("blaze_block", {"in_channels": 64, "out_channels": 64, "tflite": True}),
    "blazeblock_mediapipe_s2": (
        "blaze_block",
        {"in_channels": 64, "out_channels": 96, "stride": 2, "tflite": True},
    ),
    # plug-and-play: the other convolutions
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
