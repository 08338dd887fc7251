"""A pipeline's file: read, checked against the commands that it drives, with the closest word for one that is unknown."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.pipeline.commands import GATES, STEPS, Commands, Option
from attn_deploy.reading import read_toml

Values = Mapping[str, Any]
_TOP = ("model", "output")
_KINDS = {"integer": int, "number": (int, float), "boolean": bool, "string": str}
_WORDS = {"integer": "a whole number", "number": "a finite number", "boolean": "true or false", "string": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """What a file asks for.

    Attributes:
        folder: that the file lies in; its paths are relative to it.
        model: a name, or an ONNX file.
        output: the folder of the results, relative to ``folder``.
        steps: the options of each step, in the order of the pipeline; ``build`` may be there several times.
        gates: what must hold before the package is made.
    """

    folder: Path
    model: str
    output: str
    steps: tuple[tuple[str, Values], ...]
    gates: Values = field(default_factory=dict)

    def has(self, step: str) -> bool:
        """Whether a step is asked for."""
        return any(name == step for name, _ in self.steps)


def read_settings(path: Path, commands: Commands) -> PipelineSettings:
    """Read a pipeline's file.

    Raises:
        InvalidRequestError: if it cannot be read, or holds an unknown key, a value of another type or a gate without its
            step; the message names the line's key.
    """
    data = read_toml(path, "the pipeline")
    return checked_settings(data, path.absolute().parent, str(path), commands)


def checked_settings(data: Values, folder: Path, what: str, commands: Commands) -> PipelineSettings:
    """The settings in the data of a file.

    Raises:
        InvalidRequestError: as `read_settings`.
    """
    for key in data:
        _require_known(key, (*_TOP, *STEPS, "gates"), what, "")
    model = _text(data, "model", what, None)
    output = _text(data, "output", what, "deployed")
    steps: list[tuple[str, Values]] = []
    for name in STEPS:
        if name not in data:
            continue
        tables = data[name] if name == "build" and isinstance(data[name], list) else [data[name]]
        for table in tables:
            if not isinstance(table, dict):
                raise InvalidRequestError(f"{what}: {name} is {table!r}, and must be a table: [{name}].")
            _check_table(name, table, what, commands[name])
            steps.append((name, table))
    settings = PipelineSettings(
        folder=folder, model=model, output=output, steps=tuple(steps), gates=_gates(data.get("gates", {}), what)
    )
    _check_order(settings, what)
    return settings


def _check_table(name: str, table: Values, what: str, options: Mapping[str, Option]) -> None:
    own = STEPS[name]
    for key, value in table.items():
        place = f"{name}.{key}"
        if key in own:
            raise InvalidRequestError(f"{what}: {place} is set by the pipeline; leave it out.")
        _require_known(key, [k for k in options if k not in own], what, f"{name}.")
        option = options[key]
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and option.kind != "string" and not option.many:
            raise InvalidRequestError(f"{what}: {place} is a list, and must be {_WORDS[option.kind]}.")
        for entry in values:
            numbers = isinstance(value, list) and option.kind == "string" and type(entry) in (int, float)
            if not numbers and not _is_kind(entry, option.kind):
                raise InvalidRequestError(f"{what}: {place} is {entry!r}, and must be {_WORDS[option.kind]}.")
        if value is False and not option.negative:
            raise InvalidRequestError(f"{what}: {place} = false says nothing; leave it out.")


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    accepted: Any = _KINDS[kind]
    if isinstance(value, bool) or not isinstance(value, accepted):
        return False
    return "\x00" not in value if isinstance(value, str) else math.isfinite(value)


def _gates(table: Any, what: str) -> Values:
    if not isinstance(table, dict):
        raise InvalidRequestError(f"{what}: gates is {table!r}, and must be a table: [gates].")
    for key, value in table.items():
        _require_known(key, GATES, what, "gates.")
        if not _is_kind(value, GATES[key]):
            raise InvalidRequestError(f"{what}: gates.{key} is {value!r}, and must be {_WORDS[GATES[key]]}.")
    if not 0 <= table.get("min_top1", 0) <= 1:
        raise InvalidRequestError(f"{what}: gates.min_top1 is {table['min_top1']}; it is a share, as 0.9 for 90 %.")
    return table


def _check_order(settings: PipelineSettings, what: str) -> None:
    needs = {"max_latency_ms": "profile", "min_top1": "evaluate", "no_regression": "profile"}
    for gate, step in needs.items():
        if gate in settings.gates and not settings.has(step):
            raise InvalidRequestError(f"{what}: gates.{gate} needs the numbers of [{step}]; add that table.")
    is_file = settings.model.lower().endswith(".onnx")
    if is_file and (settings.has("train") or settings.has("export")):
        raise InvalidRequestError(f"{what}: {settings.model} is a finished file; leave out [train] and [export].")
    if not is_file and not settings.has("export"):
        raise InvalidRequestError(
            f"{what}: {settings.model} is a model, which must be exported; add the table [export]."
        )


def _text(data: Values, key: str, what: str, default: str | None) -> str:
    value = data.get(key, default)
    if value is None:
        raise InvalidRequestError(f'{what}: {key} is missing; write {key} = "resnet18+se", or another name or file.')
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{what}: {key} is {value!r}, and must be text.")
    if value.startswith("-") or "\x00" in value:
        raise InvalidRequestError(f"{what}: {key} is {value[:60]!r}, which is no name and no path.")
    return value


def _require_known(key: str, known: Iterable[str], what: str, prefix: str) -> None:
    names = list(known)
    if key in names:
        return
    near = difflib.get_close_matches(key.replace("-", "_"), names, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"those known are {', '.join(names)}."
    raise InvalidRequestError(f"{what}: {prefix}{key} is unknown; {hint}")
