"""The forward methods of a model, read as source: decisions, loops and numbers that depend on sizes or on values."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import Place, is_stand_in, is_users
from attn_deploy.rules.scan import scan_function

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def read_source(model: nn.Module) -> tuple[Finding, ...]:
    """What the source of every class in a model says, at the first module of that class; each line once.

    Followed are ``forward``, the methods that it calls on ``self``, and the functions of the same file.
    """
    findings: dict[tuple[str, str, int], Finding] = {}
    seen: set[type] = set()
    for path, module in model.named_modules():
        if type(module) in seen:
            continue
        seen.add(type(module))
        for cls in type(module).__mro__:
            if cls is nn.Module or not issubclass(cls, nn.Module):
                break
            for finding in _of_class(cls, path):
                findings.setdefault((finding.rule, finding.place.file, finding.place.line), finding)
            if "forward" in vars(cls) and not is_stand_in(vars(cls)["forward"]):
                break
    return tuple(findings.values())


def _of_class(cls: type, path: str) -> Iterator[Finding]:
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        return
    if not file or not is_users(file):
        return
    tree = _parsed(file)
    if tree is None:
        return
    methods = _methods(tree, cls.__qualname__)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    for node in _reachable("forward", methods, functions):
        for suspicion in scan_function(node):
            severity = "error" if suspicion.sure else "warning"
            yield Finding(suspicion.rule, suspicion.what, Place(path, file, suspicion.line), severity)


@functools.lru_cache(maxsize=1024)
def guards_an_error(file: str, line: int) -> bool:
    """Whether nothing hangs on the conditions of a line but an error: ``if ...: raise``, or ``assert``."""
    tree = _parsed(file)
    guards: list[bool] = []
    for node in () if tree is None else ast.walk(tree):
        if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)) and _spans(node.test, line):
            raises = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
            guards.append(raises or isinstance(node, ast.Assert))
    return bool(guards) and all(guards)


@functools.lru_cache(maxsize=4096)
def may_catch(file: str, line: int) -> bool:
    """Whether an error raised at a line may be caught around it, by ``try`` or `contextlib.suppress`."""
    tree = _parsed(file)
    return tree is None or any(
        _spans(node, line)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        or (isinstance(node, ast.With) and any("suppress" in ast.dump(i.context_expr) for i in node.items))
    )


def _spans(node: ast.stmt | ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


@functools.lru_cache(maxsize=128)
def _parsed(file: str) -> ast.Module | None:
    try:
        return ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _methods(tree: ast.Module, qualified_name: str) -> dict[str, _Function]:
    body: list[ast.stmt] = tree.body
    members: list[ast.stmt] = []
    for name in qualified_name.split("."):
        if name == "<locals>":
            body = [n for f in body for n in ast.walk(f) if isinstance(n, ast.ClassDef)]
            continue
        match = [n for n in body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
        if not match:
            return {}
        body = members = match[0].body
    return {n.name: n for n in members if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}


def _reachable(start: str, methods: dict[str, _Function], functions: dict[str, ast.FunctionDef]) -> list[_Function]:
    """``start``, and what it calls by name among the methods and functions, directly or not."""
    waiting = [methods[start]] if start in methods else []
    reached: list[_Function] = []
    while waiting:
        node = waiting.pop()
        if node in reached:
            continue
        reached.append(node)
        for call in ast.walk(node):
            if not isinstance(call, ast.Call):
                continue
            target = call.func
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                waiting += [methods[target.attr]] if target.attr in methods else []
            elif isinstance(target, ast.Name) and target.id in functions:
                waiting.append(functions[target.id])
    return reached
