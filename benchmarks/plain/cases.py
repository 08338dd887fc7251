"""Which plain formulation stands beside which zoo module, and the configuration of both at a channel count and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from attn_deploy import load_official_state_dict
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.resolve.make import ResolvedModel
from attn_deploy.resolve.resolve import resolve
from attn_deploy.resolve.seeding import enliven

from . import branches, criss_cross, descriptors, gates, non_local, parts, pyramid, regions, windows
from .case import Case, Size
from .second_wave import SECOND_WAVE
from .second_wave_blocks import SECOND_WAVE_BLOCKS


def _in_channels(c: int, h: int, w: int) -> Mapping[str, Any]:
    return {"in_channels": c}


@dataclass(frozen=True, slots=True)
class Pair:
    """Both modules with the same weights, in eval mode, and the inputs that both take."""

    name: str
    zoo: ResolvedModel
    plain: nn.Module
    inputs: tuple[TensorInput, ...]


def make_pair(name: str, size: Size, *, seed: int = 0) -> Pair:
    """Make a case's two modules at (channels, height, width), with random weights that leave nothing at zero or one."""
    return pair_of(name, CASES[name], size, seed=seed)


def pair_of(name: str, case: Case, size: Size, *, seed: int = 0) -> Pair:
    """As `make_pair`, of a case that is in no table."""
    c, h, w = size
    plain = enliven(case.plain(c, h, w).eval(), seed)
    zoo = resolve(case.model or name, case.arguments(c, h, w))
    load_official_state_dict(zoo.module, plain.state_dict())
    extents = {"N": 1, "H": h, "W": w, **case.sizes(h, w)}
    inputs = tuple(replace(i, sizes={**i.sizes, **extents}) for i in zoo.inputs or ())
    return Pair(name, replace(zoo, inputs=inputs), plain, inputs)


def _up_to(largest: int) -> Callable[[Size], Size]:
    return lambda size: (size[0], min(size[1], largest), min(size[2], largest))


def _multiple_of_24(size: Size) -> Size:
    return (size[0], *(max(24, n // 24 * 24) for n in size[1:]))


_PYRAMID = "the grids 1, 3, 6, 8 must divide the map for the plain form to export"
_PAIRS = "a tensor of all pairs: above 28x28 it takes more than 2 GB"
_HALF = {"sizes": lambda h, w: {"H1": h // 2, "W1": w // 2}}

CASES: dict[str, Case] = {
    # gates
    "se": Case(plain=lambda c, h, w: gates.SELayer(c)),
    "cse": Case(plain=lambda c, h, w: gates.ChannelSELayer(c)),
    "sse": Case(plain=lambda c, h, w: gates.SpatialSELayer(c)),
    "scse": Case(plain=lambda c, h, w: gates.ChannelSpatialSELayer(c)),
    "eca": Case(plain=lambda c, h, w: gates.ECALayer()),
    "eca_ns": Case(plain=lambda c, h, w: gates.ECANonSharedLayer(c)),
    "cbam": Case(plain=lambda c, h, w: gates.CBAM(c)),
    "cbam_channel": Case(plain=lambda c, h, w: gates.ChannelGate(c)),
    "cbam_spatial": Case(plain=lambda c, h, w: gates.SpatialGate()),
    "bam": Case(plain=lambda c, h, w: gates.BAM(c)),
    "sge": Case(
        plain=lambda c, h, w: gates.SpatialGroupEnhance(min(64, c // 8)),
        arguments=lambda c, h, w: {"channels": c, "groups": min(64, c // 8)},
    ),
    "shuffle_attention": Case(
        plain=lambda c, h, w: gates.ShuffleAttention(c, c // 8),
        arguments=lambda c, h, w: {"channels": c, "groups": c // 8},
    ),
    "ulsam": Case(plain=lambda c, h, w: gates.ULSAM(c)),
    # descriptors
    "gsop": Case(plain=lambda c, h, w: descriptors.GSoP(c, "channel")),
    **{
        f"gsop_{mode}": Case(plain=lambda c, h, w, mode=mode: descriptors.GSoP(c, mode))
        for mode in ("position", "avg", "max", "concat")
    },
    "gc": Case(plain=lambda c, h, w: descriptors.ContextBlock(c)),
    "fca": Case(
        plain=lambda c, h, w: descriptors.MultiSpectralAttention(c, h, w),
        arguments=lambda c, h, w: {"channels": c, "dct_h": h, "dct_w": w},
        note="filters of the size of the map, as in the published networks",
    ),
    "ge_theta_minus": Case(plain=lambda c, h, w: descriptors.GatherExcite(c, "theta_minus", (h, w))),
    **{
        f"ge_{variant}": Case(
            plain=lambda c, h, w, variant=variant: descriptors.GatherExcite(c, variant, (h, w)),
            arguments=lambda c, h, w: {"channels": c, "feat_size": (h, w)},
        )
        for variant in ("theta", "theta_plus")
    },
    # attention over all positions
    **{
        f"non_local_{mode}": Case(plain=lambda c, h, w, mode=mode: non_local.NonLocalBlock(c, mode))
        for mode in ("embedded_gaussian", "gaussian", "dot_product")
    },
    "non_local_concatenation": Case(
        plain=lambda c, h, w: non_local.NonLocalBlock(c, "concatenation"), at=_up_to(28), note=_PAIRS
    ),
    "light_nl": Case(
        plain=lambda c, h, w: non_local.LightNonLocal(c, 0.25),
        arguments=lambda c, h, w: {"channels": c, "nl_ratio": 0.25},
        note="a quarter of the channels, as in the searched networks",
    ),
    "a2_double_attention": Case(plain=lambda c, h, w: non_local.DoubleAttention(c), arguments=_in_channels),
    "efficient_attention": Case(plain=lambda c, h, w: non_local.EfficientAttention(c, 1)),
    "efficient_attention:num_heads=4": Case(
        plain=lambda c, h, w: non_local.EfficientAttention(c, 4),
        model="efficient_attention",
        arguments=lambda c, h, w: {"channels": c, "num_heads": 4},
    ),
    "rnan_nonlocal": Case(plain=lambda c, h, w: non_local.RNANNonLocal(c)),
    "rnan_res_att": Case(plain=lambda c, h, w: non_local.ResidualAttention(c, False)),
    "rnan_nl_res_att": Case(plain=lambda c, h, w: non_local.ResidualAttention(c, True)),
    "danet_pam": Case(plain=lambda c, h, w: non_local.PositionAttention(c)),
    "danet_cam": Case(plain=lambda c, h, w: non_local.ChannelAttention()),
    "danet_head": Case(
        plain=lambda c, h, w: non_local.DANetHead(c, 19),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": 19},
    ),
    "criss_cross": Case(plain=lambda c, h, w: criss_cross.CrissCrossAttention(c)),
    "rcca": Case(plain=lambda c, h, w: criss_cross.RCCA(c)),
    "rcca_head": Case(
        plain=lambda c, h, w: criss_cross.RCCAHead(c, c // 4, 19),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c // 4, "num_classes": 19},
    ),
    "generalized_attention": Case(plain=lambda c, h, w: windows.GeneralizedAttention(c)),
    "generalized_attention_0010": Case(
        plain=lambda c, h, w: windows.GeneralizedAttention(c, only_key_content=True),
    ),
    # regions and parts
    "apnb": Case(
        plain=lambda c, h, w: regions.APNB(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c},
        at=_multiple_of_24,
        note=_PYRAMID,
    ),
    "afnb": Case(
        plain=lambda c, h, w: regions.AFNB(c, c, c),
        arguments=lambda c, h, w: {"low_in_channels": c, "high_in_channels": c, "out_channels": c},
        sizes=lambda h, w: {"HL": h, "WL": w},
        at=_multiple_of_24,
        note=_PYRAMID,
    ),
    "ocr": Case(
        plain=lambda c, h, w: regions.SpatialOCR(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "key_channels": c // 2},
    ),
    "ocr_object_attention": Case(plain=lambda c, h, w: regions.ObjectAttention(c, c // 2)),
    "ocr_spatial_gather": Case(
        plain=lambda c, h, w: regions.SpatialGather(),
        arguments=lambda c, h, w: {},
        at=lambda size: (64, *size[1:]),
        note="without parameters; registered for 64 channels",
    ),
    "ia_block": Case(plain=lambda c, h, w: regions.IABlock(c, h, w)),
    "iau": Case(plain=lambda c, h, w: parts.IAU(c)),
    "iau3d": Case(
        plain=lambda c, h, w: parts.IAU3d(c, 4), arguments=lambda c, h, w: {"channels": c, "frames": 4}, note="4 frames"
    ),
    # windows
    **{
        f"san_{kind}": Case(
            plain=lambda c, h, w, kind=kind: windows.SAM(c, c // 4, kind == "patchwise"),
            arguments=lambda c, h, w: {"in_channels": c, "out_channels": c // 4, "relation_channels": c // 16},
        )
        for kind in ("pairwise", "patchwise")
    },
    **{
        f"san_bottleneck_{kind}": Case(plain=lambda c, h, w, kind=kind: windows.SANBottleneck(c, kind == "patchwise"))
        for kind in ("pairwise", "patchwise")
    },
    "fpt_locality_gt": Case(
        plain=lambda c, h, w: windows.LocalityConstrained(c, c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c},
    ),
    # branches and fusion
    "sk": Case(plain=lambda c, h, w: branches.SelectiveKernel(c)),
    "splat_conv2d": Case(
        plain=lambda c, h, w: branches.SplitAttention(c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c},
    ),
    "sc_conv": Case(plain=lambda c, h, w: branches.SelfCalibrated(c)),
    "sc_bottleneck": Case(
        plain=lambda c, h, w: branches.SCBottleneck(c), arguments=lambda c, h, w: {"in_channels": c, "planes": c // 4}
    ),
    "ms_cam": Case(plain=lambda c, h, w: branches.MSCAM(c)),
    "aff": Case(plain=lambda c, h, w: branches.AFF(c)),
    "iaff": Case(plain=lambda c, h, w: branches.IAFF(c)),
    "dca_se": Case(
        plain=lambda c, h, w: branches.ConnectedSE(c, True),
        arguments=lambda c, h, w: {"channels": c, "previous_channels": c},
    ),
    "dca_se_first": Case(plain=lambda c, h, w: branches.ConnectedSE(c, False)),
    "dca_gc": Case(
        plain=lambda c, h, w: branches.ConnectedContext(c, True),
        arguments=lambda c, h, w: {"channels": c, "previous_channels": c},
    ),
    "dca_gc_first": Case(plain=lambda c, h, w: branches.ConnectedContext(c, False)),
    "dca_cbam": Case(
        plain=lambda c, h, w: branches.ConnectedCBAM(c, c // 2, 2),
        arguments=lambda c, h, w: {"channels": c, "previous_channels": c // 2, "ratio": 2},
        note="the previous maps have half the channels and twice the size",
    ),
    "dca_cbam_first": Case(plain=lambda c, h, w: branches.ConnectedCBAM(c)),
    # the feature pyramid transformer
    "fpt_self_trans": Case(plain=lambda c, h, w: pyramid.SelfTransformer(c)),
    "fpt_ground_trans": Case(plain=lambda c, h, w: pyramid.GroundTransformer(c, "dot"), **_HALF),
    **{
        f"fpt_ground_trans:mode={mode}": Case(
            plain=lambda c, h, w, mode=mode: pyramid.GroundTransformer(c, mode),
            model="fpt_ground_trans",
            arguments=lambda c, h, w, mode=mode: {"channels": c, "mode": mode},
            **_HALF,
            **({"at": _up_to(28), "note": _PAIRS} if mode == "concatenate" else {}),
        )
        for mode in ("embedded", "gaussian", "concatenate")
    },
    "fpt_render_trans": Case(
        plain=lambda c, h, w: pyramid.RenderTransformer(c),
        arguments=lambda c, h, w: {"channels": c, "low_channels": c},
        sizes=lambda h, w: {"H": h // 2, "W": w // 2},
        note="the size is that of the fine map",
    ),
    **SECOND_WAVE,
    **SECOND_WAVE_BLOCKS,
}
