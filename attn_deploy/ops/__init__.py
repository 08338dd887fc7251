"""Export-friendly primitives: the forms of common operators that survive both exporters at symbolic N, H and W.

Every function here is plain torch, gives the same numbers as the operator it stands for, and was chosen because the
usual form is refused by an exporter or, worse, exported wrong in silence.
"""

from attn_deploy.ops.activations import ACTIVATIONS, activation, require_activation
from attn_deploy.ops.bilinear_rows import bilinear_taps, pixel_rows
from attn_deploy.ops.bilinear_sampling import bilinear_sample, bilinear_sums, coordinates_like
from attn_deploy.ops.ceil_pooling import ceil_avg_pool2d
from attn_deploy.ops.checks import (
    check_channels,
    check_map,
    is_traced,
    require_choice,
    require_convolution,
    require_divisible,
    require_multiple,
    require_not_negative,
    require_odd,
    require_positive,
    require_reduced,
)
from attn_deploy.ops.conv_bn_act import conv_bn_act, conv_bn_relu
from attn_deploy.ops.conv_norm_act import ConvNormAct, folded_conv
from attn_deploy.ops.coordinates import coordinate_line, coordinate_maps
from attn_deploy.ops.drop_path import DropPath
from attn_deploy.ops.expert_conv import EXPORT_FORMS, ExpertConv2d, cheaper_form
from attn_deploy.ops.folding import (
    Fusible,
    fold_bn_,
    fold_bn_before_conv,
    fold_bn_into_conv,
    fold_bn_into_linear,
    fold_sequential,
    fuse_conv_bn,
)
from attn_deploy.ops.fourier import dft_tables, filter_frequencies
from attn_deploy.ops.group_norm import GroupNorm2d, group_norm
from attn_deploy.ops.halo_windows import halo_tokens
from attn_deploy.ops.initialisation import fan_out_normal_
from attn_deploy.ops.layer_norm_2d import LayerNormOverChannels, layer_norm_2d
from attn_deploy.ops.linear_resize import linear_matrix
from attn_deploy.ops.make_divisible import make_divisible
from attn_deploy.ops.merge_convs import add_parallel_conv_, centred_kernel, dilated_kernel, scale_conv_output_
from attn_deploy.ops.moments import require_two_positions, unbiased_variance
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
from attn_deploy.ops.resize import nearest_matrix, resize_bilinear, resize_nearest, resize_nearest_from_half
from attn_deploy.ops.response_norm import ResponseNorm, relative_response
from attn_deploy.ops.strips import strip_means

__all__ = [
    "ACTIVATIONS",
    "EXPORT_FORMS",
    "ConvNormAct",
    "DropPath",
    "ExpertConv2d",
    "Fusible",
    "GroupNorm2d",
    "LayerNormOverChannels",
    "ResponseNorm",
    "activation",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "add_parallel_conv_",
    "averaging_matrix",
    "bilinear_sample",
    "bilinear_sums",
    "bilinear_taps",
    "ceil_avg_pool2d",
    "centred_kernel",
    "channel_layer_norm",
    "cheaper_form",
    "check_channels",
    "check_map",
    "conv_bn_act",
    "conv_bn_relu",
    "coordinate_line",
    "coordinate_maps",
    "coordinates_like",
    "dft_tables",
    "dilated_kernel",
    "fan_out_normal_",
    "filter_frequencies",
    "fold_bn_",
    "fold_bn_before_conv",
    "fold_bn_into_conv",
    "fold_bn_into_linear",
    "fold_sequential",
    "folded_conv",
    "fuse_conv_bn",
    "gather_regions",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "halo_tokens",
    "instance_norm",
    "is_traced",
    "layer_norm_2d",
    "linear_matrix",
    "make_divisible",
    "merge_patches",
    "nearest_matrix",
    "pad_same",
    "pixel_rows",
    "relative_response",
    "require_activation",
    "require_choice",
    "require_convolution",
    "require_divisible",
    "require_multiple",
    "require_not_negative",
    "require_odd",
    "require_positive",
    "require_reduced",
    "require_two_positions",
    "resize_bilinear",
    "resize_nearest",
    "resize_nearest_from_half",
    "scale_conv_output_",
    "split_patches",
    "strip_means",
    "unbiased_variance",
]
