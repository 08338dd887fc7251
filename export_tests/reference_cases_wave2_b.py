"""Vector files of the attention and convolution modules that mix positions: rows of `reference_cases`."""

from __future__ import annotations

_AXIAL = {"in_channels": 32, "out_channels": 48, "groups": 4, "kernel_size": 10}
_DEFORMABLE = {"channels": 32, "num_levels": 2, "num_heads": 4, "num_points": 3}
_FOCAL = {
    "channels": 32,
    "focal_window": 5,
    "focal_level": 3,
    "focal_factor": 4,
    "bias": False,
    "use_postln_in_modulation": True,
    "normalize_modulator": True,
}
_GLOBAL_LOCAL = {"channels": 32, "order": 4, "scale": 0.5, "gflayer": "global_local", "height": 10, "width": 12}
_MOBILEVIT = {"channels": 24, "dim": 32, "ffn_dim": 64, "head_dim": 8}
_PYRAMID = {"kernel_sizes": (3, 5, 3, 7), "groups": (2, 4, 4, 8), "stride": 2}

CASES: dict[str, tuple[str, dict]] = {
    "cot": ("cot", {"channels": 64}),
    "cot_k5": ("cot", {"channels": 32, "kernel_size": 5}),
    "coxt": ("coxt", {"channels": 64}),
    "polarized_self_attention": ("polarized_self_attention", {"channels": 64}),
    "polarized_self_attention_paper": ("polarized_self_attention", {"channels": 64, "variant": "paper"}),
    "polarized_self_attention_sequential": ("polarized_self_attention_sequential", {"channels": 64}),
    "polarized_self_attention_sequential_paper": (
        "polarized_self_attention_sequential",
        {"channels": 64, "variant": "paper"},
    ),
    "psa": ("psa", {"in_channels": 64, "out_channels": 64}),
    "psa_s2": ("psa", {"in_channels": 64, "out_channels": 128, **_PYRAMID}),
    "area_attention": ("area_attention", {"channels": 32, "num_heads": 2, "area": 4}),
    "area_attention_full": ("area_attention", {"channels": 32, "num_heads": 2, "area": 1}),
    "area_attention_ultralytics": (
        "area_attention",
        {"channels": 32, "num_heads": 2, "area": 4, "layout": "ultralytics"},
    ),
    "area_attention_block": ("area_attention_block", {"channels": 32, "num_heads": 1, "area": 4}),
    "aifi": ("aifi", {"channels": 32, "ffn_dim": 128, "num_heads": 4}),
    "aifi_prenorm": ("aifi", {"channels": 32, "ffn_dim": 96, "num_heads": 4, "normalize_before": True}),
    "deformable_attention": ("deformable_attention", _DEFORMABLE),
    "deformable_attention_boxes": ("deformable_attention", _DEFORMABLE),
    "involution": ("involution", {"channels": 32}),
    "involution_s2": ("involution", {"channels": 32, "kernel_size": 3, "stride": 2}),
    "mobilevit": ("mobilevit", _MOBILEVIT),
    "mobilevit_resize": ("mobilevit", _MOBILEVIT),
    "mobilevit_nofusion_p4": ("mobilevit", {**_MOBILEVIT, "depth": 1, "patch_size": 4, "fusion": False}),
    "mobilevit_v2": ("mobilevit_v2", {"channels": 24, "dim": 32}),
    "mobilevit_v2_resize": ("mobilevit_v2", {"channels": 24, "dim": 32}),
    "separable_self_attention": ("separable_self_attention", {"channels": 32}),
    "focal_modulation": ("focal_modulation", {"channels": 32, "focal_window": 3, "focal_level": 2}),
    "focal_modulation_postln": ("focal_modulation", _FOCAL),
    "gnconv": ("gnconv", {"channels": 32}),
    "gnconv_order3": ("gnconv", {"channels": 32, "order": 3, "scale": 1 / 3}),
    "gnconv_gf": ("gnconv", _GLOBAL_LOCAL),
    "global_filter": ("global_filter", {"channels": 32, "height": 14, "width": 14}),
    "global_filter_odd": ("global_filter", {"channels": 24, "height": 9, "width": 15}),
    "global_filter_wide": ("global_filter", {"channels": 16, "height": 10, "width": 16}),
    "agent_attention": ("agent_attention", {"channels": 24, "size": 10, "num_heads": 4, "qkv_bias": True}),
    "agent_attention_sr2": (
        "agent_attention",
        {"channels": 24, "size": 10, "num_heads": 4, "sr_ratio": 2, "agent_num": 9},
    ),
    "bi_level_routing_attention": (
        "bi_level_routing_attention",
        {"channels": 32, "num_heads": 4, "n_win": 4, "topk": 3},
    ),
    "bi_level_routing_attention_w3": (
        "bi_level_routing_attention",
        {"channels": 24, "num_heads": 3, "n_win": 3, "topk": 2, "side_dwconv": 5},
    ),
    "halo_attention": ("halo_attention", {"channels": 32, "num_heads": 4, "block_size": 4, "halo_size": 1}),
    "halo_attention_s2": (
        "halo_attention",
        {"channels": 32, "num_heads": 2, "stride": 2, "qkv_bias": True, "scale_pos_embed": True},
    ),
    "halo_attention_avg": (
        "halo_attention",
        {"channels": 32, "num_heads": 4, "block_size": 4, "halo_size": 2, "stride": 2, "avg_down": True},
    ),
    "outlook_attention": ("outlook_attention", {"channels": 32, "num_heads": 4}),
    "outlook_attention_s2": ("outlook_attention", {"channels": 32, "num_heads": 4, "stride": 2, "qkv_bias": True}),
    "axial_attention": ("axial_attention", {"channels": 32}),
    "axial_attention_chained": ("axial_attention", {"channels": 32, "num_heads": 4, "sum_axial_out": False}),
    "axial_attention_deeplab_h": ("axial_attention_deeplab", _AXIAL),
    "axial_attention_deeplab_w_s2": ("axial_attention_deeplab", {**_AXIAL, "stride": 2, "width": True}),
    "acmix": ("acmix", {"in_channels": 24, "out_channels": 16}),
    "acmix_s2": (
        "acmix",
        {"in_channels": 24, "out_channels": 16, "kernel_att": 5, "num_heads": 2, "stride": 2},
    ),
}
