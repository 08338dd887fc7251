"""Whether forward writes to the weights, which copies of a large model share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attn_deploy.fusing.copying import copy_model, shared_storages
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import TensorInput


class _Written(BaseException):
    """Raised before a weight is written to; no ``except Exception`` in forward takes it for an error of its own."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, storages: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        if func._schema.is_mutable:
            for index, argument in enumerate(func._schema.arguments):
                written = argument.alias_info is not None and argument.alias_info.is_write
                value = keywords.get(argument.name, args[index] if index < len(args) else None)
                if written and isinstance(value, Tensor) and self._is_shared(value):
                    raise _Written
        return func(*args, **keywords)

    def _is_shared(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._storages


def writes_weights(model: nn.Module, inputs: Sequence[TensorInput]) -> bool:
    """Whether a run writes in place to a parameter or a large buffer; it is stopped before it does.

    Run with a batch of 1 where the model takes that, for that is cheapest. A model that does not run at all is not judged:
    what runs it next says so.
    """
    storages = shared_storages(model)
    for sizes in ({"N": 1}, {}):
        example = tuple(torch.from_numpy(a) for a in example_arrays(inputs, sizes).values())
        twin = copy_model(model, share_parameters=True)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), _Watch(storages):
                twin(*example)
        except _Written:
            return True
        except Exception:  # whatever a model of the user's raises
            continue
        return False
    return False
