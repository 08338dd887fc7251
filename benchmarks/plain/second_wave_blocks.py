"""The cases of the second wave outside attention: blocks that are rewritten or merged for deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import (
    bifpn,
    compact_convs,
    dynamic,
    ghost,
    large_kernels,
    mixers,
    mobile_blocks,
    necks,
    reparameterised,
    sampled,
    small_layers,
    yolo_blocks,
)
from .case import Case


def _both(c: int, h: int, w: int) -> Mapping[str, Any]:
    return {"in_channels": c, "out_channels": c}


_LEVELS = {
    "arguments": lambda c, h, w: {"in_channels": (c,) * 3, "out_channels": c},
    "at": lambda size: (size[0], *(max(8, n // 4 * 4) for n in size[1:])),
    "sizes": lambda h, w: {"H": h // 4, "W": w // 4},
    "note": "three levels; the size is that of the finest",
}

SECOND_WAVE_BLOCKS: dict[str, Case] = {
    "repvgg_block": Case(plain=lambda c, h, w: reparameterised.RepVGG(c), arguments=_both),
    "qarepvgg_block": Case(plain=lambda c, h, w: reparameterised.QARepVGG(c), arguments=_both),
    "mobileone_block": Case(
        plain=lambda c, h, w: reparameterised.MobileOne(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "num_conv_branches": 4},
    ),
    "diverse_branch_block": Case(
        plain=lambda c, h, w: reparameterised.DiverseBranch(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "activation": "relu"},
    ),
    "dilated_reparam_block": Case(plain=lambda c, h, w: reparameterised.DilatedReparam(c)),
    "replk_block": Case(
        plain=lambda c, h, w: reparameterised.RepLK(c, 13, 5),
        arguments=lambda c, h, w: {"channels": c, "kernel_size": 13},
        note="13x13 with 5x5",
    ),
    "hetconv": Case(
        plain=lambda c, h, w: reparameterised.HetConv(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "deploy_form": "two_convs"},
    ),
    "spd_conv": Case(plain=lambda c, h, w: reparameterised.SPDConv(c, c), arguments=_both),
    "dysample": Case(plain=lambda c, h, w: sampled.DySample(c)),
    "carafe": Case(plain=lambda c, h, w: sampled.CARAFE(c)),
    "deformable_conv_v2": Case(plain=lambda c, h, w: sampled.DCNv2(c, c), arguments=_both),
    "snake_conv": Case(plain=lambda c, h, w: sampled.SnakeConv(c, c), arguments=_both),
    "dcn_v3": Case(plain=lambda c, h, w: sampled.DCNv3(c)),
    "odconv": Case(
        plain=lambda c, h, w: dynamic.ODConv(c, c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "padding": 1},
    ),
    "involution": Case(plain=lambda c, h, w: dynamic.Involution(c)),
    "rfaconv": Case(plain=lambda c, h, w: dynamic.RFAConv(c, c), arguments=_both),
    "rfcaconv": Case(plain=lambda c, h, w: dynamic.RFCAConv(c, c), arguments=_both),
    "rfcbamconv": Case(plain=lambda c, h, w: dynamic.RFCBAMConv(c, c), arguments=_both),
    "gsconv": Case(
        plain=lambda c, h, w: dynamic.GSConv(c, c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "shuffle": "deinterleave"},
        note="as in the YOLOv5 folder",
    ),
    "wtconv": Case(
        plain=lambda c, h, w: dynamic.WTConv(c, 2), arguments=lambda c, h, w: {"channels": c, "wt_levels": 2}
    ),
    "scconv_recon": Case(plain=lambda c, h, w: compact_convs.SCConvRecon(c)),
    "ghostmodule_v2": Case(plain=lambda c, h, w: ghost.GhostModuleV2(c, c), arguments=_both),
    "acmix": Case(plain=lambda c, h, w: mixers.ACmix(c, c), arguments=_both),
    "mobilevit": Case(
        plain=lambda c, h, w: mixers.MobileViT(c, 96, 192, 24),
        arguments=lambda c, h, w: {"channels": c, "dim": 96, "ffn_dim": 192, "head_dim": 24},
    ),
    "mobilevit_v2": Case(
        plain=lambda c, h, w: mobile_blocks.MobileViTV2(c, 96), arguments=lambda c, h, w: {"channels": c, "dim": 96}
    ),
    "convnext_block": Case(plain=lambda c, h, w: mixers.ConvNeXt(c)),
    "convnextv2_block": Case(
        plain=lambda c, h, w: mixers.ConvNeXt(c, 2), arguments=lambda c, h, w: {"channels": c, "version": 2}
    ),
    "starnet_block": Case(plain=lambda c, h, w: mixers.Star(c)),
    "csra_multihead": Case(
        plain=lambda c, h, w: mixers.MultiHeadCSRA(c, 20),
        arguments=lambda c, h, w: {"in_channels": c, "num_classes": 20},
    ),
    "sppcspc": Case(plain=lambda c, h, w: mixers.SPPCSPC(c), arguments=_both),
    "repvit_block": Case(plain=lambda c, h, w: mixers.RepViT(c), arguments=_both),
    "bifpn_layer": Case(
        plain=lambda c, h, w: bifpn.BiFPN(c, h, w),
        arguments=lambda c, h, w: {"in_channels": (c,) * 5, "out_channels": c},
        at=lambda size: (64, *(max(16, n // 16 * 16) for n in size[1:])),
        sizes=lambda h, w: {"H": h // 16, "W": w // 16},
        note="five levels; the size is that of the finest",
    ),
    # norms, coordinates, sizes
    "layer_norm_2d": Case(plain=lambda c, h, w: small_layers.LayerNorm2d(c)),
    "add_coords": Case(plain=lambda c, h, w: small_layers.AddCoords()),
    "coordconv": Case(plain=lambda c, h, w: small_layers.CoordConv(c, c), arguments=_both),
    "pixel_unshuffle_block": Case(plain=lambda c, h, w: small_layers.PixelUnshuffleBlock(c, c), arguments=_both),
    "blurpool": Case(plain=lambda c, h, w: small_layers.BlurPool(c)),
    "csra": Case(
        plain=lambda c, h, w: mixers.CSRA(c, 20, 1), arguments=lambda c, h, w: {"in_channels": c, "num_classes": 20}
    ),
    # parts of the channels, branches, large kernels
    "dualconv": Case(plain=lambda c, h, w: compact_convs.DualConv(c), arguments=_both),
    "octave_conv": Case(
        plain=lambda c, h, w: compact_convs.OctaveConv(c),
        arguments=_both,
        at=lambda size: (size[0], *(n // 2 * 2 for n in size[1:])),
        sizes=lambda h, w: {"H": h // 2, "W": w // 2},
        note="half of the channels at half the size",
    ),
    "cgnet_block": Case(plain=lambda c, h, w: compact_convs.ContextGuided(c), arguments=_both),
    "qarepvgg_block_v2": Case(plain=lambda c, h, w: reparameterised.QARepVGG(c, 2), arguments=_both),
    "replk_reparam_conv": Case(
        plain=lambda c, h, w: reparameterised.LargeKernel(c, 13, 5),
        arguments=lambda c, h, w: {
            "in_channels": c,
            "out_channels": c,
            "kernel_size": 13,
            "groups": c,
            "small_kernel": 5,
        },
        note="13x13 with 5x5",
    ),
    "replk_ffn": Case(plain=lambda c, h, w: large_kernels.ConvFFN(c)),
    "inception_next_block": Case(plain=lambda c, h, w: large_kernels.InceptionNeXt(c)),
    "gnconv": Case(plain=lambda c, h, w: large_kernels.GnConv(c)),
    "unireplknet_block": Case(plain=lambda c, h, w: large_kernels.UniRepLKNet(c)),
    # mobile networks
    "fasternet_block": Case(plain=lambda c, h, w: mobile_blocks.FasterNet(c)),
    "ghostv2_bottleneck": Case(
        plain=lambda c, h, w: ghost.GhostBottleneckV2(c, 2 * c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "mid_channels": 2 * c},
    ),
    "uib": Case(
        plain=lambda c, h, w: mobile_blocks.UIB(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "start_kernel": 5, "mid_kernel": 3},
    ),
    "mbconv": Case(plain=lambda c, h, w: mobile_blocks.InvertedResidual(c, 4, True), arguments=_both),
    "inverted_residual": Case(plain=lambda c, h, w: mobile_blocks.InvertedResidual(c, 6, False), arguments=_both),
    "fused_mbconv": Case(plain=lambda c, h, w: mobile_blocks.FusedMBConv(c), arguments=_both),
    # detectors
    "parnet_block": Case(plain=lambda c, h, w: yolo_blocks.ParNet(c)),
    "repconv": Case(plain=lambda c, h, w: yolo_blocks.RepConv(c, c), arguments=_both),
    "repc3": Case(plain=lambda c, h, w: yolo_blocks.RepC3(c), arguments=_both),
    "gs_bottleneck": Case(plain=lambda c, h, w: yolo_blocks.GSBottleneck(c, c), arguments=_both),
    "vovgscsp": Case(plain=lambda c, h, w: yolo_blocks.VoVGSCSP(c), arguments=_both),
    "repncspelan4": Case(
        plain=lambda c, h, w: yolo_blocks.RepNCSPELAN4(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "c3": c, "c4": c // 2},
    ),
    "scdown": Case(plain=lambda c, h, w: yolo_blocks.SCDown(c), arguments=_both),
    "fpn": Case(plain=lambda c, h, w: necks.FPN(c), **_LEVELS),
    "pan": Case(plain=lambda c, h, w: necks.PAFPN(c), **_LEVELS),
    "asff": Case(
        plain=lambda c, h, w: necks.ASFF(c),
        **{**_LEVELS, "arguments": lambda c, h, w: {"in_channels": (c,) * 3, "level": 1, "out_channels": c}},
    ),
}
