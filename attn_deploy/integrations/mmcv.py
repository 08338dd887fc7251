"""Zoo modules as plugins of OpenMMLab's networks: ``plugins=[dict(cfg=dict(type="attn_deploy.eca"), position="after_conv2")]``.

A plugin is called with ``in_channels`` and the rest of its ``cfg``; the weights of a zoo module are those of its constructor,
and an ``init_cfg`` of the network is left as it is. Source: mmcv/cnn/bricks/plugin.py, build_plugin_layer.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from attn_deploy.errors import MissingDependencyError
from attn_deploy.integrations.layers import fitting_names
from attn_deploy.resolve.insert import ZooLayer

PREFIX = "attn_deploy."


def register(names: Iterable[str] | None = None, registry: Any = None) -> tuple[str, ...]:
    """Put zoo modules into a registry under ``attn_deploy.NAME``; may be called again.

    Args:
        names: only these; None for every module that keeps the channels of one map.
        registry: the ``MODELS`` of mmengine by default, which mmcv and mmdetection look into.

    Returns:
        The names in the registry.

    Raises:
        MissingDependencyError: if mmengine is not installed and no registry is given.
        InvalidRequestError: if a name is of a module that does not fit.
    """
    if registry is None:
        try:
            registry = importlib.import_module("mmengine.registry").MODELS
        except ModuleNotFoundError as error:
            raise MissingDependencyError(f"{error.name} is not installed: pip install mmengine.") from error
    registered = []
    for name, layer in fitting_names(names).items():
        registered.append(PREFIX + name)
        if registry.get(PREFIX + name) is None:
            registry.register_module(name=PREFIX + name, module=_plugin(name, layer))
    return tuple(registered)


def _plugin(name: str, layer: ZooLayer) -> type:
    def make(cls: type, in_channels: int, **settings: Any) -> nn.Module:
        return layer(in_channels, **settings)

    # mmcv calls the attribute of the network after _abbr_.
    space = {"__new__": make, "_abbr_": name, "__module__": __name__, "__doc__": f"The zoo's {name}."}
    return type(name, (nn.Module,), space)
