"""Two modules of the zoo in a network of one's own: its weights still load, and it is exported like any other."""

from __future__ import annotations

from net import Net

import attn_deploy
from attn_deploy.inputs.grammar import parse_inputs


def main() -> None:
    """Insert, load the old weights, export."""
    plain = Net().eval()
    inserted = attn_deploy.insert(plain, {"stem": "coord_attention:reduction=4", "body": "eca"}, inputs="1x3x64x64")
    for place in inserted.places:
        print(place)
    left = inserted.model.load_state_dict(plain.state_dict(), strict=False)
    print(
        f"the old weights are there; {len(left.missing_keys)} tensors are new, {len(left.unexpected_keys)} found no place"
    )
    artifact = attn_deploy.export(inserted.model, "net-two-blocks.onnx", inputs=parse_inputs(["1x3x64x64"]))
    print(f"{artifact.path}: {artifact.parameters:,} parameters")


if __name__ == "__main__":
    main()
