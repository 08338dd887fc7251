"""What can be exported: the decorator that registers a model, and look-up by name.

No torch here: `attn-deploy list` reads `catalog.json`, which `python -m attn_deploy.resolve.catalog` writes from the
decorators. A model's class is imported only when the model is made.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from attn_deploy.errors import InvalidRequestError, UnknownModelError
from attn_deploy.specs.arguments import checks_arguments
from attn_deploy.specs.description import arguments_of, default_inputs, family_of, sections, year_of
from attn_deploy.specs.sources import catalog, plugins
from attn_deploy.specs.spec import DEFAULT_DYNAMIC, DEFAULT_SIZES
from attn_deploy.specs.spec import Input as Input
from attn_deploy.specs.spec import ModelSpec as ModelSpec

# Names that the literature gives to several modules: the first of them answers, if it has the name as an alias.
SHARED_NAMES: Mapping[str, tuple[str, ...]] = {
    "psa": ("psa", "psa_yolo", "polarized_self_attention", "polarized_self_attention_sequential"),
    "scconv": ("sc_conv", "scconv_recon"),
    "a2": ("a2_double_attention", "area_attention"),
    "dsconv": ("depthwise_separable_conv", "snake_conv"),
    "residual_attention": ("csra_multihead", "rnan_res_att"),
}

C = TypeVar("C", bound=type)

_ZOO = ("attn_deploy.modules.", "attn_deploy.backbones.")

_live: dict[str, ModelSpec] = {}


def register(
    name: str,
    *,
    aliases: Iterable[str] = (),
    reference: Mapping[str, Any] | None = None,
    parameters: int | None = None,
    family: str | None = None,
    inputs: Iterable[Input] | None = None,
    outputs: Iterable[str] = ("y",),
    dynamic: Iterable[str] = DEFAULT_DYNAMIC,
    sizes: Mapping[str, int] | None = None,
    minimum: Mapping[str, int | str] | None = None,
    multiple: Mapping[str, int | str] | None = None,
    summary: str | None = None,
) -> Callable[[C], C]:
    """Class decorator that adds a model to the registry; stack it to register variants of one class.

    Args:
        name: lower-case registry name, words joined by ``_``.
        aliases: further names; each must be new.
        reference: constructor arguments of the reference configuration, defaults to ``{"channels": 64}``.
        parameters: parameter count at the reference configuration, which a test compares with the module.
        family: defaults to the folder under ``attn_deploy/modules`` that the class lives in.
        inputs: defaults to one NCHW input whose C is ``channels`` (or ``in_channels``).
        outputs: output names.
        dynamic: axis symbols that may move.
        sizes: traced extents that differ from batch 2 and 17x22.
        minimum: least extent of an axis, a number or an expression in constructor arguments such as ``"stride"``.
        multiple: what an axis extent must be a multiple of, likewise.
        summary: defaults to the first line of the class docstring; give one for each variant of a class.

    Raises:
        InvalidRequestError: if a name or alias is taken, or is not spelled in lower case.
    """

    def decorate(cls: C) -> C:
        settings = dict(reference if reference is not None else {"channels": 64})
        texts = sections(inspect.cleandoc(sys.modules[cls.__module__].__doc__ or ""))
        spec = ModelSpec(
            name=name,
            target=f"{cls.__module__}:{cls.__qualname__}",
            family=family or family_of(cls.__module__),
            summary=summary or (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").strip(),
            aliases=tuple(aliases),
            reference=settings,
            arguments=arguments_of(cls),
            inputs=tuple(inputs) if inputs is not None else default_inputs(settings),
            outputs=tuple(outputs),
            dynamic=tuple(dynamic),
            sizes={**DEFAULT_SIZES, **(sizes or {})},
            minimum=dict(minimum or {}),
            multiple=dict(multiple or {}),
            parameters=parameters,
            paper=texts.get("paper", ""),
            year=year_of(texts.get("paper", "")),
            official=texts.get("official", ""),
            export=texts.get("export", ""),
            limits=texts.get("limits", ""),
            deviations=texts.get("deviations", ""),
        )
        add(spec)
        # Annotations of the zoo are held to what they say by the type checker; those of other people may be loose.
        return checks_arguments(cls) if cls.__module__.startswith(_ZOO) else cls

    return decorate


def add(spec: ModelSpec) -> None:
    """Add a finished specification (what `register` and entry points do).

    Raises:
        InvalidRequestError: if the name is malformed, or it or an alias belongs to another model.
    """
    others = {_key(word): other for other in _live.values() for word in (other.name, *other.aliases)}
    for word in (spec.name, *spec.aliases):
        if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", word):
            raise InvalidRequestError(
                f"{word!r} cannot be a model name: use lower-case letters, digits and '_', such as 'shuffle_attention'."
            )
        other = others.get(_key(word))
        if other is not None and (other.name, other.target) != (spec.name, spec.target):
            raise InvalidRequestError(
                f"{spec.target}: the name {word!r} is taken by {other.name!r} ({other.target}). Choose another."
            )
    _live[spec.name] = spec
    _index.cache_clear()


def registered() -> list[ModelSpec]:
    """The specifications that decorators and `add` have made in this process, in that order."""
    return list(_live.values())


def list_models(family: str | None = None, *, year: int | None = None, search: str | None = None) -> list[ModelSpec]:
    """Registry entries in order of family and name.

    Args:
        family: only those of this family.
        year: only those whose paper is of this year.
        search: only those in which every one of these words occurs: in a name, alias, summary, paper or source.

    Raises:
        InvalidRequestError: if there is none.
    """
    specs = sorted(_specs().values(), key=lambda s: (s.family, s.name))
    if family is not None:
        families = sorted({s.family for s in specs})
        specs = [s for s in specs if s.family == family.lower()]
        if not specs:
            raise InvalidRequestError(f"no model is of the family {family!r}; families are {', '.join(families)}.")
    if year is not None:
        years = sorted({s.year for s in specs if s.year})
        specs = [s for s in specs if s.year == year]
        if not specs:
            raise InvalidRequestError(f"no model is of {year}; years are {', '.join(map(str, years))}.")
    if search is not None:
        specs = [s for s in specs if all(w in _searched(s) for w in search.lower().split())]
        if not specs:
            hint = suggest(search)
            raise InvalidRequestError(f"no model has {search!r} in its name, summary or paper{hint}")
    return specs


def _searched(spec: ModelSpec) -> str:
    return " ".join((spec.name, _key(spec.name), *spec.aliases, spec.summary, spec.paper, spec.official)).lower()


def get(name: str) -> ModelSpec:
    """The specification of a registry name or alias; case, '-' and '_' do not matter.

    Raises:
        UnknownModelError: with the closest names.
    """
    index = _index()
    spec = index.get(_key(name))
    if spec is None:
        shared = {_key(word): names for word, names in SHARED_NAMES.items()}.get(_key(name))
        if shared is not None:
            either = " and ".join(repr(n) for n in shared)
            raise UnknownModelError(f"{name!r} is the name of several models: {either}; ask for one of them.")
        raise UnknownModelError(f"no model is called {name!r}{suggest(name)} `attn-deploy list` shows all.")
    return spec


def namesakes(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """The words that also name other models, with the names of those."""
    shared = {word: names for word, names in SHARED_NAMES.items() if spec.name in names}
    return {word: tuple(n for n in names if n != spec.name) for word, names in shared.items()}


def suggest(name: str) -> str:
    """The text that names the closest registry names: ``"; did you mean 'se', 'sse'?"`` or ``"."``."""
    words = {word: spec.name for spec in _specs().values() for word in (spec.name, *spec.aliases)}
    key = _key(name)
    begun = sorted(w for w in words if len(key) > 2 and _key(w).startswith(key))
    close = difflib.get_close_matches(name.lower(), words, n=5, cutoff=0.55) if len(begun) < 2 else []
    order = begun + close
    backbones = [w for w in order if _specs()[words[w]].family == "backbone"]  # whole models before parts of them
    names = list(dict.fromkeys(words[w] for w in (*backbones, *order)))[:3]
    return f"; did you mean {', '.join(repr(n) for n in names)}?" if names else "."


@functools.cache
def _index() -> dict[str, ModelSpec]:
    return {_key(word): spec for spec in _specs().values() for word in (spec.name, *spec.aliases)}


def _specs() -> dict[str, ModelSpec]:
    return {**catalog(), **plugins(), **_live}


@functools.lru_cache(maxsize=4096)
def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()
