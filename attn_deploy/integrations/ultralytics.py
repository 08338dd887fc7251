"""Zoo names in the model files of ultralytics, and its trained networks in a form that exports.

    import attn_deploy.integrations.ultralytics as zoo
    zoo.register()
    YOLO("yolo-with-attention.yaml")            # - [-1, 1, coord_attention, [{reduction: 16}]]
    attn_deploy.export(zoo.exportable(YOLO("runs/detect/train/weights/best.pt")), "best.onnx", inputs=...)

A row names a zoo module that keeps the channels of its map; those come from the row before, scaled as they are, and
repeats are ultralytics' own. Source of the loop that builds a network: ultralytics/nn/tasks.py, parse_model.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.integrations.layers import fitting_names
from attn_deploy.resolve.insert import ZooLayer
from attn_deploy.resolve.yolo_form import exportable as exportable

_MARK = "_attn_deploy_names"


def register(names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Make zoo names usable in model files; may be called again.

    Names of ultralytics' own modules stay what they are.

    Args:
        names: only these; None for every module that keeps the channels of one map.

    Returns:
        The names that can be used now.

    Raises:
        MissingDependencyError: if ultralytics is not installed.
        InvalidRequestError: if a name is of a module that does not fit, or of one of ultralytics' own.
    """
    try:
        tasks: Any = importlib.import_module("ultralytics.nn.tasks")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed: pip install ultralytics.") from error
    return register_in(tasks, names)


def register_in(tasks: Any, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """As `register`, in the module whose ``parse_model`` looks its names up."""
    ours: dict[str, type] = dict(getattr(tasks, _MARK, {}))
    for name, layer in fitting_names(names).items():
        if name in ours:
            continue
        if hasattr(tasks, name):
            if names is not None:
                raise InvalidRequestError(f"ultralytics has a module {name!r} of its own; it cannot be registered.")
            continue
        ours[name] = _row_class(name, layer)
        setattr(tasks, name, ours[name])
    if not hasattr(tasks, _MARK):
        tasks.parse_model = _with_channels(tasks.parse_model, tasks)
    setattr(tasks, _MARK, ours)
    return tuple(ours)


def _row_class(name: str, layer: ZooLayer) -> type:
    """What a row's name stands for: called with the channels so far, the row's source and its settings."""

    def make(
        cls: type, channels: Any = None, source: Any = None, settings: Mapping[str, Any] | None = None
    ) -> nn.Module:
        if not isinstance(channels, list) or not isinstance(source, int):
            raise InvalidRequestError(
                f"{name}: the channels of its map are not known; it takes one map, as - [-1, 1, {name}, []]. If that is what "
                "the row says, this version of ultralytics builds networks in another way."
            )
        if settings is not None and not isinstance(settings, Mapping):
            raise InvalidRequestError(f"{name}: its settings are written with their names: [{{reduction: 16}}].")
        return layer(channels[source], **(settings or {}))

    return type(name, (nn.Module,), {"__new__": make, "__module__": __name__, "__doc__": f"The zoo's {name}."})


def _with_channels(parse_model: Any, tasks: Any) -> Any:
    """``parse_model`` that hands rows of ours its own channels and the row's source, which it knows as ch and f."""

    @functools.wraps(parse_model)
    def parse(d: Mapping[str, Any], ch: Any, *args: Any, **kwargs: Any) -> Any:
        rows = copy.deepcopy(dict(d))
        for part in ("backbone", "head"):
            for row in rows.get(part, ()):
                if row[2] in getattr(tasks, _MARK):
                    row[3] = ["ch", "f", *row[3]]
        return parse_model(rows, ch, *args, **kwargs)

    return parse
