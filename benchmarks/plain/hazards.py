"""Published formulations that do not export as they stand, with the sizes to try and the reason in words."""

from __future__ import annotations

from dataclasses import dataclass

from . import local_windows, mixers, polarized, reparameterised, statistics
from .case import Case
from .cases import CASES

Extent = tuple[int, int, int]  # batch, height, width
_ANY = ((3, 23, 14), (1, 9, 31))
_EVEN = ((3, 24, 14), (1, 10, 32))
_SQUARE = ((3, 24, 24), (1, 12, 12))
_FOURS = ((3, 24, 12), (1, 8, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard:
    """One formulation.

    Attributes:
        title: what it is called, and where it is published.
        cause: what in it goes wrong, as a phrase.
        case: makes it, beside the zoo's module of the same maths.
        traced: batch, height and width that it is exported at.
        others: those that the file is run at.
        channels: of the map.
    """

    title: str
    cause: str
    case: Case
    traced: Extent = (2, 16, 20)
    others: tuple[Extent, ...] = _ANY
    channels: int = 64


_STRIPS = "adaptive average pooling to (None, 1) and (1, None): the traced height and width become constants"
_WINDOW = "average pooling whose window is read from the shape"
_LINSPACE = "linspace over a size, which becomes the traced number"


def _se(case: Case, **arguments: object) -> Case:
    return Case(
        plain=case.plain,
        model=case.model,
        arguments=lambda c, h, w: {"in_channels": c, "out_channels": c, "use_se": True, **arguments},
    )


HAZARDS: dict[str, Hazard] = {
    "coord_attention": Hazard(title="coordinate attention (CVPR 2021)", cause=_STRIPS, case=CASES["coord_attention"]),
    "ema": Hazard(title="efficient multi-scale attention (ICASSP 2023)", cause=_STRIPS, case=CASES["ema"]),
    "rfcaconv": Hazard(title="RFCAConv (2023)", cause=_STRIPS, case=CASES["rfcaconv"]),
    "mlca": Hazard(
        title="mixed local channel attention (2023)",
        cause="adaptive average pooling to 5x5 bins, and from bins to the size of the map",
        case=CASES["mlca"],
    ),
    "dysample": Hazard(
        title="DySample (ICCV 2023)",
        cause="coordinates from ranges over sizes, which tracing turns into constants",
        case=CASES["dysample"],
    ),
    "dcn_v3": Hazard(title="DCNv3 in PyTorch (CVPR 2023)", cause=_LINSPACE, case=CASES["dcn_v3"]),
    "repvgg_block_se": Hazard(
        title="RepVGG block with SE (CVPR 2021)",
        cause=f"{_WINDOW}: W x W",
        case=_se(Case(plain=lambda c, h, w: reparameterised.RepVGG(c, True), model="repvgg_block")),
        traced=(2, 16, 16),
        others=_SQUARE,
    ),
    "mobileone_block_se": Hazard(
        title="MobileOne block with SE (CVPR 2023)",
        cause=_WINDOW,
        case=_se(
            Case(plain=lambda c, h, w: reparameterised.MobileOne(c, 2, True), model="mobileone_block"),
            num_conv_branches=2,
        ),
    ),
    "bifpn_layer": Hazard(
        title="BiFPN layer (CVPR 2020, the PyTorch ports)",
        cause="resizing to numbers that the constructor was given",
        case=CASES["bifpn_layer"],
        traced=(2, 32, 48),
        others=((3, 64, 32), (1, 48, 80)),
    ),
    "nam": Hazard(
        title="normalisation-based attention (2021)",
        cause="a parameter read through .data in forward",
        case=Case(plain=lambda c, h, w: statistics.NAM(c, True), model="nam"),
    ),
    "odconv": Hazard(
        title="omni-dimensional dynamic convolution (ICLR 2022)",
        cause="the batch as groups of one convolution",
        case=CASES["odconv"],
    ),
    "diverse_branch_block": Hazard(
        title="diverse branch block (CVPR 2021)",
        cause="a border that is written into slices of a padded map",
        case=CASES["diverse_branch_block"],
    ),
    "gsconv": Hazard(
        title="GSConv, de-interleaved (2022)",
        cause="a reshape of batch times channels with Python numbers",
        case=CASES["gsconv"],
    ),
    "wtconv": Hazard(
        title="wavelet convolution, two levels (ECCV 2024)",
        cause="padding that depends on whether a size is odd",
        case=CASES["wtconv"],
    ),
    "mobilevit": Hazard(
        title="MobileViT block (ICLR 2022)",
        cause="int(math.ceil(size)) in the target of a reshape",
        case=CASES["mobilevit"],
        others=_EVEN,
    ),
    "acmix": Hazard(title="ACmix (CVPR 2022)", cause=_LINSPACE, case=CASES["acmix"]),
    "bi_level_routing_attention": Hazard(
        title="bi-level routing attention (CVPR 2023)",
        cause="keys gathered by an expanded index, and pooling with a window read from the shape",
        case=CASES["bi_level_routing_attention"],
        traced=(2, 14, 21),
        others=((3, 21, 14), (1, 28, 7)),
    ),
    "deformable_attention": Hazard(
        title="multi-scale deformable attention (ICLR 2021)",
        cause="the sizes of the maps as a tensor of numbers, which tracing turns into constants",
        case=CASES["deformable_attention"],
        traced=(2, 32, 40),
        others=((3, 24, 16), (1, 16, 48)),
    ),
    "halo_attention": Hazard(
        title="halo attention (CVPR 2021)",
        cause="Tensor.unfold",
        case=Case(plain=lambda c, h, w: local_windows.Halo(c), model="halo_attention"),
        traced=(2, 16, 24),
        others=((3, 24, 8), (1, 8, 32)),
    ),
    "global_filter": Hazard(
        title="global filter (NeurIPS 2021)",
        cause="Fourier transforms, which the TorchScript exporter does not know",
        case=CASES["global_filter"],
        traced=(2, 16, 20),
        others=((3, 16, 20), (1, 16, 20)),
    ),
    "outlook_attention": Hazard(
        title="outlook attention (TPAMI 2022)",
        cause="fold, which needs the operator Col2Im of opset 18",
        case=CASES["outlook_attention"],
    ),
    "area_attention": Hazard(
        title="area attention (NeurIPS 2025)",
        cause="areas merged with the batch",
        case=CASES["area_attention"],
        others=_FOURS,
    ),
    "apnb": Hazard(
        title="pyramid non-local block (ICCV 2019)",
        cause="adaptive average pooling to 1, 3, 6 and 8 bins",
        case=CASES["apnb"],
        traced=(2, 24, 24),
    ),
    "eca_ns": Hazard(
        title="ECA-NS (CVPR 2020)", cause="windows by unfold of a transposed vector", case=CASES["eca_ns"]
    ),
    "psa_polarized": Hazard(
        title="polarized self-attention (2022)",
        cause="nothing: a formulation that exports right",
        case=Case(plain=lambda c, h, w: polarized.PolarizedOfficial(c, False), model="polarized_self_attention"),
    ),
    "convnext": Hazard(
        title="ConvNeXt block (CVPR 2022)",
        cause="nothing: a formulation that exports right",
        case=Case(plain=lambda c, h, w: mixers.ConvNeXt(c), model="convnext_block"),
    ),
}
