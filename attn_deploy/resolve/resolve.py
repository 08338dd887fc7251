"""From a name to a module and the inputs it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs as parse_inputs
from attn_deploy.resolve.make import ResolvedModel, make_model
from attn_deploy.resolve.names import ModelName, parse_name
from attn_deploy.resolve.packages import is_trained
from attn_deploy.resolve.seeding import enliven
from attn_deploy.resolve.snapshots import with_configuration
from attn_deploy.resolve.trained import load_trained
from attn_deploy.specs.spec import DEFAULT_DYNAMIC


def create(name: str, **arguments: Any) -> nn.Module:
    """The module that a name stands for, in eval mode.

    Args:
        name: anything of the grammar in `attn_deploy.resolve.names`; without arguments, the reference configuration.
        **arguments: constructor arguments, over those in the name.

    Raises:
        UnknownModelError: if there is no such model.
        InvalidRequestError: if an argument is unknown or has a value that the model refuses.
    """
    return resolve(name, arguments).module


def resolve(name: str, arguments: Mapping[str, Any] | None = None) -> ResolvedModel:
    """As `create`, with the inputs and the registry entry.

    Raises:
        UnknownModelError: if there is no such model.
        InvalidRequestError: if the name, an argument or a file cannot be used.
        MissingDependencyError: if the model is of a package that is not installed.
        ExportError: if the user's own code fails while the model is made.
    """
    parsed = parse_name(name)
    if parsed.checkpoint is not None:
        if arguments:
            raise InvalidRequestError(f"{name!r} is trained; its arguments ({', '.join(arguments)}) cannot be changed.")
        return load_trained(parsed).resolved
    return make_model(parsed, arguments)


def resolve_seeded(
    name: str, arguments: Mapping[str, Any] | None = None, *, seed: int = 0, weights: Path | str | None = None
) -> ResolvedModel:
    """As `resolve`, with weights that are the same in every process, and no parameter of a registry model at zero.

    Args:
        name: as `resolve`.
        arguments: as `resolve`.
        seed: of the weights.
        weights: the checkpoint that is to be loaded, which is not done here: the seeded weights then stay as they are made,
            and a snapshot of transformers' gives the configuration of the model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the only one that is restored; weights are drawn on the CPU
        resolved = resolve(name, with_configuration(name, arguments, weights))
    package = resolved.name.package is not None and not is_trained(resolved.arguments)
    if weights is None and (resolved.spec is not None or package):  # those of a user's own file are left as they are
        enliven(
            resolved.module, seed, deep=package or (resolved.spec is not None and resolved.spec.family == "backbone")
        )
    return resolved


def resolve_module(module: nn.Module) -> ResolvedModel:
    """A module of the user's as `resolve` gives it, under the name of its class."""
    name = type(module).__name__
    return ResolvedModel(ModelName(name, name), module, None, None, DEFAULT_DYNAMIC, None, owned=False)
