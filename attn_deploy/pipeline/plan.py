"""The steps of a pipeline: what each runs, what it writes, and whether that is there already."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy._version import __version__
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.pipeline.commands import Commands, Option
from attn_deploy.pipeline.keys import content_hash, hash_of_model, surroundings
from attn_deploy.pipeline.settings import PipelineSettings
from attn_deploy.pipeline.values import check_values
from attn_deploy.reading import read_json

STATE = "state.json"
# What gives the steps after it another file to work on.
MAKERS = ("train", "export", "quantize")
# What may go on where it was stopped.
RESUMABLE = {"train": "--resume", "profile": "--resume"}


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """One step.

    Attributes:
        name: unique in the pipeline, as ``export`` or ``build-rtx4090``.
        argv: the words of the command line behind ``attn-deploy``.
        output: the file or folder that it writes.
        key: of everything that decides what it writes.
        cached: whether that was written under this key, and is as it was.
    """

    name: str
    argv: tuple[str, ...]
    output: Path
    key: str
    cached: bool

    @property
    def command(self) -> str:
        """The command of attn-deploy."""
        return self.argv[0]


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """The steps before the gates, the package after them, and what the gates look at."""

    steps: tuple[PipelineStep, ...]
    package: PipelineStep | None
    artifact: Path
    folder: Path

    def output_of(self, command: str) -> Path | None:
        """What the step of a command writes."""
        return next((s.output for s in self.steps if s.command == command), None)


def plan_pipeline(settings: PipelineSettings, commands: Commands) -> PipelinePlan:
    """The steps of a pipeline in order.

    Raises:
        InvalidRequestError: if two engines would have one name, or a value is none that its command takes.
    """
    folder = settings.folder / settings.output
    plan = _Planner(settings, commands, folder, read_state(folder)).plan()
    check_values(settings)
    return plan


def read_state(folder: Path) -> dict[str, Any]:
    """What the steps left: by name the key and the hash of the output; empty where nothing did."""
    path = folder / STATE
    if not path.is_file():
        return {}
    state = read_json(path)
    entries = state.values() if isinstance(state, dict) else [None]
    if not all(isinstance(e, dict) and {type(e.get(k)) for k in ("key", "hash")} == {str} for e in entries):
        raise InvalidRequestError(
            f"{path} is not what a pipeline leaves there; remove it, and every step is run again."
        )
    return dict(state)


def note(folder: Path, step: PipelineStep, *, finished: bool) -> None:
    """Note that a step began, or ended well."""
    state = read_state(folder)
    state[step.name] = {"key": step.key, "hash": content_hash(step.output) if finished else ""}
    write_atomic(folder / STATE, json.dumps(state, indent=1) + "\n")


def is_own(folder: Path, step: PipelineStep) -> bool:
    """Whether this pipeline wrote what lies where a step writes, or nothing does."""
    return not step.output.exists() or step.name in read_state(folder)


def was_begun(folder: Path, step: PipelineStep) -> bool:
    """Whether a step was stopped under the same key, so that it may go on."""
    entry = read_state(folder).get(step.name, {})
    return bool(entry) and entry.get("key") == step.key and not entry.get("hash") and step.output.exists()


class _Planner:
    def __init__(self, settings: PipelineSettings, commands: Commands, folder: Path, state: Mapping[str, Any]) -> None:
        self._settings, self._commands, self._folder, self._state = settings, commands, folder, state
        self._steps: list[PipelineStep] = []
        self._last = ""  # key of the step whose output the next one takes

    def plan(self) -> PipelinePlan:
        settings, folder = self._settings, self._folder
        model = settings.model
        is_file = model.lower().endswith(".onnx")
        artifact = settings.folder / model if is_file else folder / "model.onnx"
        source, package = artifact, None
        self._last = hash_of_model(model, self._settings.folder)
        for name, table in settings.steps:
            words = self._words(name, table)
            if name == "train":
                self._add(name, (model, "--output", self._place(folder / "train"), *words), folder / "train", table)
                model = self._place(folder / "train")
            elif name == "export":
                self._add(name, (model, "--output", self._place(artifact), *words), artifact, table)
            elif name == "quantize":
                target = folder / f"model-{table.get('precision', 'int8')}.onnx"
                if "target" not in table and self._makes_engines():
                    words += ["--target", "gpu"]  # engines take no other form, whatever this machine is
                self._add(name, (self._place(artifact), "--output", self._place(target), *words), target, table)
                artifact = target
            elif name == "build":
                label = re.sub(r"[^\w.+-]", "-", str(table.get("device") or table.get("target") or "engine")).lstrip(
                    "."
                )
                target = folder / "engines" / f"{label}.engine"
                self._add(
                    f"build-{label}",
                    (self._place(artifact), "--output", self._place(target), *words),
                    target,
                    table,
                    last=False,
                )
            elif name == "profile":
                target = folder / "profile"
                self._add(
                    name, (self._place(artifact), "--output", self._place(target), *words), target, table, last=False
                )
            elif name == "evaluate":
                target = folder / "evaluate.json"
                self._add(
                    name, (self._place(artifact), "--output", self._place(target), *words), target, table, last=False
                )
            else:
                package = self._package(artifact, source, table, words)
        return PipelinePlan(tuple(self._steps), package, artifact, folder)

    def _makes_engines(self) -> bool:
        return any(n == "build" or (n == "package" and {"device", "target"} & set(t)) for n, t in self._settings.steps)

    def _package(self, artifact: Path, source: Path, table: Mapping[str, Any], words: Sequence[str]) -> PipelineStep:
        target = self._folder / "package"
        place, facts = self._place, list[str]()
        keys = []
        for step in self._steps:
            if step.command in ("profile", "evaluate"):
                facts += ["--profile" if step.command == "profile" else "--accuracy", place(step.output)]
                keys.append(step.key)
        if artifact != source:
            facts += ["--reference", place(source)]
        return self._step("package", (place(artifact), "--output", place(target), *facts, *words), target, table, keys)

    def _place(self, path: Path) -> str:
        """A path as the steps name it, which run in the folder of the pipeline's file: records then hold no other folders."""
        return str(path.relative_to(self._settings.folder)) if path.is_relative_to(self._settings.folder) else str(path)

    def _add(
        self, name: str, words: tuple[str, ...], output: Path, table: Mapping[str, Any], *, last: bool = True
    ) -> None:
        if any(s.name == name for s in self._steps):
            raise InvalidRequestError(
                f"two steps are called {name}; give each [[build]] a device or target of its own."
            )
        step = self._step(name, words, output, table)
        self._steps.append(step)
        if last:
            self._last = step.key

    def _step(
        self, name: str, words: tuple[str, ...], output: Path, table: Mapping[str, Any], more: Sequence[str] = ()
    ) -> PipelineStep:
        argv = (name.partition("-")[0], *words)
        key = self._key(argv, table, more)
        entry = self._state.get(name, {})
        cached = bool(entry.get("hash")) and entry.get("key") == key and entry["hash"] == content_hash(output)
        return PipelineStep(name, argv, output, key, cached)

    def _key(self, argv: Sequence[str], table: Mapping[str, Any], more: Sequence[str]) -> str:
        """Hash of the command, of what it takes from the step before, and of the files that its options name."""
        files = {}
        for key, value in sorted(table.items()):
            for entry in value if isinstance(value, list) else [value]:
                path = self._settings.folder / str(entry)
                if isinstance(entry, str) and path.exists():
                    files[f"{key} {entry}"] = content_hash(path)
        own = [w.replace(str(self._settings.folder), ".") for w in argv]
        data = [__version__, own, self._last, files, list(more), surroundings(argv[0])]
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()

    def _words(self, name: str, table: Mapping[str, Any]) -> list[str]:
        words: list[str] = []
        for key, value in table.items():
            words += _option_words(self._commands[name][key], value)
        return words


def _option_words(option: Option, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option.flag if value else option.negative]
    if isinstance(value, list) and option.many:
        return [word for entry in value for word in (option.flag, str(entry))]
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return [option.flag, text]
