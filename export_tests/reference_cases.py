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
}
