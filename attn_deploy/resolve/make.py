"""Makes the module that a parsed name stands for."""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.abc import Loader
from pathlib import Path
from typing import Any

from torch import nn

from attn_deploy import registry
from attn_deploy.errors import ExportError, InvalidRequestError, UnknownModelError, exit_error
from attn_deploy.inputs.grammar import parse_inputs as parse_inputs
from attn_deploy.inputs.tensors import TensorInput, inputs_for_spec, traced_size
from attn_deploy.registry import ModelSpec
from attn_deploy.resolve.filler import ModuleFiller
from attn_deploy.resolve.insert import insert
from attn_deploy.resolve.instantiate import defaults, instantiate
from attn_deploy.resolve.names import ModelName
from attn_deploy.resolve.packages import from_package
from attn_deploy.resolve.pickles import from_pickle
from attn_deploy.resolve.published_images import PublishedImages
from attn_deploy.specs.spec import DEFAULT_DYNAMIC


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A module made from a name, with what is known of its inputs.

    Attributes:
        name: the parsed name.
        module: the module, in eval mode.
        inputs: concrete inputs; None when only the user can say (a model of the user's, without ``--input``).
        outputs: output names, or None when they are not known before a run.
        dynamic: the axis symbols that may move.
        spec: the registry entry of the base name; None for the user's own model, those of packages and trained ones.
        arguments: constructor arguments in force.
        images: what the package says of the images that its model takes; None where it says nothing.
        weights: of a pickled model its file's name and sha256, and what of it was taken.
        owned: the module was made for this call; False for one that was given, or that a file holds ready-made.
    """

    name: ModelName
    module: nn.Module
    inputs: tuple[TensorInput, ...] | None
    outputs: tuple[str, ...] | None
    dynamic: tuple[str, ...]
    spec: ModelSpec | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images: PublishedImages | None = None
    weights: tuple[str, ...] = ()
    owned: bool = True

    @property
    def has_weights(self) -> bool:
        """Whether the name stands for a model with weights of its own, trained or pickled."""
        return self.name.checkpoint is not None or self.name.pickled is not None


def make_model(parsed: ModelName, arguments: Mapping[str, Any] | None = None) -> ResolvedModel:
    """The model that a parsed name stands for, in eval mode; trained runs are `attn_deploy.resolve.trained`'s.

    Raises:
        UnknownModelError: if there is no such model.
        InvalidRequestError: if an argument or a file cannot be used.
        MissingDependencyError: if the model is of a package that is not installed.
        ExportError: if the user's own code fails while the model is made.
    """
    chosen = {**parsed.arguments, **(arguments or {})}
    if parsed.file is not None:
        loaded, made = _from_file(parsed, chosen)
        module = _with_inserted(loaded, parsed, None)
        return ResolvedModel(parsed, module, None, None, DEFAULT_DYNAMIC, None, chosen, owned=made)
    if parsed.pickled is not None:
        if chosen:
            raise InvalidRequestError(
                f"{parsed.text!r} holds its model; arguments ({', '.join(chosen)}) cannot change it."
            )
        pickled = from_pickle(Path(parsed.pickled), parsed.text)
        module = _with_inserted(pickled.model, parsed, pickled.inputs)
        new = () if parsed.slot is None else (f"what is put behind {parsed.stage} is new, and random",)
        weights = (*pickled.weights, *new)
        return ResolvedModel(parsed, module, pickled.inputs, None, DEFAULT_DYNAMIC, None, weights=weights)
    if parsed.package is not None:
        packaged = from_package(parsed, chosen)
        module = _with_inserted(packaged.model, parsed, packaged.inputs)
        images = packaged.images
        return ResolvedModel(parsed, module, packaged.inputs, None, DEFAULT_DYNAMIC, None, chosen, images=images)
    spec = registry.get(parsed.base)
    settings = {**spec.reference, **chosen}
    filled = dict(settings)
    filler = None
    if parsed.slot is not None:
        if spec.family != "backbone":
            raise InvalidRequestError(
                f"{parsed.text!r}: {spec.name!r} is a module of the family {spec.family!r} and has no slots; "
                "put a backbone before the '+', such as resnet18+se."
            )
        filled["slot"] = filler = slot_factory(parsed.slot, parsed.slot_arguments)
        settings["slot"] = {"name": registry.get(parsed.slot).name, **parsed.slot_arguments}
        if parsed.stage is not None:
            settings["slot_stage"] = filled["slot_stage"] = parsed.stage
    module = instantiate(spec, filled, parsed.text)
    inputs = inputs_for_spec(spec, {**defaults(spec), **settings})
    model = ResolvedModel(parsed, module, inputs, spec.outputs, spec.dynamic, spec, settings)
    return model if filler is None else _with_slot(model, registry.get(filler.name), parsed.slot_arguments)


def _with_inserted(module: nn.Module, parsed: ModelName, inputs: tuple[TensorInput, ...] | None) -> nn.Module:
    """The network with what the name puts behind one of its modules: ``net.py:Net+eca@backbone.stage4``."""
    if parsed.slot is None or parsed.stage is None:
        return module
    arguments = ",".join(f"{k}={v!r}" for k, v in parsed.slot_arguments.items())
    text = f"{parsed.slot}:{arguments}" if arguments else parsed.slot
    try:
        return insert(module, {parsed.stage: text}, inputs=inputs).model
    except UnknownModelError:
        raise
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{parsed.text}: {error}") from error


def slot_factory(name: str, arguments: Mapping[str, Any]) -> ModuleFiller:
    """What fills the slots of a backbone with the module of this name.

    Raises:
        InvalidRequestError: if the module cannot stand in any slot; the message says why.
    """
    return ModuleFiller(registry.get(name), arguments, instantiate)


def _with_slot(model: ResolvedModel, inner: ModelSpec, arguments: Mapping[str, Any]) -> ResolvedModel:
    """The model with the limits that the modules in its slots put on the sizes and the axes that may move."""
    settings = {**defaults(inner), **inner.reference, **arguments}
    (limits,) = inputs_for_spec(inner, settings)
    (halving,) = inputs_for_spec(inner, {**settings, "stride": 2}) if "stride" in settings else (limits,)
    stride = int(getattr(model.module, "slot_stride", 1))

    def scaled(kind: str, tensor: TensorInput) -> dict[str, int]:
        """Limits at the last slot, and at the last one that halves the map, which sees it twice as large."""
        sources = [(1, getattr(tensor, kind)), (stride, getattr(limits, kind)), (stride // 2, getattr(halving, kind))]
        return {s: max(n * by if (n := of.get(s, 1)) > 1 else 1 for by, of in sources) for s in tensor.symbols}

    inputs = tuple(replace(i, minimum=scaled("minimum", i), multiple=scaled("multiple", i)) for i in model.inputs or ())
    fitted = tuple(replace(i, sizes={s: traced_size(n, s, i) for s, n in i.sizes.items()}) for i in inputs)
    return replace(model, inputs=fitted, dynamic=tuple(d for d in model.dynamic if d in inner.dynamic))


def _from_file(parsed: ModelName, arguments: Mapping[str, Any]) -> tuple[nn.Module, bool]:
    """The module that a file's name stands for, and whether it was made here: the name may be that of an instance."""
    path = Path(str(parsed.file))
    if not path.is_file():
        raise InvalidRequestError(f"{parsed.text!r}: there is no file {str(path)!r}.")
    loaded = _import_file(path)
    if not hasattr(loaded, parsed.base):
        names = [n for n, v in vars(loaded).items() if inspect.isclass(v) and issubclass(v, nn.Module)]
        raise InvalidRequestError(
            f"{path} defines no {parsed.base!r}; its model classes are {', '.join(names) or 'none'}."
        )
    factory = getattr(loaded, parsed.base)
    makes = callable(factory) and not isinstance(factory, nn.Module)
    with _python_stays_whole(path):
        try:
            module = factory(**arguments) if makes else factory
        except SystemExit as error:
            raise exit_error(error) from error
        except Exception as error:
            raise ExportError(
                f"{parsed.text}: making the model failed: {_summary(error, path)}", exit_code=2
            ) from error
    if not isinstance(module, nn.Module):
        raise InvalidRequestError(f"{parsed.text}: expected a torch.nn.Module, got {type(module).__name__}.")
    return module.eval(), makes


def _import_file(path: Path) -> types.ModuleType:
    """Import a user's file under a name of its own, with its folder importable for its neighbours."""
    name = f"_attn_deploy_user_{path.stem}_{abs(hash(str(path.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidRequestError(f"{path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with _python_stays_whole(path):
            _execute(spec.loader, module, path)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        with contextlib.suppress(ValueError):  # the file may have done so
            sys.path.remove(folder)
    return module


def _execute(loader: Loader, module: types.ModuleType, path: Path) -> None:
    try:
        loader.exec_module(module)
    except SystemExit as error:
        raise exit_error(error) from error
    except Exception as error:
        raise ExportError(f"importing {path} failed: {_summary(error, path)}", exit_code=2) from error


# Without end, a recursion fills the memory, and its traceback takes minutes to go: as a loop without end, and worse.
_MOST_FRAMES = 1_000_000


@contextlib.contextmanager
def _python_stays_whole(path: Path) -> Iterator[None]:
    """Refuse a file that takes away what Python and every library here are made of; bound the recursion that it allows.

    The working directory is put back: what the user names on the command line is in the one that they are in.

    Raises:
        InvalidRequestError: naming the function; it is put back.
    """
    allow, folder = sys.setrecursionlimit, _working_directory()
    sys.setrecursionlimit = lambda limit: allow(min(limit, _MOST_FRAMES))
    try:
        with _builtins_stay_whole(path):
            yield
    finally:
        sys.setrecursionlimit = allow
        if folder is not None and _working_directory() != folder:
            os.chdir(folder)


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


@contextlib.contextmanager
def _builtins_stay_whole(path: Path) -> Iterator[None]:
    before = {name: value for name, value in vars(builtins).items() if callable(value)}
    try:
        yield
    finally:
        now = vars(builtins)
        broken = next((name for name in before if not callable(now.get(name))), None)
        if broken is not None:
            now.update({name: value for name, value in before.items() if not callable(now.get(name))})
            raise InvalidRequestError(
                f"{path} replaces builtins.{broken}, without which nothing works. Take that out, or put it back at the end."
            )


def _summary(error: BaseException, path: Path) -> str:
    """The error in one line, with the last line of the user's file that led to it."""
    import traceback

    ours = functools.lru_cache(maxsize=64)(lambda name: Path(name).resolve() == path.resolve())
    line = None
    for frame, number in traceback.walk_tb(error.__traceback__):  # of a recursion there are many
        if ours(frame.f_code.co_filename):
            line = number
    words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    text = " ".join(words.split()) or "no message"
    where = f" ({path}, line {line})" if line is not None else ""
    return f"{type(error).__name__}: {text}{where}"
