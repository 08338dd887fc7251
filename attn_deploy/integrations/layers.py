"""Zoo modules that a framework makes from the channels of a map and a table of settings."""

from __future__ import annotations

from collections.abc import Iterable

from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.insert import ZooLayer, as_layer


def fitting_names(names: Iterable[str] | None = None) -> dict[str, ZooLayer]:
    """The modules that take one map and give its like, by name.

    Args:
        names: only these; None for all of the zoo that fit.

    Raises:
        UnknownModelError: if a name is of no module.
        InvalidRequestError: if one does not keep the channels of one map.
    """
    if names is not None:
        return {registry.get(n).name: as_layer(n) for n in names}
    layers = {}
    for spec in registry.list_models():
        if spec.family in ("backbone", "convolution", "context") or len(spec.outputs) != 1:
            continue
        try:
            layers[spec.name] = as_layer(spec.name)
        except InvalidRequestError:  # takes several maps, or no channel count
            continue
    return layers
