"""CondConv: conditionally parameterized convolution.

Paper: CondConv: Conditionally Parameterized Convolutions for Efficient Inference, NeurIPS 2019, arXiv:1904.04971.
Official: tensorflow/tpu, models/official/efficientnet/condconv/condconv_layers.py; PyTorch as in timm,
    layers/cond_conv2d.py with the routing of models/_efficientnet_blocks.py.
Export: the batch-as-groups convolution of the public code has a group count that depends on N and cannot be exported.
    Either the outputs of all experts are mixed after one convolution, or the kernels are mixed for each sample and
    applied as a batched matrix product on the unrolled map; equal up to rounding. export_form="auto" picks by a static
    count of work and memory traffic that rests on measurements, see attn_deploy.ops.expert_conv.
Deviations: the loop over samples of nibuiro/CondConv-pytorch bakes N into the graph, drops 20 % of the pooled input and
    shares one bias; External-Attention-pytorch routes without a bias and reshapes to the input's H, W.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import ExpertConv2d, check_channels, require_positive
from attn_deploy.registry import register


@register(
    "condconv",
    aliases=("cond_conv2d", "conditionally_parameterized_conv"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=147716,
)
class CondConv2d(nn.Module):
    """A convolution whose kernel is a sum of expert kernels, weighted for each sample by a routing function.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, of a square kernel.
        stride: step of the window.
        padding: zeros on every side; None is symmetric, ((stride - 1) + dilation * (kernel_size - 1)) // 2; "same" is
            TensorFlow's rule.
        dilation: distance of the taps.
        groups: groups of channels.
        bias: whether every expert has a bias, mixed like the kernels.
        num_experts: number of kernels.
        routing: whether the module computes its routing weights; without, `forward` takes them as (N, num_experts), so
            that one routing vector can serve several convolutions, as in EfficientNet-CondConv's blocks.
        export_form: "mix_outputs", "mix_kernels", or "auto" for the one that should be faster.

    Raises:
        ValueError: if num_experts < 1, groups does not divide the channels, padding or export_form is not a valid
            choice, or routing weights are missing at the call.
    """

    official_keys = {"conv": "experts", "routing_fn": "routing"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | str | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        num_experts: int = 4,
        routing: bool = True,
        export_form: str = "auto",
    ) -> None:
        super().__init__()
        require_positive(num_experts=num_experts)
        self.in_channels = in_channels
        self.experts = ExpertConv2d(
            in_channels,
            out_channels,
            kernel_size,
            experts=num_experts,
            stride=stride,
            padding=((stride - 1) + dilation * (kernel_size - 1)) // 2 if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            export_form=export_form,
        )
        self.routing = nn.Linear(in_channels, num_experts) if routing else None

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official kernels are stored flat, one row for each expert."""
        kernels = state["experts.weight"]
        return {**state, "experts.weight": kernels.reshape(self.experts.weight.shape)}

    def route(self, x: Tensor) -> Tensor:
        """The weights of the experts for each sample, (N, num_experts), in 0..1; they need not sum to 1."""
        return self.routing(x.mean((2, 3))).sigmoid()

    def forward(self, x: Tensor, routing_weights: Tensor | None = None) -> Tensor:
        check_channels(x, self.in_channels, "CondConv2d")
        if routing_weights is None:
            if self.routing is None:
                raise ValueError("CondConv2d: routing=False needs routing_weights of shape (N, num_experts) with x.")
            routing_weights = self.route(x)
        return self.experts(x, routing_weights)
