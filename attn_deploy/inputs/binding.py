"""Which parameter of a model's forward each input goes to, and a module that takes them all by position."""

from __future__ import annotations

import copy
import inspect
import keyword
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.expected import fit_to_expected
from attn_deploy.inputs.tensors import TensorInput

_REPLACED = "_forward_of_instance"  # where a forward that was put on the instance lies, behind the one that calls it


@dataclass(frozen=True, slots=True)
class Binding:
    """A model and its inputs, so that ``module(*tensors)`` is the call that the inputs' names ask for.

    Attributes:
        module: the model, or a shallow copy of it whose forward passes tensors on by name.
        inputs: in the order of the module's parameters.
        note: what goes by position although it has a name; empty if nothing does.
    """

    module: nn.Module
    inputs: tuple[TensorInput, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """The place of an input in a call: its index among the inputs."""

    index: int


def bind_inputs(
    module: nn.Module, inputs: Sequence[TensorInput], owner: str, *, expected: Sequence[TensorInput] | None = None
) -> Binding:
    """Bind inputs to the parameters of forward as Python would: those without a name by position, the others by name.

    Where no name is that of a parameter, all go by position, and the note says so. A name with dots is a place inside of
    a parameter: ``batch.image`` an entry of a dict (or a field, where the parameter is annotated with a dataclass),
    ``maps.0`` an element of a list.

    Args:
        module: the model; it is left alone.
        inputs: in the order of the request.
        owner: the model's name in messages.
        expected: the inputs of a registry entry, which fix everything but the sizes.

    Raises:
        InvalidRequestError: if some names are parameters and others are not, a parameter is bound twice, one without a
            default is missing, or a shape does not fit the expected one.
    """
    taken = tuple(inputs)
    if expected is not None:
        return Binding(module, fit_to_expected(expected, taken, owner))
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # code that is not Python's
        return Binding(module, taken)
    named = [i for i in taken if i.named]
    if not any(_head(i) in _nameable(signature) for i in named):
        return Binding(module, taken, _note(signature, taken) if named else "")
    bound = _bound(signature, taken, f"{owner}: forward({_definition(signature)})", module)
    order = tuple(taken[leaf.index] for leaf in _leaves([bound.args, bound.kwargs]))
    if not bound.kwargs and all(isinstance(a, _Leaf) for a in bound.args):
        return Binding(module, order)
    return Binding(_calling(module, taken, order, bound), order)


def _bound(
    signature: inspect.Signature, inputs: Sequence[TensorInput], who: str, module: nn.Module
) -> inspect.BoundArguments:
    """The call with a `_Leaf` for each input."""
    parameters = signature.parameters
    kinds = {p.kind for p in parameters.values()}
    foreign = [i for i in inputs if i.named and _head(i) not in _nameable(signature)]
    if foreign and not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        names = ", ".join(repr(i.name) for i in foreign)
        raise InvalidRequestError(
            f"{who} has no parameter {names}, and other inputs are named after parameters: give each input the name of "
            "its parameter, or none of them."
        )
    positional: list[Any] = [_Leaf(k) for k, i in enumerate(inputs) if not i.named]
    by_name: dict[str, Any] = {}
    extra: list[Any] = []
    for k, i in enumerate(inputs):
        if not i.named:
            continue
        if i in foreign and inspect.Parameter.VAR_KEYWORD not in kinds:
            extra.append(_Leaf(k))
        else:
            _put(by_name, i.name.split("."), _Leaf(k))
    by_name = {n: _built(v, _annotation(module, n)) for n, v in by_name.items()}
    # What is positional only, or stands before what *args takes, goes by position.
    for index, parameter in enumerate(parameters.values()):
        only = parameter.kind is parameter.POSITIONAL_ONLY
        before = bool(extra) and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if index == len(positional) and (only or before) and parameter.name in by_name:
            positional.append(by_name.pop(parameter.name))
    late = [n for n in by_name if n in parameters and parameters[n].kind is inspect.Parameter.POSITIONAL_ONLY]
    if late:
        raise _missing(who, list(parameters)[len(positional)])
    try:
        return signature.bind(*positional, *extra, **by_name)
    except TypeError as error:
        raise _refused(who, str(error), len(inputs)) from error


def _refused(who: str, text: str, count: int) -> InvalidRequestError:
    missing = re.search(r"missing a required .*?argument: '(\w+)'", text)
    if missing:
        return _missing(who, missing[1])
    double = re.search(r"multiple values for argument '(\w+)'", text)
    if double:
        return InvalidRequestError(
            f"{who} gets {double[1]!r} twice, once by an input without a name; give every input its name."
        )
    return InvalidRequestError(f"{who} takes fewer inputs than the {count} of the request ({text}).")


def _missing(who: str, name: str) -> InvalidRequestError:
    return InvalidRequestError(f"{who} needs {name!r} too; give an input of that name.")


def _put(tree: dict[str, Any], path: Sequence[str], leaf: _Leaf) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = leaf


def _built(tree: Any, kind: Any = None) -> Any:
    """A nested dict of leaves as what forward takes: an annotated dataclass, a list for ``0, 1, ...``, or a dict."""
    if not isinstance(tree, dict):
        return tree
    parts = {k: _built(v) for k, v in tree.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**parts)
    if all(k.isdigit() for k in parts):
        return [parts[k] for k in sorted(parts, key=int)]
    return parts


def _annotation(module: nn.Module, name: str) -> Any:
    try:
        return typing.get_type_hints(module.forward).get(name)
    except (NameError, TypeError, AttributeError):
        return None


def _leaves(tree: Any) -> list[_Leaf]:
    """The leaves of a call in order."""
    if isinstance(tree, _Leaf):
        return [tree]
    if isinstance(tree, Mapping):
        return [leaf for v in tree.values() for leaf in _leaves(v)]
    if isinstance(tree, (list, tuple)):
        return [leaf for v in tree for leaf in _leaves(v)]
    if is_dataclass(tree):
        return [leaf for v in vars(tree).values() for leaf in _leaves(v)]
    return []


def _filled(tree: Any, values: Mapping[int, Any]) -> Any:
    """A call with the values in the places of the leaves."""
    if isinstance(tree, _Leaf):
        return values[tree.index]
    if isinstance(tree, Mapping):
        return {k: _filled(v, values) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_filled(v, values) for v in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{k: _filled(v, values) for k, v in vars(tree).items()})
    return tree


def _calling(
    module: nn.Module, inputs: Sequence[TensorInput], order: Sequence[TensorInput], bound: inspect.BoundArguments
) -> nn.Module:
    """A shallow copy whose forward takes ``order`` by position; same class name, same module paths, same parameters.

    Exporters read the parameters from the signature that is put on it.
    """
    adapter = copy.copy(module)
    cls: Any = type(module)
    called: Callable[..., Any] = cls.forward
    if "forward" in vars(adapter):
        own = vars(adapter).pop("forward")
        if isinstance(own, types.MethodType) and own.__self__ is module:
            own = types.MethodType(own.__func__, adapter)
        object.__setattr__(adapter, _REPLACED, own)
        called = _call_replaced
    args, kwargs = bound.args, bound.kwargs
    places = [next(k for k, i in enumerate(inputs) if i is o) for o in order]

    def forward(self: nn.Module, *tensors: Any) -> Any:
        values = dict(zip(places, tensors, strict=True))
        return called(self, *_filled(args, values), **_filled(kwargs, values))

    names = ["self", *(_parameter_name(i.name, k) for k, i in enumerate(order))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    own_words = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    adapter.__class__ = type(cls.__name__, (cls,), {**own_words, "forward": forward})
    return adapter


def _call_replaced(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return getattr(module, _REPLACED)(*args, **kwargs)


def _parameter_name(name: str, index: int) -> str:
    plain = name.replace(".", "_")
    free = plain.isidentifier() and not keyword.iskeyword(plain) and plain != "self"
    return plain if free else f"input_{index}"


def _head(tensor: TensorInput) -> str:
    """The parameter that an input's name begins with."""
    return tensor.name.partition(".")[0]


def _nameable(signature: inspect.Signature) -> list[str]:
    return [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _note(signature: inspect.Signature, inputs: Sequence[TensorInput]) -> str:
    places = [p for p in signature.parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    pairs = []
    for k, i in enumerate(inputs):
        starred = places and places[-1].kind is inspect.Parameter.VAR_POSITIONAL and k >= len(places) - 1
        target = f"*{places[-1].name}" if starred else places[k].name if k < len(places) else "nothing"
        pairs.append(f"{i.name} as {target}")
    return f"by position: no input name matches a parameter of forward({_definition(signature)}): {', '.join(pairs)}"


def _definition(signature: inspect.Signature) -> str:
    """The parameters as in a definition, without annotations."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(plain))[1:-1]
