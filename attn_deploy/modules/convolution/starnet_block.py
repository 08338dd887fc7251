"""StarNet's block, in which two 1x1 layers are multiplied.

Paper: Rewrite the Stars, CVPR 2024, arXiv:2403.19967.
Official: ma-xu/Rewrite-the-Stars, imagenet/starnet.py (Block).
Export: nothing had to be replaced. Fused, both BatchNorms are gone; with deploy_form="one_conv" the two layers that are
    multiplied are one convolution of twice the width, which a CPU runs slower, because the cut to 0..6 is then a kernel of
    its own. Equal up to rounding.
Deviations: mlp_ratio is 3 as in the class; the networks s1 to s4 take 4. The official initialisation means to reach
    convolutions too and does not (isinstance(m, nn.Linear or nn.Conv2d)), so they start as PyTorch's do.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import (
    DropPath,
    Fusible,
    check_channels,
    conv_bn_act,
    require_choice,
    require_odd,
    require_positive,
)
from attn_deploy.ops.parallel_convs import join_parallel_convs, split_channels
from attn_deploy.registry import register

DEPLOY_FORMS = ("two_convs", "one_conv")


@register(
    "starnet_block",
    aliases=("starnet", "star_operation", "star_block"),
    parameters=43968,
)
class StarBlock(Fusible, nn.Module):
    """Multiplies two widened views of a depthwise convolution, one of them cut to 0..6, and narrows the product.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        mlp_ratio: factor by which both views are wider than C.
        kernel_size: of both depthwise convolutions.
        drop_path: share of the samples whose branch is left out in training.
        deploy_form: "two_convs" for the two views, or "one_conv" (fewest kernels): what fusing makes of them.

    Raises:
        ValueError: if kernel_size is even, the views would have no channel, drop_path is not a rate, or deploy_form is
            not one of the choices.
    """

    official_keys = {
        "dwconv.conv": "before.0",
        "dwconv.bn": "before.1",
        "f1.conv": "bounded",
        "f2.conv": "plain",
        "g.conv": "narrow.0",
        "g.bn": "narrow.1",
        "dwconv2.conv": "after",
    }

    def __init__(
        self,
        channels: int,
        *,
        mlp_ratio: float = 3,
        kernel_size: int = 7,
        drop_path: float = 0.0,
        deploy_form: str = "two_convs",
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_odd(kernel_size=kernel_size)
        require_choice("deploy_form", deploy_form, DEPLOY_FORMS)
        width = int(mlp_ratio * channels)
        if width < 1:
            raise ValueError(
                f"mlp_ratio * channels must be at least 1, got mlp_ratio={mlp_ratio} and channels={channels}: use a "
                "larger mlp_ratio, such as 3."
            )
        self.channels, self.width, self.deploy_form = channels, width, deploy_form
        self.before = conv_bn_act(channels, channels, kernel_size, groups=channels, bias=True)
        self.bounded = nn.Conv2d(channels, width, 1)
        self.plain: nn.Conv2d | None = nn.Conv2d(channels, width, 1)
        self.act = nn.ReLU6()
        self.narrow = conv_bn_act(width, channels, bias=True)
        self.after = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "StarBlock")
        y = self.before(x)
        if self.plain is None:
            bounded, plain = split_channels(self.bounded(y), (self.width, self.width))
        else:
            bounded, plain = self.bounded(y), self.plain(y)
        return x + self.drop_path(self.after(self.narrow(self.act(bounded) * plain)))

    def fuse_(self) -> str | None:
        """Compute both views in one convolution, if that form is asked for."""
        if self.plain is None or self.deploy_form == "two_convs":
            return None
        self.bounded, self.plain = join_parallel_convs(self.bounded, self.plain), None
        return "merged the two convolutions that are multiplied"
