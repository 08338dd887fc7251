"""Rows of the vectors of YOLO's blocks and of the feature pyramids."""

from __future__ import annotations

_ASFF = {"in_channels": (32, 16, 16)}
_PYRAMID = {"in_channels": (8, 12, 16), "out_channels": 16}


def _square(channels: int) -> dict:
    return {"in_channels": channels, "out_channels": channels}


CASES: dict[str, tuple[str, dict]] = {
    "c2f": ("c2f", {**_square(32), "n": 2, "shortcut": True}),
    "c2f_noadd": ("c2f", {"in_channels": 32, "out_channels": 48}),
    "c3": ("c3", _square(32)),
    "c3k2": ("c3k2", {**_square(32), "n": 2}),
    "c3k2_c3k": ("c3k2", {**_square(32), "c3k": True}),
    "c3k2_attn": ("c3k2", {**_square(32), "attn": True}),
    "c2fcib": ("c2fcib", {**_square(32), "shortcut": True, "lk": True}),
    "scdown": ("scdown", {"in_channels": 32, "out_channels": 48, "kernel_size": 3, "stride": 2}),
    "adown": ("adown", {"in_channels": 32, "out_channels": 48}),
    "aconv": ("aconv", {"in_channels": 32, "out_channels": 48}),
    "c2psa": ("c2psa", {"channels": 32}),
    "c2psa_2heads": ("c2psa", {"channels": 256}),
    "psa_yolo": ("psa_yolo", {"channels": 32}),
    "a2c2f": ("a2c2f", {**_square(64), "area": 4, "residual": True}),
    "a2c2f_area1": ("a2c2f", {**_square(64), "area": 1}),
    "sppelan": ("sppelan", {**_square(32), "hidden": 16}),
    "repncspelan4": ("repncspelan4", {**_square(32), "c3": 32, "c4": 16}),
    "sppcspc": ("sppcspc", _square(16)),
    "simsppf": ("simsppf", {"in_channels": 16, "out_channels": 24}),
    "simcspsppf": ("simcspsppf", _square(16)),
    "bifusion": ("bifusion", {"in_channels": (16, 12), "out_channels": 16}),
    "bifpn_layer": ("bifpn_layer", {"in_channels": (16,) * 5, "out_channels": 16, "weight_method": "fastattn"}),
    "bifpn_layer_first": (
        "bifpn_layer",
        {"in_channels": (8, 12, 20), "out_channels": 16, "weight_method": "attn", "pad": "symmetric"},
    ),
    "bifpn_layer_sum": (
        "bifpn_layer",
        {"in_channels": (16,) * 4, "out_channels": 16, "weight_method": "sum", "pad": "symmetric"},
    ),
    "fpn": ("fpn", {**_PYRAMID, "num_outs": 4}),
    "fpn_odd": ("fpn", {**_PYRAMID, "num_outs": 3}),
    "fpn_p6p7": ("fpn", {**_PYRAMID, "num_outs": 5, "extra": "conv", "relu_before_extra_convs": True}),
    "pan": ("pan", {**_PYRAMID, "num_outs": 3}),
    "asff_level0": ("asff", {**_ASFF, "level": 0, "out_channels": 64}),
    "asff_level1": ("asff", {**_ASFF, "level": 1, "out_channels": 32}),
    "asff_level2": ("asff", {**_ASFF, "level": 2, "out_channels": 16}),
    "afpn": ("afpn", {"in_channels": (16, 24, 32, 40), "out_channels": 16}),
}
