"""Vector files of the re-parameterised, dynamic and deformable convolutions, the up-samplers and the slim neck."""

from __future__ import annotations


def _io(in_channels: int, out_channels: int, **arguments: object) -> dict:
    return {"in_channels": in_channels, "out_channels": out_channels, **arguments}


CASES: dict[str, tuple[str, dict]] = {
    "repvgg_block": ("repvgg_block", _io(16, 16)),
    "repvgg_block_stride2": ("repvgg_block", _io(16, 24, stride=2)),
    "repvgg_block_groups": ("repvgg_block", _io(16, 16, groups=4)),
    "repvgg_block_se": ("repvgg_block", _io(32, 32, use_se=True)),
    "repvgg_block_post_se": ("repvgg_block", _io(32, 32, post_se=True)),
    "repconv": ("repconv", _io(32, 32, bn=True)),
    "repc3": ("repc3", _io(32, 32, n=2, e=1.0)),
    "qarepvgg_block": ("qarepvgg_block", _io(16, 16)),
    "qarepvgg_block_v2": ("qarepvgg_block_v2", _io(16, 16)),
    "diverse_branch_block": ("diverse_branch_block", _io(16, 16, activation="relu")),
    "diverse_branch_block_stride2": ("diverse_branch_block", _io(16, 24, stride=2, activation="relu")),
    "diverse_branch_block_groups_k5": (
        "diverse_branch_block",
        _io(16, 16, kernel_size=5, groups=2, activation="relu"),
    ),
    "diverse_branch_block_dw": ("diverse_branch_block", _io(16, 16, groups=16, activation="relu")),
    "mobileone_block": ("mobileone_block", _io(16, 16, num_conv_branches=4)),
    "mobileone_block_dw_s2": ("mobileone_block", _io(16, 16, stride=2, groups=16)),
    "mobileone_block_pw": ("mobileone_block", _io(16, 24, kernel_size=1, num_conv_branches=2)),
    "mobileone_block_pw_skip_se": (
        "mobileone_block",
        _io(32, 32, kernel_size=1, num_conv_branches=2, use_se=True),
    ),
    "pconv": ("pconv", {"channels": 16, "n_div": 4}),
    "pconv_uneven": ("pconv", {"channels": 18, "n_div": 4}),
    "fasternet_block": ("fasternet_block", {"channels": 16}),
    "fasternet_block_gelu_ls": (
        "fasternet_block",
        {"channels": 16, "act": "gelu", "layer_scale_init_value": 1e-5},
    ),
    "odconv": ("odconv", _io(16, 24, kernel_num=4, padding=1)),
    "odconv_1x": ("odconv", _io(16, 16, stride=2, kernel_num=1, padding=1)),
    "odconv_pw4": ("odconv", _io(16, 24, kernel_size=1, kernel_num=4)),
    "odconv_pw1": ("odconv", _io(16, 24, kernel_size=1, kernel_num=1)),
    "odconv_dw": ("odconv", _io(16, 16, groups=16, kernel_num=2, padding=1)),
    "odconv_groups_d2": ("odconv", _io(16, 24, groups=4, kernel_num=2, dilation=2, padding=2)),
    "carafe": ("carafe", {"channels": 16, "compressed_channels": 8}),
    "carafe_g2_s3": (
        "carafe",
        {
            "channels": 16,
            "scale_factor": 3,
            "up_kernel": 3,
            "up_group": 2,
            "encoder_dilation": 2,
            "compressed_channels": 8,
        },
    ),
    "dysample": ("dysample", {"channels": 16}),
    "dysample_dyscope": ("dysample", {"channels": 16, "dyscope": True}),
    "dysample_pl": ("dysample", {"channels": 16, "style": "pl", "dyscope": True}),
    "dysample_s3": ("dysample", {"channels": 18, "scale": 3, "groups": 2}),
    "spd_conv": ("spd_conv", _io(8, 16)),
    "spd_conv_k1": ("spd_conv", _io(8, 16, kernel_size=1)),
    "gsconv": ("gsconv", _io(16, 24, kernel_size=3, stride=2, act="mish", shuffle="interleave")),
    # The configuration stored in the file says SiLU; that folder's convolutions have Mish, and so do the vectors.
    "gsconv_deinterleave": ("gsconv", _io(16, 24, act="mish", shuffle="deinterleave")),
    "gs_bottleneck": ("gs_bottleneck", _io(16, 16)),
    "vovgscsp": ("vovgscsp", _io(16, 32, n=2)),
    "vovgscsp_paper": ("vovgscsp", _io(16, 32, variant="paper")),
    "scconv_recon": ("scconv_recon", {"channels": 16}),
    "scconv_recon_sru": ("scconv_recon_sru", {"channels": 16, "group_num": 4}),
    "scconv_recon_cru": ("scconv_recon_cru", {"channels": 16}),
    "scconv_recon_cru_a": ("scconv_recon_cru", {"channels": 16, "alpha": 0.75, "group_kernel_size": 5}),
    "rfaconv": ("rfaconv", _io(8, 16)),
    "rfaconv_stride2": ("rfaconv", _io(8, 16, stride=2)),
    "rfcaconv": ("rfcaconv", _io(8, 16)),
    "rfcbamconv": ("rfcbamconv", _io(8, 16)),
    "deformable_conv_v2": ("deformable_conv_v2", _io(8, 12)),
    "deformable_conv_v2_s2": ("deformable_conv_v2", _io(8, 12, stride=2, groups=2, deform_groups=2)),
    "deformable_conv_v2_d2": (
        "deformable_conv_v2",
        _io(8, 8, dilation=2, padding=2, groups=8, deform_groups=4),
    ),
    "dcn_v3": ("dcn_v3", {"channels": 16}),
    "dcn_v3_cfs_rc": (
        "dcn_v3",
        {
            "channels": 16,
            "group": 2,
            "dw_kernel_size": 5,
            "offset_scale": 2.0,
            "center_feature_scale": True,
            "remove_center": True,
        },
    ),
    "dcn_v3_k5_d2": (
        "dcn_v3",
        {
            "channels": 8,
            "group": 1,
            "kernel_size": 5,
            "pad": 4,
            "dilation": 2,
            "act": "silu",
            "norm": "batch",
        },
    ),
    "snake_conv": ("snake_conv", _io(8, 16, kernel_size=9, extend_scope=1.0, morph=0)),
    "snake_conv_y": ("snake_conv", _io(8, 16, kernel_size=5, extend_scope=1.5, morph=1)),
}
