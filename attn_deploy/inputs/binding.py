"""Which parameter of a model's forward each input goes to, and a module that takes them all by position."""

from __future__ import annotations

import copy
import inspect
import keyword
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError
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


def bind_inputs(module: nn.Module, inputs: Sequence[TensorInput], owner: str) -> Binding:
    """Bind inputs to the parameters of forward as Python would: those without a name by position, the others by name.

    Where no name is that of a parameter, all go by position, and the note says so.

    Args:
        module: the model; it is left alone.
        inputs: in the order in which they were given.
        owner: the model's name in messages.

    Raises:
        InvalidRequestError: if some names are parameters and others are not, a parameter is given twice, or one that has
            no default is not given.
    """
    given = tuple(inputs)
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # code that is not Python's
        return Binding(module, given)
    named = [i for i in given if i.named]
    if not any(i.name in _nameable(parameters) for i in named):
        return Binding(module, given, _note(parameters, given) if named else "")
    order, keys = _arranged(parameters, given, f"{owner}: forward({_definition(parameters)})")
    return Binding(module if not any(keys) else _calling(module, order, keys), order)


def _arranged(
    parameters: Mapping[str, inspect.Parameter], given: Sequence[TensorInput], who: str
) -> tuple[tuple[TensorInput, ...], list[str]]:
    """The inputs in the order of a call, with the keyword of each; empty for those that go by position."""
    kinds = {p.kind for p in parameters.values()}
    places = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unnamed = [i for i in given if not i.named]
    foreign = [i for i in given if i.named and i.name not in _nameable(parameters)]
    if foreign and not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        names = ", ".join(repr(i.name) for i in foreign)
        raise InvalidRequestError(
            f"{who} has no parameter {names}, and other inputs are named after parameters: give each input the name of "
            "its parameter, or none of them."
        )
    taken = dict(zip(places, unnamed, strict=False))
    for i in given:
        if i.named and i not in foreign:
            if i.name in taken:
                raise InvalidRequestError(
                    f"{who} gets {i.name!r} twice, once by an input without a name; give every input its name."
                )
            taken[i.name] = i
    by_keyword = foreign if inspect.Parameter.VAR_KEYWORD in kinds else []
    rest = [*unnamed[len(places) :], *(i for i in foreign if i not in by_keyword)]  # what *args takes
    run = next((k for k, p in enumerate(places) if p not in taken), len(places))  # so many go by position
    needed = [p.name for p in parameters.values() if p.name not in taken and _is_needed(p)]
    late = [p for p in _nameable(parameters) if p in taken and p not in places[:run]]
    if rest or any(parameters[p].kind is inspect.Parameter.POSITIONAL_ONLY for p in late):
        needed = needed or places[run : run + 1]  # what is by position leaves no gap
    if needed:
        raise InvalidRequestError(f"{who} needs {_quoted(needed)} too; give an input of that name.")
    if rest and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise InvalidRequestError(f"{who} takes fewer inputs than the {len(given)} that were given.")
    order = (*(taken[p] for p in places[:run]), *rest, *(taken[p] for p in late), *by_keyword)
    return order, [*[""] * (run + len(rest)), *late, *(i.name for i in by_keyword)]


def _calling(module: nn.Module, order: Sequence[TensorInput], keys: Sequence[str]) -> nn.Module:
    """A shallow copy whose forward takes ``order`` by position; same class name, same module paths, same parameters.

    The function is compiled, because tracing reads the parameters from its code.
    """
    made = copy.copy(module)
    cls: Any = type(module)
    names = [i.name if _is_free(i.name) else f"input_{k}" for k, i in enumerate(order)]
    words = ", ".join(f"{key}={name}" if key else name for name, key in zip(names, keys, strict=True))
    called: Callable[..., Any] = cls.forward
    if "forward" in vars(made):
        own = vars(made).pop("forward")
        if isinstance(own, types.MethodType) and own.__self__ is module:
            own = types.MethodType(own.__func__, made)
        object.__setattr__(made, _REPLACED, own)
        called = _call_replaced
    space: dict[str, Any] = {"__name__": __name__, "_called": called}
    code = f"def forward(self, {', '.join(names)}):\n    return _called(self, {words})\n"
    exec(compile(code, __file__, "exec"), space)
    own_words = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    made.__class__ = type(cls.__name__, (cls,), {**own_words, "forward": space["forward"]})
    return made


def _call_replaced(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return getattr(module, _REPLACED)(*args, **kwargs)


def _nameable(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [p.name for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _is_needed(parameter: inspect.Parameter) -> bool:
    several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not several


def _is_free(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name not in ("self", "_called")


def _note(parameters: Mapping[str, inspect.Parameter], given: Sequence[TensorInput]) -> str:
    places = [p for p in parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    pairs = []
    for k, i in enumerate(given):
        starred = places and places[-1].kind is inspect.Parameter.VAR_POSITIONAL and k >= len(places) - 1
        target = f"*{places[-1].name}" if starred else places[k].name if k < len(places) else "nothing"
        pairs.append(f"{i.name} as {target}")
    return f"by position: no input name matches a parameter of forward({_definition(parameters)}): {', '.join(pairs)}"


def _definition(parameters: Mapping[str, inspect.Parameter]) -> str:
    """The parameters as in a definition, without annotations."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters.values()]
    return str(inspect.Signature(plain))[1:-1]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
