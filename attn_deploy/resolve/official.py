"""Loading the checkpoint tensors of a module's official implementation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attn_deploy.errors import InvalidRequestError


def load_official_state_dict(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load the official implementation's tensors of this module, in place.

    A zoo class says how official keys become its own: ``official_keys`` maps an official key, or the first dotted parts
    of one, to ours (None drops it); keys that are not listed stay as they are. A class whose tensors also change form
    defines ``convert_official(state_dict) -> state_dict``, called after the renaming. A tensor that differs from ours
    only in axes of length 1 (a Linear for a 1x1 convolution) is reshaped.

    Raises:
        InvalidRequestError: naming the keys that are missing or left over, or the two shapes that differ.
    """
    owner = type(module).__name__
    renamed: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        ours = _rename(key, getattr(module, "official_keys", {}))
        if ours is not None:
            renamed[ours] = value
    convert = getattr(module, "convert_official", None)
    if convert is not None:
        renamed = convert(renamed)
    own = module.state_dict()
    counters = {k for k in own if k.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - renamed.keys() - counters)
    unexpected = sorted(k for k in renamed.keys() - own.keys() if not k.endswith("num_batches_tracked"))
    if missing or unexpected:
        raise InvalidRequestError(
            f"{owner}: the official state dict does not fit: missing {missing or 'nothing'}, left over "
            f"{unexpected or 'nothing'}. Check the constructor arguments against the checkpoint's configuration."
        )
    for key, value in renamed.items():
        if key not in own:
            continue
        target = own[key]
        if value.shape != target.shape:
            if _squeezed(value) != _squeezed(target):
                raise InvalidRequestError(
                    f"{owner}.{key}: the official tensor is {tuple(value.shape)}, the module's is "
                    f"{tuple(target.shape)}. Construct the module with the checkpoint's configuration."
                )
            value = value.reshape(target.shape)
        with torch.no_grad():
            target.copy_(value)


def _rename(key: str, names: Mapping[str, str | None]) -> str | None:
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        prefix = ".".join(parts[:count])
        if prefix in names:
            ours = names[prefix]
            return None if ours is None else ".".join(([ours] if ours else []) + parts[count:])
    return key


def _squeezed(tensor: Tensor) -> list[int]:
    return [n for n in tensor.shape if n != 1]
