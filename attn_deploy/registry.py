"""What can be exported, as data: specifications, the decorator that makes them, and look-up by name.

No torch here: `attn-deploy list` reads `catalog.json`, which `python -m attn_deploy.resolve.catalog` writes from the
decorators. A model's class is imported only when the model is made.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from attn_deploy.errors import InvalidRequestError, UnknownModelError

CATALOG = Path(__file__).with_name("catalog.json")
ENTRY_POINT_GROUP = "attn_deploy.models"
DEFAULT_SIZES = {
    "N": 2,
    "H": 17,
    "W": 22,
}  # batch above 1, odd and H != W: a traced size that gets baked then shows
DEFAULT_DYNAMIC = ("N", "H", "W")

# Names that the literature gives to several modules: the first of them answers, if it has the name as an alias.
SHARED_NAMES: Mapping[str, tuple[str, ...]] = {
    "psa": ("psa", "psa_yolo", "polarized_self_attention", "polarized_self_attention_sequential"),
    "scconv": ("sc_conv", "scconv_recon"),
    "a2": ("a2_double_attention", "area_attention"),
    "dsconv": ("depthwise_separable_conv", "snake_conv"),
    "residual_attention": ("csra_multihead", "rnan_res_att"),
}

C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class Input:
    """One input: its name and its shape in axis symbols (capital letters) and constructor arguments.

    ``Input("x", ("N", "channels", "H", "W"))``; an entry may be an integer or an expression with + - * //, such as
    ``"2*H"`` for a map twice as high as the first input, ``"ratio*channels"``, or ``"widths[0]"``.

    Where an argument says how many such inputs there are, by its value or its length, ``repeat`` names it: with
    ``Input("x", ("N", "channels[i]", "H", "W"), repeat="channels")`` the inputs are x0, x1, ..., i is their number and
    ``count`` how many there are: levels of a pyramid, the finest first, have ``"2**(count-1-i)*H"`` rows. ``"H{i}"`` is
    an axis of each one's own: H0, H1, ...
    """

    name: str
    shape: tuple[str | int, ...]
    dtype: str = "float32"
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """One constructor argument, as `attn-deploy info` prints it."""

    name: str
    default: str | None  # source form; None where the argument is required
    annotation: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything known of one registry entry without importing torch.

    Attributes:
        name: registry name; ``aliases`` resolve to it.
        target: ``package.module:Class``, imported when the model is made.
        family: attention, convolution, context, fusion, activation, backbone, or what a third party names.
        summary: one sentence, the first line of the class docstring.
        reference: constructor arguments of the reference configuration (64 channels), which ``create(name)`` makes.
        inputs: the inputs in order; ``outputs`` the output names, where the arguments do not change how many there are.
        dynamic: axis symbols that may move in an exported file.
        sizes: traced extent of each axis, raised to what ``minimum`` and ``multiple`` allow.
        minimum, multiple: the least extent of an axis, and what it must be a multiple of: integers, or expressions in
            constructor arguments (``"stride"``).
        parameters: trainable scalars at the reference configuration (buffers are not counted).
        macs: multiply-accumulates of one forward pass at batch 1 and 32x32 (or the fixed size), as measured.
        paper, year, official, export, limits, deviations: from the module docstring's sections of those names.
    """

    name: str
    target: str
    family: str
    summary: str
    aliases: tuple[str, ...] = ()
    reference: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[Argument, ...] = ()
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    dynamic: tuple[str, ...] = DEFAULT_DYNAMIC
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_SIZES))
    minimum: Mapping[str, int | str] = field(default_factory=dict)
    multiple: Mapping[str, int | str] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None
    paper: str = ""
    year: int | None = None
    official: str = ""
    export: str = ""
    limits: str = ""
    deviations: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict` (lists become tuples again)."""
        values = dict(data)
        values["aliases"] = tuple(values["aliases"])
        values["outputs"] = tuple(values["outputs"])
        values["dynamic"] = tuple(values["dynamic"])
        values["arguments"] = tuple(Argument(**a) for a in values["arguments"])
        values["inputs"] = tuple(Input(**{**i, "shape": tuple(i["shape"])}) for i in values["inputs"])
        values["reference"] = {k: _tuples(v) for k, v in values["reference"].items()}
        return cls(**values)


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
        sections = _sections(inspect.cleandoc(sys.modules[cls.__module__].__doc__ or ""))
        spec = ModelSpec(
            name=name,
            target=f"{cls.__module__}:{cls.__qualname__}",
            family=family or _family(cls.__module__),
            summary=summary or (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").strip(),
            aliases=tuple(aliases),
            reference=settings,
            arguments=_arguments(cls),
            inputs=tuple(inputs) if inputs is not None else _default_inputs(settings),
            outputs=tuple(outputs),
            dynamic=tuple(dynamic),
            sizes={**DEFAULT_SIZES, **(sizes or {})},
            minimum=dict(minimum or {}),
            multiple=dict(multiple or {}),
            parameters=parameters,
            paper=sections.get("paper", ""),
            year=_year(sections.get("paper", "")),
            official=sections.get("official", ""),
            export=sections.get("export", ""),
            limits=sections.get("limits", ""),
            deviations=sections.get("deviations", ""),
        )
        add(spec)
        return cls

    return decorate


def add(spec: ModelSpec) -> None:
    """Add a finished specification (what `register` and entry points do).

    Raises:
        InvalidRequestError: if the name is malformed, or it or an alias belongs to another model.
    """
    for word in (spec.name, *spec.aliases):
        if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", word):
            raise InvalidRequestError(
                f"{word!r} cannot be a model name: use lower-case letters, digits and '_', such as 'shuffle_attention'."
            )
        for other in _live.values():
            same = _key(word) in {_key(w) for w in (other.name, *other.aliases)}
            if same and (other.name, other.target) != (spec.name, spec.target):
                raise InvalidRequestError(
                    f"{spec.target}: the name {word!r} is taken by {other.name!r} ({other.target}). Choose another."
                )
    _live[spec.name] = spec
    _index.cache_clear()


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
    return {**_catalog(), **_entry_points(), **_live}


@functools.cache
def _catalog() -> dict[str, ModelSpec]:
    if not CATALOG.exists():
        return {}
    return {d["name"]: ModelSpec.from_dict(d) for d in json.loads(CATALOG.read_text(encoding="utf-8"))}


@functools.cache
def _entry_points() -> dict[str, ModelSpec]:
    if not _anyone_registers():
        return {}
    import warnings
    from importlib.metadata import entry_points

    plugins: dict[str, ModelSpec] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            specs = point.load()()
        except Exception as error:  # a broken plug-in of somebody else must not take the whole command line down
            warnings.warn(
                f"the entry point {point.name!r} ({point.value}) failed and its models are missing: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        for spec in [specs] if isinstance(specs, ModelSpec) else specs:
            if spec.name in _catalog():
                warnings.warn(
                    f"the entry point {point.name!r} names {spec.name!r}, which is built in; it is left out.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            else:
                plugins[spec.name] = spec
    return plugins


def _anyone_registers() -> bool:
    """Whether an installed package may name our group: importlib.metadata costs 40 ms, a third of `attn-deploy list`."""
    for place in sys.path:
        folder = Path(place or ".")
        if folder.is_file():  # a zip: leave it to importlib.metadata
            return True
        for kind in ("dist", "egg"):
            for file in folder.glob(f"*.{kind}-info/entry_points.txt"):
                if ENTRY_POINT_GROUP in file.read_text(encoding="utf-8", errors="replace"):
                    return True
    return False


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _family(module: str) -> str:
    parts = module.split(".")
    if parts[:2] == ["attn_deploy", "modules"] and len(parts) > 3:
        return parts[2]
    return "backbone" if parts[:2] == ["attn_deploy", "backbones"] else "custom"


def _default_inputs(settings: Mapping[str, Any]) -> tuple[Input, ...]:
    channels = "in_channels" if "in_channels" in settings else "channels"
    return (Input("x", ("N", channels, "H", "W")),)


def _arguments(cls: type) -> tuple[Argument, ...]:
    parameters = inspect.signature(cls).parameters.values()
    return tuple(
        Argument(
            p.name,
            None if p.default is p.empty else repr(p.default),
            "" if p.annotation is p.empty else str(p.annotation),
        )
        for p in parameters
    )


def _sections(docstring: str) -> dict[str, str]:
    """``Paper: ...`` and the like, each up to the next section; wrapped lines are joined."""
    sections: dict[str, str] = {}
    for match in re.finditer(
        r"^(Paper|Official|Export|Limits|Deviations): *(.*?)(?=^\w[\w ]*: |\Z)",
        docstring,
        re.MULTILINE | re.DOTALL,
    ):
        sections[match[1].lower()] = " ".join(match[2].split())
    return sections


def _year(paper: str) -> int | None:
    match = re.search(r"\b((?:19|20)\d\d)\b(?!\.\d)", paper)
    return int(match[1]) if match else None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
