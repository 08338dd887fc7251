"""The cases of the second wave: attention that appeared from 2019 on."""

from __future__ import annotations

from . import large_kernels, local_windows, polarized, routed, statistics, strips, tokens
from .case import Case, Size


def _up_to(largest: int, multiple: int = 1):
    def at(size: Size) -> Size:
        return (size[0], *(min(n, largest) // multiple * multiple for n in size[1:]))

    return at


def _square(size: Size) -> Size:
    return (size[0], 28, 28) if size[1] > 32 else (size[0], 14, 14)


_PAIRS = "attention over all positions: at most 28x28"

SECOND_WAVE: dict[str, Case] = {
    # strips and bins
    "coord_attention": Case(
        plain=lambda c, h, w: strips.CoordAttention(c), arguments=lambda c, h, w: {"in_channels": c}
    ),
    "ema": Case(plain=lambda c, h, w: strips.EMA(c, 8), arguments=lambda c, h, w: {"channels": c, "factor": 8}),
    "mlca": Case(plain=lambda c, h, w: strips.MLCA(c)),
    "ela": Case(plain=lambda c, h, w: strips.ELA(c)),
    "triplet_attention": Case(plain=lambda c, h, w: strips.TripletAttention(), at=lambda size: (64, *size[1:])),
    "sea_attention": Case(plain=lambda c, h, w: strips.SeaAttention(c)),
    # statistics
    "simam": Case(
        plain=lambda c, h, w: statistics.SimAM(), arguments=lambda c, h, w: {}, at=lambda size: (64, *size[1:])
    ),
    "srm": Case(plain=lambda c, h, w: statistics.SRM(c)),
    "gct": Case(plain=lambda c, h, w: statistics.GCT(c)),
    "nam": Case(plain=lambda c, h, w: statistics.NAM(c)),
    "effective_se": Case(plain=lambda c, h, w: statistics.EffectiveSE(c)),
    "grn": Case(plain=lambda c, h, w: statistics.GRN(c)),
    "gam": Case(plain=lambda c, h, w: statistics.GAM(c)),
    "parnet_attention": Case(plain=lambda c, h, w: statistics.ParNetAttention(c)),
    "psa": Case(
        plain=lambda c, h, w: statistics.PyramidSqueeze(c, c),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c},
    ),
    # polarized and external
    **{
        f"polarized_self_attention{'_sequential' * sequential}": Case(
            plain=lambda c, h, w, sequential=sequential: polarized.PolarizedOfficial(c, sequential)
        )
        for sequential in (False, True)
    },
    **{
        f"polarized_self_attention{'_sequential' * sequential}_paper": Case(
            plain=lambda c, h, w, sequential=sequential: polarized.PolarizedPaper(c, sequential),
            arguments=lambda c, h, w: {"channels": c, "variant": "paper"},
        )
        for sequential in (False, True)
    },
    "external_attention": Case(plain=lambda c, h, w: polarized.ExternalAttention(c)),
    "multihead_external_attention": Case(
        plain=lambda c, h, w: polarized.MultiheadExternalAttention(c), sizes=lambda h, w: {"L": h * w}
    ),
    # tokens
    "aifi": Case(plain=lambda c, h, w: tokens.AIFI(c), at=_up_to(28), note=_PAIRS),
    "area_attention": Case(
        plain=lambda c, h, w: tokens.AreaAttention(c, c // 32, 4),
        arguments=lambda c, h, w: {"channels": c, "num_heads": c // 32, "area": 4},
    ),
    "area_attention_block": Case(
        plain=lambda c, h, w: tokens.AreaBlock(c, c // 32, 4),
        arguments=lambda c, h, w: {"channels": c, "num_heads": c // 32, "area": 4},
    ),
    "a2c2f": Case(
        plain=lambda c, h, w: tokens.A2C2f(c, 4),
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "area": 4},
    ),
    "c2psa": Case(plain=lambda c, h, w: tokens.C2PSA(c, False), at=_up_to(28), note=_PAIRS),
    "psa_yolo": Case(plain=lambda c, h, w: tokens.C2PSA(c, True), at=_up_to(28), note=_PAIRS),
    "separable_self_attention": Case(
        plain=lambda c, h, w: tokens.SeparableSelfAttention(c), sizes=lambda h, w: {"P": 4, "L": h * w // 4}
    ),
    "focal_modulation": Case(
        plain=lambda c, h, w: tokens.FocalModulation(c),
        arguments=lambda c, h, w: {"channels": c, "focal_window": 3, "focal_level": 2},
    ),
    # windows, axes, samples
    "cot": Case(plain=lambda c, h, w: local_windows.CoT(c, False)),
    "coxt": Case(plain=lambda c, h, w: local_windows.CoT(c, True)),
    "outlook_attention": Case(
        plain=lambda c, h, w: local_windows.Outlook(c, 4), arguments=lambda c, h, w: {"channels": c, "num_heads": 4}
    ),
    "halo_attention": Case(plain=lambda c, h, w: local_windows.Halo(c)),
    "axial_attention": Case(plain=lambda c, h, w: local_windows.Axial(c)),
    **{
        f"axial_attention_deeplab{'_width' * width}": Case(
            plain=lambda c, h, w, width=width: local_windows.PositionSensitive(c, c, 8, h, width),
            arguments=lambda c, h, w, width=width: {
                "in_channels": c,
                "out_channels": c,
                "groups": 8,
                "kernel_size": h,
                "width": width,
            },
        )
        for width in (False, True)
    },
    "lsk_attention": Case(plain=lambda c, h, w: large_kernels.LargeKernelAttention(c, True)),
    "lska_attention": Case(
        plain=lambda c, h, w: large_kernels.LargeKernelAttention(c, False),
        arguments=lambda c, h, w: {"channels": c, "kernel_size": 23},
    ),
    "global_filter": Case(
        plain=lambda c, h, w: local_windows.GlobalFilter(c, h, w),
        arguments=lambda c, h, w: {"channels": c, "height": h, "width": w},
    ),
    "agent_attention": Case(
        plain=lambda c, h, w: routed.Agent(c, h), arguments=lambda c, h, w: {"channels": c, "size": h}, at=_square
    ),
    "bi_level_routing_attention": Case(
        plain=lambda c, h, w: routed.BiLevelRouting(c), at=lambda size: (size[0], *(n // 7 * 7 for n in size[1:]))
    ),
    "deformable_attention": Case(
        plain=lambda c, h, w: routed.DeformableAttention(c),
        arguments=lambda c, h, w: {"channels": c, "sampling": "grid_sample"},
        sizes=lambda h, w: {**{f"{a}{i}": n // 2**i for i in range(4) for a, n in (("H", h), ("W", w))}, "Q": 100},
        note="100 queries, four levels from the size down; with sampling=grid_sample, as both files are beyond opset 16",
    ),
}
