"""Whether the models that a matrix is asked for can be there at all: what shows without torch, before any cell."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.plan import expand_models, in_registry
from attn_deploy.resolve.names import ModelName, parse_name
from attn_deploy.resolve.package_names import MODULES
from attn_deploy.resolve.wanted import check_name


def check_models(options: MatrixOptions) -> None:
    """Refuse a request whose models cannot be made; a constructor that refuses is found in its cells.

    Raises:
        UnknownModelError: if there is no such model.
        InvalidRequestError: if a file, a class, an argument or an input is missing or cannot be read.
        MissingDependencyError: if a model is of a package that is not installed.
    """
    if options.inputs:
        parse_inputs(options.inputs)
    for name in expand_models(options.models):
        parsed = parse_name(name)
        if in_registry(parsed):
            _check_arguments(name, parsed.base, parsed.arguments)
            if parsed.slot is not None:
                _check_arguments(name, parsed.slot, parsed.slot_arguments)
        elif parsed.file is not None:
            _check_file(parsed)
            if not options.inputs:
                raise InvalidRequestError(
                    f"{name}: the shape of its input is not known; give it, as in --input 1x3x224x224."
                )
        elif parsed.checkpoint is not None and not Path(parsed.checkpoint).exists():
            raise InvalidRequestError(f"{name!r}: there is no such file or folder.")
        elif parsed.pickled is not None:
            check_name(parsed.pickled)
        elif parsed.package is not None and importlib.util.find_spec(MODULES[parsed.package]) is None:
            raise MissingDependencyError(
                f"{name}: {MODULES[parsed.package]} is not installed: pip install -c constraints.txt 'attn-deploy[models]', "
                f"or pip install {MODULES[parsed.package].replace('_', '-')}."
            )


def _check_arguments(name: str, base: str, arguments: Mapping[str, Any]) -> None:
    spec = registry.get(base)
    allowed = [a.name for a in spec.arguments]
    for argument in arguments:
        if argument not in allowed:
            raise InvalidRequestError(
                f"{name}: {spec.name!r} has no argument {argument!r}; it takes {', '.join(allowed) or 'none'}."
                + _hint(argument, allowed)
            )


def _check_file(parsed: ModelName) -> None:
    path = Path(str(parsed.file))
    if not path.is_file():
        raise InvalidRequestError(f"{parsed.text!r}: there is no file {str(path)!r}.")
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read as Python: {error}.") from error
    names = _names(tree)
    if names is not None and parsed.base not in names:
        classes = [n.name for n in tree.body if isinstance(n, ast.ClassDef)]
        raise InvalidRequestError(
            f"{path} defines no {parsed.base!r}; its classes are {', '.join(classes) or 'none'}."
            + _hint(parsed.base, names)
        )


def _names(tree: ast.Module) -> set[str] | None:
    """What a file may define; None where only running it tells, as with ``from parts import *`` or ``globals()``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            if node.id in ("globals", "exec", "vars", "locals", "setattr", "__import__"):
                return None
            if isinstance(node.ctx, ast.Store):
                names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*":
                    return None
                names.add(alias.asname or alias.name.partition(".")[0])
    return None if "__getattr__" in names else names


def _hint(word: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
