"""Which registry entry, with which constructor arguments, each vector file of the official code belongs to.

Key: the file's stem in the folder of vectors. Value: (registry name, arguments of `create` over the reference
configuration).
"""

from __future__ import annotations

REFERENCE_CASES: dict[str, tuple[str, dict]] = {
    # attention, part 1
    "se": ("se", {"channels": 64, "reduction": 16}),
    "se_nobias": ("se", {"channels": 64, "reduction": 16, "bias": False}),
    # attention, part 2
    # plug-and-play
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
