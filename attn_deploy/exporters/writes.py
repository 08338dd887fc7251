"""Whether forward writes to the weights, which copies of a large model share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attn_deploy.fusing.copying import shared_storages


class WeightsWritten(BaseException):
    """Raised before a weight is written to; no ``except Exception`` in forward takes it for an error of its own."""


class WeightWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, a run of a copy that shares the weights of a model is stopped before it writes to one in place.

    Args:
        model: whose parameters and large buffers are watched.

    Raises:
        WeightsWritten: from the run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = shared_storages(model)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        if func._schema.is_mutable:
            for index, argument in enumerate(func._schema.arguments):
                written = argument.alias_info is not None and argument.alias_info.is_write
                value = keywords.get(argument.name, args[index] if index < len(args) else None)
                if written and isinstance(value, Tensor) and self._is_shared(value):
                    raise WeightsWritten
        return func(*args, **keywords)

    def _is_shared(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._storages
