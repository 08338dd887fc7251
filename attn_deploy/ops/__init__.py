"""Export-friendly primitives: the forms of common operators that survive both exporters at symbolic N, H and W.

Every function here is plain torch, gives the same numbers as the operator it stands for, and was chosen because the
usual form is refused by an exporter or, worse, exported wrong in silence.
"""

from attn_deploy.ops.bilinear_rows import bilinear_taps, pixel_rows
from attn_deploy.ops.ceil_pooling import ceil_avg_pool2d
from attn_deploy.ops.channel_layer_norm import ChannelLayerNorm2d
from attn_deploy.ops.checks import (
    check_channels,
    is_traced,
    require_choice,
    require_divisible,
    require_multiple,
    require_odd,
    require_positive,
    require_reduced,
)
from attn_deploy.ops.expert_conv import EXPORT_FORMS, ExpertConv2d, cheaper_form
from attn_deploy.ops.folding import (
    Fusible,
    conv_bn_relu,
    fold_bn_,
    fold_bn_before_conv,
    fold_bn_into_conv,
    fold_bn_into_linear,
    fold_sequential,
    fuse_conv_bn,
)
from attn_deploy.ops.fourier import dft_tables, filter_frequencies
from attn_deploy.ops.group_norm import GroupNorm2d, group_norm
from attn_deploy.ops.halo_windows import halo_windows
from attn_deploy.ops.norm import channel_layer_norm, instance_norm
from attn_deploy.ops.padding import pad_same
from attn_deploy.ops.patches import merge_patches, split_patches
from attn_deploy.ops.pooling import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    averaging_matrix,
    global_avg_pool,
    global_max_pool,
)
from attn_deploy.ops.region_gather import gather_regions
from attn_deploy.ops.resize import nearest_matrix, resize_bilinear, resize_nearest

__all__ = [
    "EXPORT_FORMS",
    "ChannelLayerNorm2d",
    "ExpertConv2d",
    "Fusible",
    "GroupNorm2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "averaging_matrix",
    "bilinear_taps",
    "ceil_avg_pool2d",
    "channel_layer_norm",
    "cheaper_form",
    "check_channels",
    "conv_bn_relu",
    "dft_tables",
    "filter_frequencies",
    "fold_bn_",
    "fold_bn_before_conv",
    "fold_bn_into_conv",
    "fold_bn_into_linear",
    "fold_sequential",
    "fuse_conv_bn",
    "gather_regions",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "halo_windows",
    "instance_norm",
    "is_traced",
    "merge_patches",
    "nearest_matrix",
    "pad_same",
    "pixel_rows",
    "require_choice",
    "require_divisible",
    "require_multiple",
    "require_odd",
    "require_positive",
    "require_reduced",
    "resize_bilinear",
    "resize_nearest",
    "split_patches",
]
