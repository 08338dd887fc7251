"""Where a module plugs into a backbone, and what fills those places.

There are three kinds of place. An *attention* module stands after the last convolution and BatchNorm of a block, before
the sum or concatenation. A *convolution* takes the place of the block's dense 3x3 convolutions, whose BatchNorm and
activation stay. A *context* module stands once, before the classifier's pooling, and may change the channel count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from attn_deploy.ops import require_choice

Kind = Literal["attention", "convolution", "context"]


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """One place of a backbone.

    Attributes:
        kind: attention, convolution or context.
        in_channels, out_channels: of the map before and after; a context module may choose the latter.
        stride: of the 3x3 convolution that is replaced; 1 elsewhere.
        activated: whether an activation follows at once.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    stride: int = 1
    activated: bool = False


class Filler(Protocol):
    """What a name after the '+' stands for."""

    name: str
    kind: Kind

    def make(self, place: SlotPlace) -> nn.Module | None:
        """The module for a place of this kind; None where it cannot stand (a stride, another width) and nothing is lost.

        Raises:
            ValueError: if the module cannot be made for that width; the message says why.
        """
        ...

    def width(self, module: nn.Module, place: SlotPlace) -> int:
        """Channels that a context module made for this place gives."""
        ...


class Slots:
    """The places of one backbone while it is built.

    Args:
        owner: name of the backbone, for messages.
        filler: fills the places of its kind; None leaves all as they are.
        stage: fill the places of this stage alone.
        strides: for each stage, by how much its map is smaller than the image.

    Raises:
        ValueError: if the stage is unknown, or given without a filler or for a context module.
    """

    def __init__(self, owner: str, filler: Filler | None, stage: str | None, strides: Mapping[str, int]) -> None:
        if stage is not None:
            require_choice("stage", stage, strides)
            if filler is None:
                raise ValueError(f"{owner}: the stage {stage!r} was given without a module; write +se@{stage}.")
            if filler.kind == "context":
                raise ValueError(
                    f"{owner}: {filler.name!r} stands before the classifier, which belongs to no stage; leave out "
                    f"@{stage}."
                )
        self._owner = owner
        self._filler = filler
        self._stage = stage
        self._strides = strides
        self.modules: list[nn.Module] = []
        self.stride = 1  # by how much the smallest map that a module was given is smaller than the image

    def attention(self, stage: str, channels: int) -> nn.Module:
        """What stands after a block's last convolution and BatchNorm."""
        module = self._fill(stage, SlotPlace("attention", channels, channels))
        return nn.Identity() if module is None else module

    def convolution(
        self, stage: str, in_channels: int, out_channels: int, stride: int = 1, *, bias: bool = False, activated: bool
    ) -> nn.Module:
        """A 3x3 convolution with padding 1, or what takes its place."""
        module = self._fill(stage, SlotPlace("convolution", in_channels, out_channels, stride, activated))
        if module is not None:
            return module
        return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)

    def context(self, channels: int) -> tuple[nn.Module, int]:
        """What stands before the classifier's pooling, and the channels it gives."""
        place = SlotPlace("context", channels, channels)
        module = self._fill(list(self._strides)[-1], place)
        if module is None or self._filler is None:
            return nn.Identity(), channels
        return module, self._filler.width(module, place)

    def require_filled(self, has_convolutions: bool = True) -> None:
        """To be called when the backbone is complete.

        Raises:
            ValueError: if there was a filler, and no place for it.
        """
        if self._filler is None or self.modules:
            return
        where = f" in {self._stage}" if self._stage else ""
        why = (
            f"cannot take the place of any 3x3 convolution{where}: all have a stride or a width that it does not offer"
            if has_convolutions
            else "takes the place of dense 3x3 convolutions, and this backbone has none (its 3x3 are depthwise)"
        )
        raise ValueError(f"{self._owner}: {self._filler.name!r} {why}.")

    def _fill(self, stage: str, place: SlotPlace) -> nn.Module | None:
        if self._filler is None or self._filler.kind != place.kind or self._stage not in (None, stage):
            return None
        module = self._filler.make(place)
        if module is not None:
            self.modules.append(module)
            self.stride = max(self.stride, self._strides[stage])
        return module
